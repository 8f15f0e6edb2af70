"""The paper's claims, each with a test on the runs that there are, and its verdict.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import comparison, grids, measures, missing, stats
from analysis.comparison import Side
from analysis.measures import Measure
from analysis.missing import ENOUGH
from analysis.pieces import HIGH, LOW, Column, Table
from analysis.regimes import Regime, regimes
from analysis.runs import BASE, NO_METHOD, Run, Runs

log = logging.getLogger("tspin")

SUPPORTED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "not supported", "not enough data"
MARGIN = 1.0  # points of a share: what "at least" and "matches" forgive; ours, the paper has none
ROBUST = 2.0  # points that a grid point may lie below the default
HALF = (40.0, 60.0)  # percent: "about half"
FIGURE3 = 1  # the iteration that the paper's Figures 3, 4a and 4c show
POINTS = "points"
# may differ between methods "with the same settings": objective, and what w/o H-A has none of
NO_SETTING = (*NO_METHOD, "loss.", "coef.beta", "coef.lambda", "data.seed")


@dataclass(frozen=True)
class Part:
    """One thing that a claim says of these runs.

    mean, low, high  what was found and its 95% interval, in `unit`; NaN: not found, no interval
    holds            None: not enough data
    reading          why it holds or not, in words
    """

    what: str
    mean: float
    low: float
    high: float
    unit: str
    num_seeds: int
    num_prompts: int | None
    holds: bool | None
    reading: str
    measure: Measure | None = None  # of quality, that it is judged on

    @property
    def numbers(self) -> str:
        """ "+1.20 points [0.30, 2.10], 3 seeds, 800 prompts" """
        if math.isnan(self.mean):
            return ""
        sign = "+" if self.unit != "%" else ""
        space = " " * (self.unit not in ("", "%"))
        text = f"{self.mean:{sign}.2f}{space}{self.unit}"
        if not math.isnan(self.low):
            text += f" [{self.low:.2f}, {self.high:.2f}]"
        if self.num_seeds:
            text += f", {self.num_seeds} seed{'s' * (self.num_seeds != 1)}"
        return text + (f", {self.num_prompts} prompts" if self.num_prompts else "")


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, and how it is judged."""

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
    judged_on: str  # what stands for quality; "" where nothing has to
    parts: tuple[Part, ...]
    way_out: str  # the command that makes what is missing


@dataclass(frozen=True)
class Judged:
    claim: Claim
    findings: tuple[Finding, ...]


def judge(runs: Runs) -> list[Judged]:
    """Every claim in every regime of test prompts, those of validation being for choosing. A claim
    that cannot be judged is a problem."""
    judged = [regime for regime in regimes(runs) if regime.setting.split == "test"]
    return [
        Judged(claim, tuple(
            _find(claim, regime) for regime in judged
            if not (claim.of_variants and regime.variant)
        ))
        for claim in CLAIMS
    ]  # fmt: skip


def verdict(parts: Sequence[Part]) -> str:
    """By the rules of the module's docstring."""
    held = [part.holds for part in parts]
    if False in held:
        return NOT_SUPPORTED
    return NOT_ENOUGH if None in held or not held else SUPPORTED


def table(judged: Sequence[Judged]) -> Table:
    """The verdicts as a table, to be saved beside the others."""
    columns = (Column("claim", "claim"), Column("place", "in the paper"), Column("where", "runs"),
               Column("verdict", "verdict"), Column("evidence", "evidence"))  # fmt: skip
    rows = [
        {"claim": it.claim.statement, "place": it.claim.place, "where": str(found.regime),
         "verdict": found.verdict, "evidence": "; ".join(_said(part) for part in found.parts)}
        for it in judged for found in it.findings
    ]  # fmt: skip
    caption = (
        "The paper's claims and what these runs say of them: differences with 95% intervals. "
        f"'At least' and 'matches' forgive {MARGIN:g} point, 'robust' {ROBUST:g}."
    )
    frame = pd.DataFrame(rows, columns=[column.key for column in columns])
    return Table("claims", caption, columns, frame, "claim")


# --- the claims ----------------------------------------------------------------------------------


def _every_iteration_gains(regime: Regime) -> list[Part]:
    side = regime.side("tspin")
    main, done = _main_of(regime, side), _common(side)
    if main is None or len(done) < 2:
        return [_nothing("T-SPIN", "fewer than two finished iterations, or nothing measured")]
    label = side[0].label
    parts = []
    for t in done:
        before = BASE if t == 0 else t - 1
        named = "the initial policy" if t == 0 else f"iteration {before}"
        gain = _gain(regime.runs, Side(label, side, t), Side(label, side, before), main)
        parts.append(_above(f"{label}, iteration {t} over {named}", gain))
    return parts


def _ends_above_spin(regime: Regime) -> list[Part]:
    return _at_end(regime, "tspin", "spin")


def _steadier(regime: Regime) -> list[Part]:
    """The largest drop between consecutive iterations, SPIN's minus T-SPIN's, seed by seed."""
    sides = {loss: regime.side(loss) for loss in ("tspin", "spin")}
    members = [run for side in sides.values() for run in side]
    main, done = _main_of(regime, members), _common(members)
    if main is None or len(done) < 2 or not all(sides.values()):
        return [_nothing("largest drop", "no two common iterations of T-SPIN and SPIN")]
    found = measures.values(regime.runs, [main])
    drops = {}
    for loss, side in sides.items():
        series = {run.seed: _series(found, run, [BASE, *done]) for run in side}
        drops[loss] = {
            seed: _largest_drop(values, main)
            for seed, values in series.items()
            if len(values) == len(done) + 1
        }
    over = stats.paired(drops["spin"], drops["tspin"])
    both = [stats.mean_interval(list(drops[loss].values())).mean for loss in ("spin", "tspin")]
    what = f"largest drop between iterations: SPIN {both[0]:.2f}, T-SPIN {both[1]:.2f}; difference"
    return [_above(what, _of_seeds(over, main))]


def _history_helps(regime: Regime) -> list[Part]:
    sides = [regime.side(loss) for loss in ("tspin", "wo_ha")]
    if all(sides):
        other = _settings_that_differ(sides[0][0], sides[1][0])
        if other:
            said = ", ".join(f"{key} {a} and {b}" for key, a, b in other)
            return [_nothing("T-SPIN over w/o H-A", f"their settings differ: {said}")]
    return _at_end(regime, "tspin", "wo_ha")


def _quarter_of_the_data(regime: Regime) -> list[Part]:
    what = "T-SPIN on a quarter of the pairs over SFT on all"
    by_size: dict[str, dict[float, list[Run]]] = {"sft": {}, "tspin": {}}
    for run in regime.runs:
        if run.loss in by_size and run.differs_only_in("data.size"):
            by_size[run.loss].setdefault(regime.runs.num_pairs(run), []).append(run)
    whole = max((size for size in by_size["sft"] if size > 0), default=math.nan)
    quarter = next((size for size in by_size["tspin"] if _near(4 * size, whole)), None)
    if quarter is None:
        return [_nothing(what, "no runs with one number of pairs a quarter of the other's")]
    sft, tspin = by_size["sft"][whole], by_size["tspin"][quarter]
    main = _main_of(regime, [*sft, *tspin])
    if main is None:
        return [_nothing(what, "nothing measured in both")]
    gain = _gain(
        regime.runs, Side(tspin[0].label, tspin, FIGURE3), Side(sft[0].label, sft, 0), main
    )
    what = (
        f"T-SPIN on {quarter:.0f} pairs, iteration {FIGURE3}, over SFT on {whole:.0f}, first "
        "iteration"
    )
    return [_at_least(what, gain, MARGIN)]


def _misaligned(regime: Regime) -> list[Part]:
    frame = regime.runs.contingency
    frame = frame[frame["split"] == "train"]
    spin, tspin = regime.side("spin"), regime.side("tspin")
    at = frame[(frame["iteration"] == FIGURE3) & frame["run"].isin([run.name for run in spin])]
    share = stats.mean_interval((100 * at["reward_only"].astype(float)).to_numpy())
    what = f"SPIN, iteration {FIGURE3}: training rows with the higher reward but not likelihood"
    parts = [_about_half(what, share)]
    of = frame[frame["run"].isin([run.name for run in tspin])]
    worst = (100 * (of["reward_only"] + of["logp_only"]).astype(float)).max()
    what = f"T-SPIN: most misaligned rows in any of {len(of)} tables"
    if math.isnan(worst):
        return [*parts, _nothing(what, "no table")]
    seeds = len({run.seed for run in tspin})
    reading = "never" if worst == 0 else "happens"
    return [
        *parts,
        Part(what, float(worst), math.nan, math.nan, "%", seeds, None, worst == 0, reading),
    ]


def _needs_no_reference(regime: Regime) -> list[Part]:
    return _at_end(regime, "tspin", "tspin_ref", margin=MARGIN)


def _robust(regime: Regime) -> list[Part]:
    chosen = [
        run for run in regime.runs
        if run.loss == "tspin" and run.differs_only_in("coef.alpha", "coef.beta")
    ]  # fmt: skip
    usual = regime.side("tspin")
    main = _main_of(regime, chosen)
    what = "T-SPIN over alpha and beta"
    if main is None or not usual:
        return [_nothing(what, "no run, or nothing measured")]
    points: dict[tuple[float, float], list[Run]] = {}
    for run in chosen:
        place = run.coefficient("alpha", FIGURE3), run.coefficient("beta", FIGURE3)
        points.setdefault(place, []).append(run)
    own = usual[0].coefficient("alpha", FIGURE3), usual[0].coefficient("beta", FIGURE3)
    base = Side(usual[0].label, usual, FIGURE3)
    parts = [
        _at_least(
            f"alpha={place[0]:g}, beta={place[1]:g} over alpha={own[0]:g}, beta={own[1]:g}, "
            f"iteration {FIGURE3}",
            _gain(regime.runs, Side(side[0].label, side, FIGURE3), base, main),
            ROBUST,
        )
        for place, side in sorted(points.items()) if place != own
    ]  # fmt: skip
    grid = [(alpha, beta) for alpha in grids.GRID for beta in grids.GRID]
    lacking = [place for place in grid if place not in points]
    if lacking:
        parts.append(_nothing(what, f"{len(lacking)} of the {len(grid)} points were not run"))
    return parts


def _above_sft(regime: Regime) -> list[Part]:
    sides = [regime.side(loss) for loss in ("tspin", "sft")]
    if all(sides):
        a, b = (regime.runs.num_pairs(side[0]) for side in sides)
        if a != b:
            why = f"they learned from different numbers of pairs, {a:g} and {b:g}"
            return [_nothing("T-SPIN over SFT", why)]
    return _at_end(regime, "tspin", "sft")


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
        _ends_above_spin, "table1",
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
        f"SPIN's share of rows where r(y) > r(y') but not log p(y) > log p(y'), after iteration "
        f"{FIGURE3}, lies within {HALF[0]:g} to {HALF[1]:g}%; T-SPIN has no row with only one of "
        "the two in any run after any iteration.",
        _misaligned, "figure3",
    ),
    Claim(
        "reference_free", "T-SPIN without a reference policy is at least as good as with one "
        "(T-SPIN_ref).", "Figure 4b",
        "T-SPIN minus T-SPIN_ref after their last common iteration is above "
        f"-{MARGIN:g} point.",
        _needs_no_reference, "figure4b",
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
)  # fmt: skip


# --- where they are judged -----------------------------------------------------------------------


def _find(claim: Claim, regime: Regime) -> Finding:
    try:
        parts = claim.parts(regime)
    except Exception as error:  # one claim's trouble must not cost the others
        log.debug("%s", claim.key, exc_info=True)
        regime.runs.problems.append(
            f"claim {claim.key}: could not be judged ({type(error).__name__}: {error})"
        )
        parts = [_nothing("no evidence", "it could not be judged; see the problems")]
    found = verdict(parts)
    way_out = ""
    if found == NOT_ENOUGH:
        of_mistral = claim.sweep == "table1" and "mistral" in regime.setting.model
        sweep = "table4" if of_mistral else claim.sweep
        way_out = missing.command(sweep, regime.setting, "seed=0,1,2", *regime.overrides)
    return Finding(regime, found, _judged_on(parts), tuple(parts), way_out)


def _judged_on(parts: Sequence[Part]) -> str:
    """What stands for quality here, where that is not what the paper averages."""
    measure = next((part.measure for part in parts if part.measure), None)
    if measure is None:
        return ""
    if measure.key == measures.AVERAGE:
        return "judged on the average of the benchmarks that were run"
    if measure.key in measures.HELDOUT:
        return (
            f"judged on {measure.title}, of held-out prompts, where the paper averages ten "
            "benchmarks"
        )
    return f"judged on {measure.title} alone, where the paper averages ten benchmarks"


# --- evidence ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """How much better one side is than another, in the measure's unit."""

    mean: float
    low: float
    high: float
    num_seeds: int
    num_prompts: int | None  # None: over seeds alone
    measure: Measure


def _gain(runs: Runs, a: Side, b: Side, measure: Measure) -> Gain:
    """Over seeds and prompts where a program checked the answers, else over seeds."""
    sign = measure.better
    kind, _, how = measure.key.partition(",")
    if kind == "exact_match" and {run.seed for run in a.runs} & {run.seed for run in b.runs}:
        right = sign * measure.factor * comparison.differences(runs, a, b, how)
        test = stats.bootstrap(right)
        if not math.isnan(test.difference):
            return Gain(
                test.difference, test.low, test.high, test.num_seeds, test.num_prompts, measure
            )
    found = measures.values(runs, [measure])
    by_seed = [
        {run.seed: sign * value for run in side.runs for value in _series(found, run, [side.t])}
        for side in (a, b)
    ]
    return _of_seeds(stats.paired(*by_seed), measure)


def _of_seeds(over: stats.Interval, measure: Measure) -> Gain:
    return Gain(over.mean, over.low, over.high, over.n, None, measure)


def _at_end(regime: Regime, a: str, b: str, *, margin: float | None = None) -> list[Part]:
    """Objective a over objective b where `comparison` compares them; at least, with a margin."""
    sides = [regime.side(a), regime.side(b)]
    main = _main_of(regime, [*sides[0], *sides[1]])
    if not all(sides) or main is None:
        absent = [loss for loss, side in zip((a, b), sides, strict=True) if not side]
        why = f"no run with loss={', '.join(absent)}" if absent else "nothing measured"
        return [_nothing(f"loss={a} over loss={b}", why)]
    labels = [side[0].label for side in sides]
    what = f"{labels[0]} over {labels[1]}"
    pair = regime.runs.where(lambda run: run.label in labels)
    compared = comparison.compare(pair)
    rows = compared[compared["measure"] == main.title].to_dict("records")
    if not rows:
        return [_nothing(what, "no common finished iteration")]
    row = rows[0]
    turn = main.better * (1 if row["a"] == labels[0] else -1)
    ends = sorted(turn * row[f"difference{end}"] + 0.0 for end in (LOW, HIGH))  # no -0.0
    prompts = row["num_prompts"]
    gain = Gain(
        turn * row["difference"] + 0.0, ends[0], ends[1], int(row["num_seeds"]),
        None if math.isnan(prompts) else int(prompts), main,
    )  # fmt: skip
    what = f"{what}, after iteration {row['iteration']}"
    if margin is None:
        return [_above(what, gain)]
    return [_at_least(what, gain, margin)]


def _above(what: str, gain: Gain) -> Part:
    """Holds where the interval is above 0."""
    return _judged(what, gain, line=0.0, holds="above 0", fails="below 0")


def _at_least(what: str, gain: Gain, margin: float) -> Part:
    """Holds where the interval is above -margin."""
    if gain.measure.unit != "%":
        why = f"the margin is in points of a share; {gain.measure.title} is none"
        return _nothing(what, why)
    line = f"-{margin:g}"
    return _judged(what, gain, line=-margin, holds=f"above {line}", fails=f"below {line}")


def _judged(what: str, gain: Gain, *, line: float, holds: str, fails: str) -> Part:
    unit = POINTS if gain.measure.unit == "%" else gain.measure.unit
    held: bool | None
    if gain.num_seeds < ENOUGH or math.isnan(gain.low):
        held, reading = None, _few(gain.num_seeds)
    elif gain.low > line:
        held, reading = True, f"shown: the interval is {holds}"
    elif gain.high < line:
        held, reading = False, f"the reverse is shown: the interval is {fails}"
    else:
        held, reading = False, f"not shown: the interval reaches over {line:g}"
    return Part(
        what, gain.mean, gain.low, gain.high, unit, gain.num_seeds, gain.num_prompts, held,
        reading, gain.measure,
    )  # fmt: skip


def _about_half(what: str, share: stats.Interval) -> Part:
    """Holds where the interval lies within HALF."""
    low, high = HALF
    held: bool | None
    if share.n < ENOUGH:
        held, reading = None, _few(share.n)
    elif low <= share.low and share.high <= high:
        held, reading = True, f"shown: the interval is within {low:g} to {high:g}%"
    elif share.high < low or share.low > high:
        held, reading = (
            False,
            f"another share is shown: the interval is outside {low:g} to {high:g}%",
        )
    else:
        held, reading = False, f"not shown: the interval reaches out of {low:g} to {high:g}%"
    return Part(what, share.mean, share.low, share.high, "%", share.n, None, held, reading)


def _few(num_seeds: int) -> str:
    return f"fewer than {ENOUGH} seeds" if num_seeds else "not measured in both"


def _nothing(what: str, why: str) -> Part:
    nan = math.nan
    return Part(what, nan, nan, nan, "", 0, None, None, why)


def _said(part: Part) -> str:
    numbers = f": {part.numbers}" if part.numbers else ""
    return f"{part.what}{numbers} ({part.reading})"


# --- runs and their numbers ----------------------------------------------------------------------


def _main_of(regime: Regime, members: Sequence[Run]) -> Measure | None:
    """The main number of some runs; None where there is none, or no better and worse."""
    names = {run.name for run in members}
    found = measures.columns(regime.runs.where(lambda run: run.name in names))
    main = measures.main_number(found)
    return main if main and main.better else None


def _series(found: pd.DataFrame, run: Run, iterations: Sequence[int]) -> list[float]:
    """Values of a run, in the order of the iterations, without what was not measured."""
    own = found[found["run"] == run.name].set_index("iteration")["value"]
    return [float(own[t]) for t in iterations if t in own.index]


def _largest_drop(values: Sequence[float], measure: Measure) -> float:
    changes = [b - a for a, b in itertools.pairwise(values)]
    return max([0.0, *(-measure.better * change for change in changes)])


def _common(members: Sequence[Run]) -> list[int]:
    """Iterations that all have finished."""
    done = [set(run.folder.iterations()) for run in members]
    return sorted(set.intersection(*done)) if done else []


def _settings_that_differ(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    """(key, of a, of b) beyond the objective itself."""
    keys = sorted(key for key in a.values.keys() | b.values.keys()
                  if not key.startswith(NO_SETTING))  # fmt: skip
    pairs = [(key, a.values.get(key), b.values.get(key)) for key in keys]
    return [(key, one, other) for key, one, other in pairs if one != other]


def _near(a: float, b: float) -> bool:
    """Within 2%: rows that could not be used are left out of the count."""
    return math.isclose(a, b, rel_tol=0.02)
