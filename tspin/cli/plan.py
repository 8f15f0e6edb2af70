"""`python -m tspin plan`: memory, hours and disk of a run before anything starts.

No weights are read and no GPU is needed. Memory is computed (planning/memory.py), hours are
estimated (planning/hours.py): shapes and configuration in, tables out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields

from tspin.cli.command import check
from tspin.cli.options import Parser
from tspin.config.run import Run
from tspin.distributed import launcher
from tspin.planning import disk, hours, shapes
from tspin.planning.hours import LENGTHS, STAGES, Machine
from tspin.planning.memory import Device, Memory, Sharding, dtypes, memory
from tspin.planning.shapes import Shape
from tspin.tools.terminal import table

GB = 1e9
PAIRS = 50_000  # where a run takes all there are: of the paper's larger experiments
ROWS = [(field.name, field.name) for field in fields(Memory)]
ROWS += [(f"peak in {name}", name) for name in ("training", "sampling", "scoring")]


def describe(
    shape: Shape, run: Run, *, device: Device, gpus: Sequence[int], machine: Machine | None
) -> str:
    """The plan of one run as text. gpus: numbers of processes to compare"""
    held, products = dtypes(run, device)
    base = run.model.quantize or held
    head = f"{run.name}: {shape.parameters / 1e9:.3f}e9 weights in {base}, products in {products}"
    unsharded = launcher.whole(run.optim, run.model.quantize) is not None
    columns: dict[str, Memory] = {}
    for count in gpus:
        kinds: tuple[Sharding, ...] = ("ddp",) if count == 1 or unsharded else ("ddp", "fsdp2")
        for kind in kinds:
            name = "1 process" if count == 1 else f"{count} {kind}"
            columns[name] = memory(shape, run, device=device, gpus=count, sharding=kind)
    rows = [
        {"part": name, **{of: round(getattr(m, part) / GB, 2) for of, m in columns.items()}}
        for name, part in ROWS
        if any(getattr(m, part) for m in columns.values())
    ]
    head += f"; {shape.trained(run.model.lora):,} "
    head += f"{'of them' if run.model.lora is None else 'more'} are trained"
    title = "Memory of a process at the longest triplet, GB (1e9 bytes), computed:"
    peaks = table(title, rows)
    time = "Hours: nothing is assumed of a CPU's speed; --flops F does"
    if machine is not None:
        time = _hours(shape, run, machine)
    return "\n\n".join([head, peaks, time, _disk(shape, run)]) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = Parser(
        "plan",
        "[GROUP=OPTION ...] [KEY=VALUE ...] [--gpus N ...] [--flops F]",
        about="What a run needs, before anything starts: memory of a process by part, hours, "
        "disk.\nTakes the overrides of main.py. Loads nothing; compute.device=auto is read as "
        "cuda.",
        examples="  python -m tspin plan model=zephyr lora=default --gpus 1 4\n"
        "  python -m tspin plan model=smollm2 data=ultrachat --flops 60e12",
    )
    parser.add_argument(
        "overrides", nargs="*", help="as main.py takes them: model=zephyr lora=default"
    )
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=[1, 8], metavar="N",
        help="numbers of processes to compare (default: 1 8)",
    )  # fmt: skip
    parser.add_argument(
        "--flops", type=float, metavar="F",
        help="operations a second that your GPU sustains (default: 300e12 for wide models, 80e12)",
    )  # fmt: skip
    options = parser.parse_intermixed_args(arguments)
    if min(options.gpus) < 1:
        raise ValueError(f"--gpus {min(options.gpus)}: a run has at least one process")
    run = check(options.overrides).points[0].run
    shape = shapes.find(run.model)
    device: Device = "cpu" if run.compute.device == "cpu" else "cuda"
    machine = Machine.assumed(shape) if device == "cuda" else None
    if options.flops is not None:
        machine = Machine(flops=options.flops)
    sys.stdout.write(describe(shape, run, device=device, gpus=options.gpus, machine=machine))


def _disk(shape: Shape, run: Run) -> str:
    pairs, count = run.data.size or PAIRS, run.selfplay.iterations
    number = shape.trained(run.model.lora)
    one = disk.sizes(run, parameters=number, train=pairs, heldout=run.data.heldout)
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
            times = [f"{a / 3600:.1f} / {b / 3600:.1f}" for a, b in cells]
            rows.append({"part": name, **dict(zip((*STAGES, "all"), times, strict=True))})
    title = (
        "Hours on one GPU for prompts and responses as in docs/reproduce.md (short / long), an "
        f"estimate\nat {machine.flops / 1e12:g} TFLOP/s, allow a factor of two; N processes take "
        "1/N at best:"
    )
    last = {"part": "in all", "all": f"{in_all[0] / 3600:.1f} / {in_all[1] / 3600:.1f}"}
    return table(title, [*rows, last])
