"""The record of a run and its W&B view. Offline; no model and no torch."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from support.offline import of, recorded

from tspin.objectives.contingency import CELLS
from tspin.runs.metrics import StepLog
from tspin.tracking.figures import contingency_figure
from tspin.tracking.tracker import Tracker
from tspin.tracking.view import Identity
from tspin.tracking.wandb import AlreadyThere, Wandb

COUNTS = {"both": 6, "reward_only": 3, "logp_only": 1, "neither": 2, "tied_reward": 1}


# --- metrics.jsonl ---------------------------------------------------------------------------


def rows(first, last):
    return [{"step": step, "loss": 1 / (step + 1)} for step in range(first, last)]


def write(path, some, *, resume_from=0):
    with StepLog(path, resume_from=resume_from) as record:
        for row in some:
            record.append(row)


@pytest.mark.parametrize("saved", [0, 2, 5])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, saved):
    write(tmp_path / "whole.jsonl", rows(0, 8))
    write(tmp_path / "killed.jsonl", rows(0, 5))  # killed after step 4; last saved before `saved`
    write(tmp_path / "killed.jsonl", rows(saved, 8), resume_from=saved)
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert StepLog.read(tmp_path / "whole.jsonl") == rows(0, 8)


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0}', '{"text": "\xc3'])
def test_half_written_last_line_is_dropped(tmp_path, tail):
    """Without its newline a line is unfinished, even where it happens to parse."""
    path = tmp_path / "metrics.jsonl"
    write(path, rows(0, 3))
    with path.open("ab") as file:
        file.write(tail.encode("latin-1"))  # the last case ends inside a character
    assert StepLog.read(path) == rows(0, 3)
    write(path, rows(3, 5), resume_from=3)
    assert StepLog.read(path) == rows(0, 5)


def test_a_row_is_readable_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with StepLog(path) as record:
        record.append({"step": 0, "loss": 2.0})
        assert StepLog.read(path) == [{"step": 0, "loss": 2.0}]


def test_a_failed_cut_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    write(path, rows(0, 3))

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        StepLog(path, resume_from=1)
    assert StepLog.read(path) == rows(0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    with StepLog(path) as record:
        with pytest.raises(ValueError, match="'rewards/annotated' is .* at step 7"):
            record.append({"step": 7, "loss": 1.0, "rewards/annotated": value})
    assert StepLog.read(path) == []


# --- W&B -------------------------------------------------------------------------------------


IDENTITY = Identity(
    project="tspin-test",
    entity=None,
    name="a name",
    group="a group",
    job_type="T-SPIN",
    tags=("one", "two"),
    config={"optim.lr": 5e-7, "seed": 0},
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home: whoever writes outside the folder of the run is seen here."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    folder = tmp_path / "home"
    folder.mkdir()
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(folder))
    return folder


def tracker(folder, run_id="run-a", *, mode="offline", seed=0, strict=False, **options):
    identity = replace(IDENTITY, name=f"name of {run_id}", config=IDENTITY.config | {"seed": seed})
    backend = Wandb(identity, mode=mode, folder=folder, run_id=run_id, **options)
    return Tracker([backend], strict=strict)


SCRIPT = """
import sys
from pathlib import Path
from tspin.tracking.tracker import Tracker
from tspin.tracking.view import Identity
from tspin.tracking.wandb import Wandb
about = dict(project="p", entity=None, name="a", group="a", job_type="a", tags=(), config={})
def tracker(*modes):
    of = dict(folder=Path(sys.argv[1]), run_id="a")
    return Tracker([Wandb(Identity(**about), mode=mode, **of) for mode in modes])
"""


def script(code, folder):
    """Runs the code after SCRIPT, in a process that has not imported wandb before."""
    command = [sys.executable, "-c", SCRIPT + code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.process
def test_offline_means_that_wandb_reports_to_nobody(tmp_path):
    """Read where wandb reads it."""
    done = script(
        "with tracker('offline'):\n"
        "    from wandb import env\n"
        "    assert not env.error_reporting_enabled()\n"
        "assert env.error_reporting_enabled()\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_offline_run_reads_back(tmp_path, home):
    folder = tmp_path / "run"
    with tracker(folder) as view:
        view.log_step({"iteration": 1, "step": 0, "global_step": 32, "rewards/annotated": -2.5})
        view.log_iteration(1, {"loss": 0.5, "accuracy/greedy": 0.25})
        view.log_contingency(1, "train", COUNTS)
        view.log_samples(1, [{"prompt": "x", "annotated": "y"}, {"prompt": "x2", "proto": "y0"}])
        view.log_evaluation(2, {"heldout/perplexity": 1.5})
    [records] = recorded(folder)

    [run] = of(records, "run")
    assert run["run_id"] == "run-a" and run["display_name"] == "name of run-a"
    assert run["run_group"] == "a group" and run["tags"] == ["one", "two"]
    assert run["job_type"] == "T-SPIN" and run["config"]["update"]["optim.lr"] == 5e-7
    assert not {"host", "git"} & run.keys()
    assert of(records, "exit")[-1].get("exit_code", 0) == 0

    axes = {m["glob_name"]: m["step_metric"] for m in of(records, "metric") if "glob_name" in m}
    per_iteration = ("iteration/*", "contingency/*", "samples/*")
    assert axes == {"train/*": "train/step", "eval/*": "eval/iterations"} | dict.fromkeys(
        per_iteration, "iteration"
    )

    step, iteration, contingency, samples, evaluation = (h["item"] for h in of(records, "history"))
    assert without_private(step) == {
        **{"train/step": 32, "train/iteration_step": 0, "train/iteration": 1},
        "train/rewards/annotated": -2.5,
    }
    assert iteration["iteration"] == 1 and iteration["iteration/accuracy/greedy"] == 0.25
    assert {key: contingency[f"contingency/train/{key}"] for key in COUNTS} == COUNTS
    assert contingency["contingency/train/table.nrows"] == 4
    assert contingency["contingency/train/heat_map.format"] == "png"
    assert samples["samples/rows.ncols"] == 3 and samples["iteration"] == 1
    assert without_private(evaluation) == {"eval/iterations": 2, "eval/heldout/perplexity": 1.5}

    outside = [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in str(path)]
    assert outside == []
    assert not any(name.startswith("WANDB_") and "DIR" in name for name in os.environ)


def without_private(item):
    return {key: value for key, value in item.items() if not key.startswith("_")}


@pytest.mark.process
def test_two_runs_in_one_process_stay_apart(tmp_path):
    """As in a Hydra multirun whose first job left its W&B run open."""
    first = tracker(tmp_path / "a", "run-a", seed=1).__enter__()
    first.log_iteration(0, {"loss": 1.0})
    with tracker(tmp_path / "b", "run-b", seed=2) as second:
        second.log_iteration(0, {"loss": 2.0})
    first.finish(exit_code=0)
    for folder, run_id, seed in (("a", "run-a", 1), ("b", "run-b", 2)):
        [records] = recorded(tmp_path / folder)
        [run] = of(records, "run")
        assert run["run_id"] == run_id
        assert run["config"]["update"]["seed"] == seed
        assert [h["item"]["iteration/loss"] for h in of(records, "history")] == [float(seed)]


@pytest.mark.process
def test_failed_run_is_marked_and_resumes_under_the_same_id(tmp_path):
    with pytest.raises(KeyError), tracker(tmp_path):
        raise KeyError("training failed")
    [failed] = recorded(tmp_path)
    with tracker(tmp_path):
        pass
    [resumed] = [records for records in recorded(tmp_path) if records != failed]
    assert of(failed, "exit")[-1]["exit_code"] == 1
    assert of(resumed, "exit")[-1].get("exit_code", 0) == 0
    assert [of(records, "run")[0]["run_id"] for records in (failed, resumed)] == ["run-a"] * 2


def broken(*_, **__):
    raise ConnectionResetError("connection lost")


def log_everything(view):
    view.log_step({"iteration": 0, "step": 0, "global_step": 0, "loss": 1.0})
    view.log_iteration(0, {"loss": 1.0})
    view.log_contingency(0, "train", COUNTS)
    view.log_samples(0, [{"prompt": "x"}])
    view.log_histograms(0, {"train/logps/annotated": [-1.0, -2.0]})
    view.log_evaluation(0, {"average": 0.5})
    view.alert("cut", "all of them")


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [*("init", "Run.log", "Run.finish"), *("Table", "Image", "Histogram", "Run.alert")]
)
def test_wandb_that_fails_gives_one_warning_and_never_stops(tmp_path, monkeypatch, caplog, where):
    owner = wandb.Run if where.startswith("Run.") else wandb
    with monkeypatch.context() as patch:
        patch.setattr(owner, where.removeprefix("Run."), broken)
        with tracker(tmp_path) as view:
            log_everything(view)
            log_everything(view)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "ConnectionResetError: connection lost" in warnings[0]
    assert "training goes on" in warnings[0]
    wandb.finish()  # what a broken finish() left open


@pytest.mark.slow
@pytest.mark.parametrize("where", ["init", "Run.define_metric", "Run.log", "Run.finish"])
def test_where_wandb_is_all_there_is_to_do_its_failures_travel(tmp_path, monkeypatch, where):
    owner = wandb.Run if where.startswith("Run.") else wandb
    with monkeypatch.context() as patch:
        patch.setattr(owner, where.removeprefix("Run."), broken)
        with pytest.raises(ConnectionResetError):
            with tracker(tmp_path, strict=True) as view:
                log_everything(view)
    assert not any(name.startswith("WANDB_") and "DIR" in name for name in os.environ)
    wandb.finish()


def test_a_run_that_the_server_has_is_not_continued_unasked(tmp_path, monkeypatch):
    """The server's words, as wandb 0.31 passes them on."""
    words = "Run (run-a) already exists, but your `resume` setting does not allow resuming"

    def refused(**options):
        assert options["resume"] == "never" and options["id"] == "run-a"
        raise wandb.errors.UsageError(words)

    monkeypatch.setattr(wandb, "init", refused)
    with pytest.raises(AlreadyThere, match="run-a"):
        with tracker(tmp_path, resume="never", strict=True):
            pass


def test_online_without_a_key_says_so_at_once_and_never_asks(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with tracker(tmp_path, mode="online") as view:
        log_everything(view)
    assert "wandb login" in caplog.text and "track.wandb=offline" in caplog.text


def test_folder_that_cannot_hold_a_run_is_not_replaced_by_another(tmp_path, caplog):
    """W&B itself would go on in the system's temporary folder."""
    (tmp_path / "file").touch()
    with tracker(tmp_path / "file") as view:
        log_everything(view)
    assert "FileExistsError" in caplog.text


def test_an_error_of_ours_is_not_swallowed(tmp_path):
    with tracker(tmp_path) as view, pytest.raises(KeyError, match="reward_only"):
        view.log_contingency(0, "train", {"both": 1})


@pytest.mark.process
def test_no_tracker_does_nothing_and_imports_no_wandb(tmp_path):
    done = script(
        "with tracker() as view:\n"
        "    view.log_step({'step': 0, 'global_step': 0, 'loss': 1.0})\n"
        "    view.log_iteration(0, {'loss': 1.0})\n"
        f"    view.log_contingency(0, 'train', {COUNTS!r})\n"
        "    view.log_samples(0, [{'prompt': 'x'}])\n"
        "    view.log_evaluation(0, {'average': 0.5})\n"
        "print(sorted(sys.modules.keys() & {'wandb', 'torch', 'matplotlib'}))\n",
        tmp_path / "run",
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not (tmp_path / "run").exists()


# --- the contingency table -------------------------------------------------------------------


def test_contingency_figure_puts_every_count_in_its_cell():
    """Rows: reward higher, then not; columns: log-likelihood higher, then not. 6 of 12 are 50%."""
    figure = contingency_figure(COUNTS, "train, after iteration 1")
    [axes] = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {
        **{(0, 0): "6\n50.0%", (1, 0): "3\n25.0%"},
        **{(0, 1): "1\n8.3%", (1, 1): "2\n16.7%"},
    }
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["higher", "not higher"]
    assert "reward" in axes.get_ylabel() and "log-likelihood" in axes.get_xlabel()
    assert axes.get_title() == "train, after iteration 1\n12 rows; equal: reward 1"


def test_contingency_figure_of_no_rows():
    assert "0 rows" in contingency_figure(dict.fromkeys(CELLS, 0), "empty").axes[0].get_title()
