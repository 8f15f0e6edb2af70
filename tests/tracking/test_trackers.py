"""Trackers of other libraries: each read back by its own, equal to the files, and rebuilt.

Skipped, tracker by tracker, where its library is not installed (extras of its name).
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from support.tiny import compose, play

from analysis.wandb import local_sync
from tspin.cli.command import check
from tspin.runs.artifacts import RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import read_json
from tspin.tracking import backends, environment, report
from tspin.tracking.tracker import Tracker
from tspin.tracking.view import AXES, Histogram, Rows, Told

LIBRARIES = ("tensorboard", "mlflow", "trackio")
INSTALLED = tuple(name for name in LIBRARIES if find_spec(name) is not None)
SHORT = ["decoding.max_new_tokens=2", *(f"track.{name}=true" for name in INSTALLED)]
TIMES = {f"train/{key}" for key in ("seconds", *report.SPEED_COLUMNS)}
OF_ENVIRONMENT = ("MLFLOW_TRACKING_URI", "TRACKIO_DIR")


def read_tensorboard(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = dict.fromkeys(("scalars", "tensors", "histograms", "images"), 0)  # all of them
    events = EventAccumulator(str(place), size_guidance=kinds).Reload()
    tags = events.Tags()
    texts = {tag: events.Tensors(tag) for tag in tags["tensors"]}
    texts = {
        tag.removesuffix("/text_summary"): [e.tensor_proto.string_val[0].decode() for e in found]
        for tag, found in texts.items()
    }
    return {
        "scalars": {t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags["scalars"]},
        "counts": {
            t: {e.step: sum(e.histogram_value.bucket) for e in events.Histograms(t)}
            for t in tags["histograms"]
        },
        "samples": "\n".join(texts["samples/rows"]),
        "alerts": {t.split("/")[1]: v[0] for t, v in texts.items() if t.startswith("alerts/")},
        "config": texts["config"][0],
        "pictures": {t for t in tags["images"]},
    }


MLFLOW = """
import json, sys
from pathlib import Path
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=Path(sys.argv[1]).absolute().as_uri())
[run] = client.search_runs([e.experiment_id for e in client.search_experiments()])
of = run.info.run_id
def files(folder):
    for entry in client.list_artifacts(of, folder):
        yield from files(entry.path) if entry.is_dir else [entry.path]
paths = list(files(None))
def load(path):
    return json.loads(Path(client.download_artifacts(of, path)).read_text())
print(json.dumps({
    "scalars": {
        key: [(m.step, m.value) for m in client.get_metric_history(of, key)]
        for key in run.data.metrics
    },
    "counts": [
        (p.rsplit("/", 1)[0], int(Path(p).stem), sum(load(p)["counts"]))
        for p in paths if "/histogram/" in p
    ],
    "samples": json.dumps([load(p) for p in paths if p.startswith("samples/")], ensure_ascii=False),
    "alerts": {k.split(".")[1]: v for k, v in run.data.tags.items() if k.startswith("alert.")},
    "config": json.dumps(run.data.params),
    "pictures": [p.rsplit("/", 1)[0] for p in paths if p.endswith(".png")],
    "status": run.info.status,
}))
"""

TRACKIO = """
import json
from trackio.sqlite_storage import SQLiteStorage
from trackio import Api
[run] = Api().runs("tspin")
scalars, counts, samples, pictures = {}, [], [], []
for row in SQLiteStorage.get_logs("tspin", run.name):
    for key, value in row.items():
        kind = value.get("_type") if isinstance(value, dict) else None
        if kind == "trackio.histogram":
            counts.append((key, row["step"], sum(value["values"])))
        elif kind == "trackio.table" and key == "samples/rows":
            samples.append(value)
        elif kind == "trackio.image":
            pictures.append(key)
        elif isinstance(value, (int, float)) and key != "step":
            scalars.setdefault(key, []).append((row["step"], value))
print(json.dumps({
    "scalars": scalars, "counts": counts, "samples": json.dumps(samples, ensure_ascii=False),
    "alerts": {a["title"]: a["text"] for a in run.alerts()},
    "config": json.dumps({k: v for k, v in run.config.items() if k[0] != "_"}),
    "pictures": pictures,
}))
"""


def in_a_process(code, place, **variables):
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    counts = {}
    for key, step, number in read["counts"]:
        counts.setdefault(key, {})[step] = number
    return read | {"counts": counts, "pictures": {*read["pictures"]}}


def read_back(name, place):
    """What the tracker's own library reads in its store."""
    if name == "tensorboard":
        return read_tensorboard(place)
    if name == "mlflow":
        return in_a_process(MLFLOW, place, MLFLOW_ALLOW_FILE_STORE="true")
    return in_a_process(TRACKIO, place, TRACKIO_DIR=str(place))


@pytest.fixture(scope="module", autouse=True)
def own_stores():
    """Where users may have set others."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in OF_ENVIRONMENT:
            patch.delenv(variable, raising=False)
        yield


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that all installed trackers saw from beginning to end, in an empty home.

    It was killed at the second step of iteration 1, and with nothing saved it trains and says the
    first one again.
    """
    root = tmp_path_factory.mktemp("runs")
    home = tmp_path_factory.mktemp("home")
    append = StepLog.append

    def appending(record, row):
        if (row["iteration"], row["step"]) == (1, 1):
            raise Killed
        append(record, row)

    with pytest.MonkeyPatch.context() as patch:
        for variable in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(variable, str(home))
        with pytest.MonkeyPatch.context() as killing, pytest.raises(Killed):
            killing.setattr(StepLog, "append", appending)
            play(root, "tspin", *SHORT)
        folder, _ = play(root, "tspin", *SHORT)
    outside = [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in str(path)]
    assert outside == []
    return folder


@pytest.fixture(scope="module", params=LIBRARIES)
def name(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def live(run, name):
    return read_back(name, run.tracker(name))


@pytest.mark.runs
@pytest.mark.process
def test_a_tracker_has_the_numbers_of_the_files(run, live):
    """Each once, though one step was trained twice."""
    steps = [row for t in (0, 1) for row in StepLog.read(run.iteration(t).metrics)]
    losses = [value for _, value in live["scalars"]["train/loss"]]
    assert losses == pytest.approx([row["loss"] for row in steps], rel=1e-6)
    assert [step for step, _ in live["scalars"]["train/loss"]] == [*range(6)]
    for key, points in live["scalars"].items():
        told = [step for step, _ in points]
        assert key in AXES or told == sorted({*told}), key
    accuracy = dict(live["scalars"]["eval/heldout/exact_match_greedy"])
    for number, out in enumerate((run.base, run.iteration(0), run.iteration(1))):
        value = read_json(out.evaluation)["heldout"]["exact_match,greedy"]["value"]
        assert accuracy[number] == pytest.approx(value, rel=1e-6)
    facts = read_json(run.iteration(1).contingency)["train"]
    assert dict(live["scalars"]["contingency/train/both"])[1] == facts["contingency"]["both"]
    assert "contingency/train/heat_map" in live["pictures"]
    assert "coef.alpha" in live["config"]


@pytest.mark.runs
@pytest.mark.process
def test_a_tracker_has_the_distributions_of_rewards_and_log_probs(live):
    """24 training rows and 16 held-out ones, of three roles."""
    for split, number in (("train", 24), ("heldout", 16)):
        for kind in ("rewards", "logps"):
            for role in ("annotated", "synthetic", "proto"):
                key = f"iteration/histogram/{split}/{kind}/{role}"
                assert live["counts"][key] == {0: number, 1: number}


@pytest.mark.runs
@pytest.mark.process
def test_a_tracker_has_samples_with_their_rewards_and_alerts(run, live):
    [first, *_] = run.iteration(1).samples.read_text(encoding="utf-8").splitlines()
    prompt = json.loads(first)["prompt"].split()[0]
    assert prompt in live["samples"] and "reward_annotated" in live["samples"]
    assert live["alerts"]["cut"].startswith("iteration 0: ")
    assert "decoding.max_new_tokens" in live["alerts"]["cut"]


@pytest.mark.runs
@pytest.mark.process
def test_a_tracker_is_rebuilt_from_the_files(run, name, live, tmp_path, caplog):
    """The same numbers, histograms, samples and alerts; a second time nothing is written.

    What the step that was trained twice took is a time of its own.
    """
    caplog.set_level("INFO", "tspin")
    command = [f"to={name}", f"runs={run.path}", f"out={tmp_path}"]
    local_sync.main(command)
    assert caplog.messages[-1] == "tspin: synced"
    place = tmp_path / name / ("tspin" if name == "tensorboard" else "")
    rebuilt = read_back(name, place)
    assert without_times(rebuilt) == without_times(live)
    local_sync.main(command)
    assert (
        "already in" in caplog.messages[-1] and read_back(name, place)["counts"] == live["counts"]
    )


def without_times(read):
    scalars = {
        key: [point for point in sorted(points) if key not in TIMES or point[0] != 3]
        for key, points in read["scalars"].items()
    }
    return read | {"scalars": scalars}


def test_a_misspelt_tracker_is_one_line(capsys):
    with pytest.raises(SystemExit):
        local_sync.main(["to=tensorbord"])
    assert "did you mean tensorboard?" in capsys.readouterr().err


# --- the interface -------------------------------------------------------------------------------


class Notes:
    """A Backend that keeps what it is told, and fails where it is told to."""

    def __init__(self, label, failing=(), told=None):
        self.label, self.failing, self.calls = label, failing, []
        self.told = lambda: told or Told()

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.failing:
                raise ConnectionResetError(name)

        return call


@pytest.mark.parametrize("failing", ["start", "log", "alert"])
def test_a_tracker_that_fails_stops_neither_training_nor_the_others(failing, caplog):
    broken, whole = Notes("one", {failing}), Notes("other")
    with Tracker([broken, whole]) as tracker:
        tracker.log_iteration(0, {"loss": 1.0})
        tracker.alert("cut", "all")
        tracker.log_iteration(1, {"loss": 1.0})
    assert [call[0] for call in whole.calls] == ["start", "log", "alert", "log", "finish"]
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith(f"one failed (ConnectionResetError: {failing})")
    assert broken.calls[-1] == ("finish", 0)  # what was begun of it


def test_each_kind_of_alert_is_given_once():
    notes = Notes("one")
    with Tracker([notes]) as tracker:
        for text in ("at first", "again"):
            tracker.alert("collapse", text)
    assert [call for call in notes.calls if call[0] == "alert"] == [
        ("alert", "collapse", "at first")
    ]


def test_what_a_backend_has_is_not_told_again():
    """Key by key: a later launch has more to say of an evaluation."""
    notes = Notes("one", told=Told({"eval/a": 1, "iteration/x": 0}, frozenset({"cut"})))
    with Tracker([notes]) as tracker:
        tracker.log_iteration(0, {"x": 1.0})
        tracker.log_evaluation(1, {"a": 1.0, "b": 2.0})
        tracker.log_evaluation(2, {"a": 3.0})
        tracker.alert("cut", "again")
    assert [call[2:] for call in notes.calls if call[0] != "finish" and call[1:]] == [
        (1, {"eval/b": 2.0}),
        (2, {"eval/a": 3.0}),
    ]


def test_variables_that_nobody_set_are_set_for_a_while(monkeypatch):
    monkeypatch.setenv("TSPIN_A", "theirs")
    with environment.defaults({"TSPIN_A": "ours", "TSPIN_B": "ours"}):
        assert (os.environ["TSPIN_A"], os.environ["TSPIN_B"]) == ("theirs", "ours")
    assert os.environ["TSPIN_A"] == "theirs" and "TSPIN_B" not in os.environ


def test_histogram_and_rows_by_hand():
    """3 values of 0 and one of 1: the first of 64 bins and the last; a cell that a row lacks"""
    histogram = Histogram.of([0.0, 0.0, 0.0, 1.0])
    assert (histogram.counts[0], histogram.counts[-1], histogram.counts.sum()) == (3, 1, 4)
    assert np.allclose(histogram.edges, np.linspace(0, 1, 65))
    rows = Rows([{"a": 1}, {"a": 2, "b": 3}])
    assert (rows.columns, rows.cells) == (["a", "b"], [[1, None], [2, 3]])


# --- which trackers ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "wandb", "local"),
    [
        ([], "offline", ()),
        (["track=none"], "none", ()),
        (["track=tensorboard"], "none", ("tensorboard",)),
        (["track=[wandb,tensorboard]"], "online", ("tensorboard",)),
        (["track=[mlflow,trackio]"], "none", ("mlflow", "trackio")),
        (["track.trackio=true"], "offline", ("trackio",)),
    ],
)
def test_trackers_are_options_of_a_group_one_or_a_list(words, wandb, local):
    [point] = check(words).points
    track = point.run.track
    assert track.wandb == wandb
    assert tuple(name for name in backends.LOCAL if getattr(track, name)) == local


def test_a_tracker_changes_no_name_of_a_run():
    names = {check(words).points[0].run.name for words in ([], ["track=[mlflow,trackio]"])}
    assert len(names) == 1


def test_trackers_lie_in_the_run_folder(tmp_path):
    assert {RunDir(tmp_path).tracker(name).parent for name in backends.LOCAL} == {tmp_path}
    assert compose().track.tensorboard is False
