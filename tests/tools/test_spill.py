"""Numbers are the same wherever they are kept, and memory holds the first of them alone."""

import os
import pickle
import sys
import tempfile
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tspin.tools import spill
from tspin.tools.spill import Spill

ROWS = [
    array("H", range(3)),
    array("i", range(2**20, 2**20 + 7)),
    array("H"),
    array("i", range(-4, 1)),
]


@pytest.mark.parametrize("in_memory", [0, 10, 10**6])
def test_numbers_are_the_same_wherever_they_are_kept(in_memory):
    rows = Spill(in_memory)
    for kept, row in [(rows.keep(row), row) for row in ROWS]:  # read once all are written
        assert [*kept] == [*row]
        assert len(kept) == len(row)
        assert [*kept[1:3]] == [*row[1:3]]
        assert kept == row
        assert row == kept
        assert kept != array("i", [7])
        assert kept == Spill(0).keep(row)
        assert torch.tensor([*kept, 1]).tolist() == [*row, 1]
        assert [*pickle.loads(pickle.dumps(kept))] == [*row]
        assert not row or (kept[-1] == row[-1] and row[0] in kept and kept.index(row[2]) == 2)


def test_memory_holds_the_first_bytes_alone():
    rows = Spill(in_memory=4)
    kept = [rows.keep(array("H", [i, i])) for i in range(1000)]
    assert [type(ids) is array for ids in kept] == [True] + 999 * [False]
    assert sum(map(sys.getsizeof, kept[1:])) / 999 < 100  # bytes, however long it is


def test_threads_read_the_same_file():
    rows = Spill(0)
    kept = [rows.keep(array("i", [i] * 50)) for i in range(500)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: [*kept[i]] == [i] * 50, [*range(500)] * 4))


def test_the_file_has_no_name_and_goes_with_the_last_array(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = Spill(0)
    kept = rows.keep(array("i", [5]))
    descriptor = kept._file.fileno()
    assert not [*tmp_path.iterdir()]
    del rows
    assert [*kept] == [5]
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def no_place(*args, **kwargs):
    raise FileNotFoundError("no usable temporary directory")


def no_space(*args):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (tempfile, "TemporaryFile", no_place),
        (spill.os, "pwrite", no_space),
        (spill.os, "pwrite", lambda descriptor, data, at: 1),  # a disk with one byte left
    ],
)
def test_without_space_on_the_disk_numbers_stay_in_memory(monkeypatch, module, name, fault):
    rows = Spill(0)
    before = rows.keep(array("i", [1, 2])) if name == "pwrite" else array("i", [1, 2])
    monkeypatch.setattr(module, name, fault)
    row = array("i", [3, 4, 5])
    assert rows.keep(row) is row
    monkeypatch.undo()
    assert [*before] == [1, 2]
    assert [*rows.keep(array("i", [6]))] == [6]


def test_a_file_that_has_become_shorter_is_no_run_of_zeros():
    rows = Spill(0)
    kept = rows.keep(array("i", [1, 2]))
    kept._file.truncate(5)
    with pytest.raises(OSError, match="3 of 8 bytes"):
        list(kept)
