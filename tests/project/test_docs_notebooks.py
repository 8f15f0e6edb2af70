"""examples/notebooks/: percent scripts, each run as it stands; what they assert holds."""

import re
import runpy
from pathlib import Path

import pytest
from support.tiny import SMALL

NOTEBOOKS = Path(__file__).resolve().parents[2] / "examples" / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_its_cells_are_those_of_the_percent_format(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ")
    for cell in re.split(r"^# %%", text, flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        if kind == " [markdown]":
            assert all(not line or line.startswith("#") for line in body.splitlines())
        else:
            assert kind == "" and body.strip()


def test_the_method_by_hand(capsys):
    runpy.run_path(str(NOTEBOOKS / "method_by_hand.py"))
    assert "SPIN: misaligned True\nT-SPIN: misaligned False" in capsys.readouterr().out


def test_your_objective(capsys):
    names = runpy.run_path(str(NOTEBOOKS / "your_objective.py"))
    assert names["Hinge"].coefficients() == ["alpha", "beta"]
    assert "loss 1.0000" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["runs", "runs/first"])  # no run, and one that has just begun
def test_reading_a_run_that_is_not_there_says_which_command_makes_it(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^runs/first has .* `python main.py name=first` makes"):
        runpy.run_path(str(NOTEBOOKS / "reading_a_run.py"))


@pytest.mark.runs
def test_a_run_with_your_objective(forker, tmp_path):
    """The class of the first cell and the YAML of the last one, as files in a new folder."""
    text = (NOTEBOOKS / "your_objective.py").read_text(encoding="utf-8")
    (tmp_path / "hinge.py").write_text(re.findall(r"^# %%\n(.*?)^# %%", text, re.M | re.S)[0])
    (tmp_path / "my_conf" / "loss").mkdir(parents=True)
    lines = re.findall(r"^#     (.*)$", text, re.M)
    (tmp_path / "my_conf" / "loss" / "hinge.yaml").write_text("\n".join(lines))
    main = str(NOTEBOOKS.parents[1] / "main.py")
    words = ["--config-dir", "my_conf", "loss=hinge", "name=mine", *SMALL]
    words += ["track=none", "track.report=false"]
    forker.python(main, *words, cwd=tmp_path)
    assert (tmp_path / "runs" / "mine" / "iter_1" / "done.json").exists()


def test_reading_a_run(finished, tmp_path, monkeypatch, capsys):
    """In a folder whose runs/first is a finished run of two iterations."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(finished.path)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(NOTEBOOKS / "reading_a_run.py"))
    assert "2 iterations done" in capsys.readouterr().out
    assert list(names["heldout"].index) == ["base", "iter_0", "iter_1"]
    assert names["table"].to_numpy().sum() == sum(
        names["counted"][cell] for cell in ("both", "reward_only", "logp_only", "neither")
    )
    assert len(names["joined"]) > 0
