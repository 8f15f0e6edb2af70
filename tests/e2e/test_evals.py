"""evals= in a run: when policies are benchmarked, what is shared, what eval.json says of it.

The harness is tested in test_benchmark.py; here something quick stands in for it, but for one run.
"""

import json
from pathlib import Path

import pytest
from support.tiny import SMALL, play

from tspin.runs import benchmarks, evaluation
from tspin.runs.artifacts import RunDir
from tspin.stages import benchmark
from tspin.tools.files import read_json, write_json
from tspin.tracking import replay

pytestmark = pytest.mark.runs

ROOT = Path(__file__).resolve().parents[2]
TASKS = "evals=tasks", "+evals.tasks.{}={{shots:null,metric:'acc,none'}}"


def evals(*tasks):
    return [TASKS[0], *(TASKS[1].format(task) for task in tasks)]


@pytest.fixture
def asked(monkeypatch):
    """Every task is 0.25 +- 0.1 at once. -> labels and tasks that were asked for"""
    seen = []

    def at_once(policy, out, run, *, label):
        for task in benchmarks.missing(out, run):
            seen.append((label, task))
            harness = {"lm_eval": "0", "template": "none", "limit": None, "dtype": "float32"}
            metrics = {"acc,none": {"value": 0.25, "stderr": 0.1}}
            result = {"num_fewshot": 0, "n": 4, "metrics": metrics, "seconds": 7.0}
            write_json(benchmark.files(out, run)[task], {"harness": harness, **result})

    monkeypatch.setattr(benchmark, "benchmark", at_once)
    monkeypatch.setattr(benchmark, "check", lambda evals: None)
    return seen


def labels(seen):
    return [label.split(":")[0] for label, _ in seen]


def test_the_initial_policy_and_every_iteration_are_benchmarked(tmp_path, asked):
    folder, rows = play(tmp_path, "tspin", *evals("a", "b"))
    assert labels(asked) == ["base", "base", "iteration 0", "iteration 0",
                             "iteration 1", "iteration 1"]  # fmt: skip
    for out in (folder.base, folder.iteration(0), folder.iteration(1)):
        found = read_json(out.evaluation)
        assert set(found) == {"heldout", "benchmarks", "average", "harness"}
        assert set(found["benchmarks"]) == {"a", "b"}
        # two independent tasks: sqrt(.1^2 + .1^2) / 2
        assert found["average"]["stderr"] == pytest.approx(0.1 / 2**0.5)
    assert [row["average"] for row in rows] == [0.25, 0.25, 0.25]
    assert rows[1]["benchmarks"]["a acc,none"] == {"value": 0.25, "stderr": 0.1}


def test_the_initial_policy_is_benchmarked_once_for_all_seeds_and_objectives(tmp_path, asked):
    for loss, seed in (("tspin", 0), ("tspin", 1), ("spin", 0)):
        name = f"{loss}-{seed}"
        play(tmp_path, loss, *evals("a"), f"seed={seed}", "selfplay.iterations=1", name=name)
        assert "a" in read_json(RunDir(tmp_path / name).base.evaluation)["benchmarks"]
    assert labels(asked).count("base") == 1


def test_a_finished_run_is_benchmarked_without_being_trained_again(
    finished_copy, tmp_path, asked, monkeypatch
):
    folder = finished_copy
    held_out = read_json(folder.iteration(1).evaluation)["heldout"]
    monkeypatch.setattr(
        "tspin.selfplay.session.train", lambda *a, **k: pytest.fail("trained again")
    )
    _, rows = play(tmp_path, "tspin", *evals("a"))
    assert labels(asked) == ["base", "iteration 0", "iteration 1"]
    assert read_json(folder.iteration(1).evaluation)["heldout"] == held_out
    assert rows[-1]["benchmarks"]["a acc,none"]["value"] == 0.25
    play(tmp_path, "tspin", *evals("a", "b"))  # one more task: only that one
    assert [task for _, task in asked[3:]] == ["b", "b", "b"]
    play(tmp_path, "tspin", *evals("a", "b"))
    assert len(asked) == 6


def test_a_linked_iteration_brings_its_benchmarks(tmp_path, asked):
    play(tmp_path, "tspin", *evals("a"))
    folder, _ = play(tmp_path, "wo_ha", *evals("a"))
    assert labels(asked)[3:] == ["iteration 1"]
    assert read_json(folder.iteration(0).done)["from"] == "tspin/iter_0"
    assert "a" in read_json(folder.iteration(0).evaluation)["benchmarks"]


def test_what_fails_in_between_is_done_at_the_next_start(tmp_path, asked, monkeypatch):
    whole = benchmark.benchmark

    def failing(policy, out, run, *, label):
        if label.startswith("iteration 1"):
            raise ValueError("benchmark a: out of memory")
        whole(policy, out, run, label=label)

    monkeypatch.setattr(benchmark, "benchmark", failing)
    with pytest.raises(ValueError, match="out of memory"):
        play(tmp_path, "tspin", *evals("a"))
    folder = RunDir(tmp_path / "tspin")
    assert folder.iterations() == [0, 1]  # trained, scored, answered: that is kept
    monkeypatch.setattr(benchmark, "benchmark", whole)
    play(tmp_path, "tspin", *evals("a"))
    assert labels(asked) == ["base", "iteration 0", "iteration 1"]


def test_without_held_out_prompts_there_are_benchmarks_alone(tmp_path, asked):
    folder, rows = play(tmp_path, "tspin", *evals("a"), "data.heldout=0", "selfplay.iterations=1")
    assert set(read_json(folder.iteration(0).evaluation)) == {"benchmarks", "average", "harness"}
    assert [row["iteration"] for row in rows] == ["base", 0]


def test_a_view_gets_an_evaluation_once(tmp_path, asked, monkeypatch):
    """After the benchmarks, with all that is known: not held-out numbers first and all again."""
    told = []
    tell = replay.evaluation
    monkeypatch.setattr(
        replay, "evaluation", lambda out, n, view: (told.append(n), tell(out, n, view))
    )
    written = []
    write = evaluation.write
    monkeypatch.setattr(
        evaluation,
        "write",
        lambda out, found, *rest: (written.append(sorted(found)), write(out, found, *rest)),
    )
    play(tmp_path, "tspin", *evals("a"))
    assert told == [0, 1, 2]
    assert written.count(["average", "benchmarks", "harness"]) == 4  # base: shared, and linked


def test_tasks_of_ones_own_from_the_command_line(forker, tmp_path):
    """Nothing stands in for anything: main.py, self-play, the harness and lm-eval."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = [{"question": f"{i} + 0 =", "answer": str(i)} for i in range(4)]
    (tasks / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tasks}/sums.jsonl}}}}\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: ["0", "1", "2", "3"]\n'
        'doc_to_target: "{{answer}}"\nmetric_list: [{metric: acc}]\n'
    )
    run = [*SMALL, "selfplay.iterations=1", "track=none", "track.report=false"]
    run += [f"runs_dir={tmp_path}", "name=run"]
    done = forker.python("main.py", *run, "evals=local", f"evals.tasks_dir={tasks}", cwd=ROOT)
    assert "sums acc,none" in done.err
    folder = RunDir(tmp_path / "run")
    for out in (folder.base, folder.iteration(0)):
        sums = read_json(out.evaluation)["benchmarks"]["sums"]
        assert sums["n"] == 4 and sums["metrics"]["acc,none"]["value"] * 4 in range(5)
