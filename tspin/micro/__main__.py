"""`python -m tspin.micro [micro_open]`: build the policies of a built-in task from nothing."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import transformers

from tspin import micro
from tspin.micro import build, figures, open_build


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m tspin.micro",
        description="Build the policies of a built-in task from nothing: generate the corpus, make "
        "the tokenizer, pre-train, fine-tune, and print the tables of their model card. Minutes on "
        "one CPU core; no network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "task",
        nargs="?",
        choices=list(micro.POLICIES),
        default="micro",
        help="micro has one right answer to a prompt, micro_open many",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the policies. None: for micro build/micro, which it "
        "replaces (those the project ships are in tspin/micro); for micro_open the cache, where "
        "model=micro_open looks for them (what is there is kept)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help=f"pre-training steps of 128 pairs. None: {build.STEPS} for micro, "
        f"{open_build.STEPS} for micro_open",
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes corpus, weights and samples")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; another number gives slightly other weights",
    )
    parser.add_argument(
        "--num-eval",
        type=int,
        default=800,
        help="test prompts behind the tables (validation: at most 320); 0: none",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()  # of weights that load in a millisecond
    home = Path("build/micro")
    if options.task != "micro":
        home = micro.folder("base", options.task).parent
    out, module = options.out or home, build if options.task == "micro" else open_build
    module.build(out, steps=options.steps, seed=options.seed, threads=options.threads)
    if options.num_eval:
        text = figures.tables(out, options.task, num_eval=options.num_eval, seed=options.seed)
        logging.info("%s", text)


if __name__ == "__main__":
    main()
