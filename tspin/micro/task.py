"""The micro task: short instructions on a word or on numbers, generated and checked by program.

Eight families with two wordings each. Six work on a word of alternating consonants and vowels (3 to
5 letters), two on a set of three two-digit numbers. `Sort the letters of "zimom".` -> `immoz`.

Two families of the scratch study behind this task are replaced: policies of this size hardly learn
them, so they would mostly measure noise. "Add two numbers" (1 to 12% after training) is now "the
largest of three", and "letter k" (6 to 34%) is now "double the last letter". Both replacements can
be learned and still be got wrong.

A content (the word, or the unordered set of numbers) belongs to exactly one split, whatever the
family, wording or order of the numbers: no prompt, and no word, is in two splits.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tspin.micro import splits

CONSONANTS = "bcdfghjklmnpqrstvwxyz"
VOWELS = "aeiou"
LENGTHS = (3, 4, 5)
NUMBERS = range(10, 100)

Content = str | tuple[int, ...]  # a word, or three numbers in the order the prompt names them
Operation = Callable[[Any], str]  # from the content of a prompt to an answer


@dataclass(frozen=True)
class Family:
    """One operation: its two wordings, and the one right answer for a content."""

    name: str
    kind: str  # "word" or "numbers"
    forms: tuple[str, str]
    answer: Operation


def _shift(word: str) -> str:
    """Each letter becomes the next of the alphabet, z becomes a."""
    return "".join(chr((ord(letter) - ord("a") + 1) % 26 + ord("a")) for letter in word)


def join(numbers: Iterable[int]) -> str:
    """How an answer lists several numbers: 12 45 78."""
    return " ".join(map(str, numbers))


FAMILIES = (
    Family(
        "reverse",
        "word",
        ('Reverse the word "{}".', 'Write "{}" backwards.'),
        lambda word: word[::-1],
    ),
    Family(
        "sort",
        "word",
        ('Sort the letters of "{}".', 'Put the letters of "{}" in order.'),
        lambda word: "".join(sorted(word)),
    ),
    Family(
        "capitals",
        "word",
        ('Write "{}" in capitals.', 'Capitalize every letter of "{}".'),
        lambda word: word.upper(),
    ),
    Family(
        "remove_first",
        "word",
        ('Remove the first letter of "{}".', 'Write "{}" without its first letter.'),
        lambda word: word[1:],
    ),
    Family(
        "double_last",
        "word",
        ('Double the last letter of "{}".', 'Write "{}" with its last letter twice.'),
        lambda word: word + word[-1],
    ),
    Family(
        "shift",
        "word",
        ('Shift every letter of "{}" by one.', 'Replace every letter of "{}" by the next.'),
        _shift,
    ),
    Family(
        "largest",
        "numbers",
        ("Give the largest of {}, {}, {}.", "Which of {}, {}, {} is the largest?"),
        lambda numbers: str(max(numbers)),
    ),
    Family(
        "order",
        "numbers",
        ("Order the numbers {}, {}, {}.", "Put the numbers {}, {}, {} in order."),
        lambda numbers: join(sorted(numbers)),
    ),
)


def pairs(split: str, n: int, seed: int) -> list[tuple[str, str]]:
    """The first n (prompt, right answer) pairs of one seeded list over the split.

    Nested: pairs(s, 2 * n, seed)[:n] == pairs(s, n, seed). Families take turns, so their counts
    differ by at most one, and within a family the two wordings take turns. Prompts are unique, and
    a family never meets a content twice. Word lengths start out equally frequent; a very long list
    runs out of short words first.

    Raises ValueError for an unknown split, a negative n, or more pairs than the split holds.
    """
    splits.check_available("micro", split, n, num_available)
    return list(itertools.islice(_pairs(split, seed), n))


def num_available(split: str) -> int:
    """The number of pairs a split holds: every family once on as many contents as all can have."""
    return len(FAMILIES) * min(len(_contents(family.kind)[split]) for family in FAMILIES)


def check(prompt: str, response: str) -> bool | None:
    """Whether the response, stripped, is exactly the right answer; None if the prompt is not ours.

    The answer is recomputed from the text of the prompt alone.
    """
    if (parsed := parse(prompt)) is None:
        return None
    family, content = parsed
    return response.strip() == family.answer(content)


def canonical(prompt: str, response: str) -> str | None:
    """The right answer where the response is it, else None."""
    return response.strip() if check(prompt, response) else None


def parse(prompt: str) -> tuple[Family, Content] | None:
    """The family and content that a prompt names, or None if it is no prompt of this task."""
    for family, pattern in _patterns():
        if match := pattern.fullmatch(prompt):
            slots = match.groups()
            return family, slots[0] if family.kind == "word" else tuple(map(int, slots))
    return None


def split_of(content: Content) -> str:
    """The one split a word or a set of numbers belongs to; the order of the numbers is ignored."""
    text = content if isinstance(content, str) else join(sorted(content))
    return splits.split_of(text)


def _pairs(split: str, seed: int) -> Iterator[tuple[str, str]]:
    """The whole list behind `pairs`, made as it is read."""
    orders = [_shuffled(family, split, seed) for family in FAMILIES]
    for turn, contents in enumerate(zip(*orders, strict=False)):
        for family, content in zip(FAMILIES, contents, strict=True):
            slots = [content] if isinstance(content, str) else content
            yield family.forms[turn % 2].format(*slots), family.answer(content)


def _shuffled(family: Family, split: str, seed: int) -> Iterator[Content]:
    """The contents of a split in the seeded order of one family, drawn without replacement.

    Each draw takes a length first: nine words in ten have five letters.
    """
    rng = random.Random(f"{family.name}/{split}/{seed}")

    def below(n: int) -> int:
        return int(rng.random() * n)  # the one method whose stream Python promises to keep

    pools = [list(pool) for pool in _by_length(family.kind, split)]
    while pools:
        pool = pools[below(len(pools))]
        chosen = below(len(pool))
        pool[chosen], pool[-1] = pool[-1], pool[chosen]
        content = pool.pop()
        if not pool:
            pools.remove(pool)
        if isinstance(content, str):
            yield content
        else:
            yield tuple(sorted(content, key=lambda _: rng.random()))


@cache
def _by_length(kind: str, split: str) -> list[list[Content]]:
    """The contents of a split, those of one length together; sets of numbers have one, 3."""
    pools: dict[int, list[Content]] = {}
    for content in _contents(kind)[split]:
        pools.setdefault(len(content), []).append(content)
    return list(pools.values())


@cache
def _contents(kind: str) -> dict[str, list[Content]]:
    """Split -> its contents of a kind, in a fixed order; hashed once, a third of a second."""
    by_split: dict[str, list[Content]] = {split: [] for split in splits.SPLITS}
    every: Iterable[Content] = _words() if kind == "word" else itertools.combinations(NUMBERS, 3)
    for content in every:
        by_split[split_of(content)].append(content)
    return by_split


def _words() -> Iterator[str]:
    """Every word: 3 to 5 letters, consonants and vowels in turn, either first."""
    for length in LENGTHS:
        for alphabets in ((CONSONANTS, VOWELS), (VOWELS, CONSONANTS)):
            letters = itertools.islice(itertools.cycle(alphabets), length)
            yield from map("".join, itertools.product(*letters))


def forms() -> list[str]:
    """All wordings, with {} where a content goes."""
    return [form for family in FAMILIES for form in family.forms]


@cache
def _patterns() -> tuple[tuple[Family, re.Pattern], ...]:
    """One pattern per wording; its groups are the content."""
    slots = {"word": f"([a-z]{{{LENGTHS[0]},{LENGTHS[-1]}}})", "numbers": "([1-9][0-9])"}
    return tuple(
        (family, re.compile(re.escape(form).replace(r"\{\}", slots[family.kind])))
        for family in FAMILIES
        for form in family.forms
    )
