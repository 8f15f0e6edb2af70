"""What a run of the suite leaves: figures as JSON, a picture, and a page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median

from benchmarks.common import row
from benchmarks.measure import Result
from benchmarks.parts import FLOOR, PARTS
from benchmarks.shapes import GROWTH, Case
from benchmarks.targets import Verdict, ratios, share
from tspin.tools.files import atomic

WAYS = {
    "ours": "ours", "bfloat16": "ours with compute.dtype=bfloat16",
    "plain": "our plain padded path", "sorted": "plain, sorted by length",
    "trl_precomputed": "trl.DPOTrainer, reference precomputed",
    "trl_live": "trl.DPOTrainer, live reference",
    "spin_way": "the official SPIN trainer's way of computing (written by us)",
    "sample": "ours", "dynamic": "transformers generate, dynamic cache",
    "static": "transformers generate, static cache",
    "products": "matrix products alone, of our packed weights", "vllm": "vLLM, CPU build",
    "llama": "llama.cpp, of llama-cpp-python", "iterate": "ours",
    "glued": "glued: generate + trl.DPOTrainer", "files": "data, join, score files",
    "matmul": "a product of two square matrices in bfloat16",
}  # fmt: skip
READING = """Rounds go on until the intervals of the ratios are narrow, five at most. A round is
one draw of examples, the same for every way; ways take turns, each in a process of its own. Times
are of whole optimiser steps (of `iteration`: sample, score the reference, train, score, save; of
`generation`: all responses, as long in every way). The ratio is theirs over ours, round by round:
median and range. "Extra" memory is what a process takes at its peak beyond what it held before
the first step, gradients and optimiser state included. Weights and ids are random; lengths
"alpaca" are drawn from measured quantiles (`benchmarks/shapes.py`), "long" has prompts nine times
as long, "512/64" means prompts of 512 and responses of 64 tokens. That loss and gradients are
those of the plain path, to 1e-12 in float64, is held by `tests/logprobs/test_packed.py`.
"""
QUICK = "**A quick run on tiny shapes: it shows that the suite works. None of it is a result.**\n"
UNFINISHED = "**Not finished: the same command goes on.**\n"
APART = """One step under torch's profiler, which counts what an operation takes itself; on one
thread the parts are the whole, on more they overlap.
"""
BUSY = 0.3  # cores, from which on the page says that the machine had other work
UNMEASURED = "`make bench-gpu`, the same on one CUDA card, has not been measured so far.\n"


@dataclass(frozen=True)
class Record:
    """What a run of the suite belongs to.

    code      digest of what was measured
    seconds   that all cases took so far
    finished  whether every case is there
    """

    command: str
    quick: bool
    machine: dict[str, str]
    code: str
    seconds: int = 0
    finished: bool = False


def measured(out: Path, record: Record, cases: Sequence[Case]) -> tuple[list[Result], float]:
    """The first of the cases that an unfinished OUT.json of the same record has, and the seconds
    that they took."""
    path = out.with_suffix(".json")
    found = json.loads(path.read_text()) if path.exists() else {}
    facts = {field.name: found.get(field.name) for field in fields(Record)}
    if found.get("finished", True) or facts != asdict(
        replace(record, seconds=found["seconds"], finished=False)
    ):
        return [], 0.0
    # The same command on the same code has the same cases.
    done = zip(cases, found["cases"], strict=False)
    return [Result(**it | {"case": case}) for case, it in done], float(found["seconds"])


def write(
    out: Path, record: Record, results: Sequence[Result], verdicts: Sequence[Verdict]
) -> None:
    """OUT.json, OUT.png and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    tree = asdict(record)
    tree |= {"targets": [asdict(v) | {"status": v.status} for v in verdicts]}
    tree |= {"cases": [asdict(r) for r in results]}
    with atomic(out.with_suffix(".json")) as path:
        path.write_text(json.dumps(tree, indent=1) + "\n")
    picture(out.with_suffix(".png"), results)
    parts = ["# Benchmarks\n", *([QUICK] if record.quick else [])]
    parts += [UNFINISHED] if not record.finished else []
    parts += [f"Made by `{record.command}` in {record.seconds / 60:.1f} minutes.\n", READING]
    parts += [", ".join(f"{k} {v}" for k, v in record.machine.items()) + ".\n"]
    parts += [company([others for result in results for others in result.others])]
    if not out.with_name("benchmarks-gpu.json").exists() and "card" not in record.machine:
        parts += [UNMEASURED]
    parts += ["## Targets\n", *(f"- {v.line()}" for v in verdicts), ""]
    parts += [f"![times over ours]({out.name}.png)\n", "## All of it\n", *table(results), ""]
    parts += apart(results)
    parts += ["## Growth\n", *growth(results), ""]
    out.with_suffix(".md").write_text("\n".join(parts))


def company(others: Sequence[float]) -> str:
    """Whether the machine was busy with something else. others: cores, of every round"""
    known = [cores for cores in others if not math.isnan(cores)]
    if not known:
        return "What else the machine did meanwhile is not known.\n"
    text = (
        f"Other processes kept {median(known):.2f} cores busy in the middle round, "
        f"{max(known):.2f} at most"
    )
    if max(known) > BUSY:
        return (
            f"**{text}: the machine was busy. Ratios of CPU time say more than those of time.**\n"
        )
    return f"{text}.\n"


def table(results: Sequence[Result]) -> Iterator[str]:
    head = ["case", "way", "s (range)", "tokens/s", "over ours (range)", "CPU time over ours",
            "extra MB", "peak MB"]  # fmt: skip
    yield from (row(head), row(["---"] * len(head)))
    for result in results:
        for way, seconds in result.seconds.items():
            times = ratios(result, result.case.ways[0], [way])
            of_cpu = ratios(result, result.case.ways[0], [way], "cpu")
            other = way != result.case.ways[0]
            ratio, cpu = (spread(it) if it and other else "-" for it in (times, of_cpu))
            memory = [f"{result.memory[way][key]:.0f}" for key in ("extra", "peak")]
            pace = [n / s for n, s in zip(result.tokens, seconds, strict=False)]
            per_second = f"{median(pace):.0f}" if pace else "-"
            if parts := share(result, way, results):
                per_second += f", {median(parts):.0%} of the card"
            yield row(
                [result.case.name, WAYS[way], spread(seconds), per_second, ratio, cpu, *memory]
            )
        for way, reason in result.skipped.items():
            yield row([result.case.name, WAYS[way], reason.replace("|", "/"), *[""] * 5])


def apart(results: Sequence[Result]) -> Iterator[str]:
    """Where the time of a step goes, a column for each case and way that was taken apart."""
    columns = {(r.case.name, way): found for r in results for way, found in r.parts.items()}
    if not columns:
        return
    yield from ("## Where the time of a step goes\n", APART)
    yield row(["seconds (share)", *(f"{case}: {WAYS[way]}" for case, way in columns)])
    yield row(["---"] * (1 + len(columns)))
    wholes = [sum(found[part] for part in PARTS) for found in columns.values()]
    for name in (*PARTS, FLOOR):
        cells = [
            f"{found[name]:.3g} ({found[name] / whole:.0%})"
            for found, whole in zip(columns.values(), wholes, strict=True)
        ]
        yield row([name, *cells])
    yield ""


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
        (f"{r.case.name}: {WAYS[way]}", times, ratios(r, r.case.ways[0], [way], "memory"))
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
