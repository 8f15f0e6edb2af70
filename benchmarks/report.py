"""Time and memory of a whole report, from 300 run folders of five iterations.

    PYTHONPATH=.:tests python benchmarks/report.py [FOLDER]

Makes the folders once in FOLDER (default: a temporary one; 300 runs of 64 steps an iteration and
800 held-out prompts, by hard links), then runs `python -m analysis all` on them.
Aims: 20 s and 1 GB. Exit status 1 where they are missed.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from support.report_runs import GAIN, write_run

from tspin.runs.artifacts import RunDir

NUM_RUNS, SECONDS, GIB = 300, 20.0, 1.0
GRID = (0.1, 0.3, 0.5, 1.0)


def make(folder: Path) -> None:
    """Five objectives x 3 seeds, by default and at a shared learning rate; alpha x beta x 3 seeds;
    and learning rates on validation prompts to fill up."""
    size: dict[str, Any] = dict(iterations=5, steps=64, heldout=800, scores=True)
    originals = {loss: write_run(folder, loss, **size) for loss in GAIN}
    points: list[tuple[str, int, dict[str, Any]]]
    points = [(loss, seed, {}) for loss in GAIN for seed in range(3)]
    points += [(loss, seed, {"optim": {"lr": 3e-4}}) for loss in GAIN for seed in range(3)]
    points += [
        ("tspin", seed, {"coef": {"alpha": alpha, "beta": [0.0, beta], "lambda": 1.0}})
        for alpha in GRID
        for beta in GRID
        for seed in range(3)
        if (alpha, beta) != (1.0, 0.1)
    ]
    i = 0
    while len(points) < NUM_RUNS:
        loss = list(GAIN)[i % len(GAIN)]
        tuned = {"data": {"eval_split": "validation"}, "optim": {"lr": 1e-6 * (2 + i // 15)}}
        points.append((loss, i // len(GAIN) % 3, tuned))
        i += 1
    for loss, seed, changes in points:
        apart = "".join(f"-{key}={value}" for part in changes.values() for key, value in
                        part.items()).replace(" ", "")  # fmt: skip
        copy(originals[loss], seed, apart, changes)


def copy(original: RunDir, seed: int, apart: str, changes: dict) -> None:
    name = original.path.name.removesuffix("0") + f"{seed}{apart}"
    target = RunDir(original.path.with_name(name))
    if target.path.exists():
        return
    shutil.copytree(original.path, target.path, copy_function=os.link)
    settings = yaml.safe_load(original.config.read_text())
    settings["data"]["seed"] = seed
    for section, values in changes.items():
        settings[section] |= values
    target.config.unlink()
    target.config.write_text(yaml.safe_dump(settings | {"name": name, "seed": seed}))


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary) / "runs"
        if not folder.exists():
            make(folder)
        out = Path(temporary) / "out"
        began = time.perf_counter()
        command = [sys.executable, "-m", "analysis", "all", f"runs={folder}", f"out={out}"]
        subprocess.run([*command, "with_paper=true"], check=True)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    gib = used.ru_maxrss / 2**20
    sys.stderr.write(
        f"{seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, {gib:.2f} GB "
        f"(aims {SECONDS:.0f} s, {GIB:.0f} GB)\n"
    )
    return int(seconds > SECONDS or gib > GIB)


if __name__ == "__main__":
    sys.exit(main())
