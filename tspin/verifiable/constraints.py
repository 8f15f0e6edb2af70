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
from tspin.verifiable.wordings import Values, Wording

NUMBER, WORD, PHRASE = r"\d+", r"[a-z]+", r"[A-Z][^\"]*"
BULLET = re.compile(r"\s*[-*\u2022] +\S")
NUMBERED = re.compile(r"\s*(\d+)[.)] +\S")


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
    """In order, in small letters, without the marks around them; a mark alone is no word."""
    bare = (word.strip(string.punctuation + "\u2022").lower() for word in text.split())
    return [word for word in bare if word]


def sentences(text: str) -> int:
    """Ends of sentences that a blank or the end follows; words behind the last are one more."""
    return len([part for part in re.split(r"[.!?]+[\"')]*(?:\s+|$)", text) if words(part)])


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _between(low: int, high: int, step: int = 1) -> Callable[[random.Random], dict[str, str]]:
    """Draws {count}."""
    choices = range(low, high + 1, step)
    return lambda rng: {"count": str(choices[int(rng.random() * len(choices))])}


def _one_of(slot: str, choices: str | tuple[str, ...]) -> Callable[[random.Random], dict[str, str]]:
    return lambda rng: {slot: choices[int(rng.random() * len(choices))]}


def _in_units(layout: str) -> Callable[[Plan, Values], None]:
    def plan(plan: Plan, values: Values) -> None:
        plan.units, plan.layout = int(values["count"]), layout

    return plan


def _numbered(text: str, values: Values) -> bool:
    found = [match[1] for line in lines(text) if (match := NUMBERED.match(line))]
    return found == [str(i + 1) for i in range(int(values["count"]))]


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
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _opened(text: str, values: Values) -> bool:
    return text.strip().casefold().startswith(values["phrase"].casefold())


def _closed(text: str, values: Values) -> bool:
    return text.strip().casefold().endswith(values["phrase"].casefold())


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


CONSTRAINTS = (
    # Length
    Constraint(
        "words_exactly", "length",
        Wording("[Use|Write|Give me] [exactly|precisely] {count} words[| in total| altogether].",
                {"count": NUMBER}),
        lambda text, v: len(words(text)) == int(v["count"]), _between(5, 16),
    ),
    Constraint(
        "words_at_most", "length",
        Wording("[Use|Write|Take] [at most|no more than|not more than|up to] {count} words.",
                {"count": NUMBER}),
        lambda text, v: 0 < len(words(text)) <= int(v["count"]), _between(8, 20, 2),
    ),
    Constraint(
        "words_at_least", "length",
        Wording("[Use|Write|Take] [at least|no fewer than|no less than|not fewer than] {count} words.",
                {"count": NUMBER}),
        lambda text, v: len(words(text)) >= int(v["count"]), _between(10, 30, 5),
    ),
    # Layout
    Constraint(
        "sentences", "layout",
        Wording("[Write|Answer in|Use|Make it] [exactly|precisely|just] {count} "
                "[sentences|full sentences].", {"count": NUMBER}),
        lambda text, v: sentences(text) == int(v["count"]), _between(2, 4), _in_units("text"),
    ),
    Constraint(
        "bullets", "layout",
        Wording("[Write|Use|Give] [exactly|precisely] {count} [bullet points|bullets], "
                "[each on a line of its own|one on each line].", {"count": NUMBER}),
        lambda text, v: sum(bool(BULLET.match(line)) for line in lines(text)) == int(v["count"]),
        _between(2, 4), _in_units("- "),
    ),
    Constraint(
        "numbered", "layout",
        Wording("[Write|Make|Give] [a numbered list of|a list numbered from 1 with] [exactly|precisely] "
                "{count} [points|items].", {"count": NUMBER}),
        _numbered, _between(2, 4), _in_units("#"),
    ),
    Constraint(
        "lines", "layout",
        Wording("[Write|Use|Put it in|Fill] [exactly|precisely|just] {count} lines.",
                {"count": NUMBER}),
        lambda text, v: len(lines(text)) == int(v["count"]), _between(2, 4), _in_units(""),
    ),
    # Words and letters
    Constraint(
        "include_word", "include",
        Wording('[Use|Include|Mention|Work in] the word "{word}"[| somewhere| at least once].',
                {"word": WORD}),
        lambda text, v: v["word"] in words(text), _one_of("word", WORDS),
        lambda plan, v: plan.include.append(v["word"]),
    ),
    Constraint(
        "repeat_word", "include",
        Wording('[Use|Include|Write|Put in|Repeat] the word "{word}" [at least|no less than] {times}.',
                {"word": WORD, "times": "|".join(TIMES)}),
        lambda text, v: words(text).count(v["word"]) >= TIMES[v["times"]], _repeated, _plan_repeated,
    ),
    Constraint(
        "avoid_word", "avoid",
        Wording('[Do not use|Never use|Avoid|Leave out|Do without] the word "{word}"[| anywhere].',
                {"word": WORD}),
        lambda text, v: v["word"] not in words(text), _one_of("word", COMMON),
    ),
    Constraint(
        "avoid_letter", "avoid",
        Wording('[Do not use|Never use|Avoid|Leave out|Do without] the letter "{letter}"[| anywhere].',
                {"letter": "[a-z]"}),
        lambda text, v: v["letter"] not in text.lower(), _one_of("letter", LETTERS),
    ),
    Constraint(
        "no_commas", "avoid",
        Wording("[Do not use|Never use|Avoid|Leave out|Do without] [any commas|commas]"
                "[| in your answer]."),
        lambda text, v: "," not in text,
    ),
    Constraint(
        "first_word", "opening",
        Wording('[Begin|Start|Open] with the word "{word}"[|, and go on from there| and nothing '
                'before it|, please].', {"word": WORD}),
        lambda text, v: words(text)[:1] == [v["word"]], _one_of("word", WORDS), _plan_first,
    ),
    Constraint(
        "last_word", "ending",
        Wording('[Finish|End|Close|Stop] with the word "{word}"[| and nothing after it|, please].',
                {"word": WORD}),
        lambda text, v: words(text)[-1:] == [v["word"]], _one_of("word", WORDS), _plan_last,
    ),
    # What stands around it
    Constraint(
        "opening", "opening",
        Wording('[Begin|Start|Open] [your answer|the answer|your reply|your text] with "{phrase}".',
                {"phrase": PHRASE}),
        _opened, _one_of("phrase", OPENINGS),
        change=lambda text, v: f"{v['phrase']} {text}",
    ),
    Constraint(
        "closing", "ending",
        Wording('[Finish|End|Close] [your answer|the answer|your reply|your text] with "{phrase}".',
                {"phrase": PHRASE}),
        _closed, _one_of("phrase", ENDINGS),
        change=lambda text, v: f"{text} {v['phrase']}",
    ),
    Constraint(
        "exclamation", "ending",
        Wording("[Finish|End|Close] [your answer|the answer|your reply|your text] with an exclamation "
                "mark."),
        lambda text, v: text.strip().endswith("!"),
        change=lambda text, v: f"{text.rstrip('.')}!",
    ),
    Constraint(
        "quoted", "around",
        Wording("[Put|Wrap|Enclose|Set] [your whole answer|the whole answer|your entire answer] in double "
                "quotation marks."),
        lambda text, v: len(text.strip()) > 2 and _unquoted(text, v) != text.strip(),
        change=lambda text, v: f'"{text}"', inner=_unquoted,
    ),
    # Case
    Constraint(
        "lowercase", "case",
        Wording("[Use|Write in|Answer in|Write everything in|Stick to] [small letters|lowercase letters] "
                "only."),
        lambda text, v: bool(_letters(text)) and text == text.lower(),
        change=lambda text, v: text.lower(),
    ),
    Constraint(
        "uppercase", "case",
        Wording("[Use|Write in|Answer in|Write everything in|Stick to] [capital letters|uppercase letters] "
                "only."),
        lambda text, v: bool(_letters(text)) and text == text.upper(),
        change=lambda text, v: text.upper(),
    ),
    Constraint(
        "capitalized", "case",
        Wording("[Begin|Start] [every|each] [word|single word] with a capital letter[|, please]."),
        lambda text, v: bool(_letters(text)) and all(
            word[0].isupper() for word in re.findall(r"[^\W\d_][\w']*", text)
        ),
        change=lambda text, v: re.sub(r"[^\W\d_][\w']*", lambda m: m[0][0].upper() + m[0][1:], text),
    ),
)  # fmt: skip
