"""What the files of a run say, told again: to W&B, equal to what the live run told it."""

import logging
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import wandb
import yaml
from support.offline import of, recorded
from support.tiny import compose, play

from analysis.wandb import sync
from analysis.wandb.sync import Content
from tspin.config.load import dump
from tspin.objectives.contingency import CELLS
from tspin.runs.artifacts import RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import SHA256, read_json, write_json, write_jsonl
from tspin.tracking import replay

pytestmark = pytest.mark.runs

ROOT = Path(__file__).resolve().parents[2]
TRACKED = ["track=wandb_offline", "decoding.max_new_tokens=4"]
COUNTS = dict.fromkeys(CELLS, 1) | {"tied_reward": 2, "tied_logp": 0}


class Told:
    """A View that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *call: self.calls.append((name.removeprefix("log_"), *call))


def told(say, *arguments):
    view = Told()
    say(*arguments, view)
    return view.calls


def history(records):
    """Rows without W&B's own keys, and without the names that it draws for stored tables."""
    return [
        {
            key: value
            for key, value in row["item"].items()
            if not key.startswith("_") and not key.endswith("artifact_path")
        }
        for row in of(records, "history")
    ]


def about(records):
    """What the run record says of the run, its id and clock aside."""
    [run] = of(records, "run")
    return {key: run[key] for key in ("display_name", "run_group", "job_type", "tags", "config")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs_dir with one run that was tracked offline from beginning to end."""
    root = tmp_path_factory.mktemp("runs")
    play(root, "tspin", *TRACKED)
    return root


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of that run which a test may change."""
    shutil.copytree(runs / "tspin", tmp_path / "runs" / "tspin")
    return RunDir(tmp_path / "runs" / "tspin")


@pytest.fixture(autouse=True)
def said(caplog):
    caplog.set_level(logging.INFO, "tspin")
    return caplog


# --- rebuilt -------------------------------------------------------------------------------------


def test_a_rebuilt_run_says_what_the_live_run_said(runs, tmp_path, said):
    [live] = recorded(runs / "tspin")
    sync.main([f"runs={runs}", "mode=offline", f"out={tmp_path}"])
    [rebuilt] = recorded(tmp_path)
    assert history(rebuilt) == history(live) and about(rebuilt) == about(live)
    assert of(rebuilt, "metric") == of(live, "metric")
    assert of(rebuilt, "run")[0]["run_id"] != of(live, "run")[0]["run_id"]
    assert said.messages[-1] == "tspin: synced"
    seen = set().union(*history(live))
    assert {"train/loss", "eval/heldout/exact_match_greedy", "contingency/train/both"} <= seen


def test_the_same_content_is_written_once_and_other_content_beside_it(copy, tmp_path, said):
    command = [f"runs={copy.path}", "mode=offline", f"out={tmp_path / 'out'}"]
    sync.main(command)
    sync.main(command)
    assert "already in" in said.messages[-1] and len(recorded(tmp_path / "out")) == 1
    evaluation = read_json(copy.base.evaluation)
    evaluation["heldout"]["perplexity"]["value"] += 1
    write_json(copy.base.evaluation, evaluation)
    sync.main(command)
    assert len({of(records, "run")[0]["run_id"] for records in recorded(tmp_path / "out")}) == 2


def test_what_a_killed_process_left_is_written_anew(copy, tmp_path):
    command = [f"runs={copy.path}", "mode=offline", f"out={tmp_path / 'out'}"]
    sync.main(command)
    [marker] = (tmp_path / "out").glob("offline/*/*.json")
    marker.unlink()
    sync.main(command)
    assert len(recorded(tmp_path / "out")) == 1 and marker.exists()


def test_a_run_without_an_id_in_the_tracker_goes_too(copy, tmp_path):
    copy.tracking.unlink()
    sync.main([f"runs={copy.path}", "mode=offline", f"out={tmp_path / 'out'}"])
    [records] = recorded(tmp_path / "out")
    assert of(records, "run")[0]["run_id"].startswith("files-")
    assert not copy.tracking.exists()  # the run's folder is only read


def test_project_and_entity_can_be_others(copy, tmp_path):
    command = [f"runs={copy.path}", "mode=offline", f"out={tmp_path / 'out'}"]
    sync.main([*command, "project=elsewhere", "entity=us"])
    [records] = recorded(tmp_path / "out")
    [run] = of(records, "run")
    assert (run["project"], run["entity"]) == ("elsewhere", "us")


class Killed(BaseException):
    pass


def test_each_step_of_a_killed_run_once(tmp_path, monkeypatch):
    """Killed in iteration 1 with nothing saved: step 3 is trained, and tracked live, twice."""
    append = StepLog.append

    def appending(record, row):
        if (row["iteration"], row["step"]) == (1, 1):
            raise Killed
        append(record, row)

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "append", appending)
        with pytest.raises(Killed):
            play(tmp_path / "runs", "tspin", *TRACKED)
    folder, _ = play(tmp_path / "runs", "tspin", *TRACKED)
    sync.main([f"runs={folder.path}", "mode=offline", f"out={tmp_path / 'out'}"])

    def steps(records):
        return [row["train/step"] for row in history(records) if "train/loss" in row]

    live = sorted(steps(records) for records in recorded(folder.path))
    [rebuilt] = recorded(tmp_path / "out")
    assert live == [[0, 1, 2, 3], [3, 4, 5]] and steps(rebuilt) == [0, 1, 2, 3, 4, 5]


def test_a_run_tells_of_iterations_that_it_shares(runs, tmp_path):
    """At iteration 0 w/o H-A is T-SPIN: linked, and in W&B like an iteration of its own."""
    shutil.copytree(runs, tmp_path / "runs")
    folder, _ = play(tmp_path / "runs", "wo_ha", *TRACKED)
    assert "from" in read_json(folder.iteration(0).done)
    [records] = recorded(folder.path)
    rows = history(records)
    assert [row["train/step"] for row in rows if "train/loss" in row] == [0, 1, 2, 3, 4, 5]
    assert [row["eval/iterations"] for row in rows if "eval/iterations" in row] == [0, 1, 2]
    assert Counter(row["iteration"] for row in rows if "samples/rows.nrows" in row) == {0: 1, 1: 1}


# --- what is incomplete or broken ----------------------------------------------------------------


def test_an_incomplete_run_goes_as_far_as_it_is(copy, tmp_path, said):
    """As if killed at the second step of iteration 1: 3 + 2 steps, one iteration."""
    out = copy.iteration(1)
    lines = out.metrics.read_text().splitlines(keepends=True)
    for file in (out.contingency, out.samples, out.stages, out.evaluation, out.done):
        file.unlink()
    out.metrics.write_text("".join(lines[:2]) + lines[2][:40])
    sync.main([f"runs={copy.path}", "mode=offline", f"out={tmp_path / 'out'}"])
    [records] = recorded(tmp_path / "out")
    rows = history(records)
    assert [row["train/step"] for row in rows if "train/loss" in row] == [0, 1, 2, 3, 4]
    assert {row["iteration"] for row in rows if "iteration" in row} == {0}
    assert said.messages[-1] == "tspin: synced as far as it is: the run is not complete"
    assert of(records, "exit")[-1]["exit_code"] == 1


def replaced(old, new):
    def change(path):
        text = re.sub(rf',\s*"{SHA256}": "\w+"', "", path.read_text())  # as of another program
        path.write_text(re.sub(old, new, text, count=1))

    return change


def written(value):
    return lambda path: write_json(path, value)


def cut(path):
    path.write_text(path.read_text()[:-20])


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        (
            lambda f: f.iteration(0).metrics,
            replaced(r'"loss": [\d.]+', '"loss": NaN'),
            "loss is nan",
        ),
        (lambda f: f.iteration(0).metrics, replaced("\n", '\n{"step"\n'), "Expecting"),
        (lambda f: f.iteration(1).metrics, replaced(r".*\n", ""), "step 1 follows on 0 rows"),
        (lambda f: f.iteration(0).contingency, cut, "Unterminated string"),
        (lambda f: f.iteration(0).contingency, written({"train": {}}), "has no 'contingency'"),
        (lambda f: f.iteration(0).contingency, replaced('"both"', '"bath"'), "lacks both"),
        (lambda f: f.iteration(1).samples, cut, "Unterminated string"),
        (lambda f: f.iteration(1).evaluation, replaced('"value": [^,]+', '"value": "x"'), "'x'"),
        (lambda f: f.iteration(1).evaluation, replaced('"value"', '"values"'), "has no 'value'"),
        (lambda f: f.base.evaluation, replaced('"value": [^,]+', '"value": Infinity'), "inf"),
        (lambda f: f.provenance, written({}), "has no 'launches'"),
        (lambda f: f.data, cut, "Unterminated string"),
        (lambda f: f.initial, written({}), "has no 'weights'"),
    ],
)
def test_a_broken_file_is_named_in_one_line(copy, file, change, reason):
    path = file(copy)
    change(path)
    with pytest.raises(ValueError) as raised:
        replay.identity(copy)
        replay.run(copy, Content())
    line = str(raised.value)
    assert line.startswith(f"{path}: ") and reason in line and "\n" not in line


def test_beside_a_broken_run_the_others_still_go(copy, runs, tmp_path, said, capsys):
    shutil.copytree(runs / "tspin", copy.path.parent / "whole")
    cut(copy.iteration(1).samples)  # the last thing that would be told: nothing was
    with pytest.raises(SystemExit):
        sync.main([f"runs={copy.path.parent}", "mode=offline", f"out={tmp_path / 'out'}"])
    assert "error: 1 of 2 runs were not synced" in capsys.readouterr().err
    [line] = [m for m in said.messages if m.startswith("tspin: error: ")]
    assert str(copy.iteration(1).samples) in line
    assert said.messages[-1] == "whole: synced" and len(recorded(tmp_path / "out")) == 1


def test_a_broken_id_is_named_too(copy, tmp_path, said, capsys):
    write_json(copy.tracking, {})
    with pytest.raises(SystemExit):
        sync.main([f"runs={copy.path}", "mode=offline", f"out={tmp_path / 'out'}"])
    assert "1 of 1 runs" in capsys.readouterr().err
    assert f"{copy.tracking}: has no 'id'" in said.text


def test_a_configuration_of_an_older_layout_is_named(copy):
    copy.provenance.unlink()
    tree = yaml.safe_load(copy.config.read_text())
    copy.config.write_text(yaml.safe_dump({key: tree[key] for key in tree if key != "optim"}))
    with pytest.raises(ValueError, match=r"config\.yaml: optim is not set"):
        replay.identity(copy)


# --- online, as far as it goes without a server --------------------------------------------------


@pytest.fixture
def online(monkeypatch):
    """A key is there; wandb.init is what a test puts in its place."""
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    return lambda init: monkeypatch.setattr(wandb, "init", init)


def refused(**options):
    raise wandb.errors.UsageError(f"Run ({options['id']}) already exists, but your `resume` ...")


def test_what_the_server_has_is_said_and_no_failure(copy, tmp_path, online, said):
    online(refused)
    sync.main([f"runs={copy.path}", f"out={tmp_path}"])
    live = read_json(copy.tracking)["id"]
    assert re.fullmatch(rf"tspin: W&B has run {live}-\w{{12}} already", said.messages[-1])


def test_an_upload_that_was_killed_is_finished_by_wandb_itself(copy, tmp_path, online, said):
    def killed(**options):
        raise Killed

    command = [f"runs={copy.path}", f"out={tmp_path}"]
    online(killed)
    with pytest.raises(Killed):
        sync.main(command)
    online(refused)
    sync.main(command)
    [place] = tmp_path.glob("online/*")
    rest = f"the rest: wandb sync {place}/wandb/run-*"
    assert said.messages[-1] == f"tspin: its upload was interrupted; {rest}"


def test_a_failure_of_the_network_is_one_line_for_each_run(copy, tmp_path, online, said, capsys):
    def broken(**_):
        raise ConnectionResetError("connection lost")

    online(broken)
    shutil.copytree(copy.path, copy.path.parent / "twin")
    with pytest.raises(SystemExit):
        sync.main([f"runs={copy.path.parent}", f"out={tmp_path / 'out'}"])
    assert "2 of 2 runs were not synced" in capsys.readouterr().err
    assert said.messages == [
        f"{name}: error: ConnectionResetError: connection lost" for name in ("tspin", "twin")
    ]


def test_without_a_login_it_says_so_before_it_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(SystemExit):
        sync.main([f"runs={tmp_path}"])
    assert re.search("wandb login.*mode=offline", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["mode=onlin"], "did you mean online?"),
        (["mode=offline", "runs=/nowhere"], "no run in runs=/nowhere"),
        (["entty=x"], "did you mean entity=?"),
    ],
)
def test_what_is_mistyped_is_one_line(options, says, capsys):
    with pytest.raises(SystemExit):
        sync.main(options)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line


# --- from files made by hand ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A run that is nothing but its configuration."""
    run = dump(compose("loss=wo_ha", "seed=3", "track.tags=[mine,micro]"))
    made = RunDir(tmp_path / "run")
    made.path.mkdir()
    made.config.write_text(yaml.safe_dump(run | {"name": "micro-wo_ha-s3-x=1"}))
    return made


def test_identity_is_name_group_objective_tags_and_a_flat_configuration(folder):
    """The group lacks the seed; a tag that model and data share is there once."""
    write_json(folder.data, {"digest": "d1"})
    write_json(folder.initial, {"weights": "w1", "prompts": "p1"})
    found = replay.identity(folder)
    assert (found.name, found.group) == ("micro-wo_ha-s3-x=1", "micro-wo_ha-x=1")
    assert (found.job_type, found.tags) == ("w/o H-A", ("micro", "w/o H-A", "mine"))
    assert found.config["coef.alpha"] == 1.0 and found.config["seed"] == 3
    assert (found.config["data_digest"], found.config["weights_digest"]) == ("d1", "w1")
    assert not any(isinstance(value, dict) and value for value in found.config.values())


def test_identity_is_that_of_the_last_launch(folder):
    config = yaml.safe_load(folder.config.read_text())
    later = config | {"track": config["track"] | {"project": "later"}}
    launches = [{"config": config, "git": None}, {"config": later}]
    launches[1]["git"] = {"revision": "abc", "dirty": False}
    write_json(folder.provenance, {"launches": launches})
    found = replay.identity(folder)
    assert found.project == "later" and found.config["commit"] == "abc"
    assert found.config["commit_dirty"] is False


def test_a_long_name_fits_and_stays_unlike_others(folder):
    config = yaml.safe_load(folder.config.read_text())
    names = []
    for end in "ab":
        folder.config.write_text(yaml.safe_dump(config | {"name": "x" * 200 + end}))
        names.append(replay.identity(folder).name)
    assert [len(name) for name in names] == [128, 128] and names[0] != names[1]


def test_steps_go_on_over_iterations(folder):
    for t, num in enumerate((3, 2)):
        rows = [{"iteration": t, "step": step, "loss": 1.0} for step in range(num)]
        write_jsonl(folder.iteration(t).metrics, rows)
    calls = told(replay.steps, folder, 1)
    assert [(row["step"], row["global_step"]) for _, row in calls] == [(0, 3), (1, 4)]


def test_an_iteration_is_its_means_its_table_its_seconds_and_its_samples(folder):
    out = folder.iteration(1)
    facts = {"num_prompts": 4, "logps/annotated": -2.0, "contingency": COUNTS}
    write_json(out.contingency, {"train": facts, "heldout": facts | {"contingency": {}}})
    write_json(out.stages, {"train": 1.5, "score": 0.5})
    write_jsonl(out.samples, [{"id": "1", "prompt": "a line\u2028that goes on"}])
    assert told(replay.iteration, folder, 1) == [
        ("contingency", 1, "train", COUNTS),
        (
            "iteration",
            1,
            {"train/logps/annotated": -2.0, "heldout/logps/annotated": -2.0}
            | {"seconds/train": 1.5, "seconds/score": 0.5}
            | {"time_share/train": 0.75, "time_share/score": 0.25},
        ),
        ("samples", 1, [{"id": "1", "prompt": "a line\u2028that goes on"}]),
    ]


def test_an_evaluation_is_flat_and_lacks_what_is_unknown(folder):
    write_json(
        folder.base.evaluation,
        {
            "heldout": {
                "exact_match,greedy": {"value": 0.5, "stderr": 0.1, "n": 25},
                "distinct_1,sampled": {"value": 0.2, "stderr": None, "n": 25},
            },
            "benchmarks": {
                "gsm8k": {
                    "num_fewshot": 5,
                    "n": 8,
                    "version": 3,
                    "metrics": {"exact_match,strict-match": {"value": 0.25, "stderr": 0.05}},
                    "subtasks": {"gsm8k_a": {"metrics": {"acc,none": {"value": 1.0}}}},
                    "seconds": 1.0,
                },
                "mmlu": {"metrics": {"acc,none": {"value": 0.75, "stderr": None}}},
            },
            "average": {"value": 0.5, "stderr": 0.02, "of": {"gsm8k": "x", "mmlu": "y"}},
            "harness": {"lm_eval": "0.4.13"},
        },
    )
    assert told(replay.evaluation, folder.base, 0) == [
        (
            "evaluation",
            0,
            {
                "heldout/exact_match_greedy": 0.5,
                "heldout/exact_match_greedy_stderr": 0.1,
                "heldout/distinct_1_sampled": 0.2,
                "gsm8k/exact_match_strict_match": 0.25,
                "gsm8k/exact_match_strict_match_stderr": 0.05,
                "mmlu/acc": 0.75,
                "average": 0.5,
                "average_stderr": 0.02,
            },
        )
    ]


def test_nothing_is_told_of_what_is_not_there(folder):
    assert told(replay.run, folder) == []


def test_no_torch():
    code = (
        "import sys, analysis.__main__, analysis.wandb.sync, analysis.wandb.dashboard"
        "\nassert not {'torch', 'wandb', 'wandb_workspaces', 'matplotlib'} & {*sys.modules}"
        "\nimport analysis.report.report\nassert not {'torch', 'wandb'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
