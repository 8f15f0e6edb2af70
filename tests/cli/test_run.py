"""What `tspin run` leaves beside the artifacts when a run ends: report.html."""

import logging
import sys

import pytest
from support.tiny import SMALL

from tspin.cli import run
from tspin.cli.run_folders import describe
from tspin.cli.status import survey
from tspin.runs.artifacts import RunDir
from tspin.runs.store import files_of

WORDS = [*SMALL, "loss=tspin", "track=none", "selfplay.iterations=1"]
PAGE = "report.html"

pytestmark = pytest.mark.runs


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("reported") / "runs"


@pytest.fixture(scope="module")
def launch(runs_dir):
    """`tspin run WORDS MORE` in this process: the first trains, others link what it has made.
    -> the run's folder"""

    def call(*more, name="run"):
        words = [*more, *WORDS, f"name={name}", f"runs_dir={runs_dir}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["main.py", *words])
            run.main(words)
        return RunDir(runs_dir / name)

    call()
    return call


@pytest.fixture
def folder(runs_dir, launch):
    """The finished run, without a page."""
    (runs_dir / "run" / PAGE).unlink(missing_ok=True)
    return RunDir(runs_dir / "run")


def test_a_run_leaves_its_page(runs_dir, launch):
    """And what looks at the folder minds it no more than any other file: it is complete, listed,
    copied to a store, and a second launch has nothing to do but the page."""
    folder = launch()
    html = (folder.path / PAGE).read_text(encoding="utf-8")
    assert "<h1>run</h1>" in html and "1 of 1 iterations done" in html
    assert not [path.name for path in folder.path.iterdir() if path.name.startswith(f".{PAGE}")]
    assert {status.state for status in survey(runs_dir)} == {"complete"}
    assert PAGE in files_of(folder) and "run" in describe(runs_dir)


def test_the_end_names_the_page_that_was_written_and_no_other(launch, folder, caplog):
    caplog.set_level(logging.INFO, "tspin")
    launch()
    named = [message for message in caplog.messages if message.startswith("page: ")]
    assert len(named) == 1 and f" {folder.path / PAGE}\n" in named[0] and "tspin watch" in named[0]
    caplog.clear()
    launch("track.report=false")
    assert PAGE not in caplog.text


def test_one_that_wants_no_page_gets_none(launch, folder):
    launch("track.report=false")
    assert not (folder.path / PAGE).exists()


@pytest.mark.parametrize(("more", "written"), [((), False), (("track.report=true",), True)])
def test_a_point_of_a_multirun_has_one_where_it_is_asked_for(launch, more, written):
    folder = launch("-m", *more, name=f"point{len(more)}")
    assert folder.iteration(0).done.exists()
    assert (folder.path / PAGE).exists() is written


def test_the_main_process_alone_writes_it(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run.write_report(folder.path)
    assert not (folder.path / PAGE).exists()
    monkeypatch.setenv("RANK", "0")
    run.write_report(folder.path)
    assert (folder.path / PAGE).exists()


def test_without_the_packages_of_pages_it_is_a_line_of_the_log(folder, monkeypatch, launch, caplog):
    """The run has ended well all the same."""
    monkeypatch.setitem(sys.modules, "analysis.report.run_page", None)
    launch()
    (line,) = [r.getMessage() for r in caplog.records if PAGE in r.getMessage()]
    assert line.startswith(f"no {PAGE}: ") and line.endswith("track.report=false asks for none")
    assert not (folder.path / PAGE).exists()


def test_a_folder_that_no_page_can_be_made_of_is_a_line_of_the_log(tmp_path, caplog):
    run.write_report(tmp_path)
    (line,) = caplog.messages
    assert line.startswith(f"no {PAGE}: ValueError: {tmp_path} is no run that can be read")
