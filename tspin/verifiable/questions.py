"""Families of instructions with one right answer: arithmetic, order, counting, reading, choices.

Every one says what its answer is to consist of, so that an answer can be held against it: `right`
takes any spelling of the right one (12, 12., twelve) and no sentence around it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tspin.verifiable.texts import (
    COLORS,
    DAYS,
    GOODS,
    KINDS,
    NAMES,
    NUMBER_WORDS,
    ORDINALS,
    PLACES,
    THINGS,
)
from tspin.verifiable.wordings import Values, Wording

AROUND = ("quoted",)  # constraints that any answer of one item can go with
OF_WORDS = (*AROUND, "lowercase", "uppercase", "capitalized", "exclamation")
WORD, NUMBER, NAME = r"[a-z]+", r"\d+", r"[A-Z][a-z]+"


@dataclass(frozen=True)
class Question:
    """A family.

    answer  the annotated one
    right   whether a text, without what constraints have put around it, says the same
    goes_with  names of the constraints that may follow it
    """

    name: str
    wording: Wording
    draw: Callable[[random.Random], dict[str, str]]
    answer: Callable[[Values], str]
    right: Callable[[str, Values], bool]
    goes_with: tuple[str, ...] = AROUND


def _one(rng: random.Random, choices: Sequence[str]) -> str:
    return choices[int(rng.random() * len(choices))]


def _some(rng: random.Random, choices: Sequence[str], number: int) -> list[str]:
    return sorted(choices, key=lambda _: rng.random())[:number]


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


# Spellings


def _plain(text: str) -> str:
    """Small letters, single blanks, nothing around."""
    return " ".join(text.lower().split()).strip(" .!\"'*")


def _number(text: str) -> int | None:
    plain = _plain(text)
    if plain in NUMBER_WORDS:
        return NUMBER_WORDS.index(plain)
    return int(plain) if re.fullmatch(r"-?\d{1,9}", plain) else None


def _items(text: str) -> list[str]:
    """Of a list: commas, semicolons, lines, blanks or "and" between them, numbers before them."""
    text = re.sub(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s+", " ", text.lower())
    return [item for item in re.split(r"[^\w]+", text) if item and item != "and"]


def _is_number(expected: Callable[[Values], int]) -> Callable[[str, Values], bool]:
    return lambda text, v: _number(text) == expected(v)


def _is_text(expected: Callable[[Values], str]) -> Callable[[str, Values], bool]:
    return lambda text, v: _plain(text) == _plain(expected(v))


def _is_list(expected: Callable[[Values], list[str]]) -> Callable[[str, Values], bool]:
    return lambda text, v: _items(text) == [item.lower() for item in expected(v)]


# Numbers


def _two_numbers(low: int, high: int) -> Callable[[random.Random], dict[str, str]]:
    def draw(rng: random.Random) -> dict[str, str]:
        larger, smaller = sorted(_some(rng, [str(n) for n in range(low, high)], 2), key=int)[::-1]
        return {"a": larger, "b": smaller}

    return draw


def _in_words(rng: random.Random) -> dict[str, str]:
    a, b = sorted((_between(rng, 1, 10), _between(rng, 1, 10)), reverse=True)
    return {"a": NUMBER_WORDS[a], "b": NUMBER_WORDS[b]}


def _value(word: str) -> int:
    return NUMBER_WORDS.index(word)


def _sum(v: Values) -> int:
    return _value(v["a"]) + _value(v["b"])


def _difference(v: Values) -> int:
    return int(v["a"]) - int(v["b"])


def _larger(v: Values) -> int:
    return max(int(v["a"]), int(v["b"]))


def _shuffled_pair(rng: random.Random) -> dict[str, str]:
    a, b = _some(rng, [str(n) for n in range(10, 100)], 2)
    return {"a": a, "b": b}


def _numbers(rng: random.Random) -> dict[str, str]:
    return {"list": ", ".join(_some(rng, [str(n) for n in range(10, 100)], _between(rng, 3, 4)))}


def _listed(v: Values) -> list[str]:
    return v["list"].split(", ")


# Words


def _words(rng: random.Random) -> dict[str, str]:
    return {"list": ", ".join(_some(rng, THINGS, _between(rng, 3, 5)))}


def _counted(rng: random.Random) -> dict[str, str]:
    """Some things of a kind among others."""
    kind = _one(rng, list(KINDS))
    others = [thing for thing in THINGS if all(thing not in of for of in KINDS.values())]
    inside, outside = _some(rng, KINDS[kind], _between(rng, 1, 3)), _some(rng, others, 2)
    return {"kind": kind, "list": ", ".join(_some(rng, inside + outside, len(inside) + 2))}


def _count(v: Values) -> int:
    return sum(item in KINDS[v["kind"]] for item in _listed(v))


def _odd(rng: random.Random) -> dict[str, str]:
    """Three of a kind and one that is not."""
    kind = _one(rng, list(KINDS))
    other = _one(rng, [thing for of in KINDS.values() if of is not KINDS[kind] for thing in of
                       if thing not in KINDS[kind]])  # fmt: skip
    return {"kind": kind, "list": ", ".join(_some(rng, [*_some(rng, KINDS[kind], 3), other], 4))}


def _odd_one(v: Values) -> str:
    return next(item for item in _listed(v) if item not in KINDS[v["kind"]])


def _ordinal(rng: random.Random) -> dict[str, str]:
    things = _some(rng, THINGS, 5)
    return {"ordinal": _one(rng, ORDINALS), "list": ", ".join(things)}


def _letters(rng: random.Random) -> dict[str, str]:
    return {"word": _one(rng, [thing for thing in THINGS if len(thing) > 3])}


def _yes_or_no(rng: random.Random) -> dict[str, str]:
    kind = _one(rng, list(KINDS))
    of = KINDS[kind] if rng.random() < 0.5 else KINDS[_one(rng, [k for k in KINDS if k != kind])]
    thing = _one(rng, [t for t in of if sum(t in known for known in KINDS.values()) == 1])
    return {"thing": thing, "kind": kind}


def _is_of_kind(v: Values) -> str:
    return "yes" if v["thing"] in KINDS[v["kind"]] else "no"


# Reading


def _sale(rng: random.Random) -> dict[str, str]:
    return {
        "name": _one(rng, NAMES), "color": _one(rng, COLORS), "good": _one(rng, GOODS),
        "place": _one(rng, PLACES), "day": _one(rng, DAYS),
    }  # fmt: skip


SALE = {"name": NAME, "color": WORD, "good": WORD, "place": NAME, "day": NAME}
SENTENCE = '"On {day} {name} bought a {color} {good} in {place}."'


def _about(question: str, slot: str, name: str) -> Question:
    return Question(
        name,
        Wording(f"[Read this:|Here is a sentence:|Look at this:|Consider this:|Take this sentence:] "
                f"{SENTENCE} {question}", SALE),
        _sale,
        lambda v: v[slot],
        _is_text(lambda v: v[slot]),
        OF_WORDS,
    )  # fmt: skip


def _object(v: Values) -> str:
    return json.dumps({"name": v["name"], "item": v["good"], "city": v["place"]})


def _is_object(text: str, v: Values) -> bool:
    """The same keys and values in any order; a fence of Markdown may stand around it."""
    inside = re.fullmatch(r"\s*```(?:json)?\n(.*?)```\s*", text, re.S)
    try:
        found = json.loads(inside[1] if inside else text)
    except ValueError:
        return False
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return False
    expected = json.loads(_object(v))
    return {key: _plain(value) for key, value in found.items()} == {
        key: _plain(value) for key, value in expected.items()
    }


ONLY = "[Give|Write|Answer with|Reply with|Say]"
LIST = {"list": r"[\w, ]+"}

QUESTIONS = (
    Question(
        "sum", Wording(f"[What is|How much is|Calculate|Work out] {{a}} plus {{b}}[?|.] {ONLY} only the number.",
                       {"a": WORD, "b": WORD}),
        _in_words, lambda v: str(_sum(v)), _is_number(_sum),
    ),
    Question(
        "difference", Wording(f"[What is|How much is|Calculate|Work out] {{a}} minus {{b}}[?|.] {ONLY} only the number.",
                              {"a": NUMBER, "b": NUMBER}),
        _two_numbers(2, 30), lambda v: str(_difference(v)), _is_number(_difference),
    ),
    Question(
        "larger", Wording(f"[Which is larger,|Which number is larger,|Which is more,|What is the larger number,] "
                          f"{{a}} or {{b}}? {ONLY} only the number.", {"a": NUMBER, "b": NUMBER}),
        _shuffled_pair, lambda v: str(_larger(v)), _is_number(_larger),
    ),
    Question(
        "sort_numbers", Wording("[Sort|Order|Arrange|Put] these numbers [from small to large|from the smallest to "
                                "the largest]: {list}. [Give|Write] only the numbers.", LIST),
        _numbers, lambda v: ", ".join(sorted(_listed(v), key=int)),
        _is_list(lambda v: sorted(_listed(v), key=int)),
    ),
    Question(
        "sort_words", Wording("[Sort|Order|Arrange|Put] these words [from A to Z|in alphabetical order]: {list}. "
                              "[Give|Write] only the words.", LIST),
        _words, lambda v: ", ".join(sorted(_listed(v))), _is_list(lambda v: sorted(_listed(v))),
        (*AROUND, "lowercase", "uppercase", "capitalized"),
    ),
    Question(
        "reverse", Wording("[Reverse|Turn round|Turn around] [this list|the order of this list|the order of these "
                           "words]: {list}. [Give|Write] only the words.", LIST),
        _words, lambda v: ", ".join(_listed(v)[::-1]), _is_list(lambda v: _listed(v)[::-1]),
        (*AROUND, "lowercase", "uppercase", "capitalized"),
    ),
    Question(
        "separated", Wording("[Write|List|Give] [these words|the following words] [in the same order|as they stand], "
                             "with a semicolon between them: {list}.", LIST),
        _words, lambda v: "; ".join(_listed(v)),
        lambda text, v: [_plain(item) for item in text.split(";")] == _listed(v),
        (*AROUND, "lowercase", "uppercase", "capitalized"),
    ),
    Question(
        "count_kind", Wording(f"[How many of these words name|How many of these are|How many words here name] "
                              f"{{kind}}: {{list}}? {ONLY} only the number.", LIST | {"kind": "|".join(KINDS)}),
        _counted, lambda v: str(_count(v)), _is_number(_count),
    ),
    Question(
        "count_words", Wording(f"[How many words are in this list|How many words does this list have|How many words do you see here]: "
                               f"{{list}}? {ONLY} only the number.", LIST),
        _words, lambda v: str(len(_listed(v))), _is_number(lambda v: len(_listed(v))),
    ),
    Question(
        "odd_one", Wording(f"[Which of these words does not name|Which of these is not|Which word does not name] {{kind}}: "
                           f"{{list}}? {ONLY} only the word.", LIST | {"kind": "|".join(KINDS)}),
        _odd, _odd_one, _is_text(_odd_one), OF_WORDS,
    ),
    Question(
        "yes_or_no", Wording("Is \"{thing}\" the name of {kind}? [Answer|Reply|Respond|Decide|Say] "
                             "[yes or no|with yes or no], [nothing else|no more].",
                             {"thing": WORD, "kind": "|".join(KINDS)}),
        _yes_or_no, _is_of_kind, _is_text(_is_of_kind), OF_WORDS,
    ),
    Question(
        "position", Wording(f"[What is|Which is] the {{ordinal}} word of this list: {{list}}? {ONLY} only the word.",
                            LIST | {"ordinal": "|".join(ORDINALS)}),
        _ordinal, lambda v: _listed(v)[ORDINALS.index(v["ordinal"])],
        _is_text(lambda v: _listed(v)[ORDINALS.index(v["ordinal"])]), OF_WORDS,
    ),
    Question(
        "spell", Wording('[Spell|Write|Give] the word "{word}" [letter by letter|one letter at a time], with a '
                         "[hyphen|dash] between [the letters|two letters].", {"word": WORD}),
        _letters, lambda v: "-".join(v["word"]),
        lambda text, v: _plain(text).replace(" ", "") == "-".join(v["word"]),
        (*AROUND, "lowercase", "uppercase"),
    ),
    Question(
        "copy", Wording(f"[Copy|Repeat|Write] this sentence [word for word|without a change|exactly as it stands|"
                        f"unchanged]: {SENTENCE}", SALE),
        _sale, lambda v: f"On {v['day']} {v['name']} bought a {v['color']} {v['good']} in {v['place']}.",
        _is_text(lambda v: f"On {v['day']} {v['name']} bought a {v['color']} {v['good']} in {v['place']}."),
        ("quoted", "lowercase", "uppercase", "capitalized", "exclamation"),
    ),
    _about("Who [bought|paid for] it? [Give|Write] only the name.", "name", "extract_name"),
    _about("What [color|colour] [was it|did it have]? [Give|Write] only one word.", "color", "extract_color"),
    _about("In which [city|town] was [it bought|that]? [Give|Write] only the name.", "place", "extract_city"),
    Question(
        "json", Wording(f"[Read this:|Here is a sentence:|Look at this:|Consider this:|Take this sentence:] {SENTENCE} "
                        '[Write|Give|Return] only a JSON object with the keys "name", "item" and "city".', SALE),
        _sale, _object, _is_object, (),
    ),
)  # fmt: skip
