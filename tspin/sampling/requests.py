"""What an engine gets and gives, whichever engine it is. No torch.

A request is a prompt and the seed of its response. An engine responds to requests in batches: the
policy in this process (native.Native), or vLLM in a process of its own (vllm.VLLM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tspin.config.run import DecodingConfig
from tspin.data.tokens import Renderer
from tspin.tools.seeds import seed_for

Done = Callable[[int], object]  # called with the number of responses that have ended since
MAX_PARTS = 50  # a restart repeats at most one of them
BATCHES_PER_PART = 4  # at least, where there are as many: rows that end early make room for others


@dataclass(frozen=True)
class Request:
    """A prompt that wants a response.

    prompt       its ids
    seed         of the response (see `sample_seed`); None: greedy
    temperature  of the draw
    """

    prompt: Sequence[int]
    seed: int | None
    temperature: float


Batches = Iterable[tuple[int, Sequence[Request]]]  # each with a key of its own


@dataclass(frozen=True)
class Draws:
    """The responses of the policy that samples for iteration t, as `seed` decides them."""

    decoding: DecodingConfig
    seed: int
    t: int

    def seed_of(self, prompt_id: str, *, draw: int = 0) -> int:
        """Of a prompt's response. draw: further ones for further responses"""
        return sample_seed(self.seed, self.t, prompt_id, draw=draw)


class Engine(Protocol):
    """What responses come from."""

    @property
    def renderer(self) -> Renderer:
        """How ids become text, and which of them end a response."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a record of the samples should say of their maker; complete after the last batch."""

    @property
    def central(self) -> bool:
        """Whether one process asks for all: it is another program, which divides work itself."""

    def respond(
        self, batches: Batches, how: DecodingConfig, *, done: Done
    ) -> Iterator[tuple[int, list[list[int]]]]:
        """(key, response ids of each request) of every batch, in whatever order they end.

        Response ids include the stop id that ended them.
        """


def sample_seed(seed: int, t: int, prompt_id: str, *, draw: int = 0) -> int:
    """The seed of a prompt's response at iteration t: 63 bits, a function of these alone.

    draw  further ones for further responses; the first is the one that is trained on
    """
    return seed_for(seed, "generate", t, prompt_id, *([draw] if draw else []))


def parts(
    prompts: Mapping[str, Sequence[int]], batch_size: int, *, draws: int = 1
) -> list[list[str]]:
    """The ids of the prompts in parts of alike lengths, which depend on nothing else.

    What is sampled together is in one part, whoever samples it. Longest first: what needs the most
    memory comes first.

    draws  responses to each prompt
    """
    order = sorted(prompts, key=lambda i: (-len(prompts[i]), i))
    num_parts = min(MAX_PARTS, -(-len(order) * draws // (batch_size * BATCHES_PER_PART)))
    size = -(-len(order) // max(num_parts, 1))
    return [order[i : i + size] for i in range(0, len(order), max(size, 1))]


def response_row(renderer: Renderer, prompt_id: str, response_ids: list[int]) -> dict[str, Any]:
    """A sampled response as a row of artifacts.RESPONSES."""
    return {
        "id": prompt_id,
        "response": renderer.text(response_ids),
        "response_ids": response_ids,
        "num_tokens": len(response_ids),
        "finish_reason": "stop" if response_ids[-1] in renderer.stop_ids else "length",
    }


def check_response(ids: Any, *, stop: Sequence[int], max_new_tokens: int) -> None:
    """ValueError for what no policy could have said under these rules.

    Another program's answers are looked at before they are trained on: a server that stops at ids
    of its own, or cuts at its own length, would teach false stops unnoticed.
    """
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(f"a response is {ids!r:.80}, not token ids")
    if len(ids) > max_new_tokens:
        raise ValueError(f"a response has {len(ids)} tokens, more than {max_new_tokens=}")
    early = next((k for k, i in enumerate(ids[:-1]) if i in stop), None)
    if early is not None:
        raise ValueError(f"a response goes on behind the stop id {ids[early]}")
    if ids[-1] not in stop and len(ids) < max_new_tokens:
        raise ValueError(
            f"a response ended after {len(ids)} of {max_new_tokens} tokens, with the id {ids[-1]}, "
            f"which is no stop id ({', '.join(map(str, stop))})"
        )
