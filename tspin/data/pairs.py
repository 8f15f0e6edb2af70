"""Annotated pairs (x, y): of many rows the texts lie on the disk, and memory holds ids.

A pair's id is a digest of its content, so it names the same pair in every file and subset.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

from tspin.data.turns import Dialogue, Round
from tspin.tools.spill import Spill

Rounds = Literal["first", "last", "all"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt x and its annotated response y, with what is before them, if anything.

    system: the system message
    history: earlier rounds of the conversation, user text and assistant text
    id: 16 hex digits of the content; repeats of a row carry their occurrence, "-1", "-2"
    part: of the data in order of their time (data.shift), from 0; None where they have none
    """

    id: str
    prompt: str
    annotated: str
    system: str | None = None
    history: tuple[Round, ...] = ()
    part: int | None = None

    @property
    def opening(self) -> str:
        """The first prompt of the conversation."""
        return self.history[0][0] if self.history else self.prompt


class _Place(NamedTuple):
    """Where a pair is: its round of a conversation."""

    id: str
    conversation: Sequence[int]  # bytes of the system message and the rounds, as JSON
    round: int
    part: int | None


class Pairs(Sequence[Pair]):
    """Pairs in an order, each read from its conversation when it is asked for."""

    def __init__(self, places: Iterable[_Place] = ()) -> None:
        self._places = [*places]

    def take(self, numbers: Iterable[int]) -> Pairs:
        """Those at these places, in this order."""
        return Pairs(self._places[number] for number in numbers)

    def in_parts(self, parts: Iterable[int]) -> Pairs:
        """The same, each with its part."""
        return Pairs(
            place._replace(part=part) for place, part in zip(self._places, parts, strict=True)
        )

    @property
    def ids(self) -> list[str]:
        return [place.id for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Pair: ...
    @overload
    def __getitem__(self, number: slice) -> Pairs: ...
    def __getitem__(self, number: int | slice) -> Pair | Pairs:
        if isinstance(number, slice):
            return Pairs(self._places[number])
        place = self._places[number]
        system, rounds = json.loads(bytes(place.conversation).decode("utf-8", "surrogatepass"))
        *before, (prompt, annotated) = map(tuple, rounds[: place.round + 1])
        return Pair(place.id, prompt, annotated, system, (*before,), place.part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pairs) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]


class PairsBuilder:
    """Makes pairs of conversations, one after the other, with ids that are unique among them."""

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._seen: Counter[str] = Counter()
        self._texts = Spill()

    def add(self, dialogue: Dialogue, rounds: Rounds, part: int | None = None) -> int:
        """The round or rounds of a conversation that become pairs. -> their number"""
        last = len(dialogue.rounds) - 1
        chosen = range(last if rounds == "last" else 0, 1 if rounds == "first" else last + 1)
        names = [self._name(dialogue, i) for i in chosen]  # before there is another copy of it
        conversation = self._texts.keep(array("B", _written(dialogue)))
        self._places += [
            _Place(name, conversation, i, part) for name, i in zip(names, chosen, strict=True)
        ]
        return len(chosen)

    def _name(self, dialogue: Dialogue, number: int) -> str:
        """The id of a round's pair."""
        before = dialogue.rounds[:number]
        parts = (dialogue.system, *dialogue.rounds[number], *([before] if before else []))
        content = digest_of(*parts)[:16]
        repeat = f"-{self._seen[content]}" if self._seen[content] else ""
        self._seen[content] += 1
        return content + repeat

    def pairs(self) -> Pairs:
        """All of them so far."""
        return Pairs(self._places)


def _written(dialogue: Dialogue) -> bytes:
    """As `Pairs` reads it; half of a character, which no UTF-8 has, too."""
    text = json.dumps((dialogue.system, dialogue.rounds), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def digest_of(*parts: object) -> str:
    """sha256, in hex, of the parts as one JSON list; the same on every machine and day."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
