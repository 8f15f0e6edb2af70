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
from functools import partial

from tspin.verifiable.constraints import LIST_MARK, MARKS
from tspin.verifiable.texts import (
    COLORS,
    DAYS,
    GOODS,
    KINDS,
    NAMES,
    NEITHER,
    NUMBER_WORDS,
    ORDINALS,
    PLACES,
    THINGS,
)
from tspin.verifiable.wordings import Values, Wording, pick

AROUND = ("quoted",)  # constraints that any answer of one item can go with
OF_LISTS = (*AROUND, "lowercase", "uppercase", "capitalized")
OF_WORDS = (*AROUND, "lowercase", "uppercase", "capitalized", "exclamation")
WORD, NUMBER, NAME = r"[a-z]+", r"\d{1,3}", r"[A-Z][a-z]+"


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


def _some(rng: random.Random, choices: Sequence[str], number: int) -> list[str]:
    return sorted(choices, key=lambda _: rng.random())[:number]


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


# Spellings


def _plain(text: str) -> str:
    """Small letters, single blanks, no marks around."""
    return " ".join(text.lower().split()).strip(MARKS + " ")


def _number(text: str) -> int | None:
    digits = text.strip(" \n.!\"'*\u201c\u201d")
    if re.fullmatch(r"-?[0-9]{1,9}", digits):
        return int(digits)
    plain = _plain(text).replace("-", " ")
    return NUMBER_WORDS.index(plain) if plain in NUMBER_WORDS else None


def _items(text: str) -> list[str]:
    """Of a list: whatever stands between them, and "and"."""
    return [item for item in re.split(r"[^\w]+", text.lower()) if item and item != "and"]


def _is_number(expected: Callable[[Values], int]) -> Callable[[str, Values], bool]:
    return lambda text, v: _number(text) == expected(v)


def _is_text(expected: Callable[[Values], str]) -> Callable[[str, Values], bool]:
    return lambda text, v: _plain(text) == _plain(expected(v))


def _is_list(expected: Callable[[Values], list[str]]) -> Callable[[str, Values], bool]:
    """In this order, on one line or with a mark or a number before each."""
    return lambda text, v: expected(v) in (_items(text), _items(LIST_MARK.sub(" ", text)))


# Numbers


def _two_numbers(low: int, high: int, rng: random.Random) -> dict[str, str]:
    smaller, larger = sorted(map(int, _some(rng, [str(n) for n in range(low, high)], 2)))
    return {"a": str(larger), "b": str(smaller)}


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


def _sorted_numbers(v: Values) -> list[str]:
    return sorted(_listed(v), key=int)


# Words


def _words(rng: random.Random) -> dict[str, str]:
    return {"list": ", ".join(_some(rng, THINGS, _between(rng, 3, 5)))}


def _counted(rng: random.Random) -> dict[str, str]:
    """One to three of a kind among others."""
    kind = pick(rng, list(KINDS))
    things = [*_some(rng, KINDS[kind], _between(rng, 1, 3)), *_some(rng, NEITHER, 2)]
    return {"kind": kind, "list": ", ".join(_some(rng, things, len(things)))}


def _count(v: Values) -> int:
    return sum(item in KINDS[v["kind"]] for item in _listed(v))


def _others(kind: str) -> list[str]:
    """Of the other kinds. Fruits are colors to some, and no color is asked for among them."""
    two = {"a fruit", "a color"}
    kinds = [k for k in KINDS if k != kind and not {k, kind} == two]
    return [thing for k in kinds for thing in KINDS[k]]


def _odd(rng: random.Random) -> dict[str, str]:
    """Three of a kind and one that is not."""
    kind = pick(rng, list(KINDS))
    things = [*_some(rng, KINDS[kind], 3), pick(rng, _others(kind))]
    return {"kind": kind, "list": ", ".join(_some(rng, things, 4))}


def _odd_one(v: Values) -> str:
    return next((item for item in _listed(v) if item not in KINDS[v["kind"]]), "")


def _ordinal(rng: random.Random) -> dict[str, str]:
    things = _some(rng, THINGS, 5)
    return {"ordinal": pick(rng, ORDINALS), "list": ", ".join(things)}


def _letters(rng: random.Random) -> dict[str, str]:
    return {"word": pick(rng, [thing for thing in THINGS if len(thing) > 3])}


def _yes_or_no(rng: random.Random) -> dict[str, str]:
    kind = pick(rng, list(KINDS))
    return {"kind": kind, "thing": pick(rng, KINDS[kind] if rng.random() < 0.5 else _others(kind))}


def _is_of_kind(v: Values) -> str:
    return "yes" if v["thing"] in KINDS[v["kind"]] else "no"


# Reading


def _sale(rng: random.Random) -> dict[str, str]:
    return {
        "name": pick(rng, NAMES), "color": pick(rng, COLORS), "good": pick(rng, GOODS),
        "place": pick(rng, PLACES), "day": pick(rng, DAYS),
    }  # fmt: skip


SALE = {"name": NAME, "color": WORD, "good": WORD, "place": NAME, "day": NAME}
SENTENCE = "On {day} {name} bought a {color} {good} in {place}."
READ = (
    "[Read this:|Here is a sentence:|Look at this:|Consider this:|Take this sentence:] "
    f'"{SENTENCE}"'
)


def _about(name: str, slot: str, question: str) -> Question:
    """One of the facts of a sentence."""
    return Question(
        name,
        Wording(f"{READ} {question}", SALE),
        _sale,
        lambda v: v[slot],
        _is_text(lambda v: v[slot]),
        OF_WORDS,
    )


def _is_copy(text: str, v: Values) -> bool:
    """To the letter; as the sentence stands in quotation marks, its copy may."""
    return text.strip().strip('"\u201c\u201d') == SENTENCE.format_map(v)


def _object(v: Values) -> dict[str, str]:
    return {"name": v["name"], "item": v["good"], "city": v["place"]}


def _is_object(text: str, v: Values) -> bool:
    """The keys and values in any order; a fence of Markdown may stand around it."""
    inside = re.fullmatch(r"```(?:json)?\n(.*?)```", text.strip(), re.DOTALL)
    try:
        value = json.loads(inside[1] if inside else text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or not all(isinstance(x, str) for x in value.values()):
        return False
    return {k: _plain(x) for k, x in value.items()} == {k: _plain(x) for k, x in _object(v).items()}


def _are_separated(text: str, v: Values) -> bool:
    return [_plain(item) for item in text.split(";")] == _listed(v)


def _is_spelled(text: str, v: Values) -> bool:
    """With a hyphen or a dash, and blanks around it or none."""
    return re.sub(r"\s*[-\u2013\u2014]\s*", "-", _plain(text)) == "-".join(v["word"])


def _at(v: Values) -> str:
    return _listed(v)[ORDINALS.index(v["ordinal"])]


ONLY = "[Give|Write|Answer with|Reply with|Say] only"
NUMBERS_LIST = {"list": r"\d{1,3}(?:, \d{1,3})*"}
WORDS_LIST = {"list": r"[a-z]+(?:, [a-z]+)*"}
FIVE_WORDS = {"list": r"[a-z]+(?:, [a-z]+){4}"}
KIND = {"kind": "|".join(KINDS)}
NUMBER_WORD = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))

QUESTIONS = (
    # Numbers
    Question(
        "sum",
        Wording(
            f"[What is|How much is|What do you get for|What is the result of] {{a}} plus {{b}}? "
            f"{ONLY} the number.",
            {"a": NUMBER_WORD, "b": NUMBER_WORD},
        ),
        _in_words,
        lambda v: str(_sum(v)),
        _is_number(_sum),
    ),
    Question(
        "difference",
        Wording(
            f"[What is|How much is|What do you get for|What is the result of] {{a}} minus {{b}}? "
            f"{ONLY} the number.",
            {"a": NUMBER, "b": NUMBER},
        ),
        partial(_two_numbers, 2, 30),
        lambda v: str(_difference(v)),
        _is_number(_difference),
    ),
    Question(
        "larger",
        Wording(
            "[Which is larger,|Which number is larger,|Which is more,|What is the larger number,] "
            f"{{a}} or {{b}}? {ONLY} the number.",
            {"a": NUMBER, "b": NUMBER},
        ),
        _shuffled_pair,
        lambda v: str(_larger(v)),
        _is_number(_larger),
    ),
    # Order
    Question(
        "sort_numbers",
        Wording(
            "[Sort|Arrange|List|Order] these numbers [from small to large|from the smallest to the "
            "largest|in ascending order]: {list}. [Give|Write] only the numbers.",
            NUMBERS_LIST,
        ),
        _numbers,
        lambda v: ", ".join(_sorted_numbers(v)),
        _is_list(_sorted_numbers),
    ),
    Question(
        "sort_words",
        Wording(
            "[Sort|Arrange|List|Write] these words [from A to Z|in alphabetical order"
            "|alphabetically]: {list}. [Give|Write] only the words.",
            WORDS_LIST,
        ),
        _words,
        lambda v: ", ".join(sorted(_listed(v))),
        _is_list(lambda v: sorted(_listed(v))),
        OF_LISTS,
    ),
    Question(
        "reverse",
        Wording(
            "[Reverse|Invert|Turn around] [this list|the order of this list|the order of these "
            "words]: {list}. [Give|Write] only the words.",
            WORDS_LIST,
        ),
        _words,
        lambda v: ", ".join(_listed(v)[::-1]),
        _is_list(lambda v: _listed(v)[::-1]),
        OF_LISTS,
    ),
    Question(
        "separated",
        Wording(
            "[Write|List|Give] [these words|the following words] [in the same order|as they stand]"
            ", with a semicolon between them: {list}.",
            WORDS_LIST,
        ),
        _words,
        lambda v: "; ".join(_listed(v)),
        _are_separated,
        OF_LISTS,
    ),
    Question(
        "position",
        Wording(
            f"[What is|Which is] the {{ordinal}} word of this list: {{list}}? {ONLY} the word.",
            FIVE_WORDS | {"ordinal": "|".join(ORDINALS)},
        ),
        _ordinal,
        _at,
        _is_text(_at),
        OF_WORDS,
    ),
    # Counting and choosing
    Question(
        "count_kind",
        Wording(
            "[How many of these words name|How many of the following words name"
            f"|How many words here name] {{kind}}: {{list}}? {ONLY} the number.",
            WORDS_LIST | KIND,
        ),
        _counted,
        lambda v: str(_count(v)),
        _is_number(_count),
    ),
    Question(
        "count_words",
        Wording(
            "[How many words are in this list|How many words does this list have"
            f"|How many words are there here]: {{list}}? {ONLY} the number.",
            WORDS_LIST,
        ),
        _words,
        lambda v: str(len(_listed(v))),
        _is_number(lambda v: len(_listed(v))),
    ),
    Question(
        "odd_one",
        Wording(
            "[Which of these words does not name|Which of these is not|Which word does not name] "
            f"{{kind}}: {{list}}? {ONLY} the word.",
            WORDS_LIST | KIND,
        ),
        _odd,
        _odd_one,
        _is_text(_odd_one),
        OF_WORDS,
    ),
    Question(
        "yes_or_no",
        Wording(
            'Is "{thing}" the name of {kind}? [Answer|Reply|Respond] [with yes or no|with just yes '
            "or no|with only yes or no], [nothing else|and nothing else].",
            {"thing": WORD} | KIND,
        ),
        _yes_or_no,
        _is_of_kind,
        _is_text(_is_of_kind),
        OF_WORDS,
    ),
    # Letters and sentences
    Question(
        "spell",
        Wording(
            '[Spell|Spell out|Write|Give] the word "{word}" [letter by letter|one letter at a '
            "time], with [a hyphen|hyphens] between the letters.",
            {"word": WORD},
        ),
        _letters,
        lambda v: "-".join(v["word"]),
        _is_spelled,
        (*AROUND, "lowercase", "uppercase"),
    ),
    Question(
        "copy",
        Wording(
            "[Copy|Repeat|Write] this sentence [word for word|without any change"
            f'|exactly as it stands|unchanged]: "{SENTENCE}"',
            SALE,
        ),
        _sale,
        SENTENCE.format_map,
        _is_copy,
    ),
    _about("extract_name", "name", f"Who [bought it|was the buyer]? {ONLY} the name."),
    _about("extract_color", "color", f"What [color was it|was its color]? {ONLY} the color."),
    _about(
        "extract_city",
        "place",
        f"In which [city|town] did this [happen|take place]? {ONLY} its name.",
    ),
    Question(
        "json",
        Wording(
            f'{READ} [Write|Give|Return] only a JSON object with the keys "name", "item" and '
            '"city".',
            SALE,
        ),
        _sale,
        lambda v: json.dumps(_object(v)),
        _is_object,
        (),
    ),
)
