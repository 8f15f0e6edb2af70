"""Memory, time and disk of a run on many rows, with everything real but the model's arithmetic.

    python -m benchmarks.scale [--rows N ...] [--mixed N ...] [--iterations N] [--loss NAME]
                               [--out NAME]

--rows        sizes of the data, each a run of its own (default: 10000 50000 200000)
--mixed       sizes with what takes most: data.mix_last_two=true, and a vocabulary beyond 65,536,
              whose ids take 4 bytes (default: 200000)
--iterations  of self-play (default: 5)
--loss        default: tspin_ref, which reads the most: three responses and reference log-probs
--out         NAME.md and NAME.json are written (default: docs/scale)
Needs Linux, and 20 KB of temporary disk ($TMPDIR) per row.
Exit status 1 where a process held GATE or more at a size of at most GATED rows.

A run is `selfplay.run` in a process of its own: its samples are drawn from a seed, its
log-probabilities are made up from lengths, and a training step walks its micro-batches to the
loss. `python -m analysis all` follows in another process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from platform import python_version
from typing import Any

from benchmarks.common import resident, row
from benchmarks.stand_ins import LENGTHS, Drawn, made_up_tokens, walk, write_model, write_pairs
from tspin.tools.spill import IN_MEMORY

# torch is imported by the process that is measured alone: another's peak begins with its parent's.

GATE, GATED = 2000, 200_000  # MB of a process; rows
HELDOUT = 512
ROWS, MIXED = (10_000, 50_000, 200_000), (200_000,)
SHAPE, SHAPE_MIXED = "smol", "v128k"  # of shapes.SHAPES, for their vocabularies
LIBRARIES = ("torch", "transformers", "pyarrow", "pandas")
MB = 10**6
READING = f"""Everything is the package's own but the model: its samples are drawn from a seed, its
log-probabilities are made up from lengths, and a training step walks its micro-batches to the loss.
"Mixed" is with data.mix_last_two=true and a vocabulary of 128,256.
Prompts have {sum(LENGTHS[0]) // 2} tokens and responses {sum(LENGTHS[1]) // 2} on average, like
UltraChat's; a token is a word of six characters, half as long again as English has them.
{HELDOUT} prompts are held out.

Peak is the resident memory of the whole process at most, interpreter and libraries included: they
are `begin`. A run is one process from its first stage to its last, so that what a stage leaves
behind counts in the next. Seconds and bytes are sums over the iterations; bytes of a file with
several names are counted once. Weights come on top of all of it.

In memory are: what names a row and where it lies, 1 to 2 KB of objects a triplet, and
log-probabilities where they are counted. Texts, until they are encoded, and ids of tokens, 2 bytes
each where they are below 65536 and 4 elsewhere, lie in temporary files ($TMPDIR) beyond the first
{IN_MEMORY // 2**20} MB of each set. Files are read and written 2048 rows at a time.
"""


@dataclass
class Stage:
    """What a part of a run took: peak of the process in MB, seconds, MB written."""

    peak: float = 0.0
    seconds: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True)
class Size:
    """Of the data: a run of its own."""

    rows: int
    mixed: bool = False

    @property
    def shape(self) -> str:
        return SHAPE_MIXED if self.mixed else SHAPE

    @property
    def is_gated(self) -> bool:
        return self.rows <= GATED

    def __str__(self) -> str:
        return f"{self.rows} rows{', mixed' if self.mixed else ''}"


Sizes = dict[Size, dict[str, Stage]]  # size -> name of a stage -> what it took


class Meter:
    """Attributes peak, seconds and bytes to the stages of this process, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: dict[str, Stage] = {}
        self._restart("begin")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block is `name`'s; what follows it is the rest's."""
        self.close()
        self._restart(name)
        try:
            yield
        finally:
            self.close()
            self._restart("rest")

    def close(self) -> None:
        """Adds what the stage under way has taken so far."""
        stage = self.stages.setdefault(self.name, Stage())
        stage.peak = max(stage.peak, resident("VmHWM") / MB)
        stage.seconds += time.monotonic() - self.began
        stage.disk += bytes_in(self.folder) / MB - self.disk

    def _restart(self, name: str) -> None:
        self.name, self.began = name, time.monotonic()
        self.disk = bytes_in(self.folder) / MB
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again


def bytes_in(folder: Path) -> int:
    """Of all files below, one with several names counted once."""
    entries = [path.lstat() for path in folder.rglob("*")] if folder.is_dir() else []
    return sum({entry.st_ino: entry.st_size for entry in entries}.values())


# --- the process that is measured ----------------------------------------------------------------


def measured(size: Size, iterations: int, loss: str, folder: Path) -> dict[str, Stage]:
    """A run of self-play in folder/runs."""
    from tspin.policy.policy import Policy
    from tspin.runs import evaluation
    from tspin.sampling import engines
    from tspin.selfplay import algorithm
    from tspin.selfplay.inputs import Inputs
    from tspin.stages import evaluate, generate, prepare, score, train
    from tspin.tracking import report

    write_pairs(folder / "pairs.jsonl", size.rows + min(HELDOUT, size.rows), size.shape)
    write_model(folder / "model", size.shape)
    meter = Meter(folder / "runs")
    stages: dict[str, Callable] = {
        "data": prepare.prepare,
        "samples": generate.generate,
        "score": score.score,
        "score files": score.write_scores,
        "token log-probs": score.write_token_logps,
        "train": train.train,
        "answers": evaluate.evaluate,
        "evaluation file": evaluation.write,
        "contingency": score.write_contingency,
        "readable samples": report.samples,
    }
    for name, function in stages.items():
        put(function, in_stage(meter, name, function))
    Inputs.triplets = in_stage(meter, "join", Inputs.triplets)  # type: ignore[method-assign]
    Policy.token_logps = made_up_tokens  # type: ignore[method-assign, assignment]
    put(train.gradient_step, walk)
    put(engines.engine_of, lambda start, policies, cfg, log: Drawn(policies(start).renderer))
    algorithm.run(settings(size, iterations, loss, folder), command=sys.argv)
    meter.close()
    return meter.stages


def settings(size: Size, iterations: int, loss: str, folder: Path) -> Any:
    from tspin.cli.command import check

    words = (
        "model=custom", f"model.path={folder}/model", "model.name=none", "model.template=none",
        "model.max_length=2048", "data=file", f"data.path={folder}/pairs.jsonl",
        f"data.size={size.rows}", f"data.heldout={min(HELDOUT, size.rows)}",
        f"data.mix_last_two={str(size.mixed).lower()}", f"loss={loss}", "track=none",
        f"selfplay.iterations={iterations}", "optim.batch_size=64",
        "compute=cpu", "compute.micro_batch=16", "compute.score_batch=64", "compute.threads=1",
        "decoding.max_new_tokens=512", f"runs_dir={folder}/runs",
    )  # fmt: skip
    return check(words).points[0].run


def put(original: Callable, other: Callable) -> None:
    """`other` in the place of a function, in every module that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tspin"):
            for key, value in list(vars(module).items()):
                if value is original:
                    setattr(module, key, other)


def in_stage(meter: Meter, name: str, function: Callable) -> Callable:
    @wraps(function)
    def work(*args: Any, **kwargs: Any) -> Any:
        with meter.stage(name):
            return function(*args, **kwargs)

    return work


# --- the process that asks -----------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    sizes = [*map(Size, options.rows), *(Size(rows, mixed=True) for rows in options.mixed)]
    if options.folder:
        logging.disable(logging.INFO)
        (size,) = sizes
        stages = measured(size, options.iterations, options.loss, Path(options.folder))
        sys.stdout.write(json.dumps({name: asdict(stage) for name, stage in stages.items()}))
        return 0
    found: Sizes = {}
    for size in sizes:
        found[size] = processes(size, options)
        words = " ".join(["python -m benchmarks.scale", *arguments])
        write(options, found, words)
    return int(any(missed(size, stages) for size, stages in found.items()))


def processes(size: Size, options: argparse.Namespace) -> dict[str, Stage]:
    """A run and its analysis in processes of their own."""
    with tempfile.TemporaryDirectory() as temporary:
        own, others = ("--mixed", "--rows") if size.mixed else ("--rows", "--mixed")
        words = [own, str(size.rows), others, f"--iterations={options.iterations}"]
        words += [f"--loss={options.loss}", f"--folder={temporary}"]
        run = [sys.executable, "-m", "benchmarks.scale", *words]
        done = subprocess.run(run, stdout=subprocess.PIPE, check=True, text=True)
        stages = {name: Stage(**facts) for name, facts in json.loads(done.stdout).items()}
        began, out = time.monotonic(), Path(temporary) / "report"
        command = [sys.executable, "-m", "analysis", "all", f"runs={temporary}/runs", f"out={out}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _, code, used = os.wait4(process.pid, 0)
        if code:
            raise SystemExit(f"{' '.join(command)} ended with {code}")
        peak, seconds = 1024 * used.ru_maxrss / MB, time.monotonic() - began
        stages["analysis all"] = Stage(peak, seconds, bytes_in(out) / MB)
        sys.stderr.write(f"{verdict(size, stages)}\n")
        return stages


def whole(stages: dict[str, Stage]) -> Stage:
    """The highest peak, and the sums."""
    each = stages.values()
    return Stage(max(x.peak for x in each), sum(x.seconds for x in each), sum(x.disk for x in each))


def missed(size: Size, stages: dict[str, Stage]) -> bool:
    return size.is_gated and whole(stages).peak >= GATE


def verdict(size: Size, stages: dict[str, Stage]) -> str:
    judged = ("MISSED" if missed(size, stages) else "ok") if size.is_gated else "not judged"
    return f"{size}: {whole(stages).peak:.0f} MB, gate {GATE}: {judged}"


def write(options: argparse.Namespace, sizes: Sizes, command: str) -> None:
    """OUT.md and OUT.json."""
    facts = {"python": python_version()} | {name: metadata.version(name) for name in LIBRARIES}
    tree = {
        str(size): {name: asdict(x) for name, x in stages.items()} for size, stages in sizes.items()
    }
    known = {"command": command, "loss": options.loss, "iterations": options.iterations}
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(known | facts | {"sizes": tree}, indent=1)
    out.with_suffix(".json").write_text(f"{text}\n")
    origin = f"Made by `{command}`: `loss={options.loss}`, {options.iterations} iterations.\n"
    versions = ", ".join(f"{name} {value}" for name, value in facts.items())
    verdicts = [f"- {verdict(size, stages)}" for size, stages in sizes.items()]
    lines = ["# Many rows\n", origin, READING, f"{versions}.\n", *table(sizes), ""]
    lines += [*verdicts, *growth(sizes), ""]
    out.with_suffix(".md").write_text("\n".join(lines))


def table(sizes: Sizes) -> Iterator[str]:
    """A row for each stage: peak in MB / seconds / MB on disk, at every size."""
    columns = [stages | {"all": whole(stages)} for stages in sizes.values()]
    yield row(["peak MB / s / MB on disk", *map(str, sizes)])
    yield row(["---"] * (1 + len(sizes)))
    for name in columns[0]:
        cells = (stages[name] for stages in columns)
        shown = (f"{x.peak:.0f} / {x.seconds:.0f} / {max(x.disk, 0):.0f}" for x in cells)
        yield row([name, *shown])


def growth(sizes: Sizes) -> Iterator[str]:
    """What a row more takes between two sizes that follow one another."""
    for mixed in (False, True):
        alike = sorted((x.rows, whole(stages)) for x, stages in sizes.items() if x.mixed is mixed)
        for (fewer, before), (more, after) in pairwise(alike):
            memory, seconds = after.peak - before.peak, after.seconds - before.seconds
            yield (
                f"- from {fewer} to {more} rows{', mixed' * mixed}: "
                f"{1000 * memory / (more - fewer):.1f} KB and "
                f"{1000 * seconds / (more - fewer):.1f} ms for each row more"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.scale", allow_abbrev=False)
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--mixed", type=int, nargs="*", default=list(MIXED))
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--loss", default="tspin_ref")
    parser.add_argument("--out", default="docs/scale")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # be the process that is measured
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
