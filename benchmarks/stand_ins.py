"""What stands for the model where a run is measured without its arithmetic: benchmarks.scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tspin.data.triplets import Triplet
    from tspin.objectives import Logps, Role

# torch is imported where it is used: benchmarks.scale measures a process that begins without it.

LENGTHS = (50, 450), (50, 500)  # tokens of a prompt and of a response, uniform: 250 and 275


def write_pairs(path: Path, rows: int, shape: str) -> None:
    import numpy as np

    from benchmarks.shapes import SHAPES
    from tspin.tools.files import atomic

    random, vocab = np.random.default_rng(0), SHAPES[shape].vocab

    def text(low: int, high: int) -> str:
        ids = random.integers(2, vocab - 1, random.integers(low, high))
        return " ".join(f"w{i}" for i in ids.tolist())

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("w") as file:
        for _ in range(rows):
            prompt, response = (text(*lengths) for lengths in LENGTHS)
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")


def write_model(path: Path, shape: str) -> None:
    """The vocabulary of a real one, and hardly any weights."""
    from benchmarks.shapes import SHAPES, Llama

    vocab = SHAPES[shape].vocab
    small = Llama(vocab, 8, 8, layers=1, heads=1, kv_heads=1, head_dim=8, tied=True)
    small.model("cpu").save_pretrained(path)
    small.tokenizer().save_pretrained(path)


class Drawn:
    """A requests.Engine whose responses are functions of their seeds."""

    central = False

    def __init__(self, renderer: Any) -> None:
        self.renderer, self.facts = renderer, {"engine": "drawn"}

    def respond(
        self, batches: Any, how: Any, *, done: Callable[[int], object]
    ) -> Iterator[tuple[int, list[list[int]]]]:
        for key, requests in batches:
            yield key, [self._response(request.seed) for request in requests]
            done(len(requests))

    def _response(self, seed: int) -> list[int]:
        import numpy as np

        random, eos = np.random.default_rng(seed), self.renderer.eos_id
        return [*random.integers(2, eos, random.integers(*LENGTHS[1]) - 1).tolist(), eos]


def made_up(policy: Any, triplets: Sequence[Triplet], roles: Sequence[Role]) -> Logps:
    """About 1 nat a token, and something of the ids themselves."""
    import torch

    from tspin.objectives import Logps

    logps = {}
    for role in roles:
        ids = [list(triplet.responses[role]) for triplet in triplets]
        logps[role] = torch.tensor([-len(x) - x[0] / 1e5 for x in ids], dtype=torch.float64)
    return Logps().with_values(logps)


def made_up_tokens(
    policy: Any, triplets: Sequence[Triplet], roles: Sequence[Role]
) -> tuple[Logps, EqualParts]:
    """The same, in equal parts for the tokens."""
    logps = made_up(policy, triplets, roles)
    return logps, EqualParts(logps, triplets, roles)


@dataclass(frozen=True)
class EqualParts:
    """Log-probabilities of the tokens of each response, made where they are asked for: the few that
    are kept take the time of a model, and no other does here."""

    logps: Logps
    triplets: Sequence[Triplet]
    roles: Sequence[Role]

    def __getitem__(self, i: int) -> Any:
        import torch

        number, of = divmod(i, len(self.roles))
        role = self.roles[of]
        length = len(self.triplets[number].responses[role])
        return torch.full((length,), float(self.logps[role][number]) / length)


def walk(
    strategy: Any, optimizer: Any, batch: Sequence[Triplet], recipe: Any, cut: Any, **_: Any
) -> tuple[dict[str, float], Any]:
    """step.gradient_step as far as the loss."""
    import torch

    from tspin.data.triplets import num_tokens
    from tspin.objectives import mean_metrics

    losses, metrics, roles = [], [], recipe.loss.roles
    for triplets in cut.micro_batches(batch, roles):
        logps = made_up(strategy.policy, triplets, roles)
        values, facts = recipe.loss(logps, recipe.reference_logps(triplets, logps))
        losses.append(values)
        metrics.append(facts)
    numbers = {"loss": float(torch.cat(losses).mean()), **mean_metrics(metrics), "grad_norm": 0.0}
    tokens = num_tokens(batch, roles)
    return numbers | {"num_examples": len(batch), "num_tokens": tokens}, cut
