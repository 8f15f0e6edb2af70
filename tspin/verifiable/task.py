"""The task `verifiable`: prompts, annotated answers, splits, and who is right.

A prompt is a question, or a topic with constraints, in sentences of one family each:

    Write about owls. Use exactly 12 words. Do not use the letter "z".
    Read this: "On Friday Ines bought a white kite in Quito." Who bought it? Give only the name.
    Use capital letters only.

No two splits share an instance: what a prompt asks, however it is worded. Families in HELD_OUT and
a fifth of the combinations of families are in no prompt but those of "test": what is learned by
heart and what is carried over are told apart by `kind`.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tspin.verifiable import writing
from tspin.verifiable.constraints import CONSTRAINTS, Constraint
from tspin.verifiable.questions import QUESTIONS, Question
from tspin.verifiable.texts import TOPICS
from tspin.verifiable.wordings import Values, Wording, pick

SPLITS = {"train": 80, "validation": 8, "test": 12}  # percent of the instances
HELD_OUT = ("position", "numbered")  # families of test alone
HELD_OUT_PERCENT = 20  # of the combinations
KINDS = ("known", "combination", "family")  # of a test prompt; all others are of the first
TEST_KINDS = ("known", "known", "combination", "family")  # of the prompts of test, again and again
ABOUT = Wording(
    "[Write|Write something|Write a text|Write a short text|Tell me something|Tell us something|"
    "Say something|Give me a text|Make up a text|Talk to me] about {topic}.",
    {"topic": "|".join(TOPICS)},
)
QUESTION_PERCENT = 30  # of the prompts; the others have a topic
NUMBERS = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)  # of the constraints of a topic
FREQUENT = (  # twice as likely: what a small model can do (docs/verifiable.md)
    "words_at_most", "words_at_least", "avoid_word", "avoid_letter", "no_commas", "first_word",
    "opening",
)  # fmt: skip
LIMIT = 200_000  # pairs of one list
MOST = 3  # constraints of a prompt


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: a question or a topic, and constraints on the form of the answer."""

    head: Question | None  # None: a topic
    values: Values  # of the head
    constraints: tuple[tuple[Constraint, Values], ...]

    @property
    def families(self) -> tuple[str, ...]:
        """Names, as an answer is judged by them; a topic asks for nothing that can be judged."""
        head = () if self.head is None else (self.head.name,)
        return (*head, *(constraint.name for constraint, _ in self.constraints))

    @property
    def kind(self) -> str:
        """One of KINDS."""
        if set(self.families) & set(HELD_OUT):
            return "family"
        together = "+".join(sorted(self.families))
        held_out = len(self.families) > 1 and _percentile(together) < HELD_OUT_PERCENT
        return "combination" if held_out else "known"

    @property
    def split(self) -> str:
        """The one split that it belongs to."""
        return "test" if self.kind != "known" else _split_of(self._instance())

    def _instance(self) -> str:
        """What it asks, whatever the order of its constraints and the words."""
        head = (None if self.head is None else self.head.name, sorted(self.values.items()))
        constraints = sorted((c.name, sorted(values.items())) for c, values in self.constraints)
        return repr((head, constraints))

    def prompt(self, rng: random.Random) -> str:
        """In one of its wordings."""
        head = ABOUT if self.head is None else self.head.wording
        sentences = [head.say(self.values, rng)]
        sentences += [c.wording.say(values, rng) for c, values in self.constraints]
        return " ".join(sentences)

    def annotate(self, rng: random.Random) -> str | None:
        """A right answer; None where none was met with."""
        if self.head is None:
            return writing.write(self.values["topic"], self.constraints, rng)
        text = writing.change(self.head.answer(self.values), self.constraints)
        return text if all(self.judge(text).values()) else None

    def judge(self, response: str) -> dict[str, bool]:
        """Family -> whether the response does what it asks; one that is empty does nothing."""
        text = response.strip()
        if not text:
            return dict.fromkeys(self.families, False)
        follows = writing.holds(text, self.constraints)
        verdicts = dict(zip((c.name for c, _ in self.constraints), follows, strict=True))
        if self.head is None:
            return verdicts
        for constraint, values in self.constraints:
            text = constraint.inner(text, values)
        return {self.head.name: self.head.right(text, self.values)} | verdicts


@dataclass(frozen=True)
class Verdict:
    """Of one response to one prompt. strict, loose: family -> whether it does what is asked

    loose takes the first or the last line away, or marks of emphasis, where that helps (IFEval,
    arXiv 2311.07911, section 2.2).
    """

    kind: str
    strict: dict[str, bool]
    loose: dict[str, bool]


def pairs(split: str, n: int, seed: int) -> list[tuple[str, str]]:
    """The first n (prompt, annotated answer) pairs of one seeded list over the split.

    Nested: pairs(s, 2 * n, seed)[:n] == pairs(s, n, seed). Prompts are unique. Raises ValueError
    for an unknown split, a negative n, or more than LIMIT.
    """
    if not 0 <= n <= num_available(split):
        raise ValueError(f"n={n} pairs of the verifiable split {split!r}: 0 to {LIMIT}")
    return list(itertools.islice(_listed(split, seed), n))


def num_available(split: str) -> int:
    """How many pairs can be asked of a split."""
    if split not in SPLITS:
        raise ValueError(f"no verifiable split {split!r}: choose one of {', '.join(SPLITS)}")
    return LIMIT


def check(prompt: str, response: str) -> bool | None:
    """Whether the response does all that is asked, strictly; None if the prompt is not ours."""
    request = parse(prompt)
    return None if request is None else all(request.judge(response).values())


def verdict(prompt: str, response: str) -> Verdict:
    """Family by family, strictly and loosely. ValueError for a prompt that is not ours."""
    request = parse(prompt)
    if request is None:
        raise ValueError(f"no prompt of the task verifiable: {prompt[:100]!r}")
    strict, *others = (request.judge(text) for text in _variants(response))
    loose = {name: any(follows[name] for follows in (strict, *others)) for name in strict}
    return Verdict(request.kind, strict, loose)


def parse(prompt: str) -> Request | None:
    """What a prompt asks for, or None if it is no prompt of this task."""
    for head, match in _heads(prompt):
        constraints = _constraints(prompt[match.end() :])
        if constraints is not None:
            return Request(head, match.groupdict(), constraints)
    return None


# Reading


def _heads(prompt: str) -> Iterator[tuple[Question | None, re.Match[str]]]:
    """Whatever the prompt may begin with."""
    for head, wording in ((None, ABOUT), *((question, question.wording) for question in QUESTIONS)):
        if (match := wording.pattern.match(prompt)) is not None:
            yield head, match


def _constraints(rest: str, most: int = MOST) -> tuple[tuple[Constraint, Values], ...] | None:
    """Of the sentences behind the head, each behind a blank; None if one is no constraint."""
    if not rest:
        return ()
    if not most:
        return None
    for constraint in CONSTRAINTS:
        match = constraint.wording.pattern.match(rest, 1) if rest[0] == " " else None
        if (
            match is not None
            and (others := _constraints(rest[match.end() :], most - 1)) is not None
        ):
            return ((constraint, match.groupdict()), *others)
    return None


def _variants(response: str) -> list[str]:
    """The response, and what the loose verdict also looks at."""
    lines = response.strip().splitlines()
    parts = [response, *("\n".join(lines[a:b]) for a, b in ((1, None), (None, -1), (1, -1)))]
    return [*parts, *(part.replace("*", "") for part in parts)]


# Drawing


def _listed(split: str, seed: int) -> Iterator[tuple[str, str]]:
    """The whole list behind `pairs`."""
    seen, kinds = set(), itertools.cycle(TEST_KINDS if split == "test" else ("known",))
    kind = next(kinds)
    for number in itertools.count():
        rng = random.Random(f"{split}/{seed}/{number}")
        request = _drawn(rng)
        if request.kind != kind or request.split != split:
            continue
        prompt, answer = request.prompt(rng), request.annotate(rng)
        if answer is None or prompt in seen:
            continue
        seen.add(prompt)
        kind = next(kinds)
        yield prompt, answer


def _drawn(rng: random.Random) -> Request:
    """Any request; most questions stand alone."""
    if 100 * rng.random() < QUESTION_PERCENT:
        head = pick(rng, QUESTIONS)
        values = head.draw(rng)
        number = int(rng.random() < min(0.5, 0.15 * len(head.goes_with)))
        choices = [constraint for constraint in CONSTRAINTS if constraint.name in head.goes_with]
    else:
        head, values = None, {"topic": pick(rng, [*TOPICS])}
        number, choices = pick(rng, NUMBERS), list(CONSTRAINTS)
    chosen: list[Constraint] = []
    for constraint in sorted(choices, key=lambda c: rng.random() / (1 + (c.name in FREQUENT))):
        if len(chosen) < number and constraint.group not in {other.group for other in chosen}:
            chosen.append(constraint)
    return Request(head, values, tuple((constraint, constraint.draw(rng)) for constraint in chosen))


def _split_of(instance: str) -> str:
    """By its digest: the same on every machine."""
    percentile = _percentile(instance)
    for split, percent in SPLITS.items():
        if percentile < percent:
            return split
        percentile -= percent
    raise AssertionError("SPLITS must sum to 100")


def _percentile(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
