"""Pairs are the same whether memory holds their texts or the disk does."""

import tracemalloc

import pytest

from tspin.data.pairs import Pair, PairsBuilder
from tspin.data.turns import Dialogue
from tspin.tools import spill

CONVERSATIONS = [
    Dialogue("s", (("x", "y"), ("x2", "y2"), ("x3", "y3"))),
    Dialogue(None, (("\ud800 is half a character", "\u00e9\U0001f642"),)),
    Dialogue(None, (("x", "y"),)),
    Dialogue(None, (("x", "y"),)),
]


def made(rounds, conversations=CONVERSATIONS):
    builder = PairsBuilder()
    numbers = [builder.add(conversation, rounds, 7) for conversation in conversations]
    return builder.pairs(), numbers


@pytest.mark.parametrize("in_memory", [0, 100, 10**6])
def test_wherever_their_texts_are(monkeypatch, in_memory):
    monkeypatch.setattr(spill, "IN_MEMORY", in_memory)
    pairs, numbers = made("all")
    texts = [(pair.system, pair.history, pair.prompt, pair.annotated, pair.part) for pair in pairs]
    first, second = ("x", "y"), ("x2", "y2")
    half, smile = CONVERSATIONS[1].rounds[0]
    assert numbers == [3, 1, 1, 1]
    assert texts == [
        ("s", (), "x", "y", 7),
        ("s", (first,), "x2", "y2", 7),
        ("s", (first, second), "x3", "y3", 7),
        (None, (), half, smile, 7),
        (None, (), "x", "y", 7),
        (None, (), "x", "y", 7),
    ]
    assert pairs.ids == [pair.id for pair in pairs]
    assert pairs.ids[-1] == f"{pairs.ids[-2]}-1"
    assert pairs[-1] == Pair(pairs.ids[-1], "x", "y", part=7)


def test_a_choice_of_them_is_a_list_of_them():
    pairs, _ = made("all")
    listed = [*pairs]
    assert [*pairs[1:4]] == listed[1:4]
    assert [*pairs.take([5, 0])] == [listed[5], listed[0]]
    assert pairs[:2] == pairs.take([0, 1]) != pairs.take([1, 0])
    assert [pair.part for pair in pairs.in_parts(range(6))] == [*range(6)]
    assert pairs.in_parts(6 * [7]) == pairs


def test_memory_does_not_grow_with_the_texts(monkeypatch):
    """A pair's place and id are half a KB, where its texts here have 20."""
    monkeypatch.setattr(spill, "IN_MEMORY", 0)
    tracemalloc.start()
    try:
        pairs, _ = made(
            "first",
            (Dialogue(None, ((f"{i}" * 2_000, f"{i}" * 2_000),)) for i in range(10**4, 11_000)),
        )
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(pairs) < 800
    assert pairs[-1].prompt == "10999" * 2_000
