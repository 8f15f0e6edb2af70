"""`python -m tspin plan`: memory, least times, hours and disk of a run before anything starts.

No weights are read and no GPU is needed. Memory and the least times are computed
(planning/memory.py, planning/roofline.py), hours are estimated (planning/hours.py): shapes and
configuration in, tables out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from tspin.cli.command import check
from tspin.cli.options import Parser
from tspin.config.run import Run, ZeroStage
from tspin.distributed import launcher
from tspin.planning import disk, hours, roofline, shapes
from tspin.planning.cards import CARDS, Card, this_cpu
from tspin.planning.hours import LENGTHS, STAGES, Machine
from tspin.planning.memory import Device, Memory, dtypes, host, memory
from tspin.planning.shapes import Shape
from tspin.tools.terminal import table

GB = 1e9
PAIRS = 50_000  # where a run takes all there are: of the paper's larger experiments
ROWS = [(field.name, field.name) for field in fields(Memory)]
ROWS += [(f"peak in {name}", name) for name in ("training", "sampling", "scoring")]


STAGES_OF_FSDP2: tuple[ZeroStage, ...] = (3, 2, 1)


@dataclass(frozen=True)
class Plan:
    """What is planned, and for what.

    gpus      numbers of processes to compare
    machine   for hours; None: nothing is assumed of it
    cards     for the least times, and to fit into
    lengths   by name: tokens of a prompt, and of responses
    smaller   overrides that would take less memory, and the run that they make
    """

    run: Run
    shape: Shape
    device: Device
    gpus: Sequence[int]
    machine: Machine | None
    cards: Sequence[Card]
    lengths: Mapping[str, Sequence[int]]
    smaller: Mapping[str, Run]


def describe(plan: Plan) -> str:
    """The plan of one run as text."""
    run, shape = plan.run, plan.shape
    held, products = dtypes(run, plan.device)
    base = run.model.quantize or held
    head = f"{run.name}: {shape.parameters / 1e9:.3f}e9 weights in {base}, products in {products}"
    head += f"; {shape.trained(run.model.lora):,} "
    head += f"{'of them' if run.model.lora is None else 'more'} are trained"
    columns = _processes(plan)
    rows = [
        {"part": name, **{of: round(getattr(m, part) / GB, 2) for of, m in columns.items()}}
        for name, part in ROWS
        if any(getattr(m, part) for m in columns.values())
    ]
    title = "Memory of a process at the longest triplet, GB (1e9 bytes), computed:"
    hosts = ", ".join(
        f"{host(shape, run, device=plan.device, gpus=count) / GB:.0f} GB for {count}"
        for count in plan.gpus
    )
    peaks = table(title, rows) + f"\nMemory of the machine itself, by its processes: {hosts}"
    time = "Hours: nothing is assumed of a CPU's speed; --flops F does"
    if plan.machine is not None:
        time = _hours(shape, run, plan.machine)
    parts = [head, peaks, *_fits(plan, columns), _floors(plan), time, _disk(shape, run)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = Parser(
        "plan",
        "[GROUP=OPTION ...] [KEY=VALUE ...] [--gpus N ...]\n"
        "  [--card NAME ...] [--lengths N ...] [--flops F]",
        about="What a run needs, before anything starts: memory of a process by part, the least\n"
        "time a step can take, hours, disk. Takes the overrides of main.py. Loads nothing;\n"
        "compute.device=auto is read as cuda.",
        examples="  python -m tspin plan model=zephyr lora=default --gpus 1 4\n"
        "  python -m tspin plan model=smollm2 data=ultrachat --flops 60e12 --card rtx4090",
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
    parser.add_argument(
        "--card", nargs="+", default=["h100", "h200"], choices=CARDS, metavar="NAME",
        help=f"cards to hold it against: {', '.join(CARDS)} (default: h100 h200)",
    )  # fmt: skip
    parser.add_argument(
        "--lengths", type=int, nargs="+", metavar="N",
        help="for the times, tokens of a prompt and of the responses by role: 200 330 230 230",
    )  # fmt: skip
    options = parser.parse_intermixed_args(arguments)
    if min(options.gpus) < 1:
        raise ValueError(f"--gpus {min(options.gpus)}: a run has at least one process")
    lengths = LENGTHS if options.lengths is None else {"given": options.lengths}
    if options.lengths is not None and (len(options.lengths) < 2 or min(options.lengths) < 1):
        raise ValueError(
            f"--lengths {' '.join(map(str, options.lengths))}: give the tokens of a prompt and of "
            "a response or more, each at least 1"
        )
    run = check(options.overrides).points[0].run
    shape = shapes.find(run.model)
    device: Device = "cpu" if run.compute.device == "cpu" else "cuda"
    machine = Machine.assumed(shape) if device == "cuda" else None
    cards = [CARDS[name] for name in options.card]
    if device == "cpu":
        cards = [this_cpu(options.flops or _measured_rate(run))]
    elif options.flops is not None:
        cards = [replace(card, flops=options.flops, source="--flops") for card in cards]
    if options.flops is not None:
        machine = Machine(flops=options.flops)
    smaller = {}
    if device == "cuda" and run.model.lora is None:
        words = ["optim.precision=bf16_stochastic"] * (run.optim.precision != "bf16_stochastic")
        smaller = {
            w: check([*options.overrides, w]).points[0].run for w in [*words, "lora=default"]
        }
    plan = Plan(run, shape, device, options.gpus, machine, cards, lengths, smaller)
    sys.stdout.write(describe(plan))


def _processes(plan: Plan) -> dict[str, Memory]:
    """By how many processes there are and what each of them holds."""
    run, shape, device = plan.run, plan.shape, plan.device
    unsharded = launcher.whole(run.optim, run.model.quantize) is not None
    columns: dict[str, Memory] = {}
    for count in plan.gpus:
        name = "1 process" if count == 1 else f"{count} ddp"
        columns[name] = memory(shape, run, device=device, gpus=count)
        for stage in STAGES_OF_FSDP2 if count > 1 and not unsharded else ():
            columns[f"{count} fsdp2, stage {stage}"] = memory(
                shape, run, device=device, gpus=count, sharding="fsdp2", stage=stage
            )
    return columns


def _fits(plan: Plan, columns: Mapping[str, Memory]) -> list[str]:
    """For each card what fits into it, and for what does not what would."""
    if plan.device == "cpu":
        return []
    lines = []
    for card in plan.cards:
        fits = [name for name, m in columns.items() if m.peak <= card.memory]
        line = f"One {card.name} ({card.memory / GB:.0f} GB): "
        line += f"fits: {'; '.join(fits)}" if fits else "nothing of this fits"
        if too_large := [name for name in columns if name not in fits]:
            name = too_large[0]
            line += f"\n  does not fit: {'; '.join(too_large)} ({name}: {_largest(columns[name])})"
            line += f"\n  {_way_out(plan, columns, card)}"
        lines.append(line)
    return ["\n".join(lines)]


def _largest(m: Memory) -> str:
    name = max(("training", "sampling", "scoring"), key=lambda part: getattr(m, part))
    return f"{m.peak / GB:.0f} GB in {name}"


def _way_out(plan: Plan, columns: Mapping[str, Memory], card: Card) -> str:
    """What would fit into the card, or at least take less."""
    ways = {word: memory(plan.shape, run, device=plan.device) for word, run in plan.smaller.items()}
    shards = {name: m for name, m in columns.items() if "fsdp2" in name}
    if shards:
        name = min(shards, key=lambda each: shards[each].peak)
        ways[f"compute=fsdp2 on {name.split()[0]} processes"] = shards[name]
    fits = {word: m for word, m in ways.items() if m.peak <= card.memory}
    if fits:
        return f"what fits: {'; '.join(f'{w} ({_largest(m)})' for w, m in fits.items())}"
    advice = "a smaller compute.max_tokens, compute.micro_batch or decoding.batch_size"
    less = "; ".join(f"{w} ({_largest(m)})" for w, m in ways.items())
    return f"what takes less: {less}; {advice}" if less else f"what takes less: {advice}"


def _floors(plan: Plan) -> str:
    rows = []
    for card in plan.cards:
        for name, (prompt, *responses) in plan.lengths.items():
            lengths = roofline.lengths_of(plan.run, prompt, responses)
            step, token = (
                of(plan.shape, plan.run, lengths, card, device=plan.device)
                for of in (roofline.training, roofline.sampling)
            )
            tokens = "+".join(map(str, (lengths.prompt, *lengths.responses)))
            rows.append(
                {
                    "card": card.name,
                    "tokens": f"{tokens} ({name})",
                    "step, s": f"{step.seconds:.3g}",
                    "tokens a second": f"{step.tokens_per_second:,.0f}",
                    "step bound by": step.binds,
                    "decoding, ms": f"{1e3 * token.seconds:.3g}",
                    "sampled a second": f"{token.tokens_per_second:,.0f}",
                    "decoding bound by": token.binds,
                }
            )
    rates = "; ".join(
        f"{card.name} {card.flops / 1e12:.3g} TFLOP/s ({card.source}), "
        + (f"{card.traffic / 1e12:.3g} TB/s (nominal)" if card.traffic < 1e30 else "traffic free")
        for card in plan.cards
    )
    title = (
        "Least times on one of them, computed: no step can be faster, and a measured one is held\n"
        f"against them. A step of {plan.run.optim.batch_size} triplets; decoding of a token for "
        f"each of {plan.run.decoding.batch_size} rows:"
    )
    return table(title, rows) + f"\n{rates}"


def _measured_rate(run: Run) -> float:
    """Of matrix products on this machine, in tenths of a second."""
    import torch

    from tspin.policy.rates import matmul_rate

    _, products = dtypes(run, "cpu")
    return matmul_rate(torch.device("cpu"), getattr(torch, products))


def _disk(shape: Shape, run: Run) -> str:
    pairs, count = run.data.size or PAIRS, run.selfplay.iterations
    number = shape.trained(run.model.lora)
    one = disk.sizes(run, parameters=number, train=pairs, heldout=run.data.most_heldout)
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
