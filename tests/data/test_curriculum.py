"""The laws of each way to choose prompts: how many, which, the same ones again, none for ever
left out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import compose

from tspin.data.curriculum import Row, chance, chosen, idle_now

HOW = {
    name: compose(f"curriculum={name}").curriculum for name in ("gate", "skip", "band", "random")
}
GATE = replace(HOW["gate"], share=None, least=0.1)
shares = st.floats(0.01, 0.99)
values = st.lists(st.floats(-50, 2), min_size=1, max_size=60)


def rows(values):
    return [Row(f"p{i}", value) for i, value in enumerate(values)]


def choose(rows, how, *, seed=0, t=1, at_least=1):
    return chosen(rows, how, seed=seed, t=t, at_least=at_least)


@given(values, shares)
def test_a_share_is_exact_whatever_chooses(values, share):
    """The control leaves out as many as what it is a control of."""
    expected = max(1, round(share * len(values)))
    for name, drop in (("gate", None), ("band", "hardest"), ("band", "tails"), ("random", None)):
        assert len(choose(rows(values), replace(HOW[name], share=share, drop=drop))) == expected


@given(values, shares, st.randoms())
def test_the_order_of_the_rows_does_not_matter(values, share, random):
    given_rows = rows(values)
    mixed = random.sample(given_rows, len(given_rows))
    for how in (*(replace(HOW[n], share=share) for n in ("gate", "band", "random")), HOW["skip"]):
        assert choose(given_rows, how) == choose(mixed, how)


@given(values, shares)
def test_gate_takes_the_rows_with_most_left(values, share):
    made = rows(values)
    taken = choose(made, replace(HOW["gate"], share=share))
    inside = [row.value for row in made if row.id in taken]
    assert min(inside) >= max([row.value for row in made if row.id not in taken], default=-99)


def test_gate_by_a_threshold():
    """0.1 of the gradient; of a step's rows too few fill up with the largest of the others."""
    made = rows([0.05, 0.1, 0.0, 1.5, 0.09])
    assert choose(made, GATE) == {"p1", "p3"}
    assert choose(made, GATE, at_least=4) == {"p1", "p3", "p4", "p0"}
    assert choose(made, GATE, at_least=9) == {row.id for row in made}


def test_band_drops_the_hardest_or_both_tails():
    """log pi(y) a token: p0 is the hardest, p4 the easiest."""
    made = rows([-5.0, -4.0, -3.0, -2.0, -1.0])
    assert choose(made, replace(HOW["band"], share=0.6)) == {"p2", "p3", "p4"}
    assert choose(made, replace(HOW["band"], share=0.6, drop="tails")) == {"p1", "p2", "p3"}
    assert choose(made, replace(HOW["band"], share=0.8, drop="tails")) == {"p1", "p2", "p3", "p4"}


def test_lots_change_with_seed_and_iteration_and_with_nothing_else():
    made = rows([None] * 40)
    first = choose(made, HOW["random"])
    assert first == choose(made, HOW["random"])
    others = [choose(made, HOW["random"], seed=seed, t=t) for seed, t in ((0, 2), (1, 1), (1, 2))]
    assert len({frozenset(taken) for taken in (first, *others)}) == 4


def test_equal_values_are_drawn_by_lot():
    made = rows([0.0] * 40)
    assert choose(made, HOW["gate"], t=1) != choose(made, HOW["gate"], t=2)


@pytest.mark.parametrize("how", [*HOW.values(), GATE], ids=lambda how: how.prompts)
def test_a_row_without_a_response_or_a_value_is_always_chosen(how):
    made = [*rows([0.5] * 20), Row("new", 0.0, 99, keeps=False)]
    assert all("new" in choose(made, how, t=t) for t in range(1, 40))
    if how.prompts != "random":  # which needs none
        made.append(Row("unknown", None, 99))
        assert all("unknown" in choose(made, how, t=t) for t in range(1, 40))
    if how.share is not None:
        assert len(choose(made, how)) == how.num_chosen(len(made))


@given(st.integers(0, 200), st.floats(0.01, 0.99), st.floats(0.01, 1))
def test_the_chance_falls_to_the_floor_and_no_further(idle, explore, floor):
    how = replace(HOW["skip"], explore=explore, floor=floor)
    assert chance(0, how) == 1
    assert chance(idle, how) == max(floor, explore**idle)
    assert chance(idle + 1, how) <= chance(idle, how)


def test_nothing_starves_under_skip():
    """At the floor of .1 a row waits 10 iterations in the mean: none of 40 waits 200, and they are
    drawn as often as the chance says."""
    made = [Row(f"p{i}", 0.0, idle=50) for i in range(40)]
    drawn = [choose(made, HOW["skip"], t=t, at_least=0) for t in range(1, 201)]
    assert set.union(*drawn) == {row.id for row in made}
    share = sum(map(len, drawn)) / (40 * 200)
    assert share == pytest.approx(HOW["skip"].floor, abs=4 * (0.1 * 0.9 / 8000) ** 0.5)


@pytest.mark.parametrize(
    ("value", "before", "trained", "now"),
    [(0.5, 3, True, 0), (0.2, 3, True, 0), (0.1, 3, True, 4), (0.1, 0, True, 1),
     (0.1, 3, False, 3), (0.5, 3, False, 0), (None, 3, True, 0)],
)  # fmt: skip
def test_iterations_without_signal(value, before, trained, now):
    """Counted where it was trained; a signal, or nothing known, begins anew."""
    assert idle_now(value, before, trained=trained, least=0.2) == now
