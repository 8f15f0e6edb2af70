"""One name for one number, one numbering of iterations: files, console, trackers, report, docs."""

import re
from pathlib import Path

import pytest
from support.tiny import play

from analysis.reading import measures
from analysis.reading.runs import BASE, Runs
from tspin.runs import comparison, evaluation
from tspin.tools.files import read_json
from tspin.tracking import replay, report, summary
from tspin.tracking.view import AXES

pytestmark = pytest.mark.runs

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return play(tmp_path_factory.mktemp("runs"), "tspin")


class Evaluations:
    """A View that keeps evaluations: iterations done -> key -> value."""

    def __init__(self):
        self.by_number = {}

    def log_evaluation(self, number, scalars):
        self.by_number[number] = scalars

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture(scope="module")
def tracked(run):
    view = Evaluations()
    replay.run(run[0], view)
    return view.by_number


def documented():
    """Keys of the tables of docs/runs.md, alternatives written out."""
    for key in re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCS, re.M))):
        match = re.fullmatch(r"(.*)\{(.*)\}(.*)", key)
        inner = re.fullmatch(r"(.*)\{(.*)\}(.*)", match[1]) if match else None
        if match is None:
            yield key
        elif inner is None:
            yield from (f"{match[1]}{part}{match[3]}" for part in match[2].split(","))
        else:
            for first in inner[2].split(","):
                middle = f"{inner[1]}{first}{inner[3]}"
                yield from (f"{middle}{part}{match[3]}" for part in match[2].split(","))


def test_every_held_out_number_is_in_the_docs_and_in_trackers_under_its_name(run, tracked):
    metrics = read_json(run[0].iteration(1).evaluation)["heldout"]
    assert set(metrics) <= {*documented()}
    for metric, estimate in metrics.items():
        assert tracked[2][replay.eval_key("heldout", metric)] == estimate["value"]


def test_every_key_of_a_step_is_in_the_docs(run):
    steps = replay._metrics(run[0].iteration(1).metrics)
    assert set(steps[0]) <= {*documented()}


def test_the_report_calls_a_number_what_the_console_does(run):
    """accuracy and perplexity; the report says of which answers."""
    out = run[0].iteration(1)
    for metric in evaluation.MAIN:
        name = comparison.worth(out, metric).name
        assert measures.HELDOUT[metric].title.startswith(name)
        assert any(column.startswith(name) for column, of in report.HELDOUT_COLUMNS.items()
                   if of == metric)  # fmt: skip


def test_one_numbering_of_iterations(run, tracked):
    """The initial policy is `base`, and what iteration t leaves is t: on the console, in folders
    and in the report's frames, where base is -1. Trackers count what was done before: t + 1."""
    folder, rows = run
    assert [row["iteration"] for row in rows] == [summary.BASE, 0, 1]
    frame = Runs.read(folder.path.parent).evaluation
    frame = frame[frame["key"] == "exact_match,greedy"].set_index("iteration")["value"]
    key = replay.eval_key("heldout", "exact_match,greedy")
    for row in rows:
        name = row["iteration"]
        out = folder.base if name == summary.BASE else folder.iteration(name)
        value = read_json(out.evaluation)["heldout"]["exact_match,greedy"]["value"]
        t = BASE if name == summary.BASE else name
        assert row["accuracy_greedy"] == frame[t] == tracked[t + 1][key] == value
        assert f"{value:.1%}" in summary.end_table(folder, [row])


def test_the_axes_of_trackers_are_in_the_docs():
    assert "eval/iterations" in AXES and "`eval/iterations`" in DOCS
