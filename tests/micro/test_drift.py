"""The task that changes: the same prompts, other right answers, by hand and against `task`."""

import pytest

from tspin.micro import drift, task


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [
        ('Reverse the word "zim".', ("miz", "imz", "imz", "imz", "imz")),
        ('Sort the letters of "zim".', ("imz", "miz", "miz", "miz", "miz")),
        ('Write "zim" in capitals.', ("ZIM", "zimm", "zimm", "zimm", "zimm")),
        ('Double the last letter of "zim".', ("zimm", "ZIM", "ZIM", "ZIM", "ZIM")),
        ('Remove the first letter of "zim".', ("im", "im", "im", "ajn", "ajn")),
        ('Shift every letter of "zim" by one.', ("ajn", "ajn", "ajn", "im", "im")),
        ("Give the largest of 31, 12, 20.", ("31", "31", "31", "12", "12")),
        ("Order the numbers 31, 12, 20.", ("12 20 31",) * 3 + ("31 20 12",) * 2),
    ],
)
def test_answers_over_time_by_hand(prompt, answers):
    assert tuple(drift.answer(prompt, part) for part in range(5)) == answers
    assert drift.check(prompt, f" {answers[4]}\n", 4) and not drift.check(prompt, answers[0], 4)


def test_it_begins_as_the_micro_task_and_half_of_it_changes_each_time():
    pairs = task.pairs("test", 80, seed=0)
    assert all(drift.answer(prompt, 0) == right for prompt, right in pairs)
    changed = [
        sum(drift.answer(prompt, part) != drift.answer(prompt, part - 1) for prompt, _ in pairs)
        for part in range(1, 5)
    ]
    # a sorted word is its own reverse now and then
    assert changed[1] == changed[3] == 0 and min(changed[0], changed[2]) >= 35


def test_what_is_not_of_the_task_is_named():
    with pytest.raises(ValueError, match="'Say a word.' is no prompt of the micro task"):
        drift.answer("Say a word.", 0)
