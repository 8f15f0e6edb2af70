"""What verbs say of a run, or of a folder of runs, that is not there: one line that leads on."""

import re
from pathlib import Path

import pytest

from analysis.options import VERBS
from tspin.__main__ import main
from tspin.cli.options import runs_folder

OF_ONE_RUN = (
    *("rm {} --yes", "show {}", "compare {} {}", "chat run={}"),
    *("export run={} to=new", "pairs run={} to=new"),
)


@pytest.fixture
def says(tmp_path, monkeypatch, capsys):
    """The one line that a verb ends with, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def line(words):
        assert main(words.split()) != 0
        (only,) = capsys.readouterr().err.splitlines()
        return only

    return line


@pytest.mark.parametrize("verb", OF_ONE_RUN)
def test_a_run_that_is_not_there(says, tmp_path, verb):
    assert "nothing is no run that can be read: it is not there; there are no runs in" in says(
        verb.format("nothing", "nothing")
    )
    (tmp_path / "runs/micro-tspin").mkdir(parents=True)
    (tmp_path / "runs/micro-tspin/config.yaml").touch()
    assert says(verb.format("micro-tspn", "x")).endswith("; did you mean runs/micro-tspin?")
    assert says(verb.format("qq", "qq")).endswith("python -m tspin ls runs lists those that are")
    (tmp_path / "runs/begun").mkdir()
    assert "begun is no run that can be read: it has no config.yaml" in says(
        verb.format("runs/begun", "x")
    )


@pytest.mark.parametrize("verb", ["ls", "status", "watch", "report", "rm x --yes"])
@pytest.mark.parametrize("key", ["runs", "runs_dir"])
def test_a_folder_of_runs_has_one_spelling_for_every_verb(says, tmp_path, verb, key):
    """runs=RUNS, and runs_dir=RUNS as a run has it; ls and status take it without a key, too."""
    (tmp_path / "empty").mkdir()
    line = says(f"{verb} {key}=empty")
    assert "unknown option" not in line and "unrecognized" not in line
    assert re.search(r"empty has no runs?\b|no runs in empty", line)


def test_a_folder_may_be_called_like_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs=x").mkdir()
    assert runs_folder("runs=x") == Path("runs=x") and runs_folder("runs=y") == Path("y")


@pytest.mark.parametrize("verb", ["watch", "show", "compare", "report"])
def test_help_shows_the_verb_that_was_typed(monkeypatch, capsys, verb):
    (command,) = [name for name, called in VERBS.items() if called == verb]
    for started, shown in (("tspin", f"tspin {verb} "), ("analysis", f"-m analysis {command} ")):
        monkeypatch.setattr("sys.argv", [f"/bin/{started}"])
        assert main([verb, "--help"]) == 0
        assert f"    {shown}" in capsys.readouterr().out.replace("python ", "")
