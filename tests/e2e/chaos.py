"""Faults on purpose: is anything lost, or silently wrong?  make chaos CHAOS="[FAULTS] [SEED]"

Every fault hits a micro run (in children forked from one process); then the same
command is given again. Survived means: the run ends with the files of the run that nobody
disturbed, or one line names the damaged file and the way out, and after that way out it ends so.
The last line is `survived N of N`; the exit code is 0 only then. Of the default 160 faults 100 are
kills; docs/trust.md has what they took. Mounting a small file system (full, read-only) needs root.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.contents import differences
from support.disks import disk, remount
from support.forker import LOSSES, STAGES, Child, Forker, Whole
from support.waiting import until

from tspin.runs.artifacts import Iteration
from tspin.runs.metrics import StepLog
from tspin.tools.files import check_sums, read_json, remove
from tspin.tools.parquet import read_rows
from tspin.training.train_state import next_step

TRAINED = "iteration 0: train"


@dataclass
class Ground:
    """Where a fault happens. whole: runs that nothing disturbed"""

    forker: Forker
    whole: Whole
    runs: Path
    rng: random.Random
    loss: str
    stages: list[str] = field(default_factory=list)  # in which a run was killed

    @property
    def seconds(self) -> float:
        """That a run took which nothing disturbed."""
        run = self.whole[self.loss][0] / "run"
        first, last = run / "config.yaml", run / "iter_1/done.json"
        return last.stat().st_mtime - first.stat().st_mtime

    def run(self, *argv: str, **how) -> Child:
        return self.forker.run(self.runs, f"loss={self.loss}", *argv, **how)

    def at_random(self) -> int:
        return self.rng.randrange(len(self.whole[self.loss][1]))

    def kill(self, *argv: str) -> str:
        """At one of its events, half of them in the middle of a write. -> what it was at"""
        at, do = self.at_random(), self.rng.choice(("kill", "tear"))
        child = self.run(*argv, at=at, do=do)
        assert child.code == -signal.SIGKILL, child.text
        stage, what = self.whole[self.loss][1][at]
        self.stages.append(stage)
        return f"{do} at {stage}, {what}"

    def ends_whole(self, *argv: str, without: tuple[str, ...] = ()) -> None:
        child = self.run(*argv)
        assert child.code == 0, child.text
        differing = [n for n in self.differing() if not n.endswith(without or ("\0",))]
        assert differing == [], differing

    def differing(self) -> list[str]:
        return differences(self.runs, self.whole[self.loss][0])


# --- faults: each says what it did, and fails by an AssertionError -------------------------------


def killed_inside(ground: Ground) -> str:
    done = ground.kill()
    ground.ends_whole()
    return done


def killed_outside(ground: Ground) -> str:
    """SIGKILL by the clock, one to three times."""
    moments = [ground.rng.uniform(0, ground.seconds) for _ in range(ground.rng.randint(1, 3))]
    for moment in moments:
        child = ground.forker.start(ground.runs, f"loss={ground.loss}")
        time.sleep(moment)
        child.signal(signal.SIGKILL)
        child.wait()
    ground.ends_whole()
    return f"after {', '.join(f'{moment:.2f}' for moment in moments)} s"


def full_disk(ground: Ground) -> str:
    kilobytes = int(10 ** ground.rng.uniform(1.0, 3.8))
    outer, ground.runs = ground.runs, ground.runs / "disk"
    with disk(ground.runs, f"{kilobytes}k"):
        child = ground.run(blind=True)
        assert child.code in (0, 1, 2) and "Traceback" not in child.text, child.text
        if child.code:
            assert "No space left" in child.text and "Traceback" not in child.text, child.text
        remount(ground.runs, "size=64m")
        ground.ends_whole()
    ground.runs = outer
    return f"{kilobytes} kB" + ("" if child.code else " (enough)")


def read_only(ground: Ground) -> str:
    """Between two launches."""
    outer, ground.runs = ground.runs, ground.runs / "disk"
    with disk(ground.runs, "64m"):
        done = ground.kill()
        remount(ground.runs, "ro")
        child = ground.run()
        assert child.code == 2 and str(ground.runs) in child.text, child.text
        remount(ground.runs, "rw")
        ground.ends_whole()
    ground.runs = outer
    return done


def clock(ground: Ground) -> str:
    """Wrong by hours, another way at each look; and files from the future."""
    done = ground.kill()
    for path in ground.runs.rglob("*"):
        if path.is_file():
            os.utime(path, (2**33, 2**33))
    child = ground.run(clock=True)
    assert child.code == 0, child.text
    assert ground.differing() == []
    return done


def two_owners(ground: Ground) -> str:
    """A second process in the folder of one that stands still, and is killed then or goes on."""
    at = ground.rng.randrange(20, len(ground.whole[ground.loss][1]) - 1)
    first = ground.forker.start(ground.runs, f"loss={ground.loss}", at=at, do="stop")
    first.until_stopped()
    second = ground.forker.start(ground.runs, f"loss={ground.loss}")
    until(lambda: "is in use by another process" in second.text)
    assert second.wait() == 1
    fate = ground.rng.choice((signal.SIGKILL, signal.SIGCONT))
    first.signal(fate)
    first.wait()
    ground.ends_whole()
    return f"{fate.name} at {ground.whole[ground.loss][1][at]}"


def deleted_checkpoint(ground: Ground) -> str:
    """The one that training goes on from."""
    child = ground.run(at="os.mkdir /run/iter_1")
    if child.code == 0:  # another loss says it otherwise
        return "no such moment"
    checkpoint = ground.runs / "run/iter_0/checkpoint"
    shutil.rmtree(checkpoint)
    child = ground.run()
    assert child.code == 1 and f"{checkpoint} is gone" in child.text, child.text
    Iteration(checkpoint.parent).done.unlink()
    ground.ends_whole()
    return str(checkpoint.relative_to(ground.runs))


def changed_data(ground: Ground) -> str:
    """A sweep's first point is killed, its file of rows changes: that point goes on with what it
    began with, and the next one shares nothing with it."""
    data = ground.runs.parent / f"{ground.runs.name}.jsonl"
    argv = ["data=file", f"data.path={data}", "model.max_length=96"]

    def rows(word: str) -> None:
        made = [{"prompt": f"{word} {i}", "response": f"{i} {word}"} for i in range(60)]
        data.write_text("".join(json.dumps(row) + "\n" for row in made))

    def alone(word: str, folder: Path) -> None:
        rows(word)
        child = ground.forker.run(folder, f"loss={ground.loss}", *argv)
        assert child.code == 0, child.text

    one, two = ground.runs / "one", ground.runs / "two"
    alone("old", one)
    alone("new", two)
    rows("old")
    child = ground.run(*argv, at=f"appended {ground.rng.randrange(3)}")
    assert child.code == -signal.SIGKILL, child.text
    rows("new")
    child = ground.run(*argv)
    assert child.code == 0 and differences(ground.runs, one) == [], child.text
    (ground.runs / "run").rename(ground.runs / "first")
    child = ground.run(*argv)
    assert child.code == 0 and differences(ground.runs, two) == [], child.text
    return "a file of rows"


def damaged_file(ground: Ground) -> str:
    """A byte changed, or the end lost, of any file of a run that is killed or complete."""
    state = ground.kill() if ground.rng.random() < 0.6 else "complete"
    if state == "complete":
        ground.ends_whole()
    files = [
        path
        for path in sorted((ground.runs / "run").rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.stat().st_size
        if path.name != "metrics.jsonl" or Iteration(path.parent).done.exists()  # docs/trust.md
    ]
    if not files:
        ground.ends_whole()
        return f"{state}; nothing was there"
    path = ground.rng.choice(files)
    how = damage(path, ground.rng)
    what = f"{state}; {how} of {path.relative_to(ground.runs)}"
    for _ in range(4):  # as many files as may be told of, one after the other
        child = ground.run()
        if child.code == 0:
            break
        error = child.text.splitlines()[-1]
        assert child.code == 1 and error.startswith("error: "), f"{what}: {child.text}"
        named = path.name in error or str(ground.runs / "run") in error
        assert named or "damaged" in error, f"{what}: {error}"
        way_out(path, ground.runs)
    assert child.code == 0, f"{what}: {child.text}"
    right = ground.whole[ground.loss][0]
    silent = [
        name
        for name in ground.differing()
        if not is_noticed_or_harmless(ground.runs / "run" / name, right / "run" / name)
    ]
    assert silent == [], f"{what}: {silent}"
    return what


def damage(path: Path, rng: random.Random) -> str:
    whole = path.read_bytes()
    with path.open("r+b") as file:  # in place: under all the names that it has
        if rng.random() < 0.3:
            length = rng.randrange(len(whole))
            file.truncate(length)
            return f"{len(whole) - length} bytes less"
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        file.seek(at)
        file.write(bytes([whole[at] ^ bit]))
        return f"byte {at} changed"


def way_out(path: Path, runs: Path) -> None:
    """What the error says: the file goes under all its names, with what was made from it."""
    same = path.stat().st_ino if path.exists() else None
    names = [p for p in runs.rglob("*") if p.is_file() and p.stat().st_ino == same]
    for name in names:
        folder = name.parent
        if folder.name == "checkpoint":
            remove(folder)
            folder = folder.parent
        else:
            name.unlink()
        for made in ("manifest.json", "eval.json", "done.json"):
            (folder / made).unlink(missing_ok=True)


# Of a launch, not of a result; or, config.yaml, of keys that change no number: claim compares it.
RECORDS = ("config.yaml", "engine.log")


def is_noticed_or_harmless(path: Path, right: Path) -> bool:
    """Whether reading a file that is not as it was is refused, or gives what it gave."""
    if path.name in RECORDS:
        return True
    try:
        if path.parent.name == "checkpoint":
            check_sums(path.parent)
        elif path.suffix == ".parquet":  # a byte of its extremes, or of a name that none reads
            return read_rows(path) == read_rows(right)
        elif path.suffix == ".json":
            return read_json(path) == read_json(right)
        elif path.name == "state.safetensors":
            next_step(path)
        elif path.name == "metrics.jsonl":
            StepLog.read(path)
            Iteration(path.parent).check()
        elif path.suffix == ".jsonl":
            Iteration(path.parent).check()
    except (ValueError, OSError):
        return True
    return False


# --- all of them ---------------------------------------------------------------------------------

FAULTS: dict[Callable[[Ground], str], int] = {
    killed_inside: 75,
    killed_outside: 25,
    damaged_file: 28,
    full_disk: 10,
    clock: 6,
    two_owners: 6,
    read_only: 4,
    changed_data: 3,
    deleted_checkpoint: 3,
}
NUMBER = sum(FAULTS.values())


def plan(number: int, rng: random.Random) -> list[Callable[[Ground], str]]:
    """Each kind at its share, and once at least where there is room."""
    kinds = list(FAULTS)
    found = [kinds[i % len(kinds)] for i in range(min(number, len(kinds)))]
    wanted = [kind for kind, share in FAULTS.items() for _ in range(share)]
    for kind in found:
        wanted.remove(kind)
    rng.shuffle(wanted)
    while len(found) < number:
        found.append(wanted[(len(found) - len(kinds)) % len(wanted)])
    return found


def ground(folder: Path, forker: Forker, whole: Whole) -> Callable[[int, random.Random], Ground]:
    """-> makes the place of a fault, beside the runs to compare with"""

    def made(number: int, rng: random.Random) -> Ground:
        runs = folder / f"fault-{number}"
        runs.mkdir()
        return Ground(forker, whole, runs, rng, LOSSES[number % len(LOSSES)])

    return made


def main(
    number: int = NUMBER, seed: int = 0, say: Callable[[str], object] = sys.stdout.write
) -> int:
    """-> exit code"""
    started, tried, survived = time.monotonic(), Counter[str](), Counter[str]()
    stages = Counter[str]()
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        forker = Forker(Path(name))
        try:
            place = ground(Path(name), forker, forker.whole(Path(name) / "whole"))
            for i, fault in enumerate(plan(number, random.Random(seed))):
                here = place(i, random.Random(f"{seed} {i}"))
                tried[fault.__name__] += 1
                try:
                    done = fault(here)
                    survived[fault.__name__] += 1
                    say(f"{i:4} {fault.__name__}: {done}\n")
                except pytest.skip.Exception as reason:  # mounting is for root
                    del tried[fault.__name__]
                    say(f"{i:4} {fault.__name__} not tried: {reason}\n")
                except Exception:  # whatever it is, it was not survived
                    say(f"{i:4} {fault.__name__} NOT SURVIVED\n{traceback.format_exc()}\n")
                forker.end()
                stages.update(here.stages)
                shutil.rmtree(here.runs, ignore_errors=True)
        finally:
            forker.close()
    say("".join(f"killed in {stage}: {stages[stage]}\n" for stage in STAGES if stages[stage]))
    for kind in tried:
        say(f"{kind:20} {survived[kind]} of {tried[kind]}\n")
    say(f"{time.monotonic() - started:.0f} s\n")
    say(f"survived {survived.total()} of {tried.total()}\n")
    return 0 if survived.total() == tried.total() else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
