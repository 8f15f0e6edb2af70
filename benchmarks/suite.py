"""Time and memory of all of it, side by side with what people would use instead.

    python -m benchmarks.suite [--suite gpu] [--all] [--quick] [--only WORD] [--threads N]
                               [--out OUT]

--all     the cases, too, that are not measured by default: three times as long
--quick   every way once, of tiny shapes on the CPU: a smoke run of half a minute, not judged
--only    the cases whose name has WORD in it; the others' targets are not measured
--out     docs/benchmarks (docs/benchmarks-gpu): .md, .json and .png are written

Files are written after every case. The same command on the same code and machine goes on behind
the cases that an unfinished OUT.json has.
Exit status 1 where a gate was missed or one of the ways failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import page, shapes, targets
from benchmarks.measure import FAILED, machine, measure
from tspin.tools.files import digest, file_digest

log = logging.getLogger("benchmarks")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    gpu = options.suite == "gpu"
    cases, aims = (shapes.GPU, targets.GPU) if gpu else (shapes.CPU, targets.CPU)
    named = [case for case in cases if options.only in case.name]
    every = bool(options.all or options.only or options.quick)
    cases = [case for case in named if every or case.usual]
    if not cases:
        raise SystemExit(f"--only {options.only}: no case has it in its name")
    device = "cpu" if options.quick else cases[0].device
    _check(device)
    out = Path(options.out or f"docs/benchmarks{'-gpu' * gpu}")
    todo = shapes.quick(cases) if options.quick else cases
    record = page.Record(
        command=" ".join(["python -m benchmarks.suite", *arguments]),
        quick=options.quick,
        machine=machine(device, threads=options.threads),
        code=source_digest(),
    )
    results, before = page.measured(out, record, todo)
    if results:
        log.info("%d of %d cases are in %s.json", len(results), len(todo), out)
    for case in todo[len(results) :]:
        results.append(measure(case, threads=options.threads))
        seconds = before + time.monotonic() - started
        medians = (f"{way} {page.spread(s)} s" for way, s in results[-1].seconds.items())
        log.info("%4.0f s  %s: %s", seconds, case.name, ", ".join(medians))
        done = replace(record, seconds=round(seconds), finished=len(results) == len(todo))
        page.write(out, done, results, list(targets.judge(aims, results)))
    verdicts = list(targets.judge(aims, results))
    log.info("\n".join(verdict.line() for verdict in verdicts))
    failed = [r.case.name for r in results if FAILED in " ".join(r.skipped.values())]
    missed = any(verdict.status == "MISSED" for verdict in verdicts) and not options.quick
    if options.quick:
        log.info("quick: tiny shapes are not judged")
    return int(missed or bool(failed))


def source_digest() -> str:
    """Of the code that is measured: where it changes, what was measured before is of another."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(file for name in ("tspin", "benchmarks") for file in (root / name).rglob("*.py"))
    return digest([[str(file.relative_to(root)), file_digest(file)] for file in files])[:16]


def _check(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; --quick tries the suite on the CPU")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.suite", allow_abbrev=False)
    parser.add_argument("--suite", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default=None)
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    sys.exit(main(sys.argv[1:]))
