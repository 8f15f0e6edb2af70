"""What auto came to is kept: for a launch that goes on, for a plan, for folders from before it."""

import pytest
import yaml
from support.tiny import compose

from tspin.config import auto
from tspin.config.load import dump
from tspin.runs import settled
from tspin.runs.artifacts import RunDir
from tspin.runs.point import Point, distinct

FILE = ("data=file", "data.path=pairs.csv")


def run_of(tmp_path, *words):
    return compose(*FILE, f"runs_dir={tmp_path}", *words)


@pytest.mark.parametrize(("prompts", "heldout"), [(4, 0), (5, 1), (12, 2), (159, 31), (1000, 32)])
def test_a_fifth_of_the_prompts_at_most_32(prompts, heldout):
    assert auto.num_heldout(prompts) == heldout


@pytest.mark.parametrize(("tokens", "alpha"), [(256, 1.0), (512, 0.5), (5, 51.2), (300.1, 0.853)])
def test_alpha_times_the_length_is_the_papers(tokens, alpha):
    """1 x 256 = 0.5 x 512, to three digits."""
    assert auto.alpha(tokens) == alpha


def test_what_is_settled_reaches_the_objective_and_is_asked_for_as_before(tmp_path):
    run = run_of(tmp_path, "coef.alpha=auto")
    folder = RunDir(run.folder)
    folder.path.mkdir()
    folder.claim(dump(run), free=())
    now = settled.settle(run, folder, auto.HELDOUT, 3, prompts=17)
    now = settled.settle(now, folder, auto.ALPHA, 0.5, mean_tokens=512)
    assert (now.data.heldout, now.coef.alpha, now.loss.coefficients["alpha"]) == (3, 0.5, 0.5)
    assert now.loss_at(1).alpha == 0.5 and now.unsettled == []
    folder.claim(dump(now), free=())
    assert yaml.safe_load(folder.config.read_text()) == dump(now)
    assert settled.as_begun(run, folder) == now and settled.as_asked(now, folder) == run
    folder.claim(dump(settled.as_begun(run, folder)), free=())
    with pytest.raises(ValueError, match=r"coef.alpha \(there 0.5, here 0.25\)"):
        folder.claim(dump(run_of(tmp_path, "coef.alpha=0.25", "data.heldout=3")), free=())


def test_a_plan_knows_runs_that_settle_alike(tmp_path):
    """wo_ha with auto will link iteration 0 of tspin with auto, whatever that came to."""
    words = ("coef.alpha=auto", "selfplay.iterations=1")
    begun = run_of(tmp_path, "loss=tspin", "name=begun", *words)
    folder = RunDir(begun.folder)
    folder.path.mkdir()
    settled.settle(begun, folder, auto.ALPHA, 0.5, mean_tokens=512)
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
    assert settled.as_begun(run, folder).data.heldout == 32
    folder.config.write_text(yaml.safe_dump(dump(run_of(tmp_path, "data.heldout=4"))))
    assert settled.as_begun(run, folder) == run
