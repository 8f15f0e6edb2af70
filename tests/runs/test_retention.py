"""Which checkpoints stay: the rule by hand on made-up folders, and what runs do without them."""

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml
from support.tiny import compose, play

from tspin.config.load import dump, load
from tspin.runs import benchmarks, retention
from tspin.runs.artifacts import RunDir, sharing_lock
from tspin.runs.evaluation import main_number
from tspin.tools.files import owner, read_json, write_json, write_text

default = cache(compose)


def run_of(root, rule, name="run", iterations=4, **selfplay):
    told = replace(default().selfplay, keep=rule, iterations=iterations, **selfplay)
    return replace(default(), name=name, runs_dir=str(root), selfplay=told)


def made(run, done, numbers=None):
    """A run with so many iterations, each with a checkpoint; numbers: metric -> by iteration"""
    folder = RunDir(run.folder)
    write_text(folder.config, yaml.safe_dump(dump(run), sort_keys=False))
    for t in range(done):
        out = folder.iteration(t)
        write_text(out.checkpoint / "weights", "w" * 100)
        write_json(out.done, {"key": f"key{t}", "seconds": {}})
        heldout = {metric: {"value": values[t]} for metric, values in (numbers or {}).items()}
        write_json(out.evaluation, {"heldout": heldout} if heldout else {})
    return folder


def there(folder):
    return [t for t in folder.iterations() if folder.iteration(t).checkpoint.exists()]


def noted(folder):
    return [t for t in folder.iterations() if folder.iteration(t).removed.exists()]


# --- the rule ------------------------------------------------------------------------------------

GREEDY = {"exact_match,greedy": [0.3, 0.5, 0.4, 0.2], "perplexity": [1.1, 1.3, 1.2, 1.4]}
RULES = {
    "all": ("all", GREEDY, [0, 1, 2, 3]),
    "last": ("last", GREEDY, [3]),
    "most right answers": ("best", GREEDY, [1, 3]),
    "without them the least perplexity": ("best", {"perplexity": [3, 2, 4, 5]}, [1, 3]),
    "the earliest of equals": ("best", {"perplexity": [2, 2, 2, 2]}, [0, 3]),
    "the last is the best": ("best", {"perplexity": [4, 3, 2, 1]}, [3]),
    "none is evaluated": ("evaluated", GREEDY, [3]),
}


@pytest.mark.parametrize(("rule", "numbers", "left"), RULES.values(), ids=RULES)
def test_the_rules_by_hand(tmp_path, rule, numbers, left):
    run = run_of(tmp_path, rule)
    folder = made(run, 4, numbers)
    went = retention.prune(run, folder)
    assert there(folder) == left and went == noted(folder) == sorted({0, 1, 2, 3} - {*left})
    assert folder.iterations() == [0, 1, 2, 3]  # complete as before
    assert retention.prune(run, folder) == []


def test_those_with_benchmarks_are_kept_as_evaluated(tmp_path):
    run = run_of(tmp_path, "evaluated")
    folder = made(run, 4)
    write_json(folder.iteration(1).benchmark("gsm8k", "0" * 8), {})
    assert retention.prune(run, folder) == [0, 2]


def test_the_note_says_which_rule_and_the_number_it_went_by(tmp_path):
    run = run_of(tmp_path, "best")
    folder = made(run, 4, GREEDY)
    retention.prune(run, folder)
    assert read_json(folder.iteration(0).removed) == {
        "keep": "best", "best": 1, "by": "exact_match,greedy", "value": 0.5, "bytes": 100
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"iter_0 were removed by selfplay.keep=best; .*keep=all"):
        folder.iteration(0).weights()
    assert folder.iteration(1).weights() == folder.iteration(1).checkpoint


def test_the_main_number_is_none_without_held_out_prompts(tmp_path):
    folder = made(run_of(tmp_path, "all"), 1)
    assert main_number(folder.iteration(0)) is None
    tree = dump(default())
    tree["selfplay"]["keep"], tree["data"]["heldout"] = "best", 0
    with pytest.raises(ValueError, match="selfplay.keep=best needs held-out prompts"):
        load(tree)


# --- what is needed still ------------------------------------------------------------------------


def test_benchmarks_that_are_missing_need_the_weights(tmp_path, monkeypatch):
    run = run_of(tmp_path, "last")
    folder = made(run, 4)
    monkeypatch.setattr(benchmarks, "missing", lambda out, run: ["gsm8k"] if out.t == 1 else [])
    assert retention.prune(run, folder) == [0, 2]
    assert benchmarks.due(folder.iteration(1), run) == ["gsm8k"]


def test_what_is_gone_has_no_benchmark_to_be_made(tmp_path, monkeypatch):
    run = run_of(tmp_path, "last")
    folder = made(run, 2)
    retention.prune(run, folder)
    monkeypatch.setattr(benchmarks, "missing", lambda out, run: ["gsm8k"])
    assert benchmarks.due(folder.iteration(0), run) == []


def test_a_run_that_begins_from_an_iteration_needs_it_until_its_first_is_done(tmp_path):
    run = run_of(tmp_path / "runs", "last")
    folder = made(run, 4)
    start = str(folder.iteration(1).path)
    other = made(run_of(tmp_path / "runs", "all", "other", start_from=start, share=False), 0)
    assert retention.prune(run, folder) == [0, 2]
    write_json(other.iteration(2).done, {})
    assert retention.prune(run, folder) == [1]


SIBLINGS = {  # what the other run says -> whether it will link iteration 0, and iteration 1
    "the same": ({}, True, True),
    "another beta": ({"loss": {"beta": 0.9}}, True, False),
    "another alpha": ({"loss": {"alpha": 0.9}}, False, False),
    "it does not share": ({"selfplay": {"share": False}}, False, False),
}


@pytest.mark.parametrize(("told", "first", "second"), SIBLINGS.values(), ids=SIBLINGS)
def test_an_iteration_that_an_unfinished_run_will_link_stays(tmp_path, told, first, second):
    run = run_of(tmp_path, "last")
    folder = made(run, 3)
    tree = dump(run_of(tmp_path, "last", "other"))
    for section, values in told.items():
        tree[section] |= values
    other = made(load(tree), 0)
    stays = {0: first, 1: second}
    assert retention.prune(run, folder) == [t for t in stays if not stays[t]]
    for t in range(3):
        write_json(other.iteration(t).done, {})
    assert there(folder) == [t for t, stays in ((0, first), (1, second)) if stays] + [2]
    retention.prune(run, folder)
    assert there(folder) == [2]


def test_weights_that_are_being_linked_are_left_for_the_next_time(tmp_path):
    run = run_of(tmp_path, "last")
    folder = made(run, 3)
    with owner(sharing_lock(run.runs_dir, "key1")):
        assert retention.prune(run, folder) == [0]
    assert retention.prune(run, folder) == [1]


def test_a_kill_between_the_note_and_the_end_is_finished(tmp_path):
    folder = made(run_of(tmp_path, "last"), 3)
    write_json(folder.iteration(0).removed, {"keep": "last", "bytes": 100})
    retention.prune(run_of(tmp_path, "all"), folder)
    assert there(folder) == [1, 2]


# --- runs ----------------------------------------------------------------------------------------


def trained(monkeypatch):
    """(run, iteration) of what is trained from now on."""
    from tspin.selfplay import session

    seen = []
    train = session.train

    def training(policy, triplets, out, recipe, **options):
        seen.append((out.path.parent.name, recipe.t))
        return train(policy, triplets, out, recipe, **options)

    monkeypatch.setattr(session, "train", training)
    return seen


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished run of three iterations that kept the last."""
    root = tmp_path_factory.mktemp("runs")
    return play(root, "tspin", "selfplay.iterations=3", "selfplay.keep=last", name="kept")


THREE = ("selfplay.iterations=3",)


@pytest.mark.runs
def test_the_numbers_are_those_of_a_run_that_keeps_all(kept, tmp_path):
    folder, rows = kept
    whole, same = play(tmp_path, "tspin", *THREE, name="whole")
    assert there(folder) == [2] and there(whole) == [0, 1, 2]
    for t in range(3):
        one, other = folder.iteration(t), whole.iteration(t)
        assert read_json(one.done)["weights"] == read_json(other.done)["weights"]
        for file in ("scores", "evaluation", "contingency", "samples", "answers"):
            assert getattr(one, file).read_bytes() == getattr(other, file).read_bytes()
    untimed = [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    assert [row["loss"] for row in untimed[1:]] == [row["loss"] for row in same[1:]]


@pytest.mark.runs
def test_a_complete_run_stays_complete_and_may_be_told_to_keep_less(
    finished_copy, tmp_path, caplog, monkeypatch
):
    folder = finished_copy
    seen = trained(monkeypatch)
    with caplog.at_level(logging.INFO, logger="tspin"):
        play(tmp_path, "tspin", "selfplay.keep=last")
    assert "nothing to do" in caplog.text and there(folder) == [1]
    play(tmp_path, "tspin")
    assert seen == [] and there(folder) == [1]


@pytest.mark.runs
def test_an_interrupted_run_goes_on_from_the_last(tmp_path, monkeypatch):
    from tspin.selfplay import session

    evaluate = session.evaluate

    def interrupted(*args, label, **options):
        if label == "iteration 2: evaluate":
            raise KeyboardInterrupt
        return evaluate(*args, label=label, **options)

    monkeypatch.setattr(session, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, "tspin", *THREE, "selfplay.keep=last")
    folder = RunDir(tmp_path / "tspin")
    assert folder.iterations() == [0, 1] and there(folder) == [1]
    monkeypatch.setattr(session, "evaluate", evaluate)
    play(tmp_path, "tspin", *THREE, "selfplay.keep=last")
    assert folder.iterations() == [0, 1, 2] and there(folder) == [2]


@pytest.mark.runs
def test_another_run_trains_again_what_it_needs_and_links_what_it_does_not(
    kept, monkeypatch, caplog
):
    """Iterations 0 and 1 are gone: wo_ha needs 0 to go on its own way, a longer run only 2."""
    folder, _ = kept
    seen = trained(monkeypatch)
    with caplog.at_level(logging.INFO, logger="tspin"):
        play(folder.path.parent, "wo_ha", "selfplay.iterations=1", name="needs")
    assert seen == [("needs", 0)] and "kept/iter_0, whose weights were removed" in caplog.text
    (folder.path.parent / "needs").rename(folder.path.parent.parent / "needs")
    longer, _ = play(
        folder.path.parent, "tspin", "selfplay.iterations=4", "selfplay.keep=last", name="longer"
    )
    assert seen[1:] == [("longer", 3)] and there(longer) == [3]
    assert there(folder) == [2]  # links are each run's own


@pytest.mark.runs
def test_beginning_from_what_is_gone_says_why(kept):
    folder, _ = kept
    start = f"selfplay.start_from={folder.iteration(0).path}"
    with pytest.raises(ValueError, match=r"iter_0 were removed by selfplay.keep=last"):
        play(folder.path.parent, "tspin", start, "selfplay.iterations=3", name="from")


@pytest.mark.runs
def test_a_sweep_that_keeps_the_last_shares_as_one_that_keeps_all(tmp_path, monkeypatch):
    """Its points are announced, so iteration 0 stays until the last of them has linked it."""
    from tspin.cli import sweep
    from tspin.cli.command import check
    from tspin.selfplay import algorithm

    words = ["track=none", "data.size=16", "data.heldout=4", "optim.epochs=1", "model=micro",
             "selfplay.iterations=2", "selfplay.keep=last", f"runs_dir={tmp_path}"]  # fmt: skip
    points = check(["-m", "coef.beta=0,0.1,0.2", *words]).points
    plan = sweep.plan("betas", points)
    seen = trained(monkeypatch)
    with sweep.announced(plan):
        for point in plan.to_run():
            algorithm.run(point.run, command=["test"])
    assert [t for _, t in seen] == [0, 1, 1, 1]
    after = [there(RunDir(Path(tmp_path) / point.run.name)) for point in plan.to_run()]
    assert after == [[0, 1], [0, 1], [1]]
