"""What a gradient costs where pairs are far apart: with the least of it, and as it is taken.

    python -m benchmarks.far_apart [MARGIN]

Eight random pairs in a small Llama (four layers of 256), responses of 32 tokens, SPIN with a
reference by which every margin is MARGIN nats (88). Takes turns with
tspin.training.step.NEGLIGIBLE at 0 and at its value; says the CPU seconds of both, the least of
three, and their ratio. One thread.
"""

from __future__ import annotations

import sys
import time

import torch

from benchmarks.shapes import Case
from benchmarks.ways import recipe_of
from benchmarks.work import policy_of, settings
from tspin.data.triplets import Key
from tspin.objectives import SPIN
from tspin.training import step
from tspin.training.cut import Cut
from tspin.training.parallel import Strategy

ROUNDS = 3


def main(margin: float = 88.0) -> None:
    torch.set_num_threads(1)
    case = Case("pairs far apart", "pairs", "v2k", "32/32", ways=())
    run = settings(case, "auto")
    policy, triplets = policy_of(case, run), case.triplets(0)
    with torch.no_grad():
        logps = policy.logps(triplets, case.roles)
    lower = {"annotated": margin, "synthetic": 0.0}  # of the reference's log-probs
    reference: dict[Key, float] = {
        (triplet.id, triplet.source, role): value - lower[role]
        for role in case.roles
        for triplet, value in zip(triplets, logps[role].tolist(), strict=True)
    }
    recipe, cut = recipe_of(run, SPIN(lam=1.0), reference), Cut.of(run.compute)
    seconds: dict[float, list[float]] = {0.0: [], step.NEGLIGIBLE: []}
    for _ in range(ROUNDS):
        for negligible, of_round in seconds.items():
            step.NEGLIGIBLE = negligible
            policy.model.zero_grad()
            began = time.process_time()
            step.accumulate(Strategy(policy), triplets, recipe, cut)
            of_round.append(time.process_time() - began)
    whole, taken = (min(of_way) for of_way in seconds.values())
    sys.stdout.write(
        f"{margin:g} nats apart: {whole:.1f} s with numbers below {max(seconds):g}, {taken:.1f} s "
        f"without, {whole / taken:.2f} times as long\n"
    )


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
