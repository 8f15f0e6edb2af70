"""Held-out accuracy over iterations, by objective, mean and standard error over seeds.

    python -m analysis accuracy runs=RUNS out=FOLDER [metric=exact_match,greedy]

Leaves accuracy.csv, accuracy.md and accuracy.png in FOLDER. Runs of one objective that differ by
more than the seed are told apart by their names.
"""

from __future__ import annotations

import csv
import logging
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from analysis.options import command
from analysis.style import COLOURS, STYLES
from tspin.artifacts import Iteration, run_dirs
from tspin.files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("tspin")


@dataclass(frozen=True)
class Point:
    """One objective after one iteration (None: the initial policy); value in percent."""

    label: str
    iteration: int | None
    mean: float
    stderr: float
    num_seeds: int


def points(runs: Path, metric: str) -> list[Point]:
    """Every objective and iteration of the complete runs below `runs`.

    Raises ValueError where no run has the metric.
    """
    found: dict[tuple[str, int | None], list[float]] = {}
    for folder in run_dirs(runs):
        settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        label = settings["loss"]["label"] + _apart(settings)
        evaluated = [(None, folder.base), *((t, folder.iteration(t)) for t in folder.iterations())]
        for t, out in evaluated:
            value = _value(out, metric)
            if value is not None:
                found.setdefault((label, t), []).append(100 * value)
    if not found:
        raise ValueError(f"no run below {runs} has {metric} in its eval.json")
    return [
        Point(label, t, statistics.mean(values), _stderr(values), len(values))
        for (label, t), values in found.items()
    ]


def markdown(found: Sequence[Point]) -> str:
    """One row per objective, one column per iteration, mean +- s.e. over seeds."""
    table = _by_label(found)
    iterations = sorted({p.iteration for p in found if p.iteration is not None})
    lines = [
        "| objective | seeds | start | " + " | ".join(f"it {t}" for t in iterations) + " |",
        "|---" * (3 + len(iterations)) + "|",
    ]
    for label, row in table.items():
        cells = [_cell(row.get(t)) for t in (None, *iterations)]
        seeds = max(p.num_seeds for p in row.values())
        lines.append(f"| {label} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(found: Sequence[Point], metric: str) -> Figure:
    """Mean over seeds as lines, one standard error as bands; the initial policy at 0."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.0, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    variants: dict[str, int] = {}
    for label, row in _by_label(found).items():
        objective = next((o for o in sorted(COLOURS, key=len) if _is_variant(label, o)), label)
        style = STYLES[variants.get(objective, 0) % len(STYLES)]
        variants[objective] = variants.get(objective, 0) + 1
        line = sorted(row.values(), key=lambda p: -1 if p.iteration is None else p.iteration)
        x = [0 if p.iteration is None else p.iteration + 1 for p in line]
        low, mean, high = ([p.mean + side * p.stderr for p in line] for side in (-1, 0, 1))
        (curve,) = axes.plot(
            x, mean, marker="o", markersize=4, linestyle=style, label=label,
            color=COLOURS.get(objective),
        )  # fmt: skip
        axes.fill_between(x, low, high, alpha=0.15, color=curve.get_color(), linewidth=0)
    axes.set_xlabel("iterations of self-play done")
    axes.set_ylabel(f"held-out {metric.replace('_', ' ').replace(',', ', ')} (%)")
    axes.set_xticks(
        range(2 + max((p.iteration for p in found if p.iteration is not None), default=0))
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn


def write(found: Sequence[Point], metric: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["objective", "iteration", "mean", "stderr", "num_seeds"])
        for p in found:
            t = "start" if p.iteration is None else p.iteration
            rows.writerow([p.label, t, round(p.mean, 3), round(p.stderr, 3), p.num_seeds])
    (out / "accuracy.md").write_text(markdown(found), encoding="utf-8")
    figure(found, metric).savefig(out / "accuracy.png")


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    error = f" +- {point.stderr:.1f}" if point.num_seeds > 1 else ""  # one seed has none to show
    return f"{point.mean:.1f}{error}"


def _by_label(found: Sequence[Point]) -> dict[str, dict[int | None, Point]]:
    order = list(COLOURS)
    table: dict[str, dict[int | None, Point]] = {}
    for p in found:
        table.setdefault(p.label, {})[p.iteration] = p
    rank = {label: order.index(label) if label in order else len(order) for label in table}
    return dict(sorted(table.items(), key=lambda item: (rank[item[0]], item[0])))


def _is_variant(label: str, objective: str) -> bool:
    return label == objective or label.startswith(f"{objective} ")


def _apart(settings: Mapping) -> str:
    """What a run's name says beyond model, objective, data and seed."""
    usual = "-".join(settings[group]["name"] for group in ("model", "loss", "data"))
    return str(settings["name"]).removeprefix(f"{usual}-s{settings['seed']}").replace("-", " ", 1)


def _value(out: Iteration, metric: str) -> float | None:
    if not out.evaluation.exists():
        return None
    heldout = read_json(out.evaluation).get("heldout", {})
    return float(heldout[metric]["value"]) if metric in heldout else None


def _stderr(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def main(arguments: Sequence[str]) -> None:
    with command(
        __doc__, arguments, runs="runs", out="report", metric="exact_match,greedy"
    ) as options:
        found = points(Path(options["runs"]), options["metric"])
        write(found, options["metric"], Path(options["out"]))
        log.info("%s\n%s", markdown(found), options["out"])


if __name__ == "__main__":
    main(sys.argv[1:])
