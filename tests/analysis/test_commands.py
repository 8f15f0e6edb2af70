"""python -m analysis NAME: what is asked for is made; what is wrong is said in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import __main__ as commands
from analysis.report import catalogue, report

FOLDERS = Path(__file__).parents[1] / "golden" / "folders"


@pytest.fixture
def said(capsys):
    """What a command says when it stops, on one line."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            commands.main(arguments)
        assert stopped.value.code not in (0, None)
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return call


@pytest.mark.slow
def test_all_is_every_table_and_figure(tmp_path):
    commands.main(["all", f"runs={FOLDERS}", f"out={tmp_path}"])
    made = {path.stem.split("-")[0] for path in tmp_path.iterdir()}  # table1-MODEL-DATA
    assert set(catalogue.NAMES) <= made
    endings = {path.suffix for path in tmp_path.glob("table1-*")}
    assert endings == {".csv", ".md", ".tex"}
    assert {path.suffix for path in tmp_path.glob("figure3-*")} == {".csv", ".pdf", ".png"}
    assert (tmp_path / "index.html").exists() and "claims" in made
    assert (tmp_path / "paper.html").stat().st_size > 1e6
    assert len([*(tmp_path / "runs").glob("*.html")]) == len([*FOLDERS.glob("*/config.yaml")])


def test_what_is_wrong_with_runs_is_a_file_beside_the_tables(tmp_path):
    """A line of problems.txt each, the same that are logged; empty where nothing is wrong."""
    shutil.copytree(FOLDERS / "micro-tspin-micro-s0", tmp_path / "runs" / "run")
    (tmp_path / "runs" / "empty").mkdir()
    problems = tmp_path / "report" / "problems.txt"
    arguments = ["table1", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'report'}"]
    commands.main(arguments)
    (line,) = problems.read_text().splitlines()
    assert line.startswith(f"{tmp_path / 'runs' / 'empty'}: no configuration in it")
    (tmp_path / "runs" / "empty").rmdir()
    commands.main(arguments)
    assert problems.read_text() == ""


@pytest.mark.slow
def test_one_by_name_with_its_own_option(tmp_path):
    commands.main(["figure3", f"runs={FOLDERS}", f"out={tmp_path}", "iteration=0"])
    assert {p.name for p in tmp_path.iterdir()} == {"problems.txt"} | {
        f"figure3-{setting}.{ending}"
        for setting in ("micro-micro", "zephyr-ultrachat")
        for ending in ("csv", "pdf", "png")
    }


def test_with_the_papers_numbers(tmp_path):
    for switch in ("with_paper=true", "--with_paper"):
        commands.main(["table2", f"runs={FOLDERS}", f"out={tmp_path / switch}", switch])
        assert list((tmp_path / switch).glob("table2*-paper.csv"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tabel1"], "did you mean table1?"),
        (["table1", "iteration=1"], "unknown option iteration="),  # it has none
        (["figure3", "iteration=one"], "iteration=one has to be a whole number"),
        (["all", "runs=/nowhere"], "/nowhere"),
        (["all", "rnus=x"], "did you mean runs=?"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, said, arguments, says):
    assert says in said(*arguments, f"out={tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_has_no_report(tmp_path, said):
    assert str(tmp_path) in said("all", f"runs={tmp_path}", f"out={tmp_path / 'out'}")


def test_every_command_is_in_the_help(capsys):
    commands.main([])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (report.ALL, *commands.COMMANDS, *catalogue.NAMES))


@pytest.mark.process
def test_no_torch_is_needed():
    code = "import sys\nfrom analysis.report import report\n"
    code += "assert not {'torch', 'wandb'} & {*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
