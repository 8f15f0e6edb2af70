"""What training changed, in a sentence: numbers that support.report_runs says by rule."""

import math

import pytest
from support.report_runs import write_run

from analysis.figures import change
from analysis.reading import measures
from analysis.reading.runs import Runs
from tspin.runs.artifacts import SCORES
from tspin.tools.files import write_json
from tspin.tools.parquet import read_rows, write_rows


def runs_of(tmp_path, seeds=1, **options):
    for seed in range(seeds):
        write_run(tmp_path, "tspin", seed=seed, **options)
    return Runs.read(tmp_path)


def test_from_the_initial_policy_to_the_last_iteration(tmp_path):
    """Seeds 0, 1, 2: 40, 42, 44% at first, 6 of 50 prompts more after two iterations, all alike."""
    runs = runs_of(tmp_path, seeds=3)
    changed = change.of(runs, list(runs))
    assert (changed.start, changed.end, changed.t) == (pytest.approx(42), pytest.approx(54), 1)
    assert str(changed) == (
        "accuracy, greedy 42.0% to 54.0%, +12.0 points [12.0, 12.0] after 2 iterations, 3 seeds: "
        "better"
    )


def test_one_seed_without_answers_has_no_interval(tmp_path):
    runs = runs_of(tmp_path)
    changed = change.of(runs, list(runs))
    assert str(changed) == "accuracy, greedy 40.0% to 52.0%, +12.0 points after 2 iterations"
    assert changed.verdict == ""


def test_less_perplexity_is_better(tmp_path):
    """No perplexity of the initial policy is known: only its end can be said."""
    runs = runs_of(tmp_path, iterations=1)
    changed = change.of(runs, list(runs), measures.HELDOUT["perplexity"])
    assert str(changed) == (
        "perplexity 1.9 after 1 iteration; the initial policy was not evaluated"
    )


def test_a_change_of_perplexity_is_relative_and_paired(tmp_path):
    """p_i has 4 tokens, log pi(y) is -2 at first, then -1 + 0.1 t: exp(-0.275) - 1 after t = 1."""
    made = write_run(tmp_path, "tspin", scores=True)
    rows = [row | {"source": 0, "logp": -2.0} for row in read_rows(made.iteration(0).scores)]
    write_rows(made.base.scores, rows, SCORES)
    estimate = {"value": math.exp(0.5), "stderr": None, "n": 50}
    write_json(made.base.evaluation, {"heldout": {"perplexity": estimate}})
    runs = Runs.read(tmp_path)
    changed = change.of(runs, list(runs), measures.HELDOUT["perplexity"])
    assert changed.numbers == "1.649 to 1.8, -24.0% [-24.0, -24.0]"
    assert (changed.verdict, changed.over.num_prompts) == ("better", 50)


def test_nothing_finished_is_no_change(tmp_path):
    made = write_run(tmp_path, "tspin", iterations=1)
    made.iteration(0).done.unlink()
    runs = Runs.read(tmp_path)
    assert change.of(runs, list(runs)) is None
