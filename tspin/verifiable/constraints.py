"""Families of instructions about the form of an answer, which go with a topic or a question.

Each says what it wants in a sentence of its own, judges a text, and knows how a text comes to it:
by what it asks of the plan of an answer, or by a last change to the text.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass, field

from tspin.verifiable.texts import COMMON, ENDINGS, LETTERS, OPENINGS, WORDS
from tspin.verifiable.wordings import Values, Wording, pick

NUMBER, WORD, PHRASE = r"\d{1,3}", r"[a-z]+", r"[A-Z][^\"]*"
BULLET = re.compile(r"\s*[-*\u2022] +\S")
NUMBERED = re.compile(r"\s*(\d+)[.)] +\S")
LIST_MARK = re.compile(r"(?m)^[ \t]*(?:[-*\u2022]|\d+[.)])[ \t]+")
MARKS = string.punctuation + "\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026"
QUOTES = '"\u201c', '"\u201d'  # straight or curly: that opens, that closes


@dataclass
class Plan:
    """What an answer is to have, before its sentences are chosen.

    units    how many sentences, points or lines; None: any
    layout   "text", one paragraph; else every unit has a line, behind what this says
    first, last, include  words that it begins with, ends with, or has in it
    """

    units: int | None = None
    layout: str = "text"
    first: str | None = None
    last: str | None = None
    include: list[str] = field(default_factory=list)


def _draw_nothing(rng: random.Random) -> dict[str, str]:
    return {}


def _plan_nothing(plan: Plan, values: Values) -> None:
    return None


def _change_nothing(text: str, values: Values) -> str:
    return text


@dataclass(frozen=True)
class Constraint:
    """A family.

    group   at most one family of a group is in a prompt: the others would contradict it
    holds   whether a text is as these values say
    plan    what an answer needs for it from the beginning
    change  the last change to a text that is right but for this
    inner   the text that all else is about, without what this has put around it
    """

    name: str
    group: str
    wording: Wording
    holds: Callable[[str, Values], bool]
    draw: Callable[[random.Random], dict[str, str]] = _draw_nothing
    plan: Callable[[Plan, Values], None] = _plan_nothing
    change: Callable[[str, Values], str] = _change_nothing
    inner: Callable[[str, Values], str] = _change_nothing


# What is counted


def words(text: str) -> list[str]:
    """In order, without the marks around them; neither a mark alone nor that of a list is one."""
    bare = (word.strip(MARKS) for word in LIST_MARK.sub("", text).split())
    return [word for word in bare if word]


def small(text: str) -> list[str]:
    """The words in small letters."""
    return words(text.lower())


def sentences(text: str) -> int:
    """Ends of sentences that a blank or the end follows; words behind the last are one more."""
    # Where marks stand in a row the first alone is tried: the time stays linear.
    ends = re.split(r"(?<![.!?])[.!?]+[\"')\u2019\u201d]*(?:\s+|$)", LIST_MARK.sub("", text))
    return sum(bool(words(part)) for part in ends)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _between(low: int, high: int, step: int = 1) -> Callable[[random.Random], dict[str, str]]:
    """Draws {count}."""
    choices = range(low, high + 1, step)
    return lambda rng: {"count": str(pick(rng, choices))}


def _one_of(slot: str, choices: str | tuple[str, ...]) -> Callable[[random.Random], dict[str, str]]:
    return lambda rng: {slot: pick(rng, choices)}


def _in_units(layout: str) -> Callable[[Plan, Values], None]:
    def plan(plan: Plan, values: Values) -> None:
        plan.units, plan.layout = int(values["count"]), layout

    return plan


def _numbered(text: str, values: Values) -> bool:
    numbers = [match[1] for line in lines(text) if (match := NUMBERED.match(line))]
    return numbers == [str(i + 1) for i in range(int(values["count"]))]


def _repeated(rng: random.Random) -> dict[str, str]:
    return _one_of("word", WORDS)(rng) | _one_of("times", ("twice", "three times"))(rng)


TIMES = {"twice": 2, "three times": 3}


def _plan_repeated(plan: Plan, values: Values) -> None:
    plan.include += [values["word"]] * TIMES[values["times"]]


def _plan_first(plan: Plan, values: Values) -> None:
    plan.first = values["word"]


def _plan_last(plan: Plan, values: Values) -> None:
    plan.last = values["word"]


def _unquoted(text: str, values: Values) -> str:
    text = text.strip()
    quoted = len(text) > 1 and text[0] in QUOTES[0] and text[-1] in QUOTES[1]
    return text[1:-1] if quoted else text


def _is_quoted(text: str, values: Values) -> bool:
    return bool(words(text)) and _unquoted(text, values) != text.strip()


def _opened(text: str, values: Values) -> bool:
    return text.strip().casefold().startswith(values["phrase"].casefold())


def _closed(text: str, values: Values) -> bool:
    return text.strip().casefold().endswith(values["phrase"].casefold())


def _open(text: str, values: Values) -> str:
    return f"{values['phrase']}{_gap(text)}{text}"


def _close(text: str, values: Values) -> str:
    return f"{text}{_gap(text)}{values['phrase']}"


def _gap(text: str) -> str:
    """A phrase before or behind a list has a line of its own."""
    return "\n" if LIST_MARK.match(text) else " "


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def _is_capitalized(text: str, values: Values) -> bool:
    return _has_letters(text) and not any(word[0].islower() for word in words(text))


def _capitalize(text: str, values: Values) -> str:
    return re.sub(r"(?<!\S)[^\w\s]*[^\W\d_]", lambda match: match[0].upper(), text)


USE = "[Use|Write|Answer with|Answer in]"
DO_NOT = "[Do not use|Never use|Do not write|Avoid|Avoid using]"
YOUR_ANSWER = "[your answer|the answer|your reply|your response]"
IN = "[Use|Write in|Answer in|Write everything in|Write your answer in]"

CONSTRAINTS = (
    # Length
    Constraint(
        "words_exactly",
        "length",
        Wording(
            "[Use|Write|Give me|Answer with] [exactly|precisely] {count} words[| in total].",
            {"count": NUMBER},
        ),
        lambda text, v: len(words(text)) == int(v["count"]),
        _between(5, 16),
    ),
    Constraint(
        "words_at_most",
        "length",
        Wording(
            f"{USE} [at most|no more than|not more than|up to] {{count}} words.",
            {"count": NUMBER},
        ),
        lambda text, v: 0 < len(words(text)) <= int(v["count"]),
        _between(15, 40, 5),
    ),
    Constraint(
        "words_at_least",
        "length",
        Wording(
            f"{USE} [at least|no fewer than|not fewer than|a minimum of] {{count}} words.",
            {"count": NUMBER},
        ),
        lambda text, v: len(words(text)) >= int(v["count"]),
        _between(5, 20, 5),
    ),
    # Layout
    Constraint(
        "sentences",
        "layout",
        Wording(
            f"{USE} [exactly|precisely|just] {{count}} [sentences|full sentences].",
            {"count": NUMBER},
        ),
        lambda text, v: sentences(text) == int(v["count"]),
        _between(2, 4),
        _in_units("text"),
    ),
    Constraint(
        "bullets",
        "layout",
        Wording(
            "[Write|Use|Give] [exactly|precisely] {count} [bullet points|bullets], "
            "[each on a line of its own|one on each line].",
            {"count": NUMBER},
        ),
        lambda text, v: sum(bool(BULLET.match(line)) for line in lines(text)) == int(v["count"]),
        _between(2, 4),
        _in_units("- "),
    ),
    Constraint(
        "numbered",
        "layout",
        Wording(
            "[Write|Make|Give] [a numbered list of|a list numbered from 1 with] "
            "[exactly|precisely] {count} [points|items].",
            {"count": NUMBER},
        ),
        _numbered,
        _between(2, 4),
        _in_units("#"),
    ),
    Constraint(
        "lines",
        "layout",
        Wording(
            "[Write|Use|Answer in|Fill] [exactly|precisely|just] {count} lines.",
            {"count": NUMBER},
        ),
        lambda text, v: len(lines(text)) == int(v["count"]),
        _between(2, 4),
        _in_units(""),
    ),
    # Words and letters
    Constraint(
        "include_word",
        "include",
        Wording(
            '[Use|Include|Mention|Work in] the word "{word}"[| somewhere| at least once].',
            {"word": WORD},
        ),
        lambda text, v: v["word"] in small(text),
        _one_of("word", WORDS),
        lambda plan, v: plan.include.append(v["word"]),
    ),
    Constraint(
        "repeat_word",
        "include",
        Wording(
            '[Use|Include|Write|Mention|Put in] the word "{word}" [at least|no less than] {times}.',
            {"word": WORD, "times": "|".join(TIMES)},
        ),
        lambda text, v: small(text).count(v["word"]) >= TIMES[v["times"]],
        _repeated,
        _plan_repeated,
    ),
    Constraint(
        "avoid_word",
        "avoid",
        Wording(f'{DO_NOT} the word "{{word}}"[| anywhere| in your answer].', {"word": WORD}),
        lambda text, v: v["word"] not in small(text),
        _one_of("word", COMMON),
    ),
    Constraint(
        "avoid_letter",
        "avoid",
        Wording(
            f'{DO_NOT} the letter "{{letter}}"[| anywhere| in your answer].', {"letter": "[a-z]"}
        ),
        lambda text, v: v["letter"] not in text.lower(),
        _one_of("letter", LETTERS),
    ),
    Constraint(
        "no_commas",
        "avoid",
        Wording(f"{DO_NOT} [commas|any commas][| in your answer]."),
        lambda text, v: "," not in text,
    ),
    Constraint(
        "first_word",
        "opening",
        Wording(
            '[Begin|Start|Open] with the word "{word}"[|, and go on from there| and nothing before '
            "it|, please].",
            {"word": WORD},
        ),
        lambda text, v: small(text)[:1] == [v["word"]],
        _one_of("word", WORDS),
        _plan_first,
    ),
    Constraint(
        "last_word",
        "ending",
        Wording(
            '[Finish|End|Close|Stop] with the word "{word}"[| and nothing after it|, please].',
            {"word": WORD},
        ),
        lambda text, v: small(text)[-1:] == [v["word"]],
        _one_of("word", WORDS),
        _plan_last,
    ),
    # What stands around it
    Constraint(
        "opening",
        "opening",
        Wording(f'[Begin|Start|Open] {YOUR_ANSWER} with "{{phrase}}".', {"phrase": PHRASE}),
        _opened,
        _one_of("phrase", OPENINGS),
        change=_open,
    ),
    Constraint(
        "closing",
        "ending",
        Wording(f'[Finish|End|Close] {YOUR_ANSWER} with "{{phrase}}".', {"phrase": PHRASE}),
        _closed,
        _one_of("phrase", ENDINGS),
        change=_close,
    ),
    Constraint(
        "exclamation",
        "ending",
        Wording(f"[Finish|End|Close] {YOUR_ANSWER} with an exclamation mark."),
        lambda text, v: text.strip().endswith("!"),
        change=lambda text, v: f"{text.rstrip('.')}!",
    ),
    Constraint(
        "quoted",
        "around",
        Wording(
            "[Put|Wrap|Enclose|Set] [your whole answer|the whole answer|your entire answer] in "
            "double quotation marks."
        ),
        _is_quoted,
        change=lambda text, v: f'"{text}"',
        inner=_unquoted,
    ),
    # Case
    Constraint(
        "lowercase",
        "case",
        Wording(f"{IN} [small letters|lowercase letters] only."),
        lambda text, v: _has_letters(text) and text == text.lower(),
        change=lambda text, v: text.lower(),
    ),
    Constraint(
        "uppercase",
        "case",
        Wording(f"{IN} [capital letters|uppercase letters] only."),
        lambda text, v: _has_letters(text) and text == text.upper(),
        change=lambda text, v: text.upper(),
    ),
    Constraint(
        "capitalized",
        "case",
        Wording("[Begin|Start] [every|each] [word|single word] with a capital letter[|, please]."),
        _is_capitalized,
        change=_capitalize,
    ),
)
