"""The benchmark stage against lm-eval's own command line, and what happens when something is amiss.

Real tasks of lm-eval on a made-up mirror of the hub (support/hub.py), a random model, no network.
"""

import json
import os
import random
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lm_eval
import pytest
import torch
import yaml
from support import hub
from support.tiny import compose

from tspin.config.run import EvalTask
from tspin.runs import benchmarks
from tspin.runs.artifacts import Iteration
from tspin.stages import benchmark
from tspin.tools.files import read_json

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
MMLU = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"
# As evals=paper has them, except 5 examples for HellaSwag: a command line has one number for all.
TEN = {
    "gsm8k": EvalTask(shots=5, metric="exact_match,strict-match"),
    "leaderboard_math_hard": EvalTask(shots=4, metric="exact_match,none"),
    "leaderboard_musr": EvalTask(shots=0, metric="acc_norm,none"),
    "mmlu": EvalTask(shots=5, metric="acc,none"),
    "leaderboard_mmlu_pro": EvalTask(shots=5, metric="acc,none"),
    "leaderboard_gpqa": EvalTask(shots=0, metric="acc_norm,none"),
    "hellaswag": EvalTask(shots=5, metric="acc_norm,none"),
    "winogrande": EvalTask(shots=5, metric="acc,none"),
    "leaderboard_bbh": EvalTask(shots=3, metric="acc_norm,none"),
    "leaderboard_ifeval": EvalTask(shots=0, metric="strict_acc_mean,none"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the mirror, a checkpoint and punkt_tab; the environment points to it."""
    root = tmp_path_factory.mktemp("benchmark")
    subjects = [yaml.safe_load(f.read_text())["dataset_name"] for f in MMLU.glob("mmlu_*.yaml")]
    hub.write(root / "hub", mmlu=subjects)
    hub.checkpoint(root / "policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLTK_DATA", str(hub.punkt(root / "nltk")))
        patch.setenv("HF_HOME", str(root / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield root


@pytest.fixture
def run(place):
    """A Run with these tasks on the mirror; keywords replace other keys of `evals`."""

    def make(tasks, **settings):
        run = compose("compute.threads=1")
        tasks = {task: t if isinstance(t, EvalTask) else EvalTask(shots=None, metric=t)
                 for task, t in tasks.items()}  # fmt: skip
        settings = {"data_root": str(place / "hub")} | settings
        return replace(run, evals=replace(run.evals, tasks=tasks, **settings))

    return make


@pytest.fixture
def make(place, tmp_path):
    """Runs the stage. -> its Iteration"""

    def make(run, name="iter_0"):
        out = Iteration(tmp_path / name)
        benchmark.benchmark(place / "policy", out, run, label="benchmarks")
        return out

    return make


# lm-eval's own command line, once for each list of words, in one process. What it imports takes
# longer than all that it evaluates here, and so does its index of more than 10,000 tasks: read
# once, of the folders that the ten are in.
COMMAND_LINES = """
import json, sys
from functools import cache
from pathlib import Path
import lm_eval.tasks
from lm_eval.__main__ import cli_evaluate
stock, whole = Path(lm_eval.tasks.__file__).parent, lm_eval.tasks.TaskManager
folders = [stock / name for name in ("gsm8k", "hellaswag", "leaderboard", "mmlu", "winogrande")]
index = cache(lambda: whole(include_path=[str(f) for f in folders], include_defaults=False))
lm_eval.tasks.TaskManager = lambda **_: index()
for words in json.loads(sys.argv[1]):
    sys.argv = ["lm_eval", *words]
    cli_evaluate()
"""


def command_lines(place, **arguments):
    """`results` of lm-eval's own command line, once for each name and its arguments.

    In the mirror, with a data cache of its own: another process's would hold GPQA's answers in
    another process's order.
    """
    lines = [
        ["run", "--model", "hf", "--device", "cpu", "--batch_size", "8"]
        + ["--model_args", f"pretrained={place / 'policy'},dtype=float32"]
        + ["--output_path", str(place / f"{name}.json"), *own]
        for name, own in arguments.items()
    ]
    env = os.environ | {"HF_DATASETS_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", COMMAND_LINES, json.dumps(lines)],
        cwd=place / "hub",
        env=env,
        check=True,
        capture_output=True,
    )
    results = {}
    for name in arguments:
        (file,) = place.glob(f"{name}_*.json")
        results |= read_json(file)["results"]
    return results


# --- the numbers ---------------------------------------------------------------------------------


def test_the_ten_tasks_count_as_on_the_command_line(place, run, make):
    """Every metric and error of every task, group and member, bit for bit.

    GPQA's order of answers is drawn while tasks are built, after whatever groups are built before
    it; here it is drawn as if alone, so no group may stand before it on the command line.
    """
    paper = run(TEN)
    found = benchmarks.results(make(paper), paper)
    assert list(found["benchmarks"]) == list(TEN)
    ours = found["benchmarks"] | {
        name: part
        for task in found["benchmarks"].values()
        for name, part in task["subtasks"].items()
    }
    simple = "gsm8k,hellaswag,leaderboard_gpqa,leaderboard_mmlu_pro,mmlu,winogrande"
    groups = "leaderboard_bbh,leaderboard_ifeval,leaderboard_math_hard,leaderboard_musr"
    theirs = command_lines(
        place, simple=["--tasks", simple, "--num_fewshot", "5"], groups=["--tasks", groups]
    )
    assert set(theirs) == set(ours)
    assert len(ours) == 10 + (4 + 57) + 24 + 7 + 3 + 3

    for name, row in theirs.items():
        numbers = {key: value for key, value in row.items() if "," in key and "_stderr," not in key}
        metrics = ours[name]["metrics"]
        derived = {"strict_acc_mean,none", "loose_acc_mean,none"} & set(metrics)
        assert numbers.keys() - metrics.keys() <= {"exact_match_original,none"}
        assert metrics.keys() - numbers.keys() == derived
        for key in numbers.keys() & metrics.keys():
            error = row[key.replace(",", "_stderr,")]
            assert metrics[key]["value"] == numbers[key], (name, key)
            assert error == "N/A" or metrics[key]["stderr"] == error, (name, key)
        assert ours[name]["n"] == row["sample_len"]
    reasons = ours["leaderboard_math_hard"]["left_out"]
    assert "antlr4" in reasons["exact_match_original,none"]

    numbers = [found["benchmarks"][task]["metrics"][told.metric] for task, told in TEN.items()]
    assert found["average"]["value"] == pytest.approx(sum(n["value"] for n in numbers) / 10)
    assert found["average"]["of"] == {task: told.metric for task, told in TEN.items()}
    assert found["harness"] == {
        "lm_eval": lm_eval.__version__,
        "template": "none",
        "limit": None,
        "dtype": "float32",
    }
    shots = {task: found["benchmarks"][task]["num_fewshot"] for task in TEN}
    assert shots == {task: told.shots for task, told in TEN.items()}


def test_the_ten_tasks_are_those_of_the_configuration():
    paper = compose("evals=paper").evals.tasks
    assert paper == TEN | {"hellaswag": EvalTask(shots=10, metric="acc_norm,none")}


def test_the_average_by_hand():
    """(0.5 + 0.7) / 2, with the error sqrt(0.3^2 + 0.4^2) / 2; unknown where a part is"""
    numbers = [{"value": 0.5, "stderr": 0.3}, {"value": 0.7, "stderr": 0.4}]
    assert benchmarks.average(numbers) == {
        "value": pytest.approx(0.6),
        "stderr": pytest.approx(0.25),
    }
    numbers[0]["stderr"] = None
    assert benchmarks.average(numbers)["stderr"] is None


# --- what is missing -----------------------------------------------------------------------------


def test_a_killed_harness_loses_the_task_it_was_at(place, run, make, monkeypatch, tmp_path):
    """There is no average before every part is there, and what is asked no metric is none."""
    three = run({"winogrande": "acc,none", "mmlu_anatomy": "acc,none", "hellaswag": None})
    whole = benchmark._harness

    @contextmanager
    def killed_after_one_task(request, log):
        with whole(request, log) as child:
            messages = child.messages()

            def until_finished():
                for message in messages:
                    yield message
                    if "finished" in message:
                        child.process.kill()

            child.messages = until_finished
            yield child

    monkeypatch.setattr(benchmark, "_harness", killed_after_one_task)
    with pytest.raises(ValueError, match="SIGKILL.* evals.batch_size.*log.txt"):
        make(three)
    out = Iteration(tmp_path / "iter_0")
    assert benchmarks.missing(out, three) == ["mmlu_anatomy", "hellaswag"]
    parts = benchmarks.results(out, three)
    assert list(parts["benchmarks"]) == ["winogrande"] and "average" not in parts
    assert benchmarks.results(Iteration(out.path / "nothing"), three) == {}
    (done,) = out.benchmarks.glob("winogrande-*")
    before = done.stat().st_mtime_ns

    monkeypatch.setattr(benchmark, "_harness", whole)
    states = random.getstate(), torch.get_rng_state()
    make(three)
    assert benchmarks.missing(out, three) == []
    assert list(benchmarks.results(out, three)["average"]["of"]) == ["winogrande", "mmlu_anatomy"]
    assert done.stat().st_mtime_ns == before
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])

    monkeypatch.setattr(benchmark, "_harness", None)  # nothing is left to start a process for
    make(three)
    other = replace(three, evals=replace(three.evals, limit=1))
    assert benchmarks.missing(out, other) == list(three.evals.tasks)


def test_the_harness_does_not_outlive_a_killed_parent(place, tmp_path):
    """Its standard error is ours through the parent's: it is closed when both have ended."""
    file = tmp_path / "result.json"
    request = {
        "policy": str(place / "policy"),
        "tasks": {"leaderboard_math_hard": {"shots": None, "metric": None, "file": str(file)}},
        "data_root": str(place / "hub"),
        "tasks_dir": None,
        "template": "none",
        "limit": None,
        "batch_size": 1,
        "max_length": None,
        "compute": vars(compose("compute.threads=1").compute),
        "precision": "fp32_master",
        "quantize": None,
    }
    code = (
        "import json, sys; from tspin.stages import benchmark\n"
        "with benchmark._harness(json.loads(sys.argv[1]), sys.stderr) as child:\n"
        "    messages = child.messages()\n"
        "    print(next(messages), flush=True); next(messages)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(request)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert "started" in parent.stdout.readline()
        parent.kill()
        parent.communicate(timeout=300)
    assert not file.exists()


# --- tasks of one's own --------------------------------------------------------------------------

OWN = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["1", "2"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": "1 + 0 =", "answer": 0}, {"question": "1 + 1 =", "answer": 1}]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(OWN.replace("DATA", str(folder / "sums.jsonl")))
    return folder


def test_a_group_stands_for_its_members(run, own):
    (own / "more.yaml").write_text("include: sums.yaml\ntask: more\ndoc_to_text: !function m.f\n")
    (own / "all.yaml").write_text("group: everything\ntask: [more, {task: sums, num_fewshot: 1}]\n")
    (own / "_template.yaml").write_text("output_type: multiple_choice\n")
    assert list(benchmarks.tasks(run({}, tasks_dir=str(own)).evals)) == ["everything"]
    assert list(benchmarks.tasks(run({"more": None}, tasks_dir=str(own)).evals)) == ["more"]


def test_a_changed_task_file_is_another_task(run, make, own):
    mine = run({}, tasks_dir=str(own))
    out = Iteration(own)
    before = benchmarks.files(out, mine)
    assert benchmarks.files(out, replace(mine, evals=replace(mine.evals, name="x"))) == before
    with (own / "sums.yaml").open("a") as file:
        file.write("num_fewshot: 0\n")
    assert benchmarks.files(out, mine) != before


def test_a_folder_of_tasks_under_a_launcher(run, make, own, monkeypatch, tmp_path):
    """In the main process of two the harness is alone on one device: accelerate would wait for
    the other one to come."""
    (own / "words.py").write_text(
        "import json, os, pathlib\n"
        "def question(doc):\n"
        "    environment = pathlib.Path(__file__).parents[1] / 'environment.json'\n"
        "    environment.write_text(json.dumps(dict(os.environ)))\n"
        "    return doc['question']\n"
    )
    (own / "sums.yaml").write_text(
        (own / "sums.yaml").read_text().replace('"{{question}}"', "!function words.question")
    )
    mine = run({}, tasks_dir=str(own), data_root=None, template="run")
    mine = replace(mine, compute=replace(mine.compute, device="auto"))
    ranks = {
        **{"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "localhost", "MASTER_PORT": "29511", "TORCHELASTIC_RUN_ID": "none"},
        **{"ACCELERATE_USE_CPU": "true", "OMPI_COMM_WORLD_SIZE": "2", "SLURM_PROCID": "0"},
    }
    for name, value in {**ranks, "CUDA_VISIBLE_DEVICES": "4,6", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)

    benchmark.check(mine.evals)  # which loads no model, and so would not wait
    environment = read_json(tmp_path / "environment.json")
    assert not ranks.keys() & environment.keys() and environment["SLURM_JOB_ID"] == "7"

    out = make(mine)
    environment = read_json(tmp_path / "environment.json")
    assert not ranks.keys() & environment.keys() and environment["CUDA_VISIBLE_DEVICES"] == "4"
    found = benchmarks.results(out, mine)
    assert list(found["benchmarks"]) == ["sums"]
    assert found["benchmarks"]["sums"]["n"] == 2
    assert list(found["benchmarks"]["sums"]["metrics"]) == ["acc,none"]
    assert found["harness"]["template"] == mine.model.template == "alpaca_space"


@pytest.mark.parametrize(
    ("device", "environment", "visible"),
    [
        ("auto", {}, "0"),
        ("cuda", {"LOCAL_RANK": "3"}, "3"),
        ("cuda", {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "2,5"}, "5"),
        ("cuda", {"LOCAL_RANK": "3", "CUDA_VISIBLE_DEVICES": "GPU-1a"}, "GPU-1a"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "2,5"}, "5"),
        ("cuda", {"CUDA_VISIBLE_DEVICES": ""}, ""),
        ("cpu", {"LOCAL_RANK": "1"}, None),
    ],
)
def test_its_device_is_the_one_of_this_process(device, environment, visible):
    assert benchmark._visible(device, environment) == visible


def test_a_failing_task_is_one_line_with_the_log(run, make, own, tmp_path):
    (own / "score.py").write_text("def score(doc, results):\n    raise ZeroDivisionError('oh')\n")
    (own / "bad.yaml").write_text(
        "include: sums.yaml\ntask: zbad\nprocess_results: !function score.score\n"
    )
    mine = run({"sums": None, "zbad": None}, tasks_dir=str(own))
    with pytest.raises(ValueError, match="^benchmark zbad: ZeroDivisionError: oh .*log.txt"):
        make(mine)
    out = Iteration(tmp_path / "iter_0")
    assert benchmarks.missing(out, mine) == ["zbad"]
    assert "Traceback" in out.benchmarks_log.read_text()


# --- before a run --------------------------------------------------------------------------------


def test_without_tasks_nothing_is_asked(run, monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", None)
    benchmark.check(run({}, data_root="/nowhere").evals)


def test_everything_missing_is_named_at_once(run, monkeypatch):
    wanted = run({"gsm8k": None}, data_root="/no/data", tasks_dir="/no/tasks").evals
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        benchmark.check(wanted)
    assert "pip install -e '.[evals]'" in str(error.value)
    assert "evals.data_root=/no/data is no folder" in str(error.value)
    assert "evals.tasks_dir=/no/tasks is no folder" in str(error.value)


def test_a_folder_without_tasks(run, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} has no .*yaml"):
        benchmark.check(run({}, tasks_dir=str(tmp_path)).evals)
    (tmp_path / "a.yaml").write_text("task: [")
    with pytest.raises(ValueError, match="a.yaml is no YAML"):
        benchmark.check(run({}, tasks_dir=str(tmp_path)).evals)


def test_check_builds_the_tasks_once(run, place, monkeypatch, tmp_path):
    """A misspelt task, a data set that is not in the folder; what is right is not asked again."""
    right = run({"winogrande": "acc,none"}).evals
    benchmark.check(right)
    with pytest.raises(ValueError) as error:
        benchmark.check(run({"gsm8kk": None, "winogrande": None}, data_root=str(tmp_path)).evals)
    unknown, absent = str(error.value).split("; no data set")[0], str(error.value)
    assert "unknown task gsm8kk; did you mean gsm8k?" in unknown
    assert f"it should be in {tmp_path}/allenai/winogrande" in absent
    command = "hf download --repo-type dataset allenai/winogrande --local-dir"
    assert f"{command} {tmp_path}/allenai/winogrande" in absent

    monkeypatch.setattr(benchmark, "_harness", None)
    benchmark.check(right)


def test_neither_hub_nor_cache(run, monkeypatch, tmp_path):
    """Known within seconds: `datasets` alone retries for half a minute."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="openai/gsm8k is neither in reach .* nor in the local"):
        benchmark.check(run({"gsm8k": None}, data_root=None).evals)
