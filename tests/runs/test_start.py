"""What auto came to is kept: for a launch that goes on, for a plan, for folders from before it."""

import pytest
import yaml
from support.tiny import compose

from tspin.config import auto
from tspin.config.load import dump
from tspin.runs import start
from tspin.runs.artifacts import RunDir
from tspin.runs.point import Point, distinct

FILE = ("data=file", "data.path=pairs.csv")


def run_of(tmp_path, *words):
    return compose(*FILE, f"runs_dir={tmp_path}", *words)


def test_what_is_settled_reaches_the_objective_and_is_asked_for_as_before(tmp_path):
    run = run_of(tmp_path, "coef.alpha=auto")
    folder = RunDir(run.folder)
    folder.path.mkdir()
    folder.claim(dump(run), free=())
    now = start.settle(run, folder, auto.HELDOUT, 3, prompts=17)
    now = start.settle(now, folder, auto.ALPHA, 0.5, mean_tokens=512)
    assert (now.data.heldout, now.coef.alpha, now.loss.coefficients["alpha"]) == (3, 0.5, 0.5)
    assert now.loss_at(1).alpha == 0.5 and now.unsettled == []
    folder.claim(dump(now), free=())
    assert yaml.safe_load(folder.config.read_text()) == dump(now)
    assert start.as_begun(run, folder) == now and start.as_asked(now, folder) == run
    folder.claim(dump(start.as_begun(run, folder)), free=())
    with pytest.raises(ValueError, match=r"coef.alpha \(there 0.5, here 0.25\)"):
        folder.claim(dump(run_of(tmp_path, "coef.alpha=0.25", "data.heldout=3")), free=())


def test_a_plan_knows_runs_that_settle_alike(tmp_path):
    """wo_ha with auto will link iteration 0 of tspin with auto, whatever that came to."""
    words = ("coef.alpha=auto", "selfplay.iterations=1")
    begun = run_of(tmp_path, "loss=tspin", "name=begun", *words)
    folder = RunDir(begun.folder)
    folder.path.mkdir()
    start.settle(begun, folder, auto.ALPHA, 0.5, mean_tokens=512)
    (point,) = distinct([Point((), begun)], None)
    assert point.run.coef.alpha == 0.5
    other = Point((), run_of(tmp_path, "loss=wo_ha", "name=other", *words))
    assert point.histories == other.histories
    number = Point((), run_of(tmp_path, "loss=wo_ha", "name=x", *words, "coef.alpha=0.25"))
    assert point.histories != number.histories


def test_a_folder_from_before_auto_keeps_its_number(tmp_path):
    run = run_of(tmp_path)
    folder = RunDir(run.folder)
    folder.path.mkdir()
    folder.config.write_text(yaml.safe_dump(dump(run_of(tmp_path, "data.heldout=32"))))
    assert start.as_begun(run, folder).data.heldout == 32
    folder.config.write_text(yaml.safe_dump(dump(run_of(tmp_path, "data.heldout=4"))))
    assert start.as_begun(run, folder) == run
