"""Whether anything has become slower since the figures in the repository: a minute, by CPU time.

    python -m benchmarks.check [--write] [--out FILE]

Each piece of work is timed beside a yardstick in the same process, round by round, so that a slow
or busy machine meets both; its figure is the median ratio. A ratio that is more than LOST above the
one in FILE (docs/benchmarks-check.json) is measured twice more, and fails where it stays so.

--write   the figures of now become those to compare with
Exit status 1 where something was lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Spent, now
from benchmarks.shapes import Case

LOST = 0.15
ROUNDS, AGAIN = 7, 2
SQUARE = 1024  # of the matrices of the yardstick
OUT = Path("docs/benchmarks-check.json")
log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Work:
    """A piece of work, and what it is held against: "product", or a way of benchmarks.ways."""

    case: Case
    yardstick: str


def _case(name: str, kind: str, way: str, batch: int, lengths: str = "28/64") -> Case:
    return Case(name, kind, "v2k", lengths, (way,), batch=batch)


# A plain step is the same arithmetic without what makes ours fast; sampling and files have no plain
# form that is kept, and are held against a matrix product.
WORKS = (
    Work(_case("a step on triplets", "triplets", "ours", 4), "plain"),
    Work(_case("a step on pairs, prompts shared", "pairs", "ours", 4, "256/32"), "plain"),
    Work(_case("sampling", "generation", "sample", 16), "product"),
    Work(_case("an iteration on pairs", "iteration", "iterate", 4), "product"),
    Work(_case("files", "rows", "files", 200), "product"),
)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("benchmarks.check", allow_abbrev=False)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    figures = {} if options.write else _read(options.out)
    found, lost = {}, []
    for work in WORKS:
        name = work.case.name
        ratio = compared(work)
        known = figures.get(name, ratio)
        for _ in range(AGAIN if ratio > known * (1 + LOST) else 0):
            ratio = min(ratio, compared(work))  # a loss stays, a busy minute does not
        found[name] = round(ratio, 4)
        if ratio > known * (1 + LOST):
            lost.append(name)
        log.info("%s: %.3f times its yardstick (%s), %+.0f%%", name, ratio, work.yardstick,
                 100 * (ratio / known - 1))  # fmt: skip
    if options.write:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    log.info("slower by more than %.0f%%: %s", 100 * LOST, ", ".join(lost) or "nothing")
    return int(bool(lost))


def compared(work: Work) -> float:
    """The median over rounds of the CPU time of the work over that of its yardstick."""
    from benchmarks.ways import WAYS

    ours = WAYS[work.case.ways[0]](work.case)
    other: Callable[[Any], Spent] = (
        _product if work.yardstick == "product" else WAYS[work.yardstick](work.case)
    )
    ratios = []
    for number in range(-1, ROUNDS):  # the first warms up
        triplets = work.case.triplets(max(number, 0))
        pair = [(ours, other), (other, ours)][number % 2]
        spent = {way: way(triplets).cpu for way in pair}
        ratios.append(spent[ours] / spent[other])
    return median(ratios[1:])


def _product(_: object) -> Spent:
    """Some products of two square matrices in float32."""
    import torch

    a, b = torch.randn(2, SQUARE, SQUARE)
    before = now()
    for _number in range(20):
        a @ b
    return now().since(before)


def _read(path: Path) -> dict[str, float]:
    if not path.exists():
        raise SystemExit(f"{path} is not there; python -m benchmarks.check --write makes it")
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return figures


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("tspin").setLevel(logging.ERROR)  # whose hints are for runs
    sys.exit(main(sys.argv[1:]))
