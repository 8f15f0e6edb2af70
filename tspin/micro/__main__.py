"""`python -m tspin.micro`: rebuild the micro policies from nothing."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import transformers

from tspin.micro.build import build


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m tspin.micro",
        description="Rebuild the micro policies from nothing: generate the corpus, make the "
        "tokenizer, pre-train `base`, warm-start `warm`, measure both and write the model card. "
        "Minutes on one CPU core; no network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/micro"),
        help="folder for base/, warm/ and README.md, which it replaces; the policies the project "
        "ships are in tspin/micro",
    )
    parser.add_argument(
        "--steps", type=positive, default=2000, help="pre-training steps of 128 pairs"
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes corpus, weights and samples")
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        help="CPU threads; another number gives slightly other weights",
    )
    parser.add_argument(
        "--num-eval",
        type=positive,
        default=800,
        help="test prompts behind the figures of the model card (validation: at most 320)",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()  # of weights that load in a millisecond
    build(
        options.out,
        steps=options.steps,
        seed=options.seed,
        threads=options.threads,
        num_eval=options.num_eval,
    )


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    main()
