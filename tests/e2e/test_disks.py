"""Full and read-only disks: a run says so and loses nothing."""

from __future__ import annotations

import pytest
from support.contents import differences
from support.disks import disk, remount

FULL = {  # the file that finds no room, or thereabouts -> size of the disk, overrides
    "prompts": ("12k", ()),
    "metrics": ("60k", ()),
    "train_state": ("2m", ()),
    "the next train_state": ("7m", ()),
    "checkpoint": ("1m", ("compute.save_seconds=1e9",)),
}


@pytest.mark.parametrize("size, argv", FULL.values(), ids=FULL)
def test_a_full_disk_loses_nothing(size, argv, whole, forker, runs):
    folder = runs / "disk"
    with disk(folder, size):
        child = forker.run(folder, "loss=spin", *argv, blind=True)
        assert child.code == 1, child.text
        error = child.text.splitlines()[-1]
        print(error)  # noqa: T201  # which file it was
        assert error.startswith("error: ") and str(folder) in error
        assert "No space left" in error and "same command" in error
        temporary = [p for p in folder.rglob("*") if ".tmp" in p.name]
        assert temporary == []
        remount(folder, "size=64m")
        child = forker.run(folder, "loss=spin", *argv)
        assert child.code == 0, child.text
        assert differences(folder, whole["spin"][0]) == []


def test_a_disk_with_too_little_room_is_named_before_the_work(whole, forker, runs):
    """Weights of 1.85 MB, twice that as a state: an old and a new state, 7.4 MB, do not fit."""
    folder = runs / "disk"
    with disk(folder, "6m"):
        child = forker.run(folder, "loss=spin")
        error = child.text.splitlines()[-1]
        assert child.code == 1 and error.startswith("error: iteration 0: train needs ")
        assert f"on the disk of {folder / 'run/iter_0'}" in error and "Nothing was begun" in error
        assert not (folder / "run/iter_0/metrics.jsonl").exists()
        remount(folder, "size=64m")
        assert forker.run(folder, "loss=spin").code == 0
        assert differences(folder, whole["spin"][0]) == []


def test_a_read_only_disk_is_named(forker, runs):
    folder = runs / "disk"
    with disk(folder, "64m"):
        remount(folder, "ro")
        child = forker.run(folder)
        assert child.code == 2 and len(child.text.splitlines()) == 1
        assert f"runs_dir={folder}: {folder} is no folder we may write to" in child.text


@pytest.mark.parametrize("argv", [[], ["-m", "seed=0,1", "name=null"]], ids=["one", "many"])
def test_a_folder_below_a_file_is_named(argv, forker, runs):
    (runs / "file").touch()
    child = forker.run(runs / "file" / "runs", *argv)
    assert child.code == 2 and len(child.text.splitlines()) == 1
    assert f"{runs / 'file'} is no folder we may write to" in child.text
