"""`python -m tspin merge`: adapters and their base as one model that any engine loads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tspin merge",
        description="Adds adapters to their base and writes a plain transformers folder, from any "
        "checkpoint of a\nrun under lora=default; `export` does that too, and adds card and chat "
        "template.",
        epilog="examples:\n  python -m tspin merge runs/NAME/iter_4/checkpoint FOLDER",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "adapters", type=Path, metavar="CHECKPOINT", help="RUN/iter_T/checkpoint, or iter_T itself"
    )
    parser.add_argument(
        "out", type=Path, metavar="FOLDER", help="the folder to write; it must not be there yet"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights written; the sum is formed in float32 (default: %(default)s)",
    )
    told = parser.parse_args(arguments)
    import torch

    from tspin.policy.policy import merge
    from tspin.runs.artifacts import Iteration

    try:
        if told.out.exists():
            raise ValueError(f"{told.out} is there already; name a new folder, or remove it")
        inner = Iteration(told.adapters).checkpoint
        folder = inner if inner.is_dir() else told.adapters
        merge(folder, told.out, getattr(torch, told.dtype))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{told.out}\n")
    return 0
