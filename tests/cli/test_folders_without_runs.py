"""What verbs say of a run, or of a folder of runs, that is not there: one line that leads on."""

import pytest

from tspin.__main__ import main

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
