"""What a run of the suite leaves: figures as JSON, a picture, and a page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.common import row
from benchmarks.measure import Result
from benchmarks.shapes import GROWTH
from benchmarks.targets import Verdict, ratios, share

WAYS = {
    "ours": "ours", "plain": "our plain padded path", "sorted": "plain, sorted by length",
    "trl_precomputed": "trl.DPOTrainer, reference precomputed",
    "trl_live": "trl.DPOTrainer, live reference",
    "spin_way": "the official SPIN trainer's way of computing (written by us)",
    "sample": "ours", "dynamic": "transformers generate, dynamic cache",
    "static": "transformers generate, static cache", "iterate": "ours",
    "glued": "glued: generate + trl.DPOTrainer", "files": "data, join, score files",
    "matmul": "a product of two square matrices in bfloat16",
}  # fmt: skip
READING = """A round is one draw of examples, the same for every way; ways take turns, each in a
process of its own. Times are of whole optimiser steps (of `iteration`: sample, score the reference,
train, score, save; of `generation`: all responses, as long in every way). The ratio is theirs over
ours, round by round: median and range. "Extra" memory is what a process takes at its peak beyond
what it held before the first step, gradients and optimiser state included. Weights and ids are
random; lengths "alpaca" are drawn from measured quantiles (`benchmarks/shapes.py`), "long" has
prompts nine times as long, "512/64" means prompts of 512 and responses of 64 tokens. That loss and
gradients are those of the plain path, to 1e-12 in float64, is held by
`tests/logprobs/test_packed.py`.
"""
QUICK = "**A quick run on tiny shapes: it shows that the suite works. None of it is a result.**\n"
UNMEASURED = "`make bench-gpu`, the same on one CUDA card, has not been measured so far.\n"


def write(
    out: Path, results: Sequence[Result], verdicts: Sequence[Verdict], facts: dict[str, str],
    *, command: str, quick: bool, seconds: float,
) -> None:  # fmt: skip
    """OUT.json, OUT.png and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "quick": quick, "seconds": round(seconds), "machine": facts}
    record |= {"targets": [asdict(v) | {"status": v.status} for v in verdicts]}
    record |= {"cases": [asdict(r) for r in results]}
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    picture(out.with_suffix(".png"), results)
    parts = ["# Benchmarks\n", *([QUICK] if quick else [])]
    parts += [f"Made by `{command}` in {seconds / 60:.1f} minutes.\n", READING]
    parts += [", ".join(f"{k} {v}" for k, v in facts.items()) + ".\n"]
    if not out.with_name("benchmarks-gpu.json").exists() and "card" not in facts:
        parts += [UNMEASURED]
    parts += ["## Targets\n", *(f"- {v.line()}" for v in verdicts), ""]
    parts += [f"![times over ours]({out.name}.png)\n", "## All of it\n", *table(results), ""]
    parts += ["## Growth\n", *growth(results), ""]
    out.with_suffix(".md").write_text("\n".join(parts))


def table(results: Sequence[Result]) -> Iterator[str]:
    head = ["case", "way", "s (range)", "tokens/s", "over ours (range)", "extra MB", "peak MB"]
    yield from (row(head), row(["---"] * len(head)))
    for result in results:
        for way, seconds in result.seconds.items():
            times = ratios(result, result.case.ways[0], [way])
            ratio = spread(times) if times and way != result.case.ways[0] else "-"
            memory = [f"{result.memory[way][key]:.0f}" for key in ("extra", "peak")]
            pace = [n / s for n, s in zip(result.tokens, seconds, strict=False)]
            per_second = f"{median(pace):.0f}" if pace else "-"
            if parts := share(result, way, results):
                per_second += f", {median(parts):.0%} of the card"
            yield row([result.case.name, WAYS[way], spread(seconds), per_second, ratio, *memory])
        for way, reason in result.skipped.items():
            yield row([result.case.name, WAYS[way], reason.replace("|", "/"), *[""] * 4])


def growth(results: Sequence[Result]) -> Iterator[str]:
    """The power of a size with which time and extra memory grow, from point to point."""
    for word in GROWTH:
        points = [r for r in results if r.case.name.startswith(f"{word} ") and not r.skipped]
        for a, b in zip(points, points[1:], strict=False):
            sizes = [_size(word, r) for r in (a, b)]
            if sizes[0] == sizes[1]:  # of a quick run
                continue
            way = a.case.ways[0]
            powers = [
                math.log(y / x) / math.log(sizes[1] / sizes[0]) if min(x, y) > 0 else math.nan
                for x, y in (
                    (median(a.seconds[way]), median(b.seconds[way])),
                    (a.memory[way]["extra"], b.memory[way]["extra"]),
                )
            ]
            yield (
                f"- {word} {sizes[0]} to {sizes[1]}: time to the power {powers[0]:.2f}, extra "
                f"memory {powers[1]:.2f}"
            )
    yield (
        "\n1 is a straight line; below it, a fixed part weighs; above it for length, attention, "
        "whose pairs grow with the square."
    )


def _size(word: str, result: Result) -> int:
    case = result.case
    if word == "vocabulary":
        return case.model_shape.vocab
    return int(case.lengths.split("/")[0]) if word == "length" else case.batch


def picture(path: Path, results: Sequence[Result]) -> None:
    """Times and extra memory of the other ways over ours."""
    from matplotlib.figure import Figure

    bars = [
        (f"{r.case.name}: {WAYS[way]}", times, ratios(r, r.case.ways[0], [way], memory=True))
        for r in results
        for way in r.seconds
        if way != r.case.ways[0] and (times := ratios(r, r.case.ways[0], [way]))
    ]
    figure = Figure(figsize=(11, 1.2 + 0.27 * len(bars)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for y, (_, times, memory) in enumerate(bars):
        left.barh(y, median(times), color="#4c78a8")
        left.plot([min(times), max(times)], [y, y], color="black", linewidth=1)
        right.barh(y, memory[0], color="#72b7b2")
    left.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=7)
    left.invert_yaxis()
    for axes, title in ((left, "time over ours"), (right, "extra memory over ours")):
        axes.axvline(1, color="grey", linewidth=1)
        axes.set_title(title)
    figure.savefig(path, dpi=110)


def spread(values: Sequence[float]) -> str:
    low, high = (f"{x:.3g}" for x in (min(values), max(values)))
    return f"{median(values):.3g} ({low} to {high})"
