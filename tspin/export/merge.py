"""`python -m tspin merge`: adapters and their base as one model that any engine loads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tspin.cli.options import Parser


def main(arguments: Sequence[str]) -> None:
    parser = Parser(
        "merge",
        "CHECKPOINT FOLDER [--dtype DTYPE]",
        about="Adds adapters to their base and writes a plain transformers folder, from any "
        "checkpoint of a\nrun under lora=default; `export` does that too, and adds card and chat "
        "template.",
        examples="  python -m tspin merge runs/NAME/iter_4/checkpoint FOLDER",
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
    options = parser.parse_args(arguments)
    import torch

    from tspin.policy.policy import merge
    from tspin.runs.artifacts import Iteration

    if options.out.exists():
        raise ValueError(f"{options.out} is there already; name a new folder, or remove it")
    inner = Iteration(options.adapters).checkpoint
    folder = inner if inner.is_dir() else options.adapters
    merge(folder, options.out, getattr(torch, options.dtype))
    sys.stdout.write(f"{options.out}\n")
