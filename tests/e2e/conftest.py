"""What the tests of this folder share: runs that nothing stopped, a folder for those it stops."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forker import Whole


@pytest.fixture(scope="session")
def whole(forker, tmp_path_factory) -> Whole:
    """One a worker, to look at."""
    return forker.whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def runs(tmp_path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)
