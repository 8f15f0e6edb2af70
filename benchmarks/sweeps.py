"""What studies are made of: sweeps into the folders of their parts, and choices between them.

Every step reads the files of those before it, and a sweep skips what is complete: a study that is
started again goes on where it was stopped. Every study has these options:

--seeds   of the results, three at least for a verdict; tuning has its own
--jobs    runs at a time, of one thread each
--out     the study: run folders of each part, and what was chosen between them
--page    whose sections are written anew; "": none
--tuned   a folder with the choices of an earlier study, by their names: they are not made again
--tiny    all of it in seconds, to see that it runs. No result
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from analysis import choose
from analysis.reading.runs import Runs
from analysis.study import Study, write
from tspin.cli import outcome
from tspin.cli.arguments import read_sweep
from tspin.cli.folders import SWEEPS
from tspin.runs.point import key
from tspin.tools.files import write_text

ROOT = Path(__file__).resolve().parents[1]
# Of every sweep of a study but a tiny one: runs of one thread each, so many at a time.
LAUNCHER = ("hydra/launcher=joblib", "hydra.launcher.n_jobs={}", "track=none")
TINY = ("track=none",)
SHORTLIST = 2  # values of each method that are run with more seeds before one is chosen
SOME_FAILED = 1  # the exit code of a sweep with points that failed: they diverged, and it says so
log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Sweeps:
    """Where a study's sweeps go, and how they are started.

    out       a folder for each part, and what was chosen between them
    launcher  words of every sweep
    tuned     has files of choices that are taken as they are; None: everything is tuned
    """

    out: Path
    launcher: tuple[str, ...]
    tuned: Path | None = None

    def run(self, part: str, *words: str) -> None:
        """One multirun. SystemExit where it was stopped or refused, or points of it failed for
        another reason than that they diverged: nothing is chosen between runs that lack."""
        command = ["main.py", "-m", *words, f"runs_dir={self.out / part}", *self.launcher]
        log.info("\npython %s", shlex.join(command))
        code = start(command)
        if code not in (0, SOME_FAILED):
            raise SystemExit(code)
        if code == SOME_FAILED and (undone := unfinished(self.out / part)):
            raise SystemExit(f"neither complete nor diverged: {', '.join(undone)}")

    def tune(
        self, chosen: Path, over: Sequence[str], grid: Sequence[str], words: Sequence[str],
        rounds: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """Multiruns on validation prompts, and the sweep `chosen` of the best of each.

        over    the keys whose values are chosen
        grid    words of what there is to choose from
        words   of every run
        rounds  the seeds of each: the first has the whole grid, one behind it the SHORTLIST best of
                each by the seeds of the one before
        """
        earlier = self.tuned / chosen.name if self.tuned is not None else None
        if earlier is not None and earlier.exists():
            log.info("\n%s: as chosen before", earlier)
            write_text(chosen, earlier.read_text(encoding="utf-8"))
            return
        before: Sequence[int] = ()
        for seeds in rounds:
            if before:
                shortlist = chosen.with_name(f"shortlist_of_{chosen.name}")
                choose.write(self.out / "tune", over, shortlist, best=SHORTLIST, seeds=before)
                grid = (f"sweep={shortlist}",)
            self.run("tune", *grid, *words, f"seed={','.join(map(str, seeds))}")
            before = seeds
        choose.write(self.out / "tune", over, chosen)


def start(command: Sequence[str]) -> int:
    """python WORDS in the checkout, a thread for each run. -> its exit code"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it was typed to the sweep, too, which ends in order
            continue


def unfinished(folder: Path) -> list[str]:
    """Names of the runs that are neither complete nor diverged."""
    runs = Runs.read(folder)
    return [
        run.folder.path.name
        for run in runs
        if not all(run.folder.iteration(t).done.exists() for t in range(run.iterations))
        and not runs.diverged(run)
    ]


def points(sweep: Path) -> list[dict[str, str]]:
    """Of a sweep that was written: every point's words by their keys."""
    return [by_key(line) for line in read_sweep(str(sweep), SWEEPS)]


def by_key(words: Iterable[str]) -> dict[str, str]:
    return {key(word): word for word in words}


def write_points(sweep: Path, title: str, points: Sequence[dict[str, str]]) -> None:
    """The sweep of such points."""
    lines = [shlex.join(words.values()) for words in points]
    tree = {"title": title, "points": lines}
    write_text(sweep, yaml.safe_dump(tree, sort_keys=False, width=1000))


# --- the command of a study ----------------------------------------------------------------------


def parser(program: str) -> argparse.ArgumentParser:
    """The options of the module's docstring."""
    options = argparse.ArgumentParser(program, allow_abbrev=False)
    options.add_argument("--seeds", type=int, default=3, metavar="N")
    options.add_argument("--jobs", type=int, default=2, metavar="N")
    options.add_argument("--out", type=Path, default=None, metavar="FOLDER")
    options.add_argument("--page", default=None, metavar="PAGE.md")
    options.add_argument("--tuned", type=Path, default=None, metavar="FOLDER")
    options.add_argument("--tiny", action="store_true")
    return options


def of(options: argparse.Namespace, name: str) -> Sweeps:
    """Where the sweeps of the study NAME go under these options."""
    out = options.out or Path("build" if options.tiny else "runs") / name
    launcher = TINY if options.tiny else tuple(word.format(options.jobs) for word in LAUNCHER)
    return Sweeps(out.absolute(), launcher, options.tuned)


def seeds(options: argparse.Namespace) -> str:
    return f"seed={','.join(map(str, range(options.seeds)))}"


def report(
    study: Study, sweeps: Sweeps, options: argparse.Namespace, choices: Sequence[str]
) -> None:
    """Its tables and figures; the sections of its page, and beside them what was chosen. A tiny one
    has no page but one that is given."""
    page = options.page
    if page is None:
        page = "" if options.tiny else study.page
    write(study, sweeps.out, sweeps.out / "report", page or None)
    for name in choices if page else ():
        text = (sweeps.out / name).read_text(encoding="utf-8")
        write_text(Path(page).with_suffix("") / name, text)


def run(main: Callable[[Sequence[str]], None]) -> None:
    """main(arguments), as a program."""
    outcome.configure_logging()
    log.setLevel(logging.INFO)
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
