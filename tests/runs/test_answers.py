"""Counting different right answers."""

from tspin.runs.answers import num_distinct


def test_different_right_answers_are_counted_by_prompt():
    """a: x twice and y -> 2; b: all wrong -> 0, and still there."""
    samples = [("a", "x"), ("b", None), ("a", "y"), ("a", "x"), ("a", None), ("b", None)]
    assert num_distinct(samples) == {"a": 2, "b": 0}
