"""eval.json's numbers, each small enough to count by hand."""

import math

import pytest

from tspin.runs import evaluation
from tspin.runs.artifacts import ANSWERS, SCORES, VERDICTS, Iteration
from tspin.runs.evaluation import of_answers, of_families, of_scores, of_verdicts
from tspin.tools.files import read_json
from tspin.tools.parquet import write_rows


def score(i, role, logp, num_tokens, reward=None, split="heldout"):
    return {"id": i, "split": split, "source": 0, "role": role, "logp": logp} | {
        "num_tokens": num_tokens, "ref_logp": None, "reward": reward
    }  # fmt: skip


def answer(i, ids, *, correct=None, finish="stop", decoding="sampled", draw=0):
    """What says the same is spelled alike: the ids in any order."""
    row = {"id": i, "response": str(ids), "response_ids": ids, "num_tokens": len(ids)}
    row |= {"finish_reason": finish, "decoding": decoding, "draw": draw, "correct": correct}
    return row | {"canonical": str(sorted(ids)) if correct else None}


SCORED = [
    score("a", "annotated", -2.0, 1, reward=-2.0),
    score("b", "annotated", -6.0, 3, reward=-6.0),
    score("a", "synthetic", -3.0, 2, reward=-3.0),
    score("b", "synthetic", -5.0, 2, reward=-5.0),
]


def test_likelihood_of_held_out_annotated_responses():
    """-8 nats over 4 tokens: -2 a token, perplexity e^2; a and b lie 0 from the ratio's line."""
    found = of_scores(SCORED)
    assert found["logp"] == {"value": -4.0, "stderr": pytest.approx(2.0), "n": 2}
    assert found["logp_per_token"] == {"value": -2.0, "stderr": 0.0, "n": 2}
    assert found["perplexity"]["value"] == pytest.approx(math.exp(2))


def test_the_error_of_a_perplexity_is_that_of_the_rate_times_the_perplexity():
    """-1 and -3 nats in one token each: rate -2 +- 1, perplexity e^2 +- e^2."""
    found = of_scores([score("a", "annotated", -1.0, 1), score("b", "annotated", -3.0, 1)])
    assert found["logp_per_token"]["stderr"] == pytest.approx(1.0)
    assert found["perplexity"]["stderr"] == pytest.approx(math.exp(2))


def test_margins():
    """y leads y' by +1 on a and by -1 on b: mean 0, one of two above."""
    found = of_scores(SCORED)
    assert found["logp_margin"]["value"] == found["margin"]["value"] == 0.0
    assert found["margin"]["stderr"] == pytest.approx(1.0)
    assert found["margin_accuracy"] == {"value": 0.5, "stderr": pytest.approx(0.5), "n": 2}


def test_without_rewards_or_samples_there_is_no_margin():
    no_reward = [row | {"reward": None} for row in SCORED]
    assert "logp_margin" in of_scores(no_reward) and "margin" not in of_scores(no_reward)
    assert "logp_margin" not in of_scores(SCORED[:2])
    assert of_scores([]) == {}


def test_one_prompt_has_no_error():
    assert of_scores(SCORED[:1])["logp"] == {"value": -2.0, "stderr": None, "n": 1}


def test_length_and_variety_of_answers():
    """1 2 1 and 1 2: of 5 unigrams 2 differ, of 3 bigrams 2, and there is one trigram."""
    found = of_answers([answer("a", [1, 2, 1]), answer("b", [1, 2], finish="length")])
    assert found["distinct_1"]["value"] == 2 / 5
    assert found["distinct_2"]["value"] == 2 / 3
    assert found["distinct_3"]["value"] == 1
    assert found["num_tokens"] == {"value": 2.5, "stderr": pytest.approx(0.5), "n": 2}
    assert found["finished"]["value"] == 0.5
    assert "exact_match" not in found


def test_answers_too_short_for_an_n_gram_have_no_share_of_it():
    assert "distinct_2" not in of_answers([answer("a", [1]), answer("b", [2])])


def test_right_answers():
    """3 of 4: 0.75; squares about it 3 x 1/16 + 9/16 = 3/4, so 0.75 +- sqrt(3/4 / 3 / 4) = 0.25"""
    rows = [answer(i, [1], correct=i != "d") for i in "abcd"]
    assert of_answers(rows)["exact_match"] == {"value": 0.75, "stderr": 0.25, "n": 4}


def test_draws_of_one_prompt_are_not_independent():
    """a right in both of its draws, b in none: 2 of 4, but the error is that of 2 prompts."""
    rows = [answer(i, [1, draw], correct=i == "a", draw=draw) for i in "ab" for draw in (0, 1)]
    found = of_answers(rows)
    assert found["exact_match"] == {"value": 0.5, "stderr": pytest.approx(0.5), "n": 2}
    assert found["distinct_2"]["value"] == 0.5  # of the first draws alone: 1 0 and 1 0


def test_different_right_answers():
    """a: 1 2 and 2 1 say the same, 1 3 is another, 9 is wrong: two. b: none. (2 + 0) / 2."""
    a = [answer("a", ids, correct=ids != [9], draw=i)
         for i, ids in enumerate([[1, 2], [2, 1], [1, 3], [9]])]  # fmt: skip
    b = [answer("b", [i], correct=False, draw=i) for i in range(4)]
    assert of_answers(a + b)["distinct_right"] == {"value": 1.0, "stderr": 1.0, "n": 2}
    assert "distinct_right" not in of_answers(a[:1] + b[:1])  # one draw knows one


def judged(i, kind, families, strict, loose=None, **options):
    row = answer(i, [1], correct=all(strict), **options)
    return row | {"kind": kind, "families": families, "strict": strict, "loose": loose or strict}


JUDGED = [
    judged("a", "known", ["lines", "quoted"], [True, False], [True, True]),
    judged("b", "known", ["lines"], [True]),
    judged("c", "combination", ["lines", "json"], [False, False], [False, True]),
]


def test_answers_judged_by_instructions():
    """a 1 of 2, b 1 of 1, c 0 of 2: 2 of 5. Residuals a 0.2, b 0.6, c -0.8 sum to squares of 1.04:
    sqrt(1.04 / 2 / 3) / (5 / 3)."""
    found = of_verdicts(JUDGED)
    error = math.sqrt(1.04 / 2 / 3) / (5 / 3)
    assert found["instruction_strict"] == {"value": 0.4, "stderr": pytest.approx(error), "n": 3}
    assert found["instruction_loose"]["value"] == 0.8
    assert found["prompt_loose"]["value"] == pytest.approx(2 / 3)
    assert found["strict_known"] == {"value": 0.5, "stderr": pytest.approx(0.5), "n": 2}
    assert found["strict_combination"] == {"value": 0.0, "stderr": None, "n": 1}
    assert "strict_family" not in found
    families = of_families(JUDGED)
    assert families["lines"]["strict"]["value"] == pytest.approx(2 / 3)
    assert families["json"] == {
        "strict": {"value": 0.0, "stderr": None, "n": 1},
        "loose": {"value": 1.0, "stderr": None, "n": 1},
    }
    assert list(families) == ["json", "lines", "quoted"]


def test_instructions_of_one_prompt_are_not_independent():
    """Both of a's in both draws, none of b's: a half, with the error of two prompts."""
    rows = [judged(i, "known", ["lines", "json"], [i == "a"] * 2, draw=k)
            for i in "ab" for k in (0, 1)]  # fmt: skip
    expected = {"value": 0.5, "stderr": pytest.approx(0.5), "n": 2}
    assert of_verdicts(rows)["instruction_strict"] == expected


def test_answers_without_verdicts_have_no_instructions():
    assert of_verdicts([answer("a", [1], correct=True)]) == of_families([]) == {}


def test_the_file_of_judged_answers(tmp_path):
    out = Iteration(tmp_path)
    write_rows(out.answers, JUDGED, VERDICTS)
    evaluation.write(out, {})
    written = read_json(out.evaluation)
    assert written["heldout"]["instruction_strict,sampled"]["value"] == 0.4
    assert written["families"]["quoted"]["loose,sampled"]["value"] == 1.0


def test_the_file(tmp_path):
    """Training rows do not count; decodings stand beside each other; benchmarks follow."""
    out = Iteration(tmp_path)
    write_rows(out.scores, [*SCORED, score("c", "annotated", -99.0, 1, split="train")], SCORES)
    rows = [answer("a", [1, 2], correct=True), answer("b", [1, 3], correct=False)]
    greedy = [row | {"decoding": "greedy", "correct": True} for row in rows]
    write_rows(out.answers, rows + greedy, ANSWERS)
    evaluation.write(out, {"benchmarks": {"gsm8k": {}}})
    written = read_json(out.evaluation)
    assert written["heldout"]["logp"]["value"] == -4.0
    assert written["heldout"]["exact_match,sampled"]["value"] == 0.5
    assert written["heldout"]["exact_match,greedy"]["value"] == 1.0
    assert written["benchmarks"] == {"gsm8k": {}}


def test_without_held_out_prompts_there_are_benchmarks_alone(tmp_path):
    out = Iteration(tmp_path)
    evaluation.write(out, {"benchmarks": {"gsm8k": {}}})
    assert read_json(out.evaluation) == {"benchmarks": {"gsm8k": {}}}


def test_a_perplexity_beyond_all_floats_is_infinite_and_no_part_of_the_file(tmp_path):
    """-800 nats in one token; the largest float is e^709.8."""
    rows = [score("a", "annotated", -800.0, 1), score("b", "annotated", -800.0, 1)]
    estimates = of_scores(rows)
    assert estimates["perplexity"] == {"value": math.inf, "stderr": None, "n": 2}
    out = Iteration(tmp_path / "iter_0")
    write_rows(out.scores, rows, SCORES)
    evaluation.write(out, {})
    assert "perplexity" not in read_json(out.evaluation)["heldout"]
    assert (
        evaluation.divergence(out) == "log pi(y) is -800 nats a token, and the perplexity infinite"
    )
