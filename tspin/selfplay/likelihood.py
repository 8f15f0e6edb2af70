"""log pi(y) of pairs that a run was not made of, under its policies. Leaves nothing behind."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tspin.config.run import Run
from tspin.data.cells import BadRow, BadRows
from tspin.data.pairs import Pair
from tspin.data.templates import Rendering
from tspin.data.tokens import Renderer
from tspin.data.triplets import Triplet, micro_batches
from tspin.objectives import Role
from tspin.policy import dtypes, finite, policy, weights
from tspin.policy.policy import Policies
from tspin.runs.artifacts import RunDir
from tspin.stages.prepare import encoded
from tspin.stages.score import score
from tspin.tools.files import digest, digest_each, file_digest, read_json

Rows = list[dict[str, Any]]  # as evaluation.of_scores takes them, in the order of the pairs
ROLE: Role = "annotated"

log = logging.getLogger("tspin")


class Likelihoods:
    """Of the same pairs under the policies of one run after another, one in memory at a time."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self._digest = digest([pair.id for pair in pairs])  # ids are of the content
        self._bases: dict[str, Rows] = {}  # of initial policies: runs that begin alike share them

    def key(self, folder: RunDir, iterations: Iterable[int]) -> str:
        """Of what decides the numbers of a run: these pairs, its configuration and its policies."""
        files = [folder.config, folder.initial, *(folder.iteration(t).done for t in iterations)]
        return digest([self._digest, *map(file_digest, files)])[:16]

    def of_run(
        self, cfg: Run, folder: RunDir, rendering: Rendering, checkpoints: Mapping[int, Path]
    ) -> Iterator[Rows]:
        """Under the initial policy, then under those of the iterations in `checkpoints`."""
        own = next(iter(checkpoints.values()))  # whose tokenizer is the run's
        triplets = _encoded(self.pairs, cfg, policy.renderer(own, template=rendering))
        compute, precision = cfg.compute, cfg.optim.precision
        load = partial(policy.load_to_infer, compute=compute, precision=precision)
        policies = Policies(partial(load, template=rendering))
        begins = read_json(folder.initial)["weights"]
        arithmetic = dtypes.sampling_key(compute, precision, cfg.model)
        ids = digest_each([[*x.prompt_ids], [*x.responses[ROLE]]] for x in triplets)
        key = digest([begins, arithmetic, ids])
        if key not in self._bases:
            self._bases[key] = _rows(policies, _initial(cfg, begins), triplets, cfg, "base")
        yield self._bases[key]
        for t, checkpoint in checkpoints.items():
            yield _rows(policies, checkpoint, triplets, cfg, f"iteration {t}")


def _encoded(pairs: Sequence[Pair], cfg: Run, renderer: Renderer) -> list[Triplet]:
    """As the run's own are; what cannot be rendered, or has no response token, is left out."""
    bad_rows, triplets = BadRows(skip=True), []
    for pair in pairs:
        try:
            ids = encoded(pair, cfg, renderer)
            if not ids.response:
                raise BadRow("its response holds no token")
            triplets.append(Triplet(pair.id, "heldout", 0, ids.prompt, {ROLE: ids.response}))
        except BadRow as bad:
            bad_rows.add(f"the row with {pair.prompt[:60]!r}", bad)
    why = "; ".join(bad_rows.reasons)
    if not triplets:
        raise ValueError(f"{cfg.name}: none of {len(pairs)} pairs can be scored: {why}")
    if why:
        log.warning("%s: %d of %d pairs left out: %s", cfg.name, bad_rows.number, len(pairs), why)
    return triplets


def _initial(cfg: Run, begins: str) -> Path:
    """The folder of theta_0. begins: digest of its weights"""
    weights.check_reachable(cfg.model)
    folder = weights.fetch(cfg.model)
    if (now := weights.weight_digest(folder)) != begins:
        raise ValueError(
            f"model.path={cfg.model.path} holds other weights than {cfg.name} began with (digest "
            f"{begins[:12]}, now {now[:12]}): put those back"
        )
    return folder


def _rows(
    policies: Policies, folder: Path, triplets: Sequence[Triplet], cfg: Run, name: str
) -> Rows:
    size, max_tokens = cfg.compute.score_batch, cfg.compute.max_tokens
    batches = micro_batches(triplets, [ROLE], size=size, max_tokens=max_tokens)
    with finite.named(folder):
        logps, _ = score(policies.to_infer(folder), batches, (ROLE,), label=f"{name}: score")
    policies.forget()
    return [
        {"id": x.id, "role": ROLE, "logp": logps[x.id, x.source, ROLE],
         "num_tokens": len(x.responses[ROLE])}
        for x in triplets
    ]  # fmt: skip
