"""What the benchmarks have to show: one table of ratios and gates, and how they are judged.

A ratio is theirs over ours, round by round: 2.0 is twice as fast, or half of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.measure import Result
from benchmarks.shapes import ROLES

TABLE = "the aims of the design, from ratios measured on one CPU core before this code was written"
ISSUE = "asked for with the benchmarks themselves"
ALL = ("triplets ", "pairs ")  # every case whose name begins so


@dataclass(frozen=True)
class Target:
    """ours against the best of theirs (way, way), in each case; the worst case counts.

    cases   beginnings of names
    of      what is compared: time on the clock or of all cores, memory; share: no ratio but ours
            itself, see `share`
    gate    must hold; stretch is the aim
    source  where the numbers come from
    """

    name: str
    cases: tuple[str, ...]
    theirs: tuple[str, ...]
    gate: float
    stretch: float
    ours: str = "ours"
    of: Literal["seconds", "cpu", "memory", "share"] = "seconds"
    source: str = TABLE


@dataclass(frozen=True)
class Verdict:
    """value: the median ratio of the worst case; low, high: that case's range over the rounds."""

    target: Target
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""  # there is no value

    @property
    def status(self) -> str:
        if self.value is None:
            return f"not measured ({self.why})"
        return "ok" if self.value >= self.target.gate else "MISSED"

    def line(self) -> str:
        ratio = "-"
        if self.value is not None:
            ratio = f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"
        gates = f"gate {self.target.gate:g}, aim {self.target.stretch:g}"
        return f"{self.target.name}: {ratio}, {gates}: {self.status}"


CPU = (
    Target("triplets, Alpaca, smol", ("triplets alpaca smol",), ("plain",), 1.6, 2.0),
    Target("triplets, Alpaca, smol, bfloat16 over float32", ("triplets alpaca smol",), ("ours",),
           1.5, 2.5, ours="bfloat16", source=ISSUE),
    Target("triplets, Alpaca, v2k", ("triplets alpaca v2k",), ("plain",), 1.5, 2.0),
    Target("triplets, Alpaca, v49k", ("triplets alpaca v49k",), ("plain",), 2.5, 3.5),
    Target("pairs, TRL precomputed, v2k", ("pairs alpaca v2k",), ("trl_precomputed",), 1.6, 2.0),
    Target("pairs, TRL live reference, v2k", ("pairs alpaca v2k",), ("trl_live",), 2.0, 2.5),
    Target("pairs, the official SPIN way, v2k", ("pairs alpaca v2k",), ("spin_way",), 2.0, 2.5),
    Target("prompt at least 4x the response", ("triplets 512/64 v2k", "triplets 1024/64 v2k"),
           ("plain",), 1.6, 2.2),
    Target("never slower than the best plain way", ALL, ("plain", "sorted"), 0.95, 1.0),
    Target("extra training memory, v49k", ("triplets alpaca v49k",), ("plain",), 8, 15,
           of="memory"),
    Target("generation, smol, 48 rows", ("generation smol 48",), ("dynamic",), 2.0, 2.5,
           ours="sample", source=ISSUE),
    Target("generation, smol, 16 rows", ("generation smol 16",), ("dynamic",), 1.8, 2.5,
           ours="sample", source=ISSUE),
    *(
        Target(f"generation, smol, {n} rows, CPU seconds of {name}", (f"generation smol {n}",),
               (rival,), 0.0, 1.0, ours="sample", of="cpu", source=ISSUE)
        for rival, name in (("vllm", "vLLM"), ("llama", "llama.cpp"))
        for n in (16, 48)
    ),
    *(
        Target(f"generation, smol, {n} rows, its products alone", (f"generation smol {n}",),
               ("products",), 0.0, 0.85, ours="sample", source=ISSUE)
        for n in (16, 48)
    ),
    Target("a whole iteration, smol", ("iteration smol",), ("glued",), 2.2, 3.0, ours="iterate",
           source=ISSUE),
)  # fmt: skip
GPU = (Target("share of the matmul peak", ("sft ", *ALL), (), 0.0, 0.45, of="share"),)


def ratios(
    result: Result,
    ours: str,
    theirs: Sequence[str],
    of: Literal["seconds", "cpu", "memory"] = "seconds",
) -> list[float]:
    """The best of theirs over ours, a number a round (of memory: one); empty without both. Of ways
    that were run one after the other, one may have had more rounds."""
    table: Mapping[str, Sequence[float]] = result.cpu if of == "cpu" else result.seconds
    if of == "memory":
        table = {way: [mib["extra"]] for way, mib in result.memory.items()}
    others = [table[way] for way in theirs if way in table]
    if ours not in table or not others:
        return []
    best = map(min, zip(*others, strict=False))
    return [b / a for a, b in zip(table[ours], best, strict=False)]


def share(result: Result, way: str, results: Sequence[Result]) -> list[float]:
    """What training cannot do without (shapes.flops) of what the card's matrix products sustain.

    A number a round; empty where it is no training or products were not measured.
    """
    products = [r for r in results if r.case.kind == "matmul"]
    if not products or result.case.kind not in ROLES or way not in result.seconds:
        return []
    sustained = 2 * products[0].case.square ** 3 / median(products[0].seconds["matmul"])
    return [f / s / sustained for f, s in zip(result.flops, result.seconds[way], strict=False)]


def judge(targets: Sequence[Target], results: Sequence[Result]) -> Iterator[Verdict]:
    for target in targets:
        cases = [r for r in results if r.case.name.startswith(target.cases)]
        ways = {target.ours, *target.theirs}
        why = {reason for r in cases for way, reason in r.skipped.items() if way in ways}
        if target.of == "share":
            values = [share(r, target.ours, results) for r in cases]
        else:
            values = [ratios(r, target.ours, target.theirs, target.of) for r in cases]
        if measured := [rounds for rounds in values if rounds]:
            worst = min(measured, key=median)
            yield Verdict(target, median(worst), min(worst), max(worst))
        else:
            yield Verdict(target, why=", ".join(sorted(why)) or "not run")
