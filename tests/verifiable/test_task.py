"""The task verifiable: prompts, annotated answers, splits, verdicts."""

import hashlib
import itertools
import statistics
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspin.verifiable import task
from tspin.verifiable.constraints import CONSTRAINTS
from tspin.verifiable.questions import QUESTIONS

LISTS = {split: task.pairs(split, 500, 0) for split in task.SPLITS}
REQUESTS = {split: [task.parse(prompt) for prompt, _ in rows] for split, rows in LISTS.items()}
PROMPTS = [prompt for rows in LISTS.values() for prompt, _ in rows[:100]]
DIGEST = """
import hashlib
from tspin.verifiable import task
print(hashlib.sha256(repr([task.pairs(s, 50, 3) for s in task.SPLITS]).encode()).hexdigest())
"""


def instance(request):
    """What is asked, however it is worded and in whichever order."""
    head = request.head and request.head.name, tuple(sorted(request.values.items()))
    constraints = ((c.name, tuple(sorted(values.items()))) for c, values in request.constraints)
    return head, frozenset(constraints)


# What is asked


@pytest.mark.parametrize("split", task.SPLITS)
def test_annotated_answers_do_all_that_is_asked(split):
    assert all(task.check(prompt, answer) for prompt, answer in LISTS[split])


@pytest.mark.parametrize("split", task.SPLITS)
def test_lists_are_nested_and_unique_and_follow_the_seed(split):
    assert task.pairs(split, 50, 0) == LISTS[split][:50] != task.pairs(split, 50, 1)
    assert len({prompt for prompt, _ in LISTS[split]}) == 500


def test_splits_share_no_instance():
    held = {split: {*map(instance, requests)} for split, requests in REQUESTS.items()}
    for one, other in itertools.combinations(held, 2):
        assert not held[one] & held[other]
    assert all(request.split == split for split in held for request in REQUESTS[split])


def test_the_order_of_constraints_decides_no_split():
    several = [r for requests in REQUESTS.values() for r in requests if len(r.constraints) > 1]
    assert len(several) > 100
    for request in several:
        turned = task.Request(request.head, request.values, request.constraints[::-1])
        assert (turned.split, turned.kind) == (request.split, request.kind)


def test_what_is_held_out_is_in_test_alone():
    """Two families, and combinations of families that no other prompt has; half of test."""
    known = {frozenset(r.families) for s in ("train", "validation") for r in REQUESTS[s]}
    assert not set(task.HELD_OUT) & {*itertools.chain(*known)}
    kinds = [request.kind for request in REQUESTS["test"]]
    assert [kinds.count(kind) for kind in task.KINDS] == [250, 125, 125]
    for request in REQUESTS["test"]:
        if request.kind == "combination":
            assert len(request.families) > 1 and frozenset(request.families) not in known
        if request.kind == "family":
            assert set(task.HELD_OUT) & set(request.families)
    seen = {name for request in REQUESTS["train"] for name in request.families}
    every = {family.name for family in (*QUESTIONS, *CONSTRAINTS)}
    assert seen == every - set(task.HELD_OUT)


def test_prompts_and_answers_are_short():
    """In words; a token is three quarters of one."""
    prompts, answers = zip(*LISTS["train"], strict=True)
    assert max(len(prompt.split()) for prompt in prompts) <= 60
    assert max(len(answer.split()) for answer in answers) <= 60
    assert statistics.mean(len(prompt.split()) for prompt in prompts) > 12


def test_too_many_and_unknown():
    with pytest.raises(ValueError, match="n=-1 .*verifiable split 'train'"):
        task.pairs("train", -1, 0)
    with pytest.raises(ValueError, match="'dev'.*train, validation, test"):
        task.pairs("dev", 1, 0)


@pytest.mark.process
def test_another_process_makes_the_same():
    """Whatever its hash seed is."""
    own = repr([task.pairs(split, 50, 3) for split in task.SPLITS]).encode()
    command = [sys.executable, "-c", DIGEST]
    done = subprocess.run(command, capture_output=True, text=True, check=True,
                          env={"PYTHONHASHSEED": "7"})  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(own).hexdigest()


# Who is right


def test_by_hand():
    prompt = 'Write about owls. Write exactly 4 words. Do not use the letter "z".'
    assert task.check(prompt, "Owls fly at night.")
    assert not task.check(prompt, "Owls fly.")
    assert not task.check(prompt, "Zany owls fly away.")
    assert task.check("Write about nothing.", "Owls.") is None


def test_quotation_marks_are_no_part_of_what_else_is_asked():
    prompt = (
        "Write about owls. Put your whole answer in double quotation marks. "
        "End your answer with an exclamation mark."
    )
    assert task.check(prompt, '"Owls fly!"')
    assert not task.check(prompt, '"Owls fly"!')


def test_loose_leaves_out_a_first_or_last_line_and_stars():
    prompt = "Which is larger, 12 or 31? Write only the number. Put the whole answer in double"
    prompt += " quotation marks."
    for response in ('Sure:\n"31"', '"31"\nDone.', 'Sure:\n"31"\nDone.', '**"31"**'):
        verdict = task.verdict(prompt, response)
        assert verdict.loose == {"larger": True, "quoted": True}
        assert not all(verdict.strict.values())
    assert task.verdict(prompt, "It is 31.").loose == {"larger": False, "quoted": False}


def test_an_empty_answer_follows_nothing():
    """Not even loosely, when a line is taken away."""
    prompt = "Write about owls. Do not use commas."
    assert task.verdict(prompt, " \n").strict == {"no_commas": False}
    assert task.verdict(prompt, "Owls, mice.").loose == {"no_commas": False}


def test_another_prompt_is_refused():
    with pytest.raises(ValueError, match="no prompt of the task verifiable: 'Hello'"):
        task.verdict("Hello", "Hello")


HOSTILE = ("", "\0" * 100, "." * 10_000, "[" * 10_000, "1" * 10_000, "a " * 5_000, "\n" * 10_000,
           "- " * 5_000, '"' * 10_000, "\ud800", "\u202e\x1b[2J\x07", "*" * 10_000)  # fmt: skip


@pytest.mark.parametrize("response", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_judged(response):
    one_of_each = {task.parse(prompt).families: prompt for prompt in PROMPTS}
    for prompt in list(one_of_each.values())[::4]:
        task.verdict(prompt, response)
    assert task.parse(response) is None


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PROMPTS), st.text(max_size=60))
def test_loose_is_never_stricter(prompt, response):
    verdict = task.verdict(prompt, response)
    assert verdict.strict.keys() == verdict.loose.keys()
    assert all(verdict.loose[name] for name, follows in verdict.strict.items() if follows)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(PROMPTS))
def test_any_prompt_is_read_or_not(text, prompt):
    """One with more behind it than instructions is not ours."""
    assert task.parse(f"{prompt} {text}?!") is None
