"""One name for one number, one numbering of iterations: files, console, trackers, report, docs."""

import re
from pathlib import Path

import pytest
from support.tiny import play

from analysis.figures import change
from analysis.reading import measures
from analysis.reading.runs import BASE, Runs
from analysis.report import run_page
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


def test_the_report_says_what_the_console_does(run):
    """The sentence of a run, its table and its page: the same numbers under the same iterations."""
    folder, rows = run
    runs = Runs.read_one(folder.path)
    (own,) = runs
    changed = change.of(runs, [own])
    assert summary.sentence(folder, rows).startswith(f"held-out accuracy: {changed.numbers} (")
    table = run_page.iterations(runs, own)
    column = table["head"].index("accuracy, greedy (%)")
    assert [row[0] for row in table["rows"]] == ["base", "0", "1"]
    for row, cells in zip(rows, table["rows"], strict=True):
        out = (
            folder.base if row["iteration"] == summary.BASE else folder.iteration(row["iteration"])
        )
        assert cells[column] == str(comparison.worth(out)).replace("%", "")
    assert f"{changed.numbers} after 2 iterations" in run_page.page(
        runs, own, None, {"rows": [], "total": 0, "orders": {}}
    )


def test_margins_of_training_rows_and_of_held_out_ones_have_two_names(run):
    """The table at the end says whose its own is; pages and `show` call the other held-out."""
    folder, rows = run
    own = rows[-1]["rewards_annotated"] - rows[-1]["rewards_synthetic"]
    text = summary.end_table(folder, rows)
    assert "margin and misaligned: of the training rows" in text and f"{own:.4g}" in text
    held = read_json(folder.iteration(1).evaluation)["heldout"]["margin"]["value"]
    assert f"{held:.4g}" != f"{own:.4g}"
    runs = Runs.read_one(folder.path)
    table = run_page.iterations(runs, next(iter(runs)))
    column = table["head"].index("held-out margin (nats)")
    assert table["rows"][-1][column].startswith(f"{held:.2f} [")


def test_the_axes_of_trackers_are_in_the_docs():
    assert "eval/iterations" in AXES and "`eval/iterations`" in DOCS


def test_the_glossary_numbers_iterations_as_runs_do(run, tracked):
    """Its table: where a number stands, before and after the first training."""
    glossary = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text()
    cells = [re.findall(r"[^|]+", line) for line in glossary.splitlines() if line[:2] == "| "]
    documented = {row[0].strip(): [cell.strip(" `") for cell in row[1:3]] for row in cells
                  if len(row) == 4}  # fmt: skip
    folder, rows = run
    assert documented["table at the end of a run"] == [str(row["iteration"]) for row in rows[:2]]
    assert documented["folder"] == ["base/", "iter_0/checkpoint"]
    assert all((folder.path / place).exists() for place in documented["folder"])
    counted = next(values for name, values in documented.items() if "eval/iterations" in name)
    assert counted == [str(number) for number in sorted(tracked)][:2]
