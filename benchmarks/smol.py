"""The paper's objectives on a small language model, with seeds: SmolLM2-135M-Instruct learns to
follow instructions that a program checks.

    python -m benchmarks.smol [--tuned docs/paper-at-135m] [--size N] [--pairs FILE] [--tiny]
                              [...] [WORD ...]

--size   annotated pairs of results (128); tuning has half of them, fewer pairs are a half and a
         quarter
--pairs  other pairs, of which the first PAIRS are scored before and after: what is forgotten
WORD     of every command line, behind the study's own: another model, a card
         (model=zephyr compute=cuda)

The other options are those of every study (benchmarks/sweeps.py). Learning rates are tuned
(rates.yaml). `study` is the table of contents; the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.study import LIKELIHOOD, STUDIES
from benchmarks import sweeps
from benchmarks.sweeps import Sweeps

NAME = "smol"
ALPHA = 0.02  # of T-SPIN, beside the paper's 1
CHOICES = ("rates.yaml",)
PAIRS = 64
# At the learning rate that was chosen for another: what differs from it in one thing alone.
SIBLINGS: dict[str, tuple[dict[str, str], ...]] = {
    "tspin": (
        {"loss": "loss=wo_ha"},  # the ablation: iteration 0 is T-SPIN's
        {"anchor": "anchor=hinge", "anchor.hinge": "anchor.hinge=3"},  # docs/objectives.md
    ),
    "sft": (
        {  # the control for sharpening, which learns its own samples
            "loss": "loss=ssd",
            "decoding.temperature": "decoding.temperature=0.7",
            "data.eval_temperature": "data.eval_temperature=1",
        },
    ),
}
ITERATIONS_OF_SIZES = {"tspin": 2, "sft": 1}  # as Figure 4a compares them


@dataclass(frozen=True)
class Study:
    """What is run, and how large. Words are those of the command line.

    sweeps      where they go, and how they are started
    seeds       of results
    size        number of annotated pairs of results
    model       and the task; `iterations` of results, `fewer` of tuning
    objectives  of the paper, as words of a line; w/o H-A is among SIBLINGS
    rates       the grid, one for all objectives
    tuning      of runs on validation prompts
    rounds      seeds of tuning, which no result uses: one for the grid, more for the best rates
    results     of runs on test prompts
    parts       of the pairs, one of so many: of tuning the first, of "fewer pairs" each
    """

    sweeps: Sweeps
    seeds: str
    size: int = 128
    model: tuple[str, ...] = (
        *("model=smollm2", "data=verifiable", "optim.batch_size=16"),
        # Answers have up to 60 tokens; half of the untrained model's are cut there.
        *("decoding.max_new_tokens=64", "decoding.batch_size=128"),
        # As the paper trains. On a CPU without such products float32 is faster, a word behind.
        # A batch passes whole: the weights are cast once a step, and memory grows by a tenth.
        *("compute.dtype=bfloat16", "compute.max_tokens=4096"),
        *("selfplay.keep=last", "track.diagnostics=false", "track.report=false"),
    )
    iterations: str = "selfplay.iterations=3"
    fewer: str = "selfplay.iterations=2"
    objectives: tuple[str, ...] = (
        *("loss=sft", "loss=spin", "loss=tspin", "loss=tspin_ref"),
        # At alpha=1 the margins are saturated: the log of such a run says so, and which alpha
        # would leave a tenth of the mean pair's gradient.
        f"loss=tspin coef.alpha={ALPHA}",
    )
    rates: str = "optim.lr=3e-7,1e-6,3e-6,1e-5,3e-5,1e-4"
    tuning: tuple[str, ...] = ("data.eval_split=validation", "data.heldout=100")
    rounds: tuple[tuple[int, ...], ...] = ((10,), (10, 11, 12))
    results: tuple[str, ...] = ("data.heldout=120", "data.eval_cool=0.7")
    parts: tuple[int, ...] = (2, 4)
    words: tuple[str, ...] = ()
    pairs: Path | None = None


def tiny(of: Sweeps, pairs: Path | None = None) -> Study:
    """Two objectives, two rates, one iteration, one seed, and the embedded model."""
    return Study(
        of,
        seeds="seed=0",
        size=16,
        model=("model=micro",),
        iterations="selfplay.iterations=1",
        fewer="selfplay.iterations=1",
        objectives=("loss=sft", "loss=tspin"),
        rates="optim.lr=1e-4,1e-3",
        tuning=("data.eval_split=validation", "data.heldout=16"),
        rounds=((10,), (10, 11)),
        results=("data.heldout=16", "data.eval_cool=0.7"),
        pairs=pairs,
    )


def study(it: Study) -> None:
    """Tune and choose, judge on other seeds and prompts, with siblings and fewer pairs."""
    out, run = it.sweeps.out, it.sweeps.run
    rates, siblings, sizes = (out / f"{name}.yaml" for name in ("rates", "siblings", "sizes"))
    results = (*it.results, it.seeds, *it.words)
    whole = (*it.model, f"data.size={it.size}", it.iterations, *results)
    fewer, *_ = numbers = [it.size // part for part in it.parts]

    tuning = (*it.model, f"data.size={fewer}", it.fewer, *it.tuning, *it.words)
    grid = (f"sweep={with_objectives(it.objectives, out / 'objectives.yaml')}", it.rates)
    it.sweeps.tune(rates, ["optim.lr", "coef.alpha"], grid, tuning, it.rounds)
    run("test", f"sweep={rates}", *whole)
    with_siblings(rates, siblings)
    run("test", f"sweep={siblings}", *whole)
    with_sizes(rates, numbers, sizes)
    run("test", f"sweep={sizes}", *it.model, *results)

    if it.pairs is not None:
        score_pairs(it.pairs, out / "test", out / LIKELIHOOD)


def with_objectives(lines: Sequence[str], out: Path) -> Path:
    """A sweep of them, which rates are added to."""
    points = [sweeps.by_key(line.split()) for line in lines]
    sweeps.write_points(out, "The objectives that are tuned", points)
    return out


def with_siblings(rates: Path, out: Path) -> None:
    """SIBLINGS of what was chosen, as a sweep."""
    points = [
        words | sibling
        for words in sweeps.points(rates)
        for sibling in SIBLINGS.get(words["loss"].removeprefix("loss="), ())
    ]
    sweeps.write_points(out, f"Siblings at the learning rates of {rates.name}", points)


def with_sizes(rates: Path, sizes: Sequence[int], out: Path) -> None:
    """What was chosen for T-SPIN and SFT, on fewer pairs, as a sweep."""
    points = [
        words
        | {"data.size": f"data.size={size}"}
        | {"selfplay.iterations": f"selfplay.iterations={ITERATIONS_OF_SIZES[loss]}"}
        for words in sweeps.points(rates)
        if (loss := words["loss"].removeprefix("loss=")) in ITERATIONS_OF_SIZES
        for size in sizes
    ]
    sweeps.write_points(out, f"Fewer pairs, at the learning rates of {rates.name}", points)


def score_pairs(pairs: Path, runs: Path, out: Path) -> None:
    """log pi of the responses of other pairs, before and after every run."""
    words = [f"run={runs}", f"data={pairs}", f"limit={PAIRS}", f"out={out}"]
    code = sweeps.start(["-m", "tspin", "likelihood", *words])
    if code:
        raise SystemExit(code)


def main(arguments: Sequence[str]) -> None:
    parser = sweeps.parser("benchmarks.smol")
    parser.add_argument("--size", type=int, default=Study.size, metavar="N")
    parser.add_argument("--pairs", type=Path, default=None, metavar="FILE")
    parser.add_argument("words", nargs="*", metavar="WORD")
    options = parser.parse_intermixed_args(arguments)
    of, pairs = sweeps.of(options, NAME), options.pairs and options.pairs.absolute()
    if options.tiny:
        study(tiny(of, pairs))
    else:
        words = tuple(options.words)
        study(Study(of, sweeps.seeds(options), options.size, words=words, pairs=pairs))
    sweeps.report(STUDIES[NAME], of, options, CHOICES)


if __name__ == "__main__":
    sweeps.run(main)
