"""The paper's claims, and what the bench of objectives asks, each with a test on the runs that
there are, and its verdict.

A claim is cut into parts, each an interval (or a count) and whether it holds. The verdict:

- supported: every part holds. A part "A above B" holds where the whole 95% interval of the
  difference is above 0; a part "A at least B" where it is above -MARGIN; "about half" where it
  lies within HALF; "never" where no table has a single row.
- not supported: a part does not hold. Its reading says whether the reverse is shown (the whole
  interval lies on the other side) or nothing is (the interval reaches over the line).
- not enough data: no part fails, and one has no runs, no common measure, or fewer than ENOUGH
  seeds where a mean is compared.

Every part of a claim has to hold, so intervals need no correction for their number; several claims
are several tests, and are not corrected either. Differences are turned so that more is better.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from analysis.claims import bench
from analysis.claims.evidence import Part, about_half, above, at_end, main_of
from analysis.figures import grids
from analysis.figures.comparison import Side, gain_of
from analysis.figures.pieces import Column, Table
from analysis.reading import measures, missing, stats
from analysis.reading.bench import KINDS, stressed, tuned
from analysis.reading.methods import Run, finished
from analysis.reading.regimes import Regime, regimes
from analysis.reading.runs import BASE, Runs

log = logging.getLogger("tspin")

SUPPORTED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "not supported", "not enough data"
HALF = (40.0, 60.0)  # percent: "about half"
MARGIN = 1.0  # points of a share: what "at least" and "matches" forgive; ours, the paper has none
HERE = "docs/objectives.md"  # of what the paper does not ask
ROBUST = 2.0  # points that a grid point may lie below the default
FIGURE3 = 1  # the iteration that the paper's Figures 3, 4a and 4c show


@dataclass(frozen=True)
class Claim:
    """What the paper says, or the bench asks, where, and how it is judged."""

    key: str
    statement: str
    place: str
    rule: str
    parts: Callable[[Regime], list[Part]]
    sweep: str  # that makes what is missing
    of_variants: bool = False  # looks at all variants itself: judged once in a setting


@dataclass(frozen=True)
class Finding:
    """A claim in one regime."""

    regime: Regime
    verdict: str
    parts: Sequence[Part]
    way_out: str  # the command that makes what is missing

    @property
    def judged_on(self) -> str:
        """What stands for quality here, where that is not what the paper averages; "": nothing."""
        measure = next((part.measure for part in self.parts if part.measure), None)
        if measure is None:
            return ""
        if measure.key == measures.AVERAGE:
            return "judged on the average of the benchmarks that were run"
        of = ", of held-out prompts," if measure.key in measures.HELDOUT else " alone,"
        return f"judged on {measure.title}{of} where the paper averages ten benchmarks"


@dataclass(frozen=True)
class Judged:
    claim: Claim
    findings: Sequence[Finding]


def judge(runs: Runs) -> list[Judged]:
    """Every claim in every regime of test prompts, those of validation being for choosing. A claim
    that cannot be judged is a problem."""
    tested = [regime for regime in regimes(runs) if regime.setting.split == "test"]
    usual = [regime for regime in tested if not regime.variant]
    return [
        Judged(claim, [_find(claim, it) for it in (usual if claim.of_variants else tested)])
        for claim in CLAIMS
    ]


def verdict(parts: Sequence[Part]) -> str:
    """By the rules of the module's docstring."""
    held = [part.holds for part in parts]
    if False in held:
        return NOT_SUPPORTED
    return NOT_ENOUGH if None in held or not held else SUPPORTED


def table(judged: Sequence[Judged]) -> Table:
    """The verdicts as a table, to be saved beside the others."""
    columns = (Column("claim", "claim"), Column("place", "asked in"), Column("where", "runs"),
               Column("verdict", "verdict"), Column("evidence", "evidence"))  # fmt: skip
    rows = [
        (it.claim.statement, it.claim.place, str(f.regime), f.verdict, "; ".join(map(str, f.parts)))
        for it in judged
        for f in it.findings
    ]
    caption = (
        "The paper's claims, the bench's questions, and what these runs say of them: differences "
        "with 95% intervals. "
        f"'At least' and 'matches' forgive {MARGIN:g} point, 'robust' {ROBUST:g}."
    )
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    return Table("claims", caption, columns, frame, "claim")


# --- the claims ----------------------------------------------------------------------------------


def _every_iteration_gains(regime: Regime) -> list[Part]:
    side = regime.side("tspin")
    main, done = main_of(regime, side), sorted(finished(side))
    if main is None or len(done) < 2:
        return [Part("T-SPIN", reading="fewer than two finished iterations, or nothing measured")]
    parts = []
    for t in done:
        before = BASE if t == 0 else t - 1
        named = "the initial policy" if t == 0 else f"iteration {before}"
        gain = gain_of(regime.runs, Side(side, t), Side(side, before), main)
        parts.append(above(f"{side[0].label}, iteration {t} over {named}", gain, main))
    return parts


def _steadier(regime: Regime) -> list[Part]:
    """The largest drop between consecutive iterations, SPIN's minus T-SPIN's, seed by seed."""
    sides = [regime.side(loss) for loss in ("spin", "tspin")]
    members = list(itertools.chain(*sides))
    main, done = main_of(regime, members), sorted(finished(members))
    if main is None or len(done) < 2 or not all(sides):
        return [Part("largest drop", reading="no two common iterations of T-SPIN and SPIN")]
    values = measures.values(regime.runs, [main]).pivot(index="run", columns="iteration")["value"]
    changes = values.reindex(columns=[BASE, *done]).dropna().diff(axis="columns")
    largest = (-main.better * changes).max(axis="columns").clip(lower=0)
    spin, tspin = [{r.seed: largest[r.name] for r in side if r.name in largest} for side in sides]
    means = [stats.mean_interval([*drops.values()]).mean for drops in (spin, tspin)]
    what = "largest drop between iterations: SPIN {:.2f}, T-SPIN {:.2f}; difference".format(*means)
    return [above(what, stats.paired(spin, tspin), main)]


def _history_helps(regime: Regime) -> list[Part]:
    sides = [regime.side(loss) for loss in ("tspin", "wo_ha")]
    other = ", ".join(_differences(sides[0][0], sides[1][0])) if all(sides) else ""
    if other:
        return [Part("T-SPIN over w/o H-A", reading=f"their settings differ: {other}")]
    return at_end(regime, "tspin", "wo_ha")


def _quarter_of_the_data(regime: Regime) -> list[Part]:
    what = "T-SPIN on a quarter of the pairs over SFT on all"
    sized = regime.runs.where(lambda run: run.differs_only_in("data.size"))
    by_size = sized.grouped(lambda run: (run.loss, sized.num_pairs(run)))
    whole = max((size for loss, size in by_size if loss == "sft" and size > 0), default=math.nan)
    # within 2%: rows that could not be used are left out of the count
    quarters = [size for loss, size in by_size if loss == "tspin"
                if math.isclose(4 * size, whole, rel_tol=0.02)]  # fmt: skip
    if not quarters:
        return [Part(what, reading="no runs with one number of pairs a quarter of the other's")]
    quarter = quarters[0]
    sft, tspin = by_size["sft", whole], by_size["tspin", quarter]
    main = main_of(regime, [*sft, *tspin])
    if main is None:
        return [Part(what, reading="nothing measured in both")]
    gain = gain_of(regime.runs, Side(tspin, FIGURE3), Side(sft, 0), main)
    what = f"T-SPIN on {quarter:.0f} pairs, iteration {FIGURE3}, over SFT on {whole:.0f}, first "
    return [above(f"{what}iteration", gain, main, MARGIN)]


def _misaligned(regime: Regime) -> list[Part]:
    frame = regime.runs.contingency
    frame = frame[frame["split"] == "train"]
    spin, tspin = regime.side("spin"), regime.side("tspin")
    at = frame[(frame["iteration"] == FIGURE3) & frame["run"].isin([run.name for run in spin])]
    share = stats.mean_interval((100 * at["reward_only"].astype(float)).to_numpy())
    what = f"SPIN, iteration {FIGURE3}: training rows with the higher reward but not likelihood"
    parts = [about_half(what, share, HALF)]
    of = frame[frame["run"].isin([run.name for run in tspin])]
    worst = float((100 * (of["reward_only"] + of["logp_only"]).astype(float)).max())
    what = f"T-SPIN: most misaligned rows in any of {len(of)} tables"
    if math.isnan(worst):
        return [*parts, Part(what, reading="no table")]
    over = replace(stats.mean_interval([worst]), n=len({run.seed for run in tspin}))
    return [*parts, Part(what, over, "%", worst == 0, "never" if worst == 0 else "happens")]


def _robust(regime: Regime) -> list[Part]:
    chosen = regime.runs.where(grids.of_grid)
    usual = regime.side("tspin")
    main = main_of(regime, chosen)
    what = "T-SPIN over alpha and beta"
    if main is None or not usual:
        return [Part(what, reading="no run, or nothing measured")]

    def point(run: Run) -> tuple[float, ...]:
        return tuple(run.coefficient(key, FIGURE3) for key in ("alpha", "beta"))

    points = chosen.grouped(point)
    own, parts = point(usual[0]), []
    for at, side in sorted(points.items()):
        if at != own:
            gain = gain_of(regime.runs, Side(side, FIGURE3), Side(usual, FIGURE3), main)
            over = f"over alpha={own[0]:g}, beta={own[1]:g}, iteration {FIGURE3}"
            parts.append(above(f"alpha={at[0]:g}, beta={at[1]:g} {over}", gain, main, ROBUST))
    grid = {*itertools.product(grids.GRID, grids.GRID)}
    if lacking := grid - points.keys():
        parts.append(Part(what, reading=f"{len(lacking)} of the {len(grid)} points were not run"))
    return parts


def _above_sft(regime: Regime) -> list[Part]:
    sides = [side for loss in ("tspin", "sft") if (side := regime.side(loss))]
    counts = [regime.runs.num_pairs(side[0]) for side in sides]
    if len({*counts}) > 1:
        why = f"they learned from different numbers of pairs, {counts[0]:g} and {counts[1]:g}"
        return [Part("T-SPIN over SFT", reading=why)]
    return at_end(regime, "tspin", "sft")


CLAIMS = (
    Claim(
        "gains", "Every iteration of T-SPIN gains on the one before.",
        "Tables 1 and 4, Figures 2 and 6",
        "Each iteration's change, from the initial policy on, is above 0.",
        _every_iteration_gains, "table1",
    ),
    Claim(
        "above_spin", "T-SPIN ends above SPIN: 43.47 against 40.62 (Zephyr), 45.02 against 42.32 "
        "(Mistral).", "Tables 1 and 4, average after iteration 4",
        "T-SPIN minus SPIN after their last common iteration is above 0.",
        partial(at_end, a="tspin", b="spin"), "table1",
    ),
    Claim(
        "steady", "T-SPIN evolves steadily where SPIN falls back between iterations.",
        "Abstract; Table 1, Figure 2",
        "The largest drop of the measure from one iteration to the next, the initial policy "
        "included and 0 where there is none, is larger for SPIN than for T-SPIN.",
        _steadier, "seeds",
    ),
    Claim(
        "history", "The historical advantage helps: 43.47 with it, 41.79 without.",
        "Table 2, average after iteration 4; Figure 5",
        "T-SPIN minus w/o H-A after their last common iteration is above 0; judged only where all "
        "other settings, the learning rate among them, are the same.",
        _history_helps, "table2",
    ),
    Claim(
        "quarter", "T-SPIN on a quarter of the annotated pairs matches SFT on all of them: 42.56 "
        "on 50k, after iteration 1, against 42.01 on 200k.", "Abstract; Figure 4a",
        f"T-SPIN after iteration {FIGURE3} minus SFT after its first iteration, on the most pairs "
        f"there are, is above -{MARGIN:g} point.",
        _quarter_of_the_data, "figure4a", of_variants=True,
    ),
    Claim(
        "misaligned", "SPIN's reward contradicts the log-likelihood on about half of the training "
        "rows; T-SPIN's never does.", "Figure 3",
        f"SPIN's share of rows where r(y) > r(y') but not log pi(y) > log pi(y'), after iteration "
        f"{FIGURE3}, lies within {HALF[0]:g} to {HALF[1]:g}%; T-SPIN has no row with only one of "
        "the two in any run after any iteration.",
        _misaligned, "figure3",
    ),
    Claim(
        "reference_free", "T-SPIN without a reference policy is at least as good as with one "
        "(T-SPIN_ref).", "Figure 4b",
        "T-SPIN minus T-SPIN_ref after their last common iteration is above "
        f"-{MARGIN:g} point.",
        partial(at_end, a="tspin", b="tspin_ref", margin=MARGIN), "figure4b",
    ),
    Claim(
        "robust", "T-SPIN is robust in alpha and beta.", "Figure 4c",
        f"No point of the grid lies more than {ROBUST:g} points below the default after iteration "
        f"{FIGURE3}; supported only where all points of the paper's grid were run.",
        _robust, "figure4c", of_variants=True,
    ),
    Claim(
        "above_sft", "T-SPIN ends above SFT on the same annotated pairs: 42.56 against 40.65 on "
        "50k.", "Figure 4a",
        "T-SPIN minus SFT on the same number of pairs, after their last common iteration (SFT "
        "trains as many steps), is above 0.",
        _above_sft, "table1",
    ),
    Claim(
        "rivals", "T-SPIN is at least as good as every other objective on the same triplets.",
        HERE,
        "T-SPIN minus each of the others, each at its own learning rate, after their last common "
        f"iteration, is above -{MARGIN:g} point.",
        partial(bench.rivals, chosen=tuned, margin=MARGIN), "objectives", of_variants=True,
    ),
    Claim(
        "stress", "T-SPIN is at least as good as every other objective under stress.", HERE,
        "The same at one learning rate for all.",
        partial(bench.rivals, chosen=stressed, margin=MARGIN), "objectives", of_variants=True,
    ),
    Claim(
        "cooling", "T-SPIN gains more than its initial policy does by being sampled cooler.", HERE,
        "Right answers sampled from T-SPIN after its last iteration, minus those of the initial "
        "policy at data.eval_cool, are above 0.",
        bench.cooling, "objectives", of_variants=True,
    ),
    *(
        Claim(
            f"anchor_{kind}", f"T-SPIN with anchor={kind} keeps log pi(y) and ends above SPIN "
            "under stress, and is no worse than T-SPIN at its learning rate.", HERE,
            "At the one learning rate for all it loses at most "
            f"{bench.MOST_LOST:g} nat of the mean log pi(y) of held-out prompts and ends above "
            f"SPIN; at T-SPIN's own it is above T-SPIN minus {MARGIN:g} point. Each with the "
            "whole interval.",
            partial(bench.anchored, kind=kind, margin=MARGIN), "anchors", of_variants=True,
        )
        for kind in KINDS
    ),
)  # fmt: skip


# --- where they are judged -----------------------------------------------------------------------


def _find(claim: Claim, regime: Regime) -> Finding:
    try:
        parts = claim.parts(regime)
    except Exception as error:  # one claim's trouble must not cost the others
        log.debug("%s", claim.key, exc_info=True)
        why = f"could not be judged ({type(error).__name__}: {error})"
        regime.runs.problems.append(f"claim {claim.key}: {why}")
        parts = [Part("no evidence", reading="it could not be judged; see the problems")]
    result, way_out = verdict(parts), ""
    if result == NOT_ENOUGH:
        of_mistral = claim.sweep == "table1" and "mistral" in regime.setting.model
        sweep = "table4" if of_mistral else claim.sweep
        way_out = missing.command(
            sweep, regime.runs, regime.setting, "seed=0,1,2", *regime.overrides
        ).removeprefix(": ")
    return Finding(regime, result, parts, way_out)


def _differences(a: Run, b: Run) -> Iterator[str]:
    """Where settings differ, beyond the objective itself and what one of them does not contain."""
    for key in sorted(a.method.keys() | b.method.keys()):
        one, other = a.method.get(key), b.method.get(key)
        of_one = key.startswith("coef.") and not (key in a.method and key in b.method)
        if one != other and not of_one and key not in ("loss.link", "data.seed"):
            yield f"{key} {one} and {other}"
