"""`python -m tspin plan`: memory, hours and disk of a run before anything starts.

No weights are read and no GPU is needed. Memory is computed (planning/memory.py), hours are
estimated (planning/hours.py): shapes and configuration in, tables out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from tspin.config.run import Run
from tspin.distributed import launcher
from tspin.planning import disk, hours, shapes
from tspin.planning.hours import LENGTHS, Machine
from tspin.planning.memory import Device, Memory, Sharding, dtypes, memory
from tspin.planning.shapes import Shape

GB = 1e9
PAIRS = 50_000  # where a run takes all there are: of the paper's larger experiments
PARTS = (
    "weights", "gradients", "state", "copies", "activations", "head", "step", "gathered", "cache",
    "context",
)  # fmt: skip
LONG = "model.max_length=2048 decoding.max_new_tokens=256 decoding.batch_size=16"
MODELS = {  # of the table of a card: a name, and the words that choose it
    "SmolLM2-135M": f"model=smollm2 data=ultrachat compute=cuda {LONG}",
    "SmolLM2-360M": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "SmolLM2-1.7B": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "Zephyr-7B, Mistral-7B": f"model=zephyr compute=cuda {LONG}",
}
CUSTOM = (
    f"model=custom model.template=chat data=ultrachat compute=cuda compute.micro_batch=1 {LONG} "
    "model.path="
)
WAYS = (
    "",
    "optim.precision=bf16_stochastic",
    "lora=default",
    "lora=default model.quantize=8bit",
    "lora=default model.quantize=4bit",
)


def trained(shape: Shape, run: Run) -> int:
    """Weights that are trained."""
    return shape.parameters if run.model.lora is None else shape.adapters(run.model.lora)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In columns, for a terminal: words to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def describe(
    shape: Shape, run: Run, *, device: Device, gpus: Sequence[int], machine: Machine | None
) -> str:
    """The plan of one run as text. gpus: numbers of processes to compare"""
    held, products = dtypes(run, device)
    number = trained(shape, run)
    base = run.model.quantize or held
    said = f"{run.name}: {shape.parameters / 1e9:.3f}e9 weights in {base}, products in {products}"
    whole = launcher.whole(run.optim, lora=run.model.lora is not None) is not None
    ways: dict[str, Memory] = {}
    for number in gpus:
        kinds: tuple[Sharding, ...] = ("ddp",) if number == 1 or whole else ("ddp", "fsdp2")
        for kind in kinds:
            name = "1 process" if number == 1 else f"{number} {kind}"
            ways[name] = memory(shape, run, device=device, gpus=number, sharding=kind)
    rows = [
        [part, *(f"{getattr(m, part) / GB:.2f}" for m in ways.values())]
        for part in PARTS
        if any(getattr(m, part) for m in ways.values())
    ]
    rows += [
        [f"peak in {name}", *(f"{getattr(m, name) / GB:.2f}" for m in ways.values())]
        for name in ("training", "sampling")
    ]
    return (
        "\n\n".join(
            [
                f"{said}; {number:,} {'of them' if run.model.lora is None else 'more'} are trained",
                "Memory of a process at the longest triplet, GB (1e9 bytes), computed:\n"
                + table(["", *ways], rows),
                _hours(shape, run, machine)
                if machine is not None
                else "Hours: nothing is assumed of a CPU's speed; --flops F says it",
                _disk(shape, run),
            ]
        )
        + "\n"
    )


def card(gigabytes: float) -> str:
    """Which model trains in which way on a card of so many GB, as Markdown."""
    head = "model", "how", "weights", "gradients, state", "training", "sampling", "peak", "fits"
    rows = []
    for model, words in MODELS.items():
        for way in WAYS:
            run = _run(f"{words if '=' in words else CUSTOM + words} {way}".split())
            found = memory(shapes.find(run.model), run, device="cuda")
            numbers = (
                found.weights, found.gradients + found.state, found.training, found.sampling,
                found.peak,
            )  # fmt: skip
            fits = "yes" if found.peak <= gigabytes * GB else "no"
            rows.append(
                [model, f"`{way}`" if way else "default"]
                + [f"{number / GB:.1f}" for number in numbers]
                + [fits]
            )
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tspin plan",
        usage="python -m tspin plan [GROUP=OPTION ...] [KEY=VALUE ...] [options]",
        description="What a run needs, before anything starts: memory of a process by part, hours, "
        "disk.\nTakes the words of main.py. Loads nothing; compute.device=auto is read as cuda.",
        epilog="examples:\n  python -m tspin plan model=zephyr lora=default --gpus 1 4\n"
        "  python -m tspin plan --card 24",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help="as main.py takes them: model=zephyr lora=default")
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=[1, 8], metavar="N",
        help="numbers of processes to compare (default: 1 8)",
    )  # fmt: skip
    parser.add_argument(
        "--flops", type=float, metavar="F",
        help="operations a second that your GPU sustains (default: 300e12 for wide models, 80e12)",
    )  # fmt: skip
    parser.add_argument(
        "--card", type=float, metavar="GB",
        help="instead: which models train in which way on a card of so many GB, as Markdown",
    )  # fmt: skip
    told = parser.parse_intermixed_args(arguments)
    try:
        if told.card is not None:
            sys.stdout.write(card(told.card))
            return 0
        if min(told.gpus) < 1:
            raise ValueError(f"--gpus {min(told.gpus)}: a run has at least one process")
        run = _run(told.words)
        shape = shapes.find(run.model)
        device: Device = "cpu" if run.compute.device == "cpu" else "cuda"
        machine = Machine.assumed(shape) if device == "cuda" else None
        if told.flops is not None:
            machine = Machine(flops=told.flops)
        sys.stdout.write(describe(shape, run, device=device, gpus=told.gpus, machine=machine))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(words: list[str]) -> Run:
    from main import check  # the command line of a run, which knows Hydra

    return check(words).points[0].run


def _disk(shape: Shape, run: Run) -> str:
    pairs, count = run.data.size or PAIRS, run.selfplay.iterations
    one = disk.sizes(run, parameters=trained(shape, run), train=pairs, heldout=run.data.heldout)
    at_most = one.of_run(count, checkpoints=count)
    least = one.of_run(count, checkpoints=1)
    return (
        f"Disk, {pairs:,} pairs: {disk.amount(one.checkpoint)} a checkpoint, "
        f"{disk.amount(one.training)} at most while it is trained;\n"
        f"{disk.amount(at_most)} for {count} iterations, {disk.amount(least)} with "
        "selfplay.keep=last"
    )


def _hours(shape: Shape, run: Run, machine: Machine) -> str:
    rows, in_all = [], [0.0, 0.0]
    for t in range(run.selfplay.iterations):
        both = [
            hours.stages(run, t, shape, machine, lengths, y0=t == 0 and run.samples)
            for lengths in LENGTHS
        ]
        cells = [*zip(*both, strict=True), tuple(map(sum, both))]
        in_all = [a + b for a, b in zip(in_all, cells[-1], strict=True)]
        if t < 2:
            name = f"iteration {t}" + (", with y0" if t == 0 else " and later, each")
            rows.append([name, *(f"{a / 3600:.1f} / {b / 3600:.1f}" for a, b in cells)])
    said = (
        "Hours on one GPU for prompts and responses as in docs/reproduce.md (short / long), an "
        f"estimate\nat {machine.flops / 1e12:g} TFLOP/s, allow a factor of two; N processes take "
        "1/N at best:\n"
    )
    last = ["in all", "", "", "", f"{in_all[0] / 3600:.1f} / {in_all[1] / 3600:.1f}"]
    return said + table(["", *hours.STAGES, "all"], [*rows, last])
