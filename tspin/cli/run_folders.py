"""`tspin ls` and `tspin rm`: the runs in a folder, a line each, and runs taken away. No torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tspin.cli.options import Parser, is_runs, runs_folder
from tspin.cli.status import survey
from tspin.planning.disk import amount, bytes_in
from tspin.runs import comparison, removal
from tspin.runs.artifacts import RunDir, no_run
from tspin.tools.terminal import table

LIST, REMOVE = "ls", "rm"


def main(arguments: Sequence[str]) -> None:
    """arguments: LIST or REMOVE, then what is typed"""
    verb, *rest = arguments
    (list_runs if verb == LIST else remove_runs)(rest)


def list_runs(arguments: Sequence[str]) -> None:
    parser = Parser(
        LIST,
        "[RUNS ...]",
        about="The runs in RUNS: iterations done, the last held-out accuracy or perplexity, size\n"
        "(what runs share is counted in each), and their state, in the words of `tspin status`.",
        examples="  python -m tspin ls\n  python -m tspin ls runs/paper",
    )
    parser.add_argument(
        "runs", nargs="*", type=runs_folder, default=[Path("runs")], metavar="RUNS",
        help="folders of runs (default: runs)",
    )  # fmt: skip
    for runs in parser.parse_args(arguments).runs:
        sys.stdout.write(f"{describe(runs)}\n")


def describe(runs: Path) -> str:
    """The table of the runs in a folder; names, which may be long, stand last."""
    rows = []
    for status in survey(runs):
        folder = RunDir(Path(status.folder))
        worths = [comparison.worth(folder.iteration(t)) for t in folder.iterations()[-1:]]
        worth = next(filter(None, worths), None)
        rows.append(
            {
                "iterations": f"{status.complete} of {status.of or '?'}",
                "last": None if worth is None else f"{worth.name} {worth.value:.4g}",
                "size": amount(bytes_in(folder.path)),
                "state": status.state,
                "run": status.run,
            }
        )
    return table(str(runs), rows, first=("iterations", "last", "size", "state"))


def remove_runs(arguments: Sequence[str]) -> None:
    parser = Parser(
        REMOVE,
        "NAME ... [--runs RUNS] [--yes]",
        about="Removes runs, and of what runs share (proto/, base/) what no other run has.",
        examples="  python -m tspin rm micro-tspin-micro-s0\n"
        "  python -m tspin rm NAME NAME --runs runs/paper --yes",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a run in RUNS, or its folder")
    parser.add_argument(
        "--runs", "--runs_dir", type=Path, default=Path("runs"), metavar="RUNS",
        help="where they are, runs=RUNS likewise (default: runs)",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="without asking")
    words = [f"--{word}" if is_runs(word) else word for word in arguments]
    options = parser.parse_intermixed_args(words)
    runs = options.runs.expanduser()
    folders = list(dict.fromkeys(_folder(name, runs) for name in options.names))
    removal.check(folders)
    size = amount(sum(bytes_in(folder.path) for folder in folders))
    if not options.yes and not _agreed(folders, size):
        sys.stdout.write("nothing was removed\n")
        return
    for folder in folders:
        gone, stayed = removal.remove_run(folder)
        lines = [f"removed {path}" for path in (folder.path, *gone)]
        lines += [f"left {path}: {why}" for path, why in stayed.items()]
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _folder(name: str, runs: Path) -> RunDir:
    for path in (runs / name, Path(name).expanduser()):
        if RunDir(path).config.exists():
            return RunDir(path)
    raise no_run(Path(name) if "/" in name else runs / name)


def _agreed(folders: Sequence[RunDir], size: str) -> bool:
    """What a person answers; ValueError where there is none to ask."""
    if not sys.stdin.isatty():
        raise ValueError("nobody is there to be asked: add --yes")
    names = ", ".join(str(folder.path) for folder in folders)
    return input(f"remove {names} ({size})? [y/N] ").strip().lower() in ("y", "yes")
