"""The prompts of a run: sorted, searched and read a few at a time. The numbers of
support.report_runs.add_triplets can be checked by hand."""

import math

import pytest
from support.report_runs import add_triplets, write_run

from analysis.reading import triplets
from analysis.reading.triplets import Triplets
from tspin.runs.artifacts import SCORES
from tspin.tools.parquet import read_rows, write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return add_triplets(write_run(tmp_path_factory.mktemp("triplets"), "tspin"))


@pytest.fixture(scope="module")
def kept(folder):
    return Triplets(folder)


def test_what_every_prompt_gained(kept):
    frame = kept.frame
    assert frame["gain"].tolist() == [-1, 0, 1, 2]
    assert frame["longest"].tolist() == [2, 4, 6, 8]
    assert frame["misaligned"].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        ("data", ["p0", "p1", "p2", "p3"]),
        ("gain", ["p3", "p2", "p1", "p0"]),
        ("loss", ["p0", "p1", "p2", "p3"]),
        ("longest", ["p3", "p2", "p1", "p0"]),
        ("misaligned", ["p1", "p0", "p2", "p3"]),
    ],
)
def test_orders(kept, order, ids):
    assert kept.ids(order) == ids


def test_an_order_that_is_none_is_refused(kept):
    with pytest.raises(ValueError, match="order=age is none of data, gain"):
        kept.ids("age")


def test_a_split_and_a_search_are_filters(kept):
    assert kept.ids(split="train") == ["p3"]
    assert kept.ids(search="Y' AT 1 2") == ["p2"]  # in a response, capitals or not
    assert kept.ids(search="p1") == ["p1"]  # an id
    assert kept.ids(search="nowhere") == []


def test_rows_hold_every_text_and_number(kept):
    (row,) = kept.rows(["p1"])
    assert (row["n"], row["prompt"], row["annotated"], row["proto"]) == (
        2,
        "prompt 1",
        "y 1",
        "y0 1",
    )
    first, last = row["iterations"]
    assert (first["t"], first["response"], first["num_tokens"]) == (0, "y' at 0 1", 2)
    assert last["scores"] == {"annotated": [-10, -10], "synthetic": [-20, 0], "proto": [-30, -30]}
    assert row["misaligned"] and not row["iterations"][0]["cut"]
    assert kept.rows(["p0"])[0]["iterations"][0]["cut"]


@pytest.mark.parametrize("lacking", ["nobody", "p1"])
def test_numbers_of_a_few_prompts_are_those_of_all(tmp_path, lacking):
    """Those of the rows that are shown are read alone, those that are sorted by together; where the
    last iteration has not scored one of them, too."""
    folder = add_triplets(write_run(tmp_path, "tspin"))
    path = folder.iteration(1).scores
    write_rows(path, [row for row in read_rows(path) if row["id"] != lacking], SCORES)
    kept = Triplets(folder)
    for name in kept.ids():
        (row,) = kept.rows([name])
        split, n, *numbers = kept.frame.loc[name]
        assert [row["split"], row["n"]] == [split, n]
        gain, longest, misaligned = (None if math.isnan(it) else it for it in numbers)
        assert [row["gain"], row["longest"], row["misaligned"]] == [gain, longest, bool(misaligned)]


def test_the_first_rows_need_the_numbers_of_no_other(folder, monkeypatch):
    """A page opens in the data's order: what is sorted by is read once somebody sorts."""
    monkeypatch.setattr(triplets, "scores", lambda *_: pytest.fail("the scores of all prompts"))
    kept = Triplets(folder)
    assert kept.rows(kept.ids()[:1])[0]["gain"] == -1
    assert kept.ids(split="train", search="y0") == ["p3"]
    with pytest.raises(pytest.fail.Exception, match="of all prompts"):
        kept.ids("gain")


def test_a_response_with_known_tokens_is_those(tmp_path):
    """Of p1, "y' at 1 1" after the last iteration; y and y0 likewise. -100 log pi is 0, 100, ..."""
    (row,) = Triplets(add_triplets(write_run(tmp_path, "tspin"), tokens=True)).rows(["p1"])
    assert row["annotated"] == {"tokens": ["y ", "1"], "surprise": [0, 100]}
    assert row["proto"]["tokens"] == ["y0 ", "1"] and row["prompt"] == "prompt 1"
    last = row["iterations"][-1]["response"]
    assert last == {"tokens": ["y' ", "at ", "1 ", "1"], "surprise": [0, 100, 200, 300]}


def test_a_character_of_several_tokens_is_one(monkeypatch):
    """Its log-probability is their sum; what is too long ends there."""
    texts, logps = ["a", "", "\u00e9", "b"], [-0.1, -0.2, -0.3, -0.4]
    known = triplets._tokens_of(texts, logps)
    assert known == {"tokens": ["a", "\u00e9", "b"], "surprise": [10, 50, 40]}
    monkeypatch.setattr(triplets, "MAX_TEXT", 1)
    assert triplets._tokens_of(texts, logps)["tokens"] == ["a", "\u00e9", " [cut]"]


def test_what_is_kept_where_not_all_can_be_has_the_ends_of_every_order(kept):
    assert kept.chosen(3) == ["p0", "p1", "p3"]  # loss, misaligned, gain
    assert kept.chosen(100) == ["p0", "p1", "p2", "p3"]


def test_samples_of_an_iteration_that_goes_on_are_shown(tmp_path):
    folder = add_triplets(write_run(tmp_path, "tspin"))
    folder.iteration(1).done.unlink()
    (row,) = Triplets(folder).rows(["p1"])
    assert [it["t"] for it in row["iterations"]] == [0, 1]
    assert row["iterations"][1]["scores"] == {}
    assert row["gain"] is None  # one iteration says nothing of a change


def test_an_older_folder_has_its_readable_samples(tmp_path):
    """Without prompts.parquet: two rows, the texts of samples.jsonl, the scores of both."""
    kept = Triplets(write_run(tmp_path, "tspin", scores=True))
    first, _ = kept.rows(["p0", "p1"])
    assert [it["response"] for it in first["iterations"]] == ["0, 0 | y'", "0, 1 | y'"]
    assert first["gain"] == pytest.approx(0.1) and kept.ids(search="say 1") == ["p1"]


def test_a_number_that_is_not_finite_is_none(tmp_path):
    """JSON has no NaN; SFT has no samples and no reward."""
    kept = Triplets(write_run(tmp_path, "sft"))
    (row,) = kept.rows(["p0"])
    assert math.isnan(kept.frame.loc["p0", "gain"]) and row["gain"] is None
    assert row["longest"] is None and row["misaligned"] is False


def test_lengths_and_ends_of_samples(folder):
    """Means of 1, 2, 3, 4 tokens, twice that in the next iteration; one of four was cut."""
    assert triplets.lengths(folder) == {0: 2.5, 1: 5.0}
    assert triplets.finish_reasons(folder) == {"length": 1, "stop": 3}


def test_a_run_that_has_begun_has_no_prompts_yet(tmp_path):
    made = write_run(tmp_path, "tspin", iterations=1)
    made.iteration(0).done.unlink()
    kept = Triplets(made)
    assert len(kept) == 0 and kept.rows(kept.chosen(10)) == kept.ids(search="x") == []
