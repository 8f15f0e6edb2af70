"""Whether method A beats method B: every pair of methods, on the same prompts and seeds.

Held-out answers that a program can check are compared prompt by prompt (paired bootstrap over
prompts and seeds); where there are none, the main number seed by seed (paired t). p-values are
corrected for the number of pairs (Holm).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import measures, missing, stats, style
from analysis.pieces import HIGH, LOW, Column, Piece, Table
from analysis.runs import Run, Runs, Setting

NAMES = ("comparison",)
DIGITS = 2
COLUMNS = (
    Column("a", "A"),
    Column("b", "B"),
    Column("measure", "measure"),
    Column("iteration", "iteration"),
    Column("difference", "A - B", DIGITS, signed=True),
    Column("p", "p (Holm)", 3),
    Column("effect", "effect d_z", 2, signed=True),
    Column("by_seed", "A - B, by seed", DIGITS, signed=True),
    Column("num_seeds", "seeds"),
    Column("num_prompts", "prompts"),
    Column("verdict", "verdict"),
)
FRAME = ["a", "b", "measure", "iteration", "difference", f"difference{LOW}", f"difference{HIGH}"]
FRAME += ["p_alone", "p", "effect", "by_seed", f"by_seed{LOW}", f"by_seed{HIGH}", "num_seeds"]
FRAME += ["num_prompts", "verdict"]
ALPHA = 1 - stats.LEVEL


def build(
    runs: Runs,
    name: str = "comparison",
    *,
    with_paper: bool = False,
    iteration: int | None = None,
    labels: Sequence[str] | None = None,
) -> list[Piece]:
    """iteration: None is the last that all methods have. labels: None is every objective as
    configured by default. with_paper adds nothing: one run a method allows no test."""
    settings = runs.settings()
    pieces: list[Piece] = []
    for setting in settings:
        chosen = runs.of(setting).where(
            lambda run: run.is_main if labels is None else run.label in labels
        )
        named = name if len(settings) == 1 else f"{name}-{setting.slug}"
        pieces.append(_of_setting(chosen, setting, named, iteration))
    return pieces


def differences(runs: Runs, a: Sequence[Run], b: Sequence[Run], t: int, how: str) -> np.ndarray:
    """(seeds, prompts) right under A minus right under B, NaN where one has no answer.

    how  the decoding of the answers
    """
    by_seed = {run.seed: run for run in b}
    found = []
    for run in a:
        if run.seed in by_seed:
            sides = (_right(runs, run, t, how), _right(runs, by_seed[run.seed], t, how))
            found.append((sides[0] - sides[1]).rename(run.seed))
    together = pd.concat(found, axis=1) if found else pd.DataFrame()
    return together.to_numpy(dtype=float).T.reshape(len(found), -1)


def _of_setting(runs: Runs, setting: Setting, name: str, iteration: int | None) -> Table:
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.label, []).append(run)
    done = [set(run.folder.iterations()) for run in runs if run.folder.iterations()]
    common = set.intersection(*done) if done else set()
    t = max(common, default=None) if iteration is None else iteration
    rows = []
    if t is not None:
        for b, a in itertools.combinations(style.in_order(list(members)), 2):
            rows += _pair(runs, (a, members[a]), (b, members[b]), t)
    frame = pd.DataFrame(rows, columns=FRAME)
    for _, of_measure in frame.groupby("measure"):
        frame.loc[of_measure.index, "p"] = stats.holm(of_measure["p_alone"].tolist())
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    lines = missing.seeds(runs, "seeds", setting)
    if len(members) < 2:
        lines.append(f"fewer than two methods: {missing.command('table1', setting)}")
    lines += missing.iterations(runs, [t] if t is not None else None)
    caption = (
        f"A against B after iteration {t}, {setting}: difference in points with its 95% interval "
        "over seeds and prompts, p corrected for the number of pairs, effect size; and the "
        "difference with its interval over seeds alone."
    )
    return Table(name, caption, COLUMNS, frame, "measure", tuple(lines))


def _pair(
    runs: Runs, a: tuple[str, list[Run]], b: tuple[str, list[Run]], t: int
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    main = measures.main_number(measures.columns(runs))
    decodings = _decodings(runs, [*a[1], *b[1]], t)
    for how in decodings:
        test = stats.bootstrap(100 * differences(runs, a[1], b[1], t, how))
        measure = measures.HELDOUT[f"exact_match,{how}"]
        by_seed = _by_seed(runs, a[1], b[1], t, measure)
        rows.append(
            _row(a[0], b[0], measure.title, t, test.difference, test.low, test.high, by_seed)
            | {"p_alone": test.p, "effect": test.effect, "num_seeds": test.num_seeds,
               "num_prompts": test.num_prompts}
        )  # fmt: skip
    if main and not (decodings and main.key in measures.HELDOUT):
        over = _by_seed(runs, a[1], b[1], t, main)
        spread = (over.high - over.mean) / float(stats.t_quantile(over.n)) * math.sqrt(over.n)
        rows.append(
            _row(a[0], b[0], main.title, t, over.mean, over.low, over.high, over)
            | {"p_alone": stats.t_test(over), "num_seeds": over.n, "num_prompts": math.nan,
               "effect": over.mean / spread if spread > 0 else math.nan}
        )  # fmt: skip
    return rows


def _row(
    a: str, b: str, measure: str, t: int, difference: float, low: float, high: float,
    by_seed: stats.Interval,
) -> dict[str, object]:  # fmt: skip
    return {
        "a": a, "b": b, "measure": measure, "iteration": t, "difference": difference,
        f"difference{LOW}": low, f"difference{HIGH}": high, "by_seed": by_seed.mean,
        f"by_seed{LOW}": by_seed.low, f"by_seed{HIGH}": by_seed.high,
    }  # fmt: skip


def _by_seed(
    runs: Runs, a: Sequence[Run], b: Sequence[Run], t: int, measure: measures.Measure
) -> stats.Interval:
    found = measures.values(runs, [measure])
    found = found[found["iteration"] == t].set_index("run")["value"]
    sides = [{run.seed: found[run.name] for run in side if run.name in found} for side in (a, b)]
    return stats.paired(*sides)


def _right(runs: Runs, run: Run, t: int, how: str) -> pd.Series:
    answers = runs.answers(run, t)
    of = (answers["decoding"] == how).to_numpy(bool)
    right = answers["correct"].to_numpy()[of].astype(float)
    return pd.Series(right, index=answers["id"].to_numpy()[of])


def _decodings(runs: Runs, members: Sequence[Run], t: int) -> list[str]:
    """Decodings whose answers could all be checked."""
    tables = [runs.answers(run, t) for run in members]
    if not tables or any(table.empty for table in tables):
        return []
    checked = [set(table.loc[table["correct"].notna(), "decoding"]) for table in tables]
    there = set.intersection(*checked)
    return [how for how in ("greedy", "sampled") if how in there]


def _verdict(row: dict[str, object]) -> str:
    if row["num_seeds"] in (0, 1):
        return "not enough data"
    if not isinstance(row["p"], float) or math.isnan(row["p"]) or row["p"] >= ALPHA:
        return "cannot tell"
    return "A" if float(str(row["difference"])) > 0 else "B"
