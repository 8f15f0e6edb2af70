"""A run and its page warn in the same words: of a run in this process, log and tracker included."""

import json

import pytest
from support.report_runs import add_triplets, write_run
from support.tiny import play

from analysis.reading.runs import Runs
from analysis.report import run_page
from tspin.runs import heartbeat
from tspin.tools.files import write_jsonl
from tspin.tracking import replay, report


def alerts_of_page(folder):
    runs = Runs.read_one(folder.path)
    (run,) = runs
    return run_page.alerts(runs, run, run_page.status_of(run))


def test_what_a_run_warns_of_at_its_end_stands_on_its_page(tmp_path):
    """In iteration 1 log pi(y) falls to -40, and the gradient is zero; the samples of p0, one of
    four, are cut, and y' is twice as long as in iteration 0, which is no more than allowed."""
    folder = add_triplets(write_run(tmp_path, "tspin"))
    metrics = folder.iteration(1).metrics
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    write_jsonl(metrics, [row | {"logps/annotated": -40.0, "grad_norm": 0.0} for row in steps])
    warnings = report.warnings(folder, 1)
    assert {*warnings} == {"collapse", "gradient"}
    assert "from -9.8 to -40.0 nats" in warnings["collapse"]
    assert alerts_of_page(folder) == warnings
    assert report.warnings(folder, 0) == {}  # what comes later is not known at the end of 0


class Alerts:
    """A view that keeps alerts."""

    def __init__(self):
        self.alerts = {}

    def alert(self, kind, text):
        self.alerts.setdefault(kind, text)


@pytest.mark.runs
def test_log_heartbeat_and_page_of_a_run_say_the_same(tmp_path, caplog):
    """Steps that are a hundred times too long: log pi(y) falls."""
    folder, _ = play(tmp_path, "tspin", "coef.alpha=1000", "optim.lr=0.001")
    warned = heartbeat.read(folder).warnings
    assert warned["collapse"].startswith("iteration 0: log pi(y) has fallen")
    logged = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert sorted(logged) == sorted(warned.values())  # each once
    view = Alerts()
    for t in (0, 1):
        replay.alerts(folder, t, view)
    assert view.alerts == warned  # as a tracker that is rebuilt has them
    assert alerts_of_page(folder) == warned | report.warnings(folder, 1)
