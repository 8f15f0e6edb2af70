"""The bench of objectives: which to train on triplets, what mends T-SPIN; on both built-in tasks.

    python -m benchmarks.objectives [--seeds N] [--jobs N] [--out FOLDER] [--page PAGE.md]
                                    [--tuned FOLDER] [--tiny]

--seeds   of the results, three at least for a verdict; tuning has two of its own
--jobs    runs at a time, of one thread each
--out     the study: run folders of each part, and what was chosen between them
--page    whose sections are written anew (docs/objectives.md); "": none
--tuned   a folder with rates.yaml or anchors.yaml of an earlier study: what it has is not tuned
          again. docs/objectives has those of the page
--tiny    all of it in seconds: two objectives, two rates, one iteration, one seed. No result

`study` is the table of contents. Every step reads the files of those before it, and a sweep skips
what is complete: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from analysis import bench, choose
from analysis.reading.bench import ANCHORS
from tspin.cli import outcome
from tspin.cli.arguments import read_sweep, sweep_names
from tspin.cli.folders import SWEEPS
from tspin.runs.point import key
from tspin.tools.files import write_text

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ("hydra/launcher=joblib", "hydra.launcher.n_jobs={}", "track=none")
STRESS = "optim.lr=3e-4"  # one rate for all, too large for all but SFT (docs/paper-in-miniature.md)
BY_NAME = ("curriculum", "drift")  # sweeps with tasks and sizes of their own
CHOICES = ("rates.yaml", "anchors.yaml")  # by tuning: of objectives, of anchors
SOME_FAILED = 1  # the exit code of a sweep with points that failed: they diverged, and it says so
log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Study:
    """What is run, and how large. Words are those of the command line.

    out         a folder for each part, and what was chosen between them
    launcher    of every sweep
    seeds       of results
    tasks       of tuning and stress; a line that was chosen brings its own
    scale       of tuning and results
    objectives  make one run of each, anchors one of each strength
    rates       the grid, one for all objectives
    tuning      of runs on validation prompts, with seeds that no result uses
    results     of runs on test prompts
    by_name     of the sweeps BY_NAME
    tuned       has files of choices that are taken as they are; None: everything is tuned
    """

    out: Path
    launcher: tuple[str, ...]
    seeds: str
    tasks: str = "model=micro,micro_open_weak"
    scale: tuple[str, ...] = ("data.size=384", "selfplay.iterations=3")
    objectives: tuple[str, ...] = ("sweep=objectives",)
    anchors: tuple[str, ...] = ("sweep=anchors",)
    rates: str = "optim.lr=3e-6,1e-5,3e-5,1e-4,3e-4"
    tuning: tuple[str, ...] = ("seed=10,11", "data.eval_split=validation", "data.heldout=320")
    results: tuple[str, ...] = ("data.heldout=400", "data.eval_cool=0.7")
    by_name: tuple[str, ...] = ()
    tuned: Path | None = None


def tiny(out: Path, tuned: Path | None = None) -> Study:
    return Study(
        out,
        tuned=tuned,
        launcher=("track=none",),
        seeds="seed=0",
        tasks="model=micro",
        scale=("data.size=16", "selfplay.iterations=1"),
        objectives=("loss=spin,tspin",),
        anchors=("loss=tspin", "anchor=hinge", "anchor.hinge=0.3,1"),
        rates="optim.lr=1e-4,1e-3",
        tuning=("seed=10", "data.eval_split=validation", "data.heldout=16"),
        results=("data.heldout=16",),
        by_name=("data.size=16", "data.heldout=16"),
    )


def study(it: Study) -> None:
    """Tune, choose, judge on other seeds and prompts: first objectives, then anchors."""
    rates, anchors = (it.out / name for name in CHOICES)
    anchors_at_rates = it.out / "anchors_at_rates.yaml"
    tuning, results = (*it.scale, *it.tuning), (*it.scale, *it.results, it.seeds)

    tune(it, rates, ["optim.lr"], *it.objectives, it.tasks, it.rates, *tuning)
    sweep(it, "test", f"sweep={rates}", *results)
    sweep(it, "test", *it.objectives, it.tasks, STRESS, *results)

    tune(it, anchors, ANCHORS, *it.anchors, it.tasks, STRESS, *tuning)
    with_rates(anchors, rates, anchors_at_rates)
    sweep(it, "test", f"sweep={anchors}", *results)
    sweep(it, "test", f"sweep={anchors_at_rates}", *results)

    for name in BY_NAME:
        if name in sweep_names(SWEEPS):
            sweep(it, name, f"sweep={name}", it.seeds, *it.by_name)


def tune(it: Study, chosen: Path, over: Sequence[str], *words: str) -> None:
    """A multirun on validation prompts, and the sweep `chosen` of the best of each."""
    earlier = it.tuned / chosen.name if it.tuned is not None else None
    if earlier is not None and earlier.exists():
        log.info("\n%s: as chosen before", earlier)
        write_text(chosen, earlier.read_text(encoding="utf-8"))
        return
    sweep(it, "tune", *words)
    choose.write(it.out / "tune", over, chosen)


def sweep(it: Study, part: str, *words: str) -> None:
    """One multirun, into the folder of a part. SystemExit where it was stopped or refused."""
    command = ["main.py", "-m", *words, f"runs_dir={it.out / part}", *it.launcher]
    log.info("\npython %s", shlex.join(command))
    code = start(command)
    if code not in (0, SOME_FAILED):
        raise SystemExit(code)


def start(command: Sequence[str]) -> int:
    """python WORDS in the checkout, a thread for each run. -> its exit code"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it was typed to the sweep, too, which ends in order
            continue


def with_rates(anchors: Path, rates: Path, out: Path) -> None:
    """The chosen anchors at the learning rate that was chosen for their objective alone."""
    of_objective = {}
    for line in read_sweep(str(rates), SWEEPS):
        words = {key(word): word for word in line}
        of_objective[words["model"], words["loss"]] = words["optim.lr"]
    lines = []
    for line in read_sweep(str(anchors), SWEEPS):
        words = {key(word): word for word in line}
        words["optim.lr"] = of_objective[words["model"], words["loss"]]
        lines.append(shlex.join(words.values()))
    title = f"{anchors.name} at the learning rates of {rates.name}"
    write_text(out, yaml.safe_dump({"title": title, "points": lines}, sort_keys=False, width=1000))


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    out = Path(options.out or ("build/objectives" if options.tiny else "runs/objectives"))
    page, tuned = options.page, options.tuned and Path(options.tuned)
    if options.tiny:
        it, page = tiny(out.absolute(), tuned), page or ""
    else:
        launcher = tuple(word.format(options.jobs) for word in LAUNCHER)
        seeds = f"seed={','.join(map(str, range(options.seeds)))}"
        it = Study(out.absolute(), launcher, seeds, tuned=tuned)
        page = "docs/objectives.md" if page is None else page
    study(it)
    bench.write(it.out, it.out / "report", page or None)
    for name in CHOICES if page else ():
        write_text(Path(page).with_suffix("") / name, (it.out / name).read_text(encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.objectives", allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--out", default=None, metavar="FOLDER")
    parser.add_argument("--page", default=None, metavar="PAGE.md")
    parser.add_argument("--tuned", default=None, metavar="FOLDER")
    parser.add_argument("--tiny", action="store_true")
    return parser


if __name__ == "__main__":
    outcome.configure_logging()
    log.setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
