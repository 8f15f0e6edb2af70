"""Annotated answers about a topic: sentences of its facts, chosen until all constraints hold.

Candidates are drawn and judged by the constraints' own checks, so that what is annotated is right
by the program that judges everybody.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from tspin.verifiable.constraints import Constraint, Plan
from tspin.verifiable.texts import ADVERBS, TOPICS
from tspin.verifiable.wordings import Values, pick

Wanted = Sequence[tuple[Constraint, Values]]
ATTEMPTS = 400
MENTIONS = (  # right with any word
    "Some people link them with {}.",
    "The word {} goes well with them.",
    "They bring the word {} to mind.",
    "Stories about them often have the word {}.",
)
# Who is last: small or capital letters are of all that stands there, quotation marks around it.
LAST_CHANGES = ("case", "around")


def holds(text: str, wanted: Wanted) -> list[bool]:
    """Whether a text meets each. What one has put around the text is no part of it for the rest."""
    inside = text
    for constraint, values in wanted:
        inside = constraint.inner(inside, values)
    return [
        constraint.holds(text if constraint.group == "around" else inside, values)
        for constraint, values in wanted
    ]


def change(text: str, wanted: Wanted) -> str:
    """The last changes to a text, in an order in which none undoes another."""
    for constraint, values in sorted(wanted, key=lambda pair: _turn(pair[0])):
        text = constraint.change(text, values)
    return text


def _turn(constraint: Constraint) -> int:
    return LAST_CHANGES.index(constraint.group) if constraint.group in LAST_CHANGES else -1


def write(topic: str, wanted: Wanted, rng: random.Random) -> str | None:
    """A text about the topic that meets all; None where ATTEMPTS candidates did not."""
    plan = Plan()
    for constraint, values in wanted:
        constraint.plan(plan, values)
    for _ in range(ATTEMPTS):
        units = _units(topic, plan, rng)
        if units is not None and all(holds(text := change(_laid_out(units, plan), wanted), wanted)):
            return text
    return None


def _units(topic: str, plan: Plan, rng: random.Random) -> list[str] | None:
    """Sentences; None where the plan has more that are fixed than it has room for."""
    first = [f"{plan.first.capitalize()} is a word that suits {topic}."] if plan.first else []
    ways = sorted(MENTIONS, key=lambda _: rng.random())
    middle = [way.format(word) for way, word in zip(ways, plan.include, strict=False)]
    last = [f"One word for them is {plan.last}."] if plan.last else []
    fixed = len(first) + len(middle) + len(last)
    units = plan.units or max(fixed, 1 + int(rng.random() * 3))
    if fixed > units:
        return None
    facts = sorted(TOPICS[topic], key=lambda _: rng.random())
    free = [_sentence(facts, rng) for _ in range(units - fixed)]
    rest = [*free, *middle, *last]
    if not first:  # the first sentence names the topic
        rest[0] = re.sub(r"\b[Tt]hey\b|\bthem\b", topic, rest[0])
        rest[0] = f"{rest[0][0].upper()}{rest[0][1:]}"
    return [*first, *rest]


def _sentence(facts: list[str], rng: random.Random) -> str:
    """One fact or two, which are taken from the list, maybe with an adverb."""
    adverb = f" {pick(rng, ADVERBS)}" if rng.random() < 0.4 else ""
    number = 2 if rng.random() < 0.3 and len(facts) > 1 else 1
    chosen = [facts.pop() for _ in range(number)] if len(facts) >= number else ["deserve a thought"]
    return f"They{adverb} {' and '.join(chosen)}."


def _laid_out(units: list[str], plan: Plan) -> str:
    if plan.layout == "text":
        return " ".join(units)
    marks = (f"{i}. " if plan.layout == "#" else plan.layout for i in range(1, len(units) + 1))
    return "\n".join(mark + unit for mark, unit in zip(marks, units, strict=True))
