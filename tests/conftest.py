"""What every test begins with, whatever ran before it in the same process."""

import logging

import pytest


@pytest.fixture(autouse=True)
def own_logging():
    """Hydra configures the root logger, with a handler whose stream ends with the test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
