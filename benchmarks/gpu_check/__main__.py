"""What holds on this card, in about ten minutes.

    python -m benchmarks.gpu_check [--tiny] [--only WORD ...] [--vllm-python PATH] [--out FOLDER]

--tiny         all of it on the CPU, in shapes that take seconds: does it run? No result
--only         checks whose name has WORD in it
--vllm-python  interpreter of an environment that has vLLM (default: this one)
--out          results.json, table.md and checks/NAME, with a log (default: build/gpu-check)
Exit status 1 where a check failed. Random weights, no network; nothing of the card is set.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_check import runner
from benchmarks.gpu_check.checks import CHECKS
from benchmarks.gpu_check.results import Report
from benchmarks.gpu_check.runner import Check
from benchmarks.gpu_check.setting import Setting

NEEDS = (
    "it needs a CUDA device that multiplies in bfloat16 (capability 8.0 or more), a build of torch "
    "for CUDA, and ten minutes; 80 GB of memory for all 32 layers of a 7B, less for fewer. "
    "--tiny runs all of it on the CPU"
)
TINY_TIMES = 10  # the seconds of a check, on a CPU that may be busy: it is no measurement
log = logging.getLogger("benchmarks")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    words = [word.lower() for word in options.only]
    checks = [c for c in CHECKS if not words or any(w in c.name.lower() for w in words)]
    if not checks:
        names = ", ".join(check.name for check in CHECKS)
        raise SystemExit(f"--only {' '.join(options.only)}: no check has it in its name ({names})")
    folder = Path(options.out).absolute()
    setting = Setting(options.tiny, folder, options.vllm_python)
    if options.tiny:
        # Once for all that are forked from here. Not on a card: CUDA starts in each anew, and
        # refuses to where a library has asked for it before the fork.
        for name in ("tspin.selfplay.algorithm", *(check.module for check in checks)):
            importlib.import_module(name)
        setting.run()  # finds Hydra's plugins
    else:
        _need_card(setting)
    began, command = time.monotonic(), " ".join(["python -m benchmarks.gpu_check", *arguments])
    report = Report(folder, tiny=options.tiny, command=command)
    for check in checks:
        if options.tiny:
            check = replace(check, seconds=TINY_TIMES * check.seconds)
        here = replace(setting, folder=folder / "checks" / check.name.replace(" ", "-"))
        for line in runner.run(check, here):
            report.add(line)
            outcome = line.outcome
            shown = f"{time.monotonic() - began:5.0f} s  {outcome.status:7}  {check.name}: "
            why = [outcome.reason, outcome.in_words if outcome.status == "fail" else ""]
            behind = "; ".join(filter(None, why))
            log.info("%s%s%s", shown, outcome.name, f" ({behind})" if behind else "")
    counts = ", ".join(f"{number} {status}" for status, number in report.counts.items())
    log.info("%s; %s", counts, folder / "table.md")
    return int(report.counts["fail"] > 0)


def _need_card(setting: Setting) -> None:
    """SystemExit, which says what is missing, where there is no card to check.

    Asked in a process of its own: this one must not have touched CUDA when it forks.
    """
    probe = Check("device", "benchmarks.gpu_check.versions:device", 60)
    for line in runner.run(probe, replace(setting, folder=setting.folder / "checks" / "device")):
        if line.outcome.status != "pass":
            raise SystemExit(f"{line.outcome.reason}; {NEEDS}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.gpu_check", allow_abbrev=False)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--vllm-python", default=None, metavar="PATH")
    parser.add_argument("--out", default=os.path.join("build", "gpu-check"), metavar="FOLDER")
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    sys.exit(main(sys.argv[1:]))
