"""The bench of objectives: its tiny study from beginning to end, and what makes the whole one."""

import sys
from collections import Counter

import pytest

import main
from analysis.bench import BEGIN, END, QUESTIONS
from benchmarks import objectives
from tspin.cli import sweep
from tspin.cli.arguments import read_sweep
from tspin.cli.command import check
from tspin.cli.folders import CONF, SWEEPS
from tspin.config.objective import built_in
from tspin.runs.artifacts import run_dirs


@pytest.fixture
def started(monkeypatch):
    """The command lines that were started; they run in this process."""
    commands = []

    def start(command):
        commands.append(command)
        monkeypatch.setattr(sys, "argv", [str(objectives.ROOT / "main.py"), *command[1:]])
        try:
            main.main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    monkeypatch.setattr(objectives, "start", start)
    monkeypatch.setattr(objectives, "BY_NAME", ())
    return commands


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


def test_what_was_tuned_before_is_not_tuned_again(tmp_path, monkeypatch):
    """rates.yaml is there, anchors.yaml is not."""
    commands, written = [], []
    monkeypatch.setattr(objectives, "start", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(objectives.choose, "write", lambda *words: written.append(words))
    it = objectives.tiny(tmp_path / "out", tmp_path / "before")
    earlier = tmp_path / "before" / "rates.yaml"
    objectives.write_text(earlier, "points: [loss=spin optim.lr=1e-4]\n")
    for name in objectives.CHOICES:
        objectives.tune(it, it.out / name, ["optim.lr"], "loss=spin", it.rates)
    assert (it.out / "rates.yaml").read_text() == earlier.read_text()
    assert len(commands) == 1
    assert written == [(it.out / "tune", ["optim.lr"], it.out / "anchors.yaml")]


def test_a_sweep_that_was_stopped_stops_the_study(tmp_path, monkeypatch):
    """A point that diverged does not; Ctrl-C and a refused word do."""
    it = objectives.tiny(tmp_path)
    for code in (0, 1):
        monkeypatch.setattr(objectives, "start", lambda command, code=code: code)
        objectives.sweep(it, "tune", "loss=spin")
    for code in (2, 130):
        monkeypatch.setattr(objectives, "start", lambda command, code=code: code)
        with pytest.raises(SystemExit) as stopped:
            objectives.sweep(it, "tune", "loss=spin")
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


@pytest.mark.parametrize("part", QUESTIONS)
def test_the_page_has_the_marks_of_every_section(part):
    text = (objectives.ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    begin, end = BEGIN.format(part), END.format(part)
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)
