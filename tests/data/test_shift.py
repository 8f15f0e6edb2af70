"""Rows that have a time: parts, the rows of an iteration, their weights; and files with a date."""

import json
from dataclasses import replace
from datetime import date, datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import compose

from tspin.config.shift import Span
from tspin.data import annotated
from tspin.data.cells import BadRow
from tspin.data.shift import check, parts_of, present, time_of, weights

DATA = compose("data=file", "data.path=rows.jsonl", "data.heldout=3").data
ROWS = [
    {"id": f"{split[0]}{part}{i}", "split": split, "part": part}
    for part in range(4)
    for split, count in (("train", 9), ("heldout", 2))
    for i in range(count)
]


def timed(**how):
    return replace(DATA.shift, **how)


def trained(span, seed=0):
    return [row for row in present(ROWS, span, seed) if row["split"] == "train"]


# --- parts


def test_parts_are_of_equal_size_in_the_order_of_time():
    assert parts_of([30, 10, 20, 60, 50, 40], 3) == [1, 0, 0, 2, 2, 1]


def test_without_a_number_each_time_is_a_part():
    assert parts_of([7.5, -1, 7.5, 100], None) == [1, 0, 1, 2]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 6))
def test_later_rows_are_never_in_an_earlier_part_and_equal_times_are_together(times, number):
    parts = parts_of(times, number)
    by_time = sorted(zip(times, parts, strict=True))
    assert all(a[1] <= b[1] for a, b in zip(by_time, by_time[1:], strict=False))
    assert len({*zip(times, parts, strict=True)}) == len({*times})
    assert 0 <= min(parts) <= max(parts) < number


def test_an_iteration_without_rows_of_its_own_is_refused():
    check([0, 1, 2, 5], timed(parts=6), iterations=3)
    with pytest.raises(ValueError, match="no row to train on in part 3, 4 .* fewer data.shift"):
        check([0, 1, 2, 5], timed(parts=6), iterations=6)
    with pytest.raises(ValueError, match="iterations=4 are more than the 3 times of .*=year"):
        check([0, 1, 2], timed(column="year"), iterations=4)


# --- times


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (3, 3.0),
        ("-2.5", -2.5),
        ("1970-01-02", 86400.0),
        ("1970-02", 31 * 86400.0),
        ("1970-01-01T01:00:00Z", 3600.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        (date(1970, 1, 2), 86400.0),
        (datetime(1970, 1, 1, tzinfo=timezone.utc), 0.0),
    ],
)
def test_times_are_numbers_and_dates(value, time):
    assert time_of({"when": value}, "when")[1] == time


@pytest.mark.parametrize("value", ["soon", "March 2026", True, float("nan"), [2026], {}])
def test_what_has_no_place_in_time_is_a_bad_row(value):
    with pytest.raises(BadRow, match="when is .*, which has no place in time; write a number, or"):
        time_of({"when": value}, "when")


# --- the rows of an iteration


@pytest.mark.parametrize("span", [Span(0, 2, 0, 1), Span(2, 2, 0, 1), Span(3, 3, 0.25, 1)])
def test_held_out_rows_are_always_there_and_rows_to_come_never(span):
    rows = present(ROWS, span, 0)
    assert sum(row["split"] == "heldout" for row in rows) == 8
    assert max(row["part"] for row in rows if row["split"] == "train") == span.last
    assert rows == [row for row in ROWS if row in rows]  # in their order


def test_a_window_holds_its_parts_whole_and_no_others():
    assert [row["part"] for row in trained(Span(1, 2, 0, 1))] == [1] * 9 + [2] * 9


def test_replay_is_a_share_of_the_rows_drawn_from_before_the_window():
    """9 rows of the window and 3 older ones: a quarter of 12."""
    parts = [row["part"] for row in trained(Span(3, 3, 0.25, 1))]
    assert parts.count(3) == 9 and len(parts) == 12
    assert len(trained(Span(1, 1, 0.9, 1))) == 9 + 9  # there are no more


def test_the_draw_is_a_function_of_seed_and_iteration_and_not_of_the_order():
    span = Span(3, 3, 0.5, 1)
    names = [{row["id"] for row in trained(span, seed)} for seed in (0, 1)]
    assert names[0] != names[1]
    backwards = present(ROWS[::-1], span, 0)
    assert {row["id"] for row in backwards if row["split"] == "train"} == names[0]


def test_weights_fall_with_age_and_are_1_on_average():
    """gamma = 1/2: a row counts half of one that is a part younger (NS-DPO: T - t_i - 1)."""
    found = weights(ROWS[:33], Span(0, 2, 0, 0.5))
    assert len(found) == 27 and sum(found.values()) == pytest.approx(27)
    assert found["t20"] / found["t10"] == found["t10"] / found["t00"] == 2
    assert weights(ROWS, Span(0, 2, 0, 1.0)) is None


# --- files

DATED = [
    {"prompt": f"Say {i}.", "response": str(i), "day": f"2026-0{1 + i // 4}-0{1 + i % 4}"}
    for i in range(12)
]


def parts_in(folder, rows, **options):
    """Prompt -> part."""
    path, how = folder / "rows.jsonl", {"column": "day", "parts": 3} | options
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loaded = annotated.load(replace(DATA, path=str(path), shift=timed(**how)))
    return {pair.prompt: pair.part for pair in (*loaded.train, *loaded.heldout)}


def test_rows_of_a_file_are_in_the_parts_of_their_dates_whatever_their_order(tmp_path, caplog):
    there = parts_in(tmp_path, DATED[::-1])
    assert there == {row["prompt"]: i // 4 for i, row in enumerate(DATED)}
    assert "columns not used" not in caplog.text


def test_without_a_column_the_order_of_the_rows_is_their_time(tmp_path):
    there = parts_in(tmp_path, DATED[::-1], column=None)
    assert there == {row["prompt"]: i // 4 for i, row in enumerate(DATED[::-1])}


def test_one_part_for_each_date(tmp_path):
    assert sorted(parts_in(tmp_path, DATED, parts=None).values()) == [*range(12)]


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="line 1: it has no days, which .* did you mean day?"):
        parts_in(tmp_path, DATED, column="days")


def test_numbers_and_dates_have_no_order(tmp_path):
    with pytest.raises(ValueError, match=r"holds a date \(line 1\) and a number \(line 13\)"):
        parts_in(tmp_path, [*DATED, DATED[0] | {"day": 7}])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"column": "day"}, "data.path=micro has no columns; use data.shift.parts=N"),
        ({"path": annotated.MICRO_DRIFT, "parts": None}, "drifts from part to part"),
    ],
)
def test_built_in_tasks_come_in_parts(how, says):
    path = how.pop("path", annotated.MICRO)
    with pytest.raises(ValueError, match=says):
        annotated.load(replace(DATA, path=path, shift=timed(**how)))
