"""The figure of runs on data that shift, from two runs whose numbers are made up by hand."""

import pytest
import yaml
from support.report_runs import write_run

from analysis.figures import drift
from analysis.reading.runs import Runs
from tspin.runs import evaluation
from tspin.runs.artifacts import ANSWERS, SCORES, TIMED_PROMPTS
from tspin.tools.files import read_json
from tspin.tools.parquet import write_rows

PARTS = {"a": 0, "b": 0, "c": 1, "d": 2}
# The prompts that are answered right after iterations 0, 1 and 2.
RIGHT = {None: ("a", "abc", "abd"), 1: ("a", "cd", "ac")}


def answers(right):
    common = {"finish_reason": "stop", "num_tokens": 1, "response_ids": [1], "decoding": "greedy"}
    return [common | {"id": i, "draw": 0, "correct": i in right} for i in PARTS]


def scores(logp):
    common = {"split": "heldout", "source": 0, "role": "annotated", "num_tokens": 2}
    return [common | {"id": i, "logp": logp - PARTS[i]} for i in PARTS]


@pytest.fixture
def runs(tmp_path):
    """T-SPIN on all rows, and on the newest part alone: 4 prompts in 3 parts, 3 iterations."""
    for window, right in RIGHT.items():
        apart = f"-window={window}" * (window is not None)
        folder = write_run(tmp_path, "tspin", data="micro_drift", apart=apart, iterations=3)
        config = yaml.safe_load(folder.config.read_text())
        config["data"]["shift"] = {"column": None, "parts": 3, "window": window}
        folder.config.write_text(yaml.safe_dump(config))
        rows = [{"id": i, "split": "heldout", "part": part} for i, part in PARTS.items()]
        write_rows(folder.prompts, rows, TIMED_PROMPTS)
        for out, of_t in zip((folder.base, *map(folder.iteration, (0, 1, 2))), ("", *right),
                             strict=True):  # fmt: skip
            write_rows(out.answers, answers(of_t), ANSWERS)
            write_rows(out.scores, scores(-1.0 - out.now), SCORES)
            evaluation.write(out, {}, PARTS)
    return Runs.read(tmp_path)


def test_what_is_right_now_and_before_is_in_the_evaluation(runs):
    all_rows = next(run for run in runs if drift.way(run) == drift.ALL)
    heldout = read_json(all_rows.folder.iteration(1).evaluation)["heldout"]
    shares = {key: heldout[f"exact_match,greedy,{key}"] for key in ("current", "past", "part_1")}
    assert shares["current"] == shares["part_1"] == {"value": 1.0, "stderr": None, "n": 1}
    assert shares["past"] | {"stderr": 0} == {"value": 1.0, "stderr": 0, "n": 2}
    assert heldout["logp_per_token,current"]["value"] == pytest.approx(-1.5)  # -3 over 2 tokens
    assert heldout["logp_per_token,past"]["value"] == pytest.approx(-1.0)


def test_current_past_and_regret_by_hand(runs):
    """On all rows, of the own part: 50, 100 and 100%, of those before 2 of 2 and 2 of 3. 100 was
    seen on every part, so that 50 lack. The window: 50, 100 and 0, then 0 of 2 and 2 of 3; 50 and
    100 lack."""
    frame = drift.rows(runs).set_index("label")
    columns = ["current", "past", "regret", "current_gain", "past_gain"]
    thirds = 3 * frame[columns]
    assert thirds.loc["T-SPIN"].tolist()[:3] == pytest.approx([250, 250, 150])
    assert thirds.loc["T-SPIN window=1"].tolist() == pytest.approx([150, 100, 450, -100, -150])
    assert frame.loc["T-SPIN", ["current_gain", "past_gain"]].isna().all()


def test_where_no_answer_can_be_checked_it_is_log_pi_of_y(runs):
    numbers = runs.evaluation
    runs.evaluation = numbers[~numbers["key"].str.startswith("exact_match")]
    frame = drift.rows(runs).set_index("label")
    assert frame.loc["T-SPIN window=1", "current"] == pytest.approx(-1.5)  # of -0.5, -1.5, -2.5


def test_the_figure_has_a_panel_for_each_period_and_a_line_for_each_way(runs):
    drawing, table = drift.build(runs)
    assert (drawing.name, table.name) == ("drift", "drift-table")
    assert [axes.get_title() for axes in drawing.figure.axes] == [
        "T-SPIN, current rows", "T-SPIN, past rows"
    ]  # fmt: skip
    current = drawing.data[drawing.data["period"] == "current"]
    shares = {"all rows": (50, 100, 100), "window=1": (50, 100, 0)}
    expected = {(way, t): share for way, of in shares.items() for t, share in enumerate(of)}
    assert current.set_index(["way", "iteration"])["mean"].to_dict() == expected
    assert any("fewer than 3 seeds" in line for line in drawing.missing)


def test_a_folder_without_such_runs_is_told_the_sweep(tmp_path):
    write_run(tmp_path, "tspin")
    (drawing,) = drift.build(Runs.read(tmp_path))
    assert "no run on data that shift: `python main.py -m sweep=drift`" in drawing.missing
