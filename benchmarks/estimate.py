"""Hours and money of the paper's experiments: the tables of docs/reproduce.md, redone.

    PYTHONPATH=. python benchmarks/estimate.py [sweep=table1 model=zephyr seed=0,1,2 ...]

From the plans of the sweeps and the constants here and in tspin/planning/hours.py: put your
machine and prices there.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable

from benchmarks.common import row
from tspin.cli import sweep
from tspin.cli.command import check
from tspin.config.run import Run
from tspin.planning import shapes
from tspin.planning.hours import LENGTHS, Machine, decode, forward
from tspin.planning.hours import stages as on_gpu

PRICE, GPUS = 3.0, 8  # assumed: dollars per GPU hour
CPU = 0.78, 0.41, 1.5  # measured: seconds per prompt sampled, row scored, row trained (smollm2)
TASKS = [  # documents; assumed: requests a document, tokens a request, tokens sampled
    (1319, 1, 900, 256), (1324, 1, 800, 512), (756, 3, 1100, 0),  # GSM8K, MATH (level 5), MUSR
    (14042, 1, 700, 0), (12032, 1, 1100, 0), (1192, 4, 300, 0),  # MMLU, MMLU-Pro, GPQA
    (10042, 4, 1000, 0), (1267, 2, 180, 0), (5761, 4, 700, 0),  # HellaSwag, WinoGrande, BBH
    (541, 1, 60, 1280),  # IFEval
]  # fmt: skip
SWEEPS = ("table1", "table2", "figure3", "figure4a", "figure4b", "figure4c", "figure7", "paper")
MODELS = {
    "zephyr": "model=zephyr",
    "smollm2": "model=smollm2 data=ultrachat model.max_length=2048 decoding.max_new_tokens=256 "
    "decoding.batch_size=256 optim.batch_size=64 compute.micro_batch=4 compute.score_batch=16 "
    "evals.batch_size=64",
}
ON_CPU = "model=smollm2 data=file data.path=pairs.jsonl data.size="


def stages(run: Run, t: int, where: str, *, y0: bool) -> list[float]:
    """Seconds to sample, score and train in iteration t; y' of iteration 0 is y0.

    where: one of LENGTHS, on one GPU, or "cpu"; y0: whether it has to be sampled first
    """
    if where != "cpu":
        shape = shapes.find(run.model)
        return on_gpu(run, t, shape, Machine.assumed(shape), where, y0=y0)
    size, everything = run.data.size or 0, (run.data.size or 0) + run.data.most_heldout
    objective, sampled = run.loss_at(t), run.samples
    prompts = sampled * (run.data.most_heldout + everything * (y0 + (t > 0)))
    scored = 2 + (t > 0) if sampled else 1
    if objective.reference_roles:
        scored += len(objective.reference_roles)
    rows = prompts, everything * scored, run.optim.epochs * size * len(objective.roles)
    return [a * b for a, b in zip(CPU, rows, strict=True)]


def benchmarks(run: Run) -> float:
    """Seconds of the ten tasks for one policy on a GPU."""
    n, shape = run.evals.batch_size, shapes.find(run.model)
    gpu = Machine.assumed(shape)
    read = sum(
        math.ceil(d * r / n) * forward(shape, gpu, n, k) for d, r, k, new in TASKS if not new
    )
    return read + sum(decode(shape, gpu, d, k, new, n) for d, _, k, new in TASKS if new)


def hours(words: str, where: str) -> tuple[int, int, float, float, float]:
    """Of a sweep: points, iterations trained, hours in all, of benchmarks, on GPUS at once."""
    with tempfile.TemporaryDirectory() as empty:
        planned = sweep.plan("", check(["-m", *words.split(), f"runs_dir={empty}"]).points)
    test = 0.0 if where == "cpu" else benchmarks(planned.points[0].run)
    protos, loads = set(), [0.0] * len(planned.items)
    for i, item in enumerate(planned.items):
        run, own = item.point.run, item.point.sampling
        for step in (step for step in item.steps if step.source is None):
            loads[i] += sum(stages(run, step.t, where, y0=own not in protos)) + test
            protos |= {own} if run.samples else set()
    busy = [0.0] * GPUS
    for load in sorted(loads, reverse=True):  # the longest point to the GPU that is free first
        busy[busy.index(min(busy))] += load
    trained = len(planned.to_train)  # and the initial policy is tested once
    total, wall = sum(loads) + test, max(busy) + test
    return len(loads), trained, total / 3600, (trained + 1) * test / 3600, wall / 3600


def table(*rows: Iterable[object]) -> None:
    lines = [[f"{x:.1f}" if isinstance(x, float) else str(x) for x in cells] for cells in rows]
    lines.insert(1, ["---"] * len(lines[0]))
    sys.stdout.write("\n".join(map(row, lines)) + "\n\n")


def sweeps(title: str, lines: dict[str, str]) -> None:
    rows = []
    for name, words in lines.items():
        (*counts, a, tests, wall), (*_, b, _, wall_) = (hours(words, w) for w in LENGTHS)
        pairs = (a, b), (wall, wall_), (a * PRICE, b * PRICE)
        rows.append([name, *counts, f"{tests:.0f}", *(f"{x:.0f} / {y:.0f}" for x, y in pairs)])
    table([title, "points", "trained", "ten tasks", "1 GPU, h", f"{GPUS} GPUs, h", "$"], *rows)


def main() -> None:
    if words := " ".join(sys.argv[1:]):
        return sweeps("", {words: words})
    for model, words in MODELS.items():
        rows, digits = [], 1 if model == "zephyr" else 2
        for loss, t in (("sft", 0), ("tspin", 0), ("spin", 0), ("tspin", 1), ("spin", 1)):
            run = check([f"loss={loss}", *words.split()]).points[0].run
            cost = [stages(run, t, where, y0=t == 0) for where in LENGTHS]
            both = zip(*([*c, sum(c)] for c in cost), strict=True)
            cells = (f"{a / 3600:.{digits}f} / {b / 3600:.{digits}f}" for a, b in both)
            rows.append([loss, t, *cells, f"{benchmarks(run) / 3600:.{digits}f}"])
        table([model, "iteration", "sample", "score", "train", "all", "ten tasks"], *rows)
        sweeps(model, {name: f"sweep={name} {words}" for name in SWEEPS})
    lines = {n: ON_CPU + ("250,500,900" if n == "figure4a" else "900") for n in SWEEPS}
    on_cpu = ([n, *hours(f"sweep={n} {words}", "cpu")[:3]] for n, words in lines.items())
    table(["smollm2, 2 CPU cores", "points", "trained", "hours"], *on_cpu)


if __name__ == "__main__":
    main()
