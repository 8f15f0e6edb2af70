"""How an instruction is said, read in both directions: values to a text, and a text to its values.

    Wording("[Use|Write] [exactly|precisely] {count} words.", {"count": r"\\d+"})

stands for four phrasings. Brackets hold alternatives, of which one may be empty; braces hold slots.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

Values = Mapping[str, str]
T = TypeVar("T")
PARTS = re.compile(r"\[([^\]]*)\]|\{(\w+)\}")


def pick(rng: random.Random, choices: Sequence[T]) -> T:
    """One of them: of the one method whose stream Python promises to keep."""
    return choices[int(rng.random() * len(choices))]


@dataclass(frozen=True)
class Wording:
    """A template, and for each of its slots a pattern of what may stand there."""

    template: str
    slots: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def phrasings(self) -> int:
        """How many texts it stands for, with the slots filled one way."""
        alternatives = (part[1] for part in PARTS.finditer(self.template) if part[1] is not None)
        return math.prod(text.count("|") + 1 for text in alternatives)

    def say(self, values: Values, rng: random.Random) -> str:
        """One of the phrasings with these values."""

        def chosen(part: re.Match[str]) -> str:
            if part[2] is not None:
                return values[part[2]]
            alternatives = part[1].split("|")
            return pick(rng, alternatives)

        return PARTS.sub(chosen, self.template)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches every phrasing; its groups are the slots."""
        pattern, end = "", 0
        for part in PARTS.finditer(self.template):
            pattern += re.escape(self.template[end : part.start()])
            if part[2] is not None:
                pattern += f"(?P<{part[2]}>{self.slots[part[2]]})"
            else:
                pattern += f"(?:{'|'.join(map(re.escape, part[1].split('|')))})"
            end = part.end()
        return re.compile(pattern + re.escape(self.template[end:]))
