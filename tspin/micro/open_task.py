"""The open micro task: instructions with many right answers, generated and checked by program.

Three prompts in four ask for one to three words that one to three constraints narrow down; the
fourth asks for a number of a range with a property:

    Give two words starting with "b", without "e". Use capitals.   -> BADU BOKIS
    Write down a number from 20 to 61, divisible by 5.             -> 45

Any letters that meet the constraints are right. The annotated answer is a teacher's, who knows 4000
words and says some of them far more often than others.

A set of constraints belongs to exactly one split, whatever the wording, the number of words or
their style: what a policy is judged on was never asked of it in any form.
"""

from __future__ import annotations

import itertools
import random
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from tspin.micro import splits, task

LENGTHS = task.LENGTHS  # letters of a word
NUMBERS = range(10, 100)
MIN_WIDTH = 20  # of a range, from its lowest number to its highest
NUM_WORDS = 4000  # that the teacher knows
MIN_KNOWN = 8  # of them, or of the numbers, that meet all constraints of a prompt
MAX_CONSTRAINTS = 3  # of a prompt for words

# Zipf-like: the teacher says the word of rank r with weight 1 / (FLAT + r), any number equally.
FLAT = 20

WORDINGS = ("Give", "Write down")
COUNTED = {
    ("word", 1): "a word",
    ("word", 2): "two words",
    ("word", 3): "three words",
    ("number", 1): "a number",
}
STYLES = {
    "word": {"plain": "", "capitals": " Use capitals.", "dot": " End with a dot."},
    "number": {"plain": "", "dot": " End with a dot."},
}

# How many constraints the word prompts of a list have, in turn: a hundred single constraints make
# thousands of sets.
TURNS = (3, 2, 3, 1, 2, 3)

Holds = Callable[[str], bool]  # of one word or number


@dataclass(frozen=True)
class Request:
    """What a prompt asks for."""

    noun: str  # "word" or "number"
    count: int  # how many different ones
    constraints: tuple[str, ...]  # as the prompt says them; each word has to meet all
    style: str
    wording: str

    def prompt(self) -> str:
        """The instruction."""
        counted, ending = COUNTED[self.noun, self.count], STYLES[self.noun][self.style]
        return f"{self.wording} {counted} {', '.join(self.constraints)}.{ending}"

    def response(self, items: Sequence[str]) -> str:
        """The answer that lists these words or this number."""
        text = " ".join(items)
        return {"plain": text, "capitals": text.upper(), "dot": f"{text}."}[self.style]

    def items(self, response: str) -> list[str] | None:
        """The inverse: the words or the number of a right answer; None if it is not right."""
        items = response.lower().removesuffix(".").split(" ")
        as_listed = self.response(items) == response and len(items) == self.count
        different = len(set(items)) == len(items)
        return items if as_listed and different and all(map(self._meets, items)) else None

    def _meets(self, item: str) -> bool:
        """Whether an item is what the noun says and meets every constraint."""
        is_one = re.fullmatch(ITEM[self.noun], item) is not None
        return is_one and all(_holds()[phrase](item) for phrase in self.constraints)


ITEM = {"word": f"[a-z]{{{LENGTHS[0]},{LENGTHS[-1]}}}", "number": "[1-9][0-9]"}


def pairs(split: str, n: int, seed: int) -> list[tuple[str, str]]:
    """The first n (prompt, teacher's answer) pairs of one seeded list over the split.

    Nested: pairs(s, 2 * n, seed)[:n] == pairs(s, n, seed). Prompts are unique; of every four, three
    ask for words. A very long list runs out of prompts with one constraint first. The answer
    depends on the prompt and the seed alone.

    Raises ValueError for an unknown split, a negative n, or more pairs than the split holds.
    """
    splits.check_available("micro_open", split, n, num_available)
    requests = itertools.islice(_listed(split, seed), n)
    return [(request.prompt(), teach(request, seed)) for request in requests]


def num_available(split: str) -> int:
    """The number of pairs a split holds, three of every four about words."""
    *words, numbers = _pools(split)
    return 4 * min(sum(map(len, words)) // 3, len(numbers))


def check(prompt: str, response: str) -> bool | None:
    """Whether the response, stripped, is a right answer; None if the prompt is not ours.

    Judged from the two texts alone: as many different words as asked for, each of LENGTHS letters
    and meeting every constraint, a space between them, in the style asked for, and nothing else.
    """
    request = parse(prompt)
    return None if request is None else request.items(response.strip()) is not None


def canonical(prompt: str, response: str) -> str | None:
    """A right answer in one spelling for all that say the same, else None.

    The same words in another order are the same answer.
    """
    request = parse(prompt)
    items = None if request is None else request.items(response.strip())
    return None if items is None else " ".join(sorted(items))


def parse(prompt: str) -> Request | None:
    """What a prompt asks for, or None if it is no prompt of this task."""
    match = _pattern().fullmatch(prompt)
    if match is None:
        return None
    wording, counted, listed, ending = match.groups()
    noun, count = next(key for key, words in COUNTED.items() if words == counted)
    style = next((style for style, words in STYLES[noun].items() if words == ending), None)
    constraints = tuple(listed.split(", "))
    if style is None or not is_set(noun, constraints):
        return None
    return Request(noun, count, constraints, style, wording)


def teach(request: Request, seed: int) -> str:
    """The teacher's answer: different ones of those it knows, drawn by weight."""
    rng = random.Random(f"{request.prompt()}/{seed}")
    known, cumulative = _known(request.noun, request.constraints)
    items: list[str] = []
    while len(items) < request.count:
        # rng.random() is the one method whose stream Python promises to keep.
        item = known[bisect(cumulative, rng.random() * cumulative[-1])]
        if item not in items:
            items.append(item)
    return request.response(items)


def is_set(noun: str, constraints: tuple[str, ...]) -> bool:
    """Whether these constraints, in this order, are a set that prompts name."""
    return constraints in _sets(noun)


def forms() -> list[str]:
    """Parts of prompts that together hold every word of them, each behind a space but the first."""
    heads = [f"{wording} {counted}" for wording in WORDINGS for counted in COUNTED.values()]
    phrases = [phrase for noun in ITEM for kind in _kinds(noun) for phrase in kind]
    endings = [ending for of in STYLES.values() for ending in of.values()]
    return [*heads, *(" " + re.sub('"."', "", phrase) for phrase in phrases), *endings]


# The lists of prompts


def _listed(split: str, seed: int) -> Iterator[Request]:
    """The whole list behind `pairs`, in blocks of three prompts for words and one for a number."""

    def shuffled(pool: list[Request], name: int) -> Iterator[Request]:
        rng = random.Random(f"{name}/{split}/{seed}")
        return iter(sorted(pool, key=lambda _: rng.random()))

    *words, numbers = (shuffled(pool, i) for i, pool in enumerate(_pools(split)))
    in_turn = _in_turn([words[num - 1] for num in TURNS])
    for block in zip(in_turn, in_turn, in_turn, numbers, strict=False):
        yield from block


def _in_turn(lists: list[Iterator[Request]]) -> Iterator[Request]:
    """One of each list after the other, again and again, passing over those at their end."""
    while lists:
        for one in list(lists):
            if (request := next(one, None)) is None:
                lists.remove(one)
            else:
                yield request


@cache
def _pools(split: str) -> tuple[list[Request], ...]:
    """All that a split can ask: for words with 1, 2, ... constraints, and last for numbers."""
    pools: tuple[list[Request], ...] = tuple([] for _ in range(MAX_CONSTRAINTS + 1))
    for noun in ITEM:
        counts = [count for of, count in COUNTED if of == noun]
        for constraints in _sets(noun):
            if splits.split_of(", ".join(constraints)) == split:
                pool = pools[-1 if noun == "number" else len(constraints) - 1]
                for count, style, wording in itertools.product(counts, STYLES[noun], WORDINGS):
                    pool.append(Request(noun, count, constraints, style, wording))
    return pools


# What there is to ask


@cache
def _known(noun: str, constraints: tuple[str, ...]) -> tuple[list[str], list[float]]:
    """What the teacher knows to be right, and the running sum of its weights."""
    met = f"{_sets(noun)[constraints]:b}"[::-1]
    ranks = [rank for rank, bit in enumerate(met) if bit == "1"]
    weights = (1 / (FLAT + rank) if noun == "word" else 1.0 for rank in ranks)
    items = _items(noun)
    return [items[rank] for rank in ranks], list(itertools.accumulate(weights))


@cache
def _sets(noun: str) -> dict[tuple[str, ...], int]:
    """Every set of constraints, in the order of a prompt -> which of _items meet it, as bits.

    At most one of a kind; each rules out something that those before it leave; at least MIN_KNOWN
    meet them all.
    """
    items, kinds = _items(noun), _kinds(noun)
    bits = {
        phrase: sum(1 << i for i, item in enumerate(items) if _holds()[phrase](item))
        for kind in kinds
        for phrase in kind
    }
    sizes = range(1, MAX_CONSTRAINTS + 1) if noun == "word" else (2,)  # a range and a property
    sets = {}
    for chosen in itertools.chain(*(itertools.combinations(kinds, size) for size in sizes)):
        for constraints in itertools.product(*chosen):
            left = [(1 << len(items)) - 1]
            for phrase in constraints:
                left.append(left[-1] & bits[phrase])
            if len(set(left)) == len(left) and left[-1].bit_count() >= MIN_KNOWN:
                sets[constraints] = left[-1]
    return sets


@cache
def _holds() -> dict[str, Holds]:
    """What each constraint of either noun asks of a word or number."""
    return {
        phrase: holds for noun in ITEM for kind in _kinds(noun) for phrase, holds in kind.items()
    }


@cache
def _kinds(noun: str) -> tuple[dict[str, Holds], ...]:
    """The constraints there are, as a prompt says them, in groups of which a prompt takes one."""
    if noun == "word":
        letters = sorted(task.CONSONANTS + task.VOWELS)
        return (
            _each(LENGTHS, "of {} letters", lambda n, word: len(word) == n),
            _each(letters, 'starting with "{}"', lambda letter, word: word.startswith(letter)),
            _each(letters, 'ending with "{}"', lambda letter, word: word.endswith(letter)),
            _each(letters, 'containing "{}"', lambda letter, word: letter in word),
            _each(letters, 'without "{}"', lambda letter, word: letter not in word),
        )
    ranges = [(a, b) for a, b in itertools.combinations(NUMBERS, 2) if b - a >= MIN_WIDTH]
    properties = (
        _each(("even", "odd"), "an {} one", lambda name, x: int(x) % 2 == (name == "odd")),
        _each(range(3, 10), "divisible by {}", lambda n, x: int(x) % n == 0),
        _each(range(10), "with the digit {}", lambda digit, x: str(digit) in x),
    )
    return (
        _each(ranges, "from {0[0]} to {0[1]}", lambda ends, x: ends[0] <= int(x) <= ends[1]),
        {phrase: holds for group in properties for phrase, holds in group.items()},
    )


def _each(values: Iterable[Any], phrase: str, test: Callable[[Any, str], bool]) -> dict[str, Holds]:
    """One constraint for each value: its phrase -> what it asks of a word or number."""
    return {phrase.format(value): partial(test, value) for value in values}


@cache
def _items(noun: str) -> list[str]:
    """The teacher's words by rank, spelled as in `task`, LENGTHS in turn; or all numbers."""
    if noun == "number":
        return list(map(str, NUMBERS))
    rng = random.Random("the teacher's words")
    taken = set(re.findall("[a-z]+", " ".join(forms())))  # the tokenizer has them in one piece
    words: dict[str, None] = {}
    while len(words) < NUM_WORDS:
        length = LENGTHS[len(words) % len(LENGTHS)]
        alphabets = itertools.cycle((task.CONSONANTS, task.VOWELS))
        if rng.random() < 0.5:
            next(alphabets)
        word = "".join(a[int(rng.random() * len(a))] for a in itertools.islice(alphabets, length))
        if word not in taken:
            words[word] = None
    return list(words)


@cache
def _pattern() -> re.Pattern[str]:
    """A prompt; its groups are the wording, noun and count, the constraints, the style's ending."""
    endings = {ending for of in STYLES.values() for ending in of.values()}
    wording, counted, ending = (
        "|".join(map(re.escape, choices)) for choices in (WORDINGS, COUNTED.values(), endings)
    )
    return re.compile(rf"({wording}) ({counted}) ([^.]+)\.({ending})")
