"""What every test begins with, whatever ran before it in the same process."""

import gc
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from contextlib import ExitStack

# Before torch is imported, here and in the processes that tests start: one worker, one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from support.forker import Forker
from support.pages import chromium

# Of what is imported nothing is garbage: to look for it is a tenth of the imports' time.
gc.disable()

# A shell starts what runs in its background with SIGINT ignored, and so would be what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("tspin", deadline=None)  # a busy machine is no failure
settings.load_profile("tspin")
BY_FIXTURE = {"forker": "process", "stand_in": "process", "browser": "browser", "finished": "runs"}
LONG = ("process", "runs", "browser", "slow")


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # of xdist: most tests first, however short
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Marks what fixtures imply; the files with most long tests come first, so that parallel
    workers end together."""
    long = Counter()
    for item in items:
        for fixture in BY_FIXTURE.keys() & set(item.fixturenames):
            item.add_marker(BY_FIXTURE[fixture])
        long[item.path] += any(item.get_closest_marker(mark) for mark in LONG)
    items.sort(key=lambda item: -long[item.path])


def pytest_collection_finish():
    """Libraries and tests are here to stay. A run collects garbage whenever it lets a policy go,
    which would pass over all of them each time: a quarter of a small run."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def forker(tmp_path_factory):
    """Starts `python` in milliseconds: support/forker.py."""
    if sys.platform != "linux":
        pytest.skip("forks with torch loaded, and reads /proc")
    forker = Forker(tmp_path_factory.mktemp("forker"))
    yield forker
    forker.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run of T-SPIN, alone in its runs_dir: to look at. One a worker."""
    from support.tiny import play

    return play(tmp_path_factory.mktemp("finished"), "tspin")[0]


@pytest.fixture
def finished_copy(finished, tmp_path):
    """A copy of it in tmp_path, with what it shares: to go on from, or to change."""
    shutil.copytree(finished.path.parent, tmp_path, dirs_exist_ok=True)
    return type(finished)(tmp_path / finished.path.name)


@pytest.fixture(autouse=True)
def own_logging():
    """Hydra configures the root logger, with a handler whose stream ends with the test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def browser():
    """Chromium, for the tests of pages; they are skipped where it or its driver is not."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(chromium())
        except LookupError as error:
            pytest.skip(str(error))
        yield opened
