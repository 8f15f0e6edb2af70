"""What the bench of objectives asks, beyond the paper: rivals, sharpening, anchors."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.claims.evidence import Part, above, over
from analysis.figures import change, comparison
from analysis.reading import bench, measures
from analysis.reading.methods import Run, finished
from analysis.reading.regimes import Regime
from analysis.reading.runs import BASE, Runs
from tspin.tools import intervals

LOGP = measures.HELDOUT["logp"]
MOST_LOST = 1.0  # nats of log pi(y) that an anchored policy may lose under stress


def rivals(regime: Regime, chosen: Callable[[Runs], Runs], margin: float) -> list[Part]:
    """T-SPIN over every other objective of the runs chosen, without anchors."""
    of_loss = bench.plain(chosen(regime.runs)).grouped(lambda run: run.loss)
    ours = of_loss.pop("tspin", None)
    if ours is None or not of_loss:
        return [Part("T-SPIN over its rivals", reading="no run of T-SPIN, or of no other")]
    return [part for side in of_loss.values() for part in over(regime, ours, side, margin=margin)]


def cooling(regime: Regime) -> list[Part]:
    """T-SPIN sampled as it is over the initial policy sampled cooler, prompt by prompt."""
    side = bench.of(bench.tuned(regime.runs), "tspin")
    what = "T-SPIN over its initial policy, sampled cooler"
    done = finished(side)
    if not done:
        return [Part(what, reading="no finished iteration")]
    t, sampled = max(done), measures.HELDOUT["exact_match,sampled"]
    pairs = [
        comparison.right(regime.runs, run, t, "sampled")
        - comparison.right(regime.runs, run, BASE, "cool")
        for run in side
    ]
    gain = intervals.bootstrap(100 * pd.concat(pairs, axis=1).to_numpy(dtype=float).T)
    return [above(f"{what}, after iteration {t}", gain, sampled)]


def anchored(regime: Regime, kind: str, margin: float) -> list[Part]:
    """T-SPIN with this kind of anchor: log pi(y) under stress, SPIN there, T-SPIN where both have
    its tuned learning rate."""
    stressed, tuned = bench.stressed(regime.runs), bench.tuned(regime.runs)
    runs = [run for run in stressed if run.loss == "tspin" and bench.kind(run) == kind]
    strengths = sorted({bench.anchor(run) for run in runs})
    if len(strengths) != 1:
        why = f"several strengths were run: {', '.join(strengths)}" if runs else "no run of it"
        return [Part(f"T-SPIN with anchor={kind} under stress", reading=why)]
    parts = [_kept(regime, runs)]
    for pair, forgiven in (
        ((runs, bench.of(stressed, "spin")), 0.0),
        ((bench.of(tuned, "tspin", *strengths), bench.of(tuned, "tspin")), margin),
    ):
        if all(pair):
            parts += over(regime, *pair, margin=forgiven)
        else:
            parts.append(Part(f"T-SPIN with anchor={kind}", reading="nothing to compare with"))
    return parts


def _kept(regime: Regime, side: list[Run]) -> Part:
    what = f"{side[0].label}: log pi(y), held out, since the initial policy"
    moved = change.of(regime.runs, side, LOGP)
    if moved is None or moved.over is None:
        return Part(what, reading="not measured before and after")
    return above(f"{what}, after iteration {moved.t}", moved.over, LOGP, MOST_LOST, "nats")
