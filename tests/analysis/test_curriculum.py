"""The table of curricula: what is saved and lost, from run folders whose numbers are made up."""

import math

import pytest
import yaml
from support.report_runs import write_run

from analysis.figures import curriculum, style
from analysis.figures.pieces import Drawing, Table
from analysis.reading import commands, measures
from analysis.reading.runs import Runs
from tspin.runs.artifacts import SCORES
from tspin.tools.files import write_json, write_text
from tspin.tools.intervals import Interval
from tspin.tools.parquet import write_rows

TOKENS = 6  # of every y'
WAYS = {  # curriculum -> its values, chosen of 4 training prompts at iteration 1, seconds of it
    "none": ({"prompts": "all"}, 4, 10.0),
    "gate": ({"prompts": "gate", "share": 0.5}, 2, 4.0),
    "random": ({"prompts": "random", "share": 0.5}, 2, 5.0),
    "random-less": ({"prompts": "random", "share": 0.25}, 1, 5.0),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """T-SPIN with three seeds of each of WAYS; every variant gains one prompt more of 50 an
    iteration."""
    root = tmp_path_factory.mktemp("runs")
    for name, (values, number, seconds) in WAYS.items():
        for seed in range(3):
            apart = "" if name == "none" else f"-{name}"
            folder = write_run(root, "tspin", seed=seed, apart=apart)
            config = yaml.safe_load(folder.config.read_text()) | {"curriculum": values}
            write_text(folder.config, yaml.safe_dump(config))
            for t, new in ((0, 4), (1, number)):
                rows = [
                    {"id": f"p{i}", "split": "train", "source": t if i < new else 0,
                     "role": "synthetic", "logp": -1.0, "num_tokens": TOKENS, "ref_logp": None,
                     "reward": None}
                    for i in range(4)
                ]  # fmt: skip
                write_rows(folder.iteration(t).scores, rows, SCORES)
                spent = {"generate": seconds, "evaluate": 99.0}
                write_json(folder.iteration(t).done, {"seconds": spent})
    return Runs.read(root)


def test_a_row_says_what_is_saved_and_what_it_costs(runs):
    frame = curriculum.table(runs, measures.main_of(runs)).set_index("curriculum")
    gate = frame.loc["gate share=0.5"]
    assert (gate["saved"], gate["chosen"], gate["num_seeds"]) == (50, 50, 3)  # iteration 1 alone
    assert gate["time"] == pytest.approx(60)  # evaluation is no part of it
    assert gate["gain"] == pytest.approx(4)  # points: two prompts of 50
    assert gate["control"] == "random share=0.5"  # and not the one with fewer
    assert (gate["over"], gate["over:low"]) == (0, 0)
    assert gate["verdict"] == "missed: the interval reaches below -0.5"  # of 50 prompts
    less = frame.loc["random share=0.25"]
    assert (less["saved"], less["control"]) == (75, "-") and math.isnan(less["over"])


def test_pieces_and_what_is_missing(runs):
    with style.applied():
        table, drawing = curriculum.build(runs)
        assert isinstance(table, Table) and isinstance(drawing, Drawing)
        assert len(table.frame) == 3 and not table.missing
        one = runs.where(lambda run: run.seed == 0 and "random" not in run.name)
        table, _ = curriculum.build(one)
        assert table.frame["verdict"].tolist() == ["not enough data"]
        assert any("fewer than 3 seeds" in line for line in table.missing)
        (table,) = curriculum.build(runs.where(lambda run: run.is_plain))
    assert table.frame.empty
    (line,) = table.missing
    assert line.startswith("no run with a curriculum") and "sweep=curriculum" in line


def test_without_runs_on_all_prompts_there_is_no_difference(runs):
    with style.applied():
        table, _ = curriculum.build(runs.where(lambda run: not run.is_plain))
    assert table.frame["gain"].isna().all()
    assert any("curriculum=none" in line for line in table.missing)


def test_a_command_for_the_setting_leaves_the_choices_of_a_run_behind():
    """A word that stays would replace those of the sweep."""
    words = ["model=micro", "curriculum=gate", "curriculum.share=0.3", "anchor=nll", "loss=spin"]
    way = commands.of_setting(words, "sweep=curriculum")
    assert way == commands.of_setting(["model=micro"], "sweep=curriculum")


@pytest.mark.parametrize(
    ("saved", "low", "says"),
    [(50, -0.5, "reached"), (49, -0.5, "missed: 49% of the tokens"),
     (60, -0.6, "missed: the interval reaches below -0.5"), (60, math.nan, "not enough data")],
)  # fmt: skip
def test_the_aim_is_half_of_the_tokens_for_half_a_point(saved, low, says):
    accuracy = measures.percent("exact_match,greedy", "accuracy")
    of_tokens = Interval(saved, saved - 1, saved + 1, 0.1, 1, 3)
    gain = Interval(0.1, low, 1.0, 0.5, 0.1, 3)
    assert curriculum.verdict(of_tokens, gain, accuracy) == says
