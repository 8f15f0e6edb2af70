"""Stage choose: by what the rows of a made-up iteration are chosen, and what it leaves."""

from dataclasses import replace

import pytest
from support.tiny import compose

from tspin.objectives import SPIN, TSPIN, WithoutHA
from tspin.runs.artifacts import CHOICES, SCORES, Iteration
from tspin.stages.choose import Choice, choose
from tspin.tools.parquet import read_rows, write_rows

HALF = replace(compose("curriculum=gate").curriculum, share=0.5)
SKIP = compose("curriculum=skip").curriculum
LOGPS = {  # of y, y', y0
    "a": (-1.0, -1.0, -5.0),
    "b": (-1.0, -9.0, -1.0),
    "c": (-2.0, -2.5, -3.0),
    "d": (-9.0, -1.0, -1.0),
}
TEXTS = {
    "annotated": {name: [1, 9] for name in LOGPS},
    "synthetic": {"a": [1, 9], "b": [2, 9], "c": [3, 9], "d": [2, 9]},  # a: y' is y
    "proto": {name: [7, 9] for name in LOGPS},
}


@pytest.fixture
def before(tmp_path):
    """Iteration 1, with scores of LOGPS and of a held-out prompt."""
    out = Iteration(tmp_path / "iter_1")
    write_scores(out)
    return out


def write_scores(out, reference=None):
    made = [
        {"id": name, "split": split, "source": 1, "role": role, "logp": logp, "num_tokens": 2,
         "ref_logp": None if reference is None else reference.get(role), "reward": None}
        for name, of in (*LOGPS.items(), ("held", (-1.0, -2.0, -3.0)))
        for split in ["heldout" if name == "held" else "train"]
        for role, logp in zip(TEXTS, of, strict=True)
    ]  # fmt: skip
    write_rows(out.scores, made, SCORES)


def chosen(before, how, *, objective=None, responses=TEXTS, t=2):
    loss = TSPIN(1.0, 0.1) if objective is None else objective
    out = before.path.parent / "choices.parquet"
    choose(responses, before, out, Choice(how, loss, seed=0, t=t, at_least=1))
    return {row["id"]: row for row in read_rows(out)}


def test_gate_by_hand(before):
    """a: y' is y, h = 4; b: c = 8, h = -8; c: c = h = 0.5; d: c = -8, h = 0.

    2 (sigmoid(-c) + 0.1 sigmoid(-h)) / 1.1, for a without c.
    """
    rows = chosen(before, HALF)
    values = {name: row["value"] for name, row in rows.items()}
    expected = {"a": 0.00327, "b": 0.18236, "c": 0.75508, "d": 1.90848}
    assert values == pytest.approx(expected, abs=1e-5)
    assert [name for name in rows if rows[name]["chosen"]] == ["c", "d"]
    assert {name: row["source"] for name, row in rows.items()} == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert all(row["idle"] == 0 for row in rows.values())


def test_band_goes_by_the_mean_of_a_token_of_y(before):
    rows = chosen(before, compose("curriculum=band").curriculum)
    assert {name: row["value"] for name, row in rows.items()} == {
        "a": -0.5, "b": -0.5, "c": -1.0, "d": -4.5,
    }  # fmt: skip
    assert [name for name in rows if rows[name]["chosen"]] == ["a", "b"]


def test_what_was_kept_before_keeps_its_source(before):
    """b was left out at iteration 1 already; what had no signal there and then counts on."""
    earlier = [
        {"id": name, "chosen": name != "b", "source": 0 if name == "b" else 1, "value": 0.0,
         "idle": 2}
        for name in LOGPS
    ]  # fmt: skip
    write_rows(before.choices, earlier, CHOICES)
    rows = chosen(before, HALF)
    assert {name: row["source"] for name, row in rows.items()} == {"a": 1, "b": 0, "c": 2, "d": 2}
    rows = chosen(before, SKIP)  # below 0.2: a, which was trained, and b, which was not
    assert {name: row["idle"] for name, row in rows.items()} == {"a": 3, "b": 2, "c": 0, "d": 0}
    assert all(row["source"] == (2 if row["chosen"] else n != "b") for n, row in rows.items())


def test_a_prompt_that_came_later_is_chosen(before):
    """It has neither a response to keep nor scores."""
    more = {**TEXTS, "annotated": TEXTS["annotated"] | {"e": [4, 9]}}
    rows = chosen(before, HALF, responses=more)
    assert rows["e"]["chosen"] and rows["e"]["value"] is None and rows["e"]["source"] == 2
    assert sum(row["chosen"] for row in rows.values()) == 2  # half of 5, rounded to even


def test_without_the_reference_that_it_reads_all_are_chosen(before):
    """As where the run goes on from one whose objective had none."""
    assert all(row["chosen"] for row in chosen(before, HALF, objective=SPIN(1.0)).values())
    write_scores(before, {"annotated": -1.0, "synthetic": -1.0})
    rows = chosen(before, HALF, objective=SPIN(1.0))
    others = chosen(before, HALF, objective=WithoutHA(1.0))  # c_ref is 0
    assert rows == others and sum(row["chosen"] for row in rows.values()) == 2
