"""What was tuned on validation prompts, as a sweep: each method with its best value.

    python -m analysis choose runs=runs/tune over=optim.lr to=rates.yaml
    python main.py -m sweep=rates.yaml seed=0,1,2

    [best=1]    so many values of each method, the best first: a shortlist for more seeds
    [seeds=]    10,11: by these seeds alone

Of runs that differ in the keys of over= (with commas between) and the seed alone, the best: by the
mean of the main number after the last iteration, over the same seeds; of equal ones the smaller
value. A line of the file has the words that the best run was started with, but for what belongs to
tuning: seed, name, folder, trackers, held-out prompts. Values that these prompts and seeds do not
tell from the best are named beside it: more of both do, or the cheaper value is as good a choice.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from analysis.options import command
from analysis.reading.commands import key, values_of
from tspin.tools.files import digest, write_text

if TYPE_CHECKING:
    from analysis.reading.measures import Measure
    from analysis.reading.methods import Run
    from analysis.reading.runs import Runs

log = logging.getLogger("tspin")
OF_TUNING = ("name", "seed", "runs_dir", "sweep", "data.heldout", "data.eval_split")
OF_TUNING_SECTIONS = ("track", "hydra")


@dataclass(frozen=True)
class Choice:
    """A value of a method: its best, or one of its best.

    words   of a command line: the method, and its value
    values  of the keys in question
    means   of the main number, over the seeds, by the values that were run to the end
    of      how many values there were to choose from
    alike   of the best value: those not chosen whose difference from it has an interval around 0
    """

    words: tuple[str, ...]
    values: tuple[Any, ...]
    measure: Measure
    means: Mapping[tuple[Any, ...], float]
    of: int
    alike: Sequence[tuple[Any, ...]]


def main(arguments: Sequence[str]) -> None:
    with command(
        __doc__, arguments, runs="runs", over="optim.lr", to="", best="1", seeds=""
    ) as given:
        if not given["to"]:
            raise ValueError("to= is missing: the file to write, FILE.yaml")
        best, *more = _integers("best", given["best"])
        if more or best < 1:
            raise ValueError(f"best={given['best']}: one number, 1 at least")
        seeds = _integers("seeds", given["seeds"]) if given["seeds"] else ()
        folder, to = Path(given["runs"]), Path(given["to"])
        write(folder, given["over"].split(","), to, best=best, seeds=seeds)


def _integers(key: str, value: str) -> list[int]:
    try:
        return [int(word) for word in value.split(",")]
    except ValueError:
        raise ValueError(f"{key}={value}: whole numbers, with commas between") from None


def write(
    folder: Path, over: Sequence[str], to: Path, *, best: int = 1, seeds: Sequence[int] = ()
) -> None:
    """Chooses among the runs of `folder`, and leaves the sweep `to`.

    best   values of each method, the best first
    seeds  of the runs that are looked at; (): all
    ValueError where there is nothing to choose from.
    """
    from analysis.reading.runs import Runs  # pandas: not for --help

    chosen = choices(Runs.read(folder), over, best, seeds)
    if not chosen:
        raise ValueError(
            f"runs={folder} has no finished runs on validation prompts that differ in "
            f"{', '.join(over)}: data.eval_split=validation {over[0]}=A,B seed=10,11"
        )
    lines = [shlex.join(choice.words) for choice in chosen]
    tree = {"title": f"Chosen on validation prompts: {', '.join(over)}", "points": lines}
    here, there = (_from_here(path) for path in (folder, to))
    head = f"# python -m analysis choose runs={here} over={','.join(over)} to={there}"
    head += f" best={best}" if best > 1 else ""
    head += f" seeds={','.join(map(str, seeds))}" if seeds else ""
    write_text(to, f"{head}\n" + yaml.safe_dump(tree, sort_keys=False, width=1000))
    for line, choice in zip(lines, chosen, strict=True):
        numbers = f"{choice.measure.axis} {_shown(choice, choice.values)}"
        log.info("%s  (%s, best of %d)", line, numbers, choice.of)
        if choice.alike:
            others = ", ".join(
                f"{' '.join(_typed(over, values))} ({_shown(choice, values)})"
                for values in choice.alike
            )
            log.info("  not told from the best by these prompts and seeds: %s", others)


def _shown(choice: Choice, values: tuple[Any, ...]) -> str:
    return f"{choice.means[values]:.{choice.measure.digits}f}"


def _typed(over: Sequence[str], values: Sequence[Any]) -> list[str]:
    """As words of a command line."""
    return values_of(dict(zip(over, values, strict=True)), *over)


def _from_here(path: Path) -> Path:
    """As one types it: the file may be shared."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def choices(
    runs: Runs, over: Sequence[str], best: int = 1, seeds: Sequence[int] = ()
) -> list[Choice]:
    """Of each method that has values to choose from, in the order of settings and labels, and of
    one method the best first."""
    tuned = runs.where(
        lambda run: (
            run.setting.split == "validation"
            and any(run.value(name) is not None for name in over)
            and (not seeds or run.seed in seeds)
        )
    )
    families = tuned.grouped(lambda run: _family(run, over))
    ranked = (_ranked(tuned, members, over, best) for _, members in sorted(families.items()))
    return [choice for of_method in ranked for choice in of_method]


def _family(run: Run, over: Sequence[str]) -> tuple[Any, ...]:
    """What the runs of a method share, whatever the values; which keys are set is part of it."""
    rest = {name: value for name, value in run.method.items() if name not in over}
    is_set = tuple(run.value(name) is not None for name in over)
    return run.setting, str(run.values["loss.label"]), is_set, digest(rest)


def _ranked(runs: Runs, members: Sequence[Run], over: Sequence[str], best: int) -> list[Choice]:
    """The best of the values that were run to the end with all seeds."""
    from analysis.reading import measures
    from analysis.reading.stats import error_of_mean, not_told_from

    names = {run.name for run in members}
    main = measures.main_of(runs.where(lambda run: run.name in names))
    frame = measures.values(runs, [main]).set_index(["run", "iteration"])
    numbers, stderrs = frame["value"], frame["stderr"] * main.factor
    candidates: dict[tuple[Any, ...], list[Run]] = {}
    for run in members:
        values = tuple(run.value(name) for name in over)
        candidates.setdefault(values, []).append(run)
    means, errors, seeds = {}, {}, {run.seed for run in members}
    left_out = []
    for values, of_value in candidates.items():
        ends = {run.seed: (run.name, run.iterations - 1) for run in of_value}
        if {seed for seed, end in ends.items() if end in frame.index} == seeds:
            of_seeds = [float(numbers[end]) for end in ends.values()]
            means[values] = sum(of_seeds) / len(ends)
            errors[values] = error_of_mean(of_seeds, [stderrs[end] for end in ends.values()])
        else:
            left_out.append(values)
    if left_out:
        shown = ", ".join(" ".join(_typed(over, it)) for it in sorted(left_out, key=_order))
        log.warning("%s %s: not finished with every seed; left out", members[0].label, shown)
    ranked = sorted(means, key=lambda values: (-main.better * means[values], _order(values)))
    chosen = ranked[:best]
    if not ranked:
        return []
    alike = [it for it in not_told_from(ranked[0], means, errors) if it not in chosen]
    return [
        Choice(
            words=_words(runs, candidates[values][0], over),
            values=values,
            measure=main,
            means=means,
            of=len(candidates),
            alike=sorted(alike, key=_order) if values == ranked[0] else [],
        )
        for values in chosen
    ]


def _order(values: tuple[Any, ...]) -> list[Any]:
    return [value for value in values if value is not None]


def _words(runs: Runs, run: Run, over: Sequence[str]) -> tuple[str, ...]:
    started = runs.words(run)
    if started is None:
        raise ValueError(f"{run.folder.path} does not say how it was started; nothing to repeat")
    kept = [
        word
        for word in started
        if key(word) not in (*OF_TUNING, *over)
        and key(word).split(".")[0].split("/")[0] not in OF_TUNING_SECTIONS
        and not word.startswith("-")
    ]
    return (*kept, *_typed(over, [run.value(name) for name in over]))
