"""Several runs at once: what they share is made once, and a folder has one owner."""

from __future__ import annotations

import signal

import pytest
from support.contents import differences
from support.waiting import until


def test_of_eight_jobs_that_share_samples_one_makes_them_whoever_dies(whole, forker, runs):
    """Runs that differ by alpha have y0 and the initial policy's evaluation in common.

    The first dies with one part made and the second begun; the seven that wait for it end.
    """
    part = "/.part-{:05d}.parquet.tmp"
    begun = next(what for _, what in whole["tspin"][1] if part.format(1) in what)
    point = ["selfplay.iterations=1", "name=job0", "coef.alpha=0.1"]
    first = forker.start(runs, *point, at=begun, do="stop")
    first.until_stopped()
    (made,) = (runs / "proto").glob("*/part-*")
    before = made.stat().st_ino
    jobs = [
        forker.start(runs, point[0], f"name=job{i}", f"coef.alpha=0.{i + 1}") for i in range(1, 8)
    ]
    until(lambda: all((runs / f"job{i}/tracking.json").exists() for i in range(1, 8)))
    first.signal(signal.SIGKILL)
    first.wait()
    for job in jobs:
        assert job.wait() == 0, job.text
    happened = [what for job in jobs for _, what in job.events]
    for index, times in ((0, 0), (1, 1), (2, 1)):
        renamed = [
            w for w in happened if w.startswith("os.rename /proto") and part.format(index) in w
        ]
        assert len(renamed) == times
    assert sum(w.startswith("os.rename /base") and "scores" in w for w in happened) == 1
    for i in range(1, 8):
        assert (runs / f"job{i}/proto" / made.name).stat().st_ino == before


def test_one_folder_has_one_owner_until_it_dies(whole, forker, runs):
    first = forker.start(runs, at="appended 1", do="stop")
    first.until_stopped()
    second = forker.run(runs)  # at once: the first stands still
    assert second.code == 1
    assert f"{runs / 'run'} is in use by another process" in second.text
    assert len(second.text.splitlines()) == 1
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert forker.run(runs).code == 0
    assert differences(runs, whole["tspin"][0]) == []


@pytest.mark.parametrize("fate", [signal.SIGCONT, signal.SIGKILL])
def test_samples_that_two_runs_share_are_made_once(fate, whole, forker, runs):
    """The second waits for the first; where the first dies it goes on with what there is."""
    second_part = next(what for _, what in whole["tspin"][1] if ".part-00001" in what)
    first = forker.start(runs, "name=first", at=second_part, do="stop")
    first.until_stopped()
    (part,) = (runs / "proto").glob("*/part-*")
    made = part.stat().st_ino
    second = forker.start(runs, "loss=spin")
    until(lambda: "waiting for" in second.text)
    assert len(list((runs / "proto").glob("*/part-*"))) == 1  # it waits
    first.signal(fate)
    assert first.wait() == (0 if fate == signal.SIGCONT else -signal.SIGKILL)
    assert second.wait() == 0, second.text
    assert part.stat().st_ino == made == (runs / "run/proto" / part.name).stat().st_ino
    if fate == signal.SIGCONT:
        assert (runs / "first/proto" / part.name).stat().st_ino == made
    assert differences(runs, whole["spin"][0]) == []
