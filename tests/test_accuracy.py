"""analysis.accuracy on run folders made by hand."""

import subprocess
import sys

import pytest
import yaml

from analysis.accuracy import COLOURS, figure, markdown, points, write
from tspin.artifacts import RunDir
from tspin.files import write_json

METRIC = "exact_match,greedy"


def run_folder(root, name, seed, values, *, label="T-SPIN", loss="tspin"):
    """A run whose accuracy was values[0] at first and values[t + 1] after iteration t."""
    folder = RunDir(root / name)
    folder.path.mkdir(parents=True)
    group = {"model": {"name": "micro"}, "data": {"name": "micro"}}
    settings = {"name": name, "seed": seed, "loss": {"name": loss, "label": label}, **group}
    folder.config.write_text(yaml.safe_dump(settings))
    for t, value in enumerate(values):
        out = folder.base if t == 0 else folder.iteration(t - 1)
        write_json(out.evaluation, {"heldout": {METRIC: {"value": value}}})
        if t:
            write_json(out.done, {})


@pytest.fixture
def runs(tmp_path):
    run_folder(tmp_path, "micro-tspin-micro-s0", 0, [0.4, 0.5])
    run_folder(tmp_path, "micro-tspin-micro-s1", 1, [0.4, 0.54])
    run_folder(tmp_path, "micro-tspin-micro-s0-alpha=0.3", 0, [0.4, 0.6])
    run_folder(tmp_path, "micro-sft-micro-s0", 0, [0.4, 0.7], label="SFT", loss="sft")
    return tmp_path


def test_mean_and_standard_error_over_seeds(runs):
    """50 and 54: mean 52, s.e. = (4 / sqrt 2) / sqrt 2 = 2; one seed has no error to show."""
    found = {(p.label, p.iteration): p for p in points(runs, METRIC)}
    both = found["T-SPIN", 0]
    assert (both.mean, both.stderr, both.num_seeds) == pytest.approx((52.0, 2.0, 2))
    assert found["T-SPIN", None].mean == pytest.approx(40.0)
    assert found["T-SPIN alpha=0.3", 0].mean == pytest.approx(60.0)


def test_table(runs):
    assert markdown(points(runs, METRIC)) == (
        "| objective | seeds | start | it 0 |\n|---|---|---|---|\n"
        "| SFT | 1 | 40.0 | 70.0 |\n"
        "| T-SPIN | 2 | 40.0 +- 0.0 | 52.0 +- 2.0 |\n"
        "| T-SPIN alpha=0.3 | 1 | 40.0 | 60.0 |\n"
    )


def test_figure_draws_the_points_in_the_colour_of_the_objective(runs):
    (axes,) = figure(points(runs, METRIC), METRIC).axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["T-SPIN"].get_xdata()) == [0, 1]
    assert list(drawn["T-SPIN"].get_ydata()) == pytest.approx([40.0, 52.0])
    assert drawn["T-SPIN"].get_color() == drawn["T-SPIN alpha=0.3"].get_color() == COLOURS["T-SPIN"]
    assert drawn["T-SPIN"].get_linestyle() != drawn["T-SPIN alpha=0.3"].get_linestyle()
    assert "%" in axes.get_ylabel() and axes.get_xlabel()


def test_files(runs, tmp_path):
    write(points(runs, METRIC), METRIC, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "accuracy.csv", "accuracy.md", "accuracy.png"
    }  # fmt: skip
    rows = (tmp_path / "out" / "accuracy.csv").read_text().splitlines()
    assert "T-SPIN,0,52.0,2.0,2" in rows and "T-SPIN,start,40.0,0.0,2" in rows


@pytest.mark.parametrize("argument, says", [("runs=/nowhere", "no run below"), ("rnus=x", "runs=")])
def test_what_is_wrong_is_said_in_one_line(argument, says):
    done = subprocess.run(
        [sys.executable, "-m", "analysis.accuracy", argument], capture_output=True, text=True
    )
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
