"""The studies: a tiny one of each from beginning to end, and what makes the whole ones."""

import json
import sys
from collections import Counter

import pytest
import yaml

import main
from analysis.study import BEGIN, END, STUDIES
from benchmarks import objectives, smol, sweeps
from benchmarks.sweeps import Sweeps
from tspin.cli import sweep
from tspin.cli.arguments import read_sweep
from tspin.cli.command import check
from tspin.cli.folders import CONF, SWEEPS
from tspin.config.load import load
from tspin.config.objective import built_in
from tspin.runs.artifacts import run_dirs
from tspin.tools.files import read_json


@pytest.fixture
def started(monkeypatch):
    """The command lines that were started; those of main.py run in this process."""
    commands = []

    def start(command):
        commands.append(command)
        if command[0] != "main.py":
            return 0
        monkeypatch.setattr(sys, "argv", [str(sweeps.ROOT / "main.py"), *command[1:]])
        try:
            main.main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    monkeypatch.setattr(sweeps, "start", start)
    monkeypatch.setattr(objectives, "BY_NAME", ())
    return commands


@pytest.mark.parametrize(
    ("why", "stops"), [("diverged at step 3: the loss is nan", False), ("no space left", True)]
)
def test_nothing_is_chosen_between_runs_that_lack(finished_copy, why, stops, monkeypatch):
    """Points that diverged are a result; others that failed end the study."""
    run = finished_copy
    monkeypatch.setattr(sweeps, "start", lambda command: sweeps.SOME_FAILED)
    study = Sweeps(run.path.parent.parent, ())
    study.run(run.path.parent.name)
    run.iteration(0).done.unlink()
    beat = read_json(run.heartbeat) | {"ended": "failed", "why": why}
    run.heartbeat.write_text(json.dumps(beat))
    if stops:
        with pytest.raises(SystemExit, match=f"neither complete nor diverged: {run.path.name}"):
            study.run(run.path.parent.name)
    else:
        study.run(run.path.parent.name)


@pytest.mark.runs
def test_the_tiny_study_from_beginning_to_end(tmp_path, started):
    """Two objectives at two rates, the best of each, both under stress; two strengths, the best one
    under stress and at T-SPIN's rate: 4 + 2 validation runs, 2 + 2 + 1 + 1 test runs."""
    objectives.main(["--tiny", "--out", str(tmp_path)])
    assert len(started) == 6
    assert len(run_dirs(tmp_path / "tune")) == 6
    assert len(run_dirs(tmp_path / "test")) == 6
    rates, anchors, at_rates = (
        read_sweep(str(tmp_path / f"{name}.yaml"), SWEEPS)
        for name in ("rates", "anchors", "anchors_at_rates")
    )
    rate = {line[0]: next(word for word in line if word.startswith("optim.lr")) for line in rates}
    assert list(rate) == ["loss=spin", "loss=tspin"]
    ((strength,), (again,)) = anchors, at_rates
    assert {*strength} ^ {*again} == {"optim.lr=3e-4", rate["loss=tspin"]}
    made = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"rivals.md", "stress.md", "anchors.md", "tuning.md", "claims.md"} <= made
    assert (tmp_path / "report" / "problems.txt").read_text() == ""
    for command in started[::5]:  # goes on where it was stopped: here, at its end
        points = check(command[1:]).points
        assert points and sweep.plan("again", points).to_run() == []


@pytest.mark.runs
def test_the_tiny_study_of_a_language_model_from_beginning_to_end(tmp_path, started):
    """Two objectives at two rates on 8 pairs, and the best two of each, all, with a second seed: 8
    validation runs. The best of each on 16, T-SPIN's siblings and the control at their rates, the
    two on 8 and 4: 2 + 3 + 4 test runs. Other pairs are scored by a process of their own, which is
    not started here."""
    smol.main(["--tiny", "--out", str(tmp_path), "--pairs", str(tmp_path / "pairs.jsonl")])
    *runs, scored = started
    assert len(runs) == 5 and scored[:3] == ["-m", "tspin", "likelihood"]
    assert f"data={tmp_path / 'pairs.jsonl'}" in scored and f"run={tmp_path / 'test'}" in scored
    tuned = [
        load(yaml.safe_load(folder.config.read_text())) for folder in run_dirs(tmp_path / "tune")
    ]
    assert [(run.data.size, run.data.eval_split) for run in tuned] == [(8, "validation")] * 8
    assert Counter(run.seed for run in tuned) == {10: 4, 11: 4}
    test = [
        load(yaml.safe_load(folder.config.read_text())) for folder in run_dirs(tmp_path / "test")
    ]
    assert {run.data.eval_split for run in test} == {"test"}
    rate = {run.loss.name: run.optim.lr for run in test if run.data.size == 4}
    assert Counter((run.loss.name, run.data.size, run.anchor.hinge, run.optim.lr)
                   for run in test) == Counter([
        *((loss, size, None, rate[loss]) for loss in ("sft", "tspin") for size in (4, 8, 16)),
        ("wo_ha", 16, None, rate["tspin"]), ("tspin", 16, 3.0, rate["tspin"]),
        ("ssd", 16, None, rate["sft"]),
    ])  # fmt: skip
    (control,) = (run for run in test if run.loss.name == "ssd")
    assert (control.decoding.temperature, control.data.eval_temperature) == (0.7, 1)
    made = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"table1.md", "comparison.md", "figure4a.png", "answers.md", "claims.md"} <= made
    assert (tmp_path / "report" / "problems.txt").read_text() == ""
    for command in (runs[0], runs[1], runs[-1]):
        points = check(command[1:]).points
        assert points and sweep.plan("again", points).to_run() == []


def test_words_behind_a_study_are_of_every_command_line(tmp_path, monkeypatch):
    """Another model, a card: not of a flag's value."""
    commands = []
    monkeypatch.setattr(sweeps, "start", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(sweeps.choose, "write", lambda *_, **__: None)
    monkeypatch.setattr(sweeps, "report", lambda *_: None)
    sweeps.write_text(tmp_path / "rates.yaml", "points: [loss=tspin optim.lr=1e-6]\n")
    smol.main(["--out", str(tmp_path), "--seeds", "2", "model=zephyr", "compute=cuda"])
    assert len(commands) == 5
    for command in commands:
        own = command.index("model=smollm2") if "model=smollm2" in command else -1
        assert own < command.index("model=zephyr") < command.index("compute=cuda")
    assert ["seed=0,1" in command for command in commands] == [False] * 2 + [True] * 3


def test_what_was_tuned_before_is_not_tuned_again(tmp_path, monkeypatch):
    """rates.yaml is there, anchors.yaml is not."""
    commands, written = [], []
    monkeypatch.setattr(sweeps, "start", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(sweeps.choose, "write", lambda *words: written.append(words))
    out, before = tmp_path / "out", tmp_path / "before"
    it = sweeps.Sweeps(out, sweeps.TINY, tuned=before)
    sweeps.write_text(before / "rates.yaml", "points: [loss=spin optim.lr=1e-4]\n")
    for name in objectives.CHOICES:
        it.tune(out / name, ["optim.lr"], ["loss=spin"], ["optim.lr=1e-4,1e-3"], [(10, 11)])
    assert (out / "rates.yaml").read_text() == (before / "rates.yaml").read_text()
    assert len(commands) == 1
    assert written == [(out / "tune", ["optim.lr"], out / "anchors.yaml")]


def test_a_sweep_that_was_stopped_stops_the_study(tmp_path, monkeypatch):
    """A point that diverged does not; Ctrl-C and a refused word do."""
    it = sweeps.Sweeps(tmp_path, sweeps.TINY)
    monkeypatch.setattr(sweeps, "unfinished", lambda folder: [])
    for code in (0, 1):
        monkeypatch.setattr(sweeps, "start", lambda command, code=code: code)
        it.run("tune", "loss=spin")
    for code in (2, 130):
        monkeypatch.setattr(sweeps, "start", lambda command, code=code: code)
        with pytest.raises(SystemExit) as stopped:
            it.run("tune", "loss=spin")
        assert stopped.value.code == code


@pytest.mark.slow
def test_the_sweeps_are_of_what_conf_has():
    """Every class once: dpo is spin; ssd as the control that it is, sampled cooler alone."""
    runs = [point.run for point in check(["-m", "sweep=objectives"]).points]
    files = {path.stem for path in (CONF / "loss").glob("*.yaml")}
    assert Counter(run.loss.name for run in runs) == Counter(files - {"dpo"})
    assert {run.loss.name for run in runs} == {kind.name for kind in built_in()}
    cooler = {run.loss.name: run for run in runs if run.decoding.temperature != 1}
    assert list(cooler) == ["ssd"] and cooler["ssd"].data.eval_temperature == 1
    kinds = Counter(
        (run.loss.name, kind)
        for run in (point.run for point in check(["-m", "sweep=anchors"]).points)
        for kind, value in vars(run.anchor).items()
        if value
    )
    strengths = {"nll": 3, "hinge": 3, "cap": 3, "average": 1}
    assert kinds == {(loss, kind): number for loss in ("tspin", "spin", "wo_ha")
                     for kind, number in strengths.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name, study in STUDIES.items() for part in study.questions]
)
def test_the_page_has_the_marks_of_every_section(name, part):
    text = (sweeps.ROOT / STUDIES[name].page).read_text(encoding="utf-8")
    begin, end = BEGIN.format(part), END.format(part)
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)
