"""Every family of instructions: right and wrong answers by hand, and all that it may be said in."""

import itertools
import random
import re
from pathlib import Path

import pytest

from tspin.verifiable import task
from tspin.verifiable.constraints import CONSTRAINTS
from tspin.verifiable.questions import QUESTIONS
from tspin.verifiable.wordings import PARTS, Wording

FAMILIES = {family.name: family for family in (*QUESTIONS, *CONSTRAINTS)}
SALE = {"name": "Ines", "color": "white", "good": "kite", "place": "Quito", "day": "Friday"}
LIST = {"list": "rope, bell, jar"}
# family -> values, right answers, wrong answers
BY_HAND = {
    "sum": (
        {"a": "nine", "b": "three"},
        ["12", "12.", " twelve\n", "Twelve!", '"12"', "**12**"],
        ["13", "9 + 3 = 12", "It is 12.", "-12", "12 13", "1200", "12.5"],
    ),
    "difference": (
        {"a": "29", "b": "8"},
        ["21", "twenty-one", "Twenty one."],
        ["-21", "29 - 8 = 21", "20", "2 1"],
    ),
    "larger": ({"a": "23", "b": "76"}, ["76", "Seventy-six."], ["23", "76 is larger", "67"]),
    "sort_numbers": (
        {"list": "64, 9, 31"},
        ["9, 31, 64", "9 31 64", "9; 31; 64.", "9\n31\n64", "- 9\n- 31\n- 64", "9, 31 and 64",
         "1. 9\n2. 31\n3. 64", "9. 31. 64."],
        ["64, 31, 9", "9, 31", "9, 31, 64, 64", "31, 64, 9", "Sorted: 9, 31, 64"],
    ),
    "sort_words": (
        LIST,
        ["bell, jar, rope", "Bell, Jar, Rope.", "bell\njar\nrope", "1. bell\n2. jar\n3. rope"],
        ["rope, jar, bell", "bell, jar", "bell, jar, ropes", "The words: bell, jar, rope"],
    ),
    "reverse": (
        LIST,
        ["jar, bell, rope", "JAR, BELL, ROPE", "* jar\n* bell\n* rope", "jar, bell, and rope"],
        ["rope, bell, jar", "jar, rope, bell", "jar bell"],
    ),
    "separated": (
        LIST,
        ["rope; bell; jar", "Rope; Bell; Jar.", "rope;bell;jar"],
        ["rope, bell, jar", "bell; jar; rope", "rope; bell; jar;", "rope; bell, jar"],
    ),
    "position": (
        {"ordinal": "second", "list": "rope, bell, jar, oven, key"},
        ["bell", "Bell.", '"bell"', "**bell**"],
        ["rope", "The second word is bell.", "jar", "bells"],
    ),
    "count_kind": (
        {"kind": "a fruit", "list": "river, plum, song, apple"},
        ["2", "two", "Two."],
        ["3", "plum, apple", "2 fruits"],
    ),
    "count_words": (LIST, ["3", "Three"], ["4", "3 words"]),
    "odd_one": (
        {"kind": "a tool", "list": "saw, rake, pear, axe"},
        ["pear", "Pear.", "'pear'"],
        ["saw", "pear is not a tool", "pears"],
    ),
    "yes_or_no": (
        {"thing": "goose", "kind": "an animal"},
        ["yes", "Yes.", "YES!"],
        ["no", "Yes, it is.", "yes or no"],
    ),
    "spell": (
        {"word": "drum"},
        ["d-r-u-m", "D-R-U-M", "d - r - u - m", "d\u2013r\u2013u\u2013m", "d-r-u-m."],
        ["drum", "d r u m", "d-r-u", "d-r-u-m-s", "d, r, u, m"],
    ),
    "copy": (
        SALE,
        ["On Friday Ines bought a white kite in Quito.",
         '"On Friday Ines bought a white kite in Quito."\n'],
        ["On Friday Ines bought a white kite in Quito", "on friday ines bought a white kite",
         "Copy: On Friday Ines bought a white kite in Quito.",
         "On Friday, Ines bought a white kite in Quito."],
    ),
    "extract_name": (SALE, ["Ines", "ines.", "INES"], ["Ines bought it.", "Quito", "In\u00e9s"]),
    "extract_color": (SALE, ["white", "White."], ["a white kite", "It was white.", "red"]),
    "extract_city": (SALE, ["Quito", '"Quito"', "QUITO!"], ["In Quito.", "Quito, Ecuador"]),
    "json": (
        SALE,
        ['{"name": "Ines", "item": "kite", "city": "Quito"}',
         '{\n  "city": "quito",\n  "item": "kite",\n  "name": "Ines"\n}',
         '```json\n{"name": "Ines", "item": "kite", "city": "Quito"}\n```'],
        ['{"name": "Ines", "item": "kite"}', '["Ines", "kite", "Quito"]',
         '{"name": "Ines", "item": "kite", "city": "Quito", "day": "Friday"}',
         "{'name': 'Ines', 'item': 'kite', 'city': 'Quito'}",
         '{"name": "Ines", "item": "lamp", "city": "Quito"}',
         '{"name": "Ines", "item": 1, "city": "Quito"}',
         'Here: {"name": "Ines", "item": "kite", "city": "Quito"}'],
    ),
    "words_exactly": (
        {"count": "5"},
        ["Owls hunt mice at night.", "- Owls hunt\n- mice at night", "Owls - yes - hunt at night.",
         "1. Owls hunt\n2. mice at night", "Well-known owls don't sleep now"],
        ["Owls hunt mice.", "Owls hunt small mice at night.", "12345"],
    ),
    "words_at_most": ({"count": "3"}, ["Owls.", "Owls hunt mice."], ["Owls hunt mice now.", "..."]),
    "words_at_least": ({"count": "3"}, ["Owls hunt mice.", "a b c d"], ["Owls hunt", "- - - -"]),
    "sentences": (
        {"count": "2"},
        ["Owls hunt. They sleep.", "Owls hunt! They sleep", 'He said "no." She left.',
         "Owls hunt...\nThey sleep?!", "1. Owls hunt.\n2. They sleep.", "It costs 1.5. Fine."],
        ["Owls hunt.", "Owls hunt. They sleep. They eat.", "Owls hunt, they sleep"],
    ),
    "bullets": (
        {"count": "2"},
        ["- a\n- b", "* a\n\n* b", "Here:\n- a\n- b", "\u2022 a\n\u2022 b", "  - a\n  - b"],
        ["- a", "- a\n- b\n- c", "1. a\n2. b", "a\nb", "-a\n-b"],
    ),
    "numbered": (
        {"count": "2"},
        ["1. a\n2. b", "1) a\n2) b", "A list:\n\n1. a\n\n2. b"],
        ["1. a", "1. a\n2. b\n3. c", "2. a\n1. b", "- a\n- b", "1. a 2. b"],
    ),
    "lines": ({"count": "2"}, ["a\nb", "a\n\nb\n", "- a\n- b"], ["a", "a\nb\nc", "a b"]),
    "include_word": (
        {"word": "stone"},
        ["A stone.", "STONE", '"stone"', "stone, wood", "one \u201cstone\u201d"],
        ["stones", "milestone", "wood"],
    ),
    "repeat_word": (
        {"word": "stone", "times": "twice"},
        ["Stone on stone.", "stone stone stone"],
        ["stone", "stone and stones", "wood"],
    ),
    "avoid_word": (
        {"word": "the"}, ["Owls hunt then.", "Other owls"], ["Near the barn", "The end", '"the"'],
    ),
    "avoid_letter": ({"letter": "z"}, ["Owls hunt."], ["A zebra", "ZOO", "fizz"]),
    "no_commas": ({}, ["Owls; mice."], ["Owls, mice", ",", "1,000"]),
    "first_word": (
        {"word": "stone"},
        ["Stone by stone", '"Stone" it is', "- stone here", "1. Stone", "stone, then"],
        ["A stone", "Stones", "milestone"],
    ),
    "last_word": (
        {"word": "stone"}, ["A stone.", "a STONE!", 'the "stone"'], ["stones", "stone wall", ""],
    ),
    "opening": (
        {"phrase": "In short:"},
        ["In short: owls.", "IN SHORT: OWLS", "  in short:\nowls"],
        ["Owls, in short:", "In short owls", "So, in short: owls"],
    ),
    "closing": (
        {"phrase": "The end."},
        ["Owls. The end.", "OWLS. THE END.", "Owls.\n\nThe end.\n"],
        ["The end. Owls.", "Owls. The end", "Owls. The end.."],
    ),
    "exclamation": ({}, ["Owls!", "Owls! "], ["Owls.", "Owls! Yes.", "Owls!."]),
    "quoted": (
        {},
        ['"Owls hunt."', ' "Owls"\n', "\u201cOwls hunt.\u201d"],
        ["Owls", '"Owls" hunt', "'Owls'", '""', '"', '"Owls'],
    ),
    "lowercase": ({}, ["owls hunt.", "3 owls"], ["Owls hunt.", "owls HUNT", "123"]),
    "uppercase": ({}, ["OWLS HUNT.", "3 OWLS"], ["OWLS hunt", "Owls", "123"]),
    "capitalized": (
        {},
        ["Owls Hunt Mice.", "3 Owls Don't Hunt", '"Owls (And Mice)"', "OWLS", "Well-known Owls"],
        ["Owls hunt.", "owls Hunt", '"owls"', "123"],
    ),
}  # fmt: skip


def request_of(name, values):
    family = FAMILIES[name]
    if name in {question.name for question in QUESTIONS}:
        return task.Request(family, values, ())
    return task.Request(None, {"topic": "owls"}, ((family, values),))


def phrasings(wording, values):
    """Every text that a wording stands for."""
    choices = [
        [values[part[2]]] if part[2] is not None else part[1].split("|")
        for part in PARTS.finditer(wording.template)
    ]
    fixed = re.split(PARTS.pattern.replace("(", "(?:"), wording.template)
    for chosen in itertools.product(*choices):
        yield "".join(itertools.chain(*itertools.zip_longest(fixed, chosen, fillvalue="")))


def test_every_family_was_tried_by_hand():
    assert list(BY_HAND) == list(FAMILIES)
    assert len(FAMILIES) >= 25


@pytest.mark.parametrize("name", BY_HAND)
def test_right_and_wrong(name):
    values, right, wrong = BY_HAND[name]
    request = request_of(name, values)
    assert [text for text in right if not request.judge(text)[name]] == []
    assert [text for text in wrong if request.judge(text)[name]] == []


@pytest.mark.parametrize("name", BY_HAND)
def test_every_phrasing_is_read_back(name):
    """Ten or more, and none is taken for another family or for other values."""
    values = BY_HAND[name][0]
    texts = [*phrasings(FAMILIES[name].wording, values)]
    assert len({*texts}) == len(texts) == FAMILIES[name].wording.phrasings >= 10
    about = "" if name in {question.name for question in QUESTIONS} else "Write about owls. "
    read = [task.parse(about + text) for text in texts]
    assert [text for text, found in zip(texts, read, strict=True) if found is None] == []
    expected = request_of(name, values)
    assert all(found == expected for found in read)


def test_every_phrasing_of_a_topic_is_read_back():
    texts = [*phrasings(task.ABOUT, {"topic": "bees"})]
    assert len(texts) == task.ABOUT.phrasings >= 10
    assert {task.parse(text).values["topic"] for text in texts} == {"bees"}


def test_a_wording_says_one_of_its_phrasings():
    wording = Wording("[Use|Write][| just] {count} words.", {"count": r"\d+"})
    texts = {wording.say({"count": "7"}, random.Random(i)) for i in range(40)}
    assert texts == {*phrasings(wording, {"count": "7"})} and len(texts) == wording.phrasings == 4
    assert wording.pattern.fullmatch("Write just 12 words.")["count"] == "12"
    assert not wording.pattern.fullmatch("Write just twelve words.")


def test_the_page_has_every_family_and_what_it_shows_is_read():
    page = Path(__file__).resolve().parents[2] / "docs" / "verifiable.md"
    rows = re.findall(r"^\| `(\w+)`(?: \(held out\))? \| ([^|]*) \| ", page.read_text(), re.M)
    shown = {name: text for name, text in rows if name in FAMILIES}
    assert list(shown) == list(FAMILIES)
    questions = {question.name for question in QUESTIONS}
    for name, text in shown.items():
        about = "" if name in questions else "Write about owls. "
        assert task.parse(about + text).families == (name,)
