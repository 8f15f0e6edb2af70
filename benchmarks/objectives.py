"""The bench of objectives: which to train on triplets, what mends T-SPIN; on both built-in tasks.

    python -m benchmarks.objectives [--tuned docs/objectives] [--tiny] [...]

The options are those of every study (benchmarks/sweeps.py). What is tuned are learning rates
(rates.yaml) and strengths of anchors (anchors.yaml); docs/objectives has those of the page.
`study` is the table of contents; the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.reading.bench import ANCHORS
from analysis.study import STUDIES
from benchmarks import sweeps
from benchmarks.sweeps import Sweeps
from tspin.cli.arguments import sweep_names
from tspin.cli.folders import SWEEPS

STRESS = "optim.lr=3e-4"  # one rate for all, too large for all but SFT (docs/paper-in-miniature.md)
BY_NAME = ("curriculum", "drift")  # sweeps with tasks and sizes of their own
CHOICES = ("rates.yaml", "anchors.yaml")  # by tuning: of objectives, of anchors
NAME = "objectives"


@dataclass(frozen=True)
class Study:
    """What is run, and how large. Words are those of the command line.

    sweeps      where they go, and how they are started
    seeds       of results
    tasks       of tuning and stress; a line that was chosen brings its own
    scale       of tuning and results
    objectives  make one run of each, anchors one of each strength
    rates       the grid, one for all objectives
    tuning      of runs on validation prompts
    rounds      seeds of tuning, which no result uses
    results     of runs on test prompts
    by_name     of the sweeps BY_NAME
    """

    sweeps: Sweeps
    seeds: str
    tasks: str = "model=micro,micro_open_weak"
    scale: tuple[str, ...] = ("data.size=384", "selfplay.iterations=3")
    objectives: tuple[str, ...] = ("sweep=objectives",)
    anchors: tuple[str, ...] = ("sweep=anchors",)
    rates: str = "optim.lr=3e-6,1e-5,3e-5,1e-4,3e-4"
    tuning: tuple[str, ...] = ("data.eval_split=validation", "data.heldout=320")
    rounds: tuple[tuple[int, ...], ...] = ((10, 11),)
    results: tuple[str, ...] = ("data.heldout=400", "data.eval_cool=0.7")
    by_name: tuple[str, ...] = ()


def tiny(of: Sweeps) -> Study:
    """Two objectives, two rates, one iteration, one seed."""
    return Study(
        of,
        seeds="seed=0",
        tasks="model=micro",
        scale=("data.size=16", "selfplay.iterations=1"),
        objectives=("loss=spin,tspin",),
        anchors=("loss=tspin", "anchor=hinge", "anchor.hinge=0.3,1"),
        rates="optim.lr=1e-4,1e-3",
        tuning=("data.eval_split=validation", "data.heldout=16"),
        rounds=((10,),),
        results=("data.heldout=16",),
        by_name=("data.size=16", "data.heldout=16"),
    )


def study(it: Study) -> None:
    """Tune, choose, judge on other seeds and prompts: first objectives, then anchors."""
    tune, run = it.sweeps.tune, it.sweeps.run
    rates, anchors = (it.sweeps.out / name for name in CHOICES)
    anchors_at_rates = it.sweeps.out / "anchors_at_rates.yaml"
    tuning, results = (*it.scale, *it.tuning), (*it.scale, *it.results, it.seeds)

    tune(rates, ["optim.lr"], (*it.objectives, it.tasks, it.rates), tuning, it.rounds)
    run("test", f"sweep={rates}", *results)
    run("test", *it.objectives, it.tasks, STRESS, *results)

    tune(anchors, ANCHORS, (*it.anchors, it.tasks, STRESS), tuning, it.rounds)
    with_rates(anchors, rates, anchors_at_rates)
    run("test", f"sweep={anchors}", *results)
    run("test", f"sweep={anchors_at_rates}", *results)

    for name in BY_NAME:
        if name in sweep_names(SWEEPS):
            run(name, f"sweep={name}", it.seeds, *it.by_name)


def with_rates(anchors: Path, rates: Path, out: Path) -> None:
    """The chosen anchors at the learning rate that was chosen for their objective alone."""
    of_objective = {
        (words["model"], words["loss"]): words["optim.lr"] for words in sweeps.points(rates)
    }
    points = [
        words | {"optim.lr": of_objective[words["model"], words["loss"]]}
        for words in sweeps.points(anchors)
    ]
    sweeps.write_points(out, f"{anchors.name} at the learning rates of {rates.name}", points)


def main(arguments: Sequence[str]) -> None:
    options = sweeps.parser("benchmarks.objectives").parse_args(arguments)
    of = sweeps.of(options, NAME)
    study(tiny(of) if options.tiny else Study(of, sweeps.seeds(options)))
    sweeps.report(STUDIES[NAME], of, options, CHOICES)


if __name__ == "__main__":
    sweeps.run(main)
