"""What the tests of this folder share: runs that nothing stopped, a folder for those it stops."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forker import LOSSES


@pytest.fixture(scope="session")
def whole(forker, tmp_path_factory) -> dict[str, tuple[Path, list[tuple[str, str]]]]:
    """By loss: the folder of a run never stopped, and its events. One a worker, to look at."""
    results = {}
    for loss in LOSSES:
        runs = tmp_path_factory.mktemp(loss)
        child = forker.run(runs, f"loss={loss}")
        assert child.code == 0, child.text
        results[loss] = runs, child.events
    return results


@pytest.fixture
def runs(tmp_path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)
