"""The tables and figures of the paper, from tests/golden/folders and from the paper's numbers.

tests/support/report_runs.py says by which rules the folders were made, and how to make them and the
stored tables again.
"""

import math
import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from support.report_runs import FOLDERS, GAIN, TABLES, of_each_kind, write_run

from analysis.claims import claims
from analysis.figures import style, tasks
from analysis.figures.comparison import Side, differences
from analysis.figures.pieces import Drawing, Table, csv, write
from analysis.reading import missing, paper
from analysis.reading.methods import Setting
from analysis.reading.runs import BASE, Runs
from analysis.report import catalogue, render
from tspin.cli import command
from tspin.runs.artifacts import ANSWERS, RunDir
from tspin.tools.files import read_json, write_json, write_text
from tspin.tools.parquet import read_rows, write_rows

pytestmark = pytest.mark.slow  # makes every table and figure

MICRO = Setting("micro", "micro", "test")


@pytest.fixture(scope="module")
def pieces():
    runs = Runs.read(FOLDERS)
    made = {piece.name: piece for piece in catalogue.build(runs, with_paper=True)}
    assert runs.problems == []
    return made


def lines(axes):
    """{label: (x, y)} of the lines with a name."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", sorted(TABLES.glob("*.csv")), ids=lambda path: path.stem)
def test_tables_are_the_stored_ones(pieces, stored, tmp_path):
    piece = pieces[stored.stem]
    (tmp_path / "now.csv").write_text(csv(piece.frame))
    resampled = stored.stem.startswith("comparison")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "now.csv"), pd.read_csv(stored), rtol=0.05 if resampled else 1e-5
    )


def test_every_table_is_stored(pieces):
    made = {name for name, piece in pieces.items() if isinstance(piece, Table)}
    assert made - {"table3", "table3-paper"} == {path.stem for path in TABLES.glob("*.csv")}


def test_table1_by_hand(pieces):
    """Iteration 1: T-SPIN 20 + 3 x 2 of 50 with seed 0, one more with seed 1: 53%, 6 more than
    before; the initial policy 40% and 42%."""
    frame = pieces["table1-micro-micro"].frame.set_index(["label", "iteration"])
    row = frame.loc[("T-SPIN", 1)]
    assert (row["exact_match,greedy"], row["delta"], row["seeds"]) == pytest.approx((53, 6, 2))
    start = frame.xs("initial policy", level="label").iloc[0]
    assert start["exact_match,greedy"] == pytest.approx(41)
    assert math.isnan(frame.loc[("SFT", 1), "margin"])


def test_benchmarks_are_the_columns_where_there_are_some(pieces):
    table = pieces["table1-zephyr-ultrachat"]
    titles = [column.title for column in table.columns]
    assert titles[4:] == [
        "GSM8K (%)", "MATH (%)", "MUSR (%)", "MMLU (%)", "MMLUP (%)", "GPQA (%)", "HellaSwag (%)",
        "WG (%)", "BBH (%)", "IFEval (%)", "Avg (%)", "change of Avg",
    ]  # fmt: skip
    tasks = [column.key for column in table.columns[4:14]]
    assert np.allclose(table.frame[tasks].mean(axis=1), table.frame["average"])


def test_table3_is_what_is_configured_and_what_was_run(tmp_path, monkeypatch):
    """One task configured and run, one configured alone; the others were run unasked."""
    configured = tmp_path / "evals.yaml"
    configured.write_text("tasks: {gsm8k: {shots: 5, metric: m}, mine: {shots: 0, metric: null}}")
    monkeypatch.setattr(tasks, "CONFIGURED", configured)
    (table,) = tasks.build(Runs.read(FOLDERS))
    frame = table.frame.set_index("benchmark")
    assert frame.loc["gsm8k"].tolist() == ["GSM8K", 5, "m", 5, 100, 1.0]
    assert frame.loc["mine", "num_fewshot"] == 0 and pd.isna(frame.loc["mine", "n"])
    assert len(frame) == 11
    assert table.missing == [
        "no run was evaluated on mine: `python main.py -m sweep=table1 evals=paper`"
    ]


def test_pairs_are_named(pieces):
    """Methods that learned from different numbers of pairs say so in their rows."""
    frame = pieces["table1-micro-micro"].frame.drop_duplicates("label").set_index("label")
    assert frame["pairs"].to_dict() == {
        "initial policy": pytest.approx(math.nan, nan_ok=True),
        "SFT": 8, "SFT size=4": 4, "SPIN": 8, "T-SPIN": 8,
    }  # fmt: skip
    printed = pieces["table1-paper"].frame.drop_duplicates("label").set_index("label")
    assert printed.loc["SFT (200k, 2 epochs)", "pairs"] == 200_000


def test_rivals_and_anchored_methods_are_rows_where_the_paper_compares_methods(tmp_path):
    """Of Table 1, not of the ablation in Table 2; another alpha is a row of neither."""
    for loss in ("sft", "spin", "tspin", "wo_ha", "space"):
        write_run(tmp_path, loss)
    write_run(tmp_path, "tspin", apart="-hinge=1.0", hinge=1.0)
    write_run(tmp_path, "tspin", apart="-alpha=0.3", alpha=0.3)
    made = catalogue.build(Runs.read(tmp_path), ["table1", "figure2", "table2"])
    found = {piece.name.split("-")[0]: piece for piece in made}
    labels = ["SFT", "SPIN", "T-SPIN", "T-SPIN hinge=1.0", "SPACE"]
    assert found["table1"].frame["label"].unique().tolist() == ["initial policy", *labels]
    assert list(lines(found["figure2"].figure.axes[0])) == labels
    assert "and objectives beside them, micro on micro" in found["table1"].caption
    assert found["table2"].frame["label"].unique().tolist() == [
        "initial policy", "T-SPIN", "w/o H-A"]  # fmt: skip
    lacking = "\n".join(found["table1"].missing)
    assert re.search("SPACE .1.: `.* sweep=table1 seed=0,1,2 loss=space`", lacking)
    assert "sweep=table1 seed=0,1,2 loss=tspin anchor.hinge=1.0`" in lacking


def test_missing_runs_are_named_with_a_command(pieces):
    assert any("fewer than 3 seeds" in line for line in pieces["table2-micro-micro"].missing)
    absent = pieces["table2-zephyr-ultrachat"].missing
    assert "no run with loss=wo_ha (zephyr on ultrachat): " in absent[0]
    assert "`python main.py -m model=zephyr data=ultrachat sweep=table2`" in absent[0]
    assert pieces["table4"].missing == ["no run of it: `python main.py -m sweep=table4`"]


def test_a_suggested_command_keeps_the_words_of_the_setting(tmp_path):
    """What chooses data and scale stays, what is of one method or seed goes."""
    made = write_run(tmp_path, "tspin", split="validation")
    words = ["experiment=quick", "data=file", "data.path=my pairs.jsonl", "loss=tspin", "seed=3"]
    write_json(made.provenance, {"launches": [{"command": ["main.py", *words, "coef.alpha=2"]}]})
    runs = Runs.read(tmp_path)
    assert missing.command("seeds", runs, runs.settings()[0], "seed=0,1,2") == (
        ": `python main.py -m experiment=quick data=file 'data.path=my pairs.jsonl' "
        "sweep=seeds seed=0,1,2`"
    )


def test_without_recorded_words_no_command_is_suggested(tmp_path):
    write_run(tmp_path, "tspin").provenance.unlink()
    runs = Runs.read(tmp_path)
    assert missing.command("seeds", runs, runs.settings()[0]) == ""
    assert runs.resume(next(iter(runs))) is None


def test_every_command_of_a_report_composes(pieces, monkeypatch, tmp_path):
    """What is missing, and what claims lack, as python main.py would check it."""
    judged = claims.judge(Runs.read(FOLDERS))
    monkeypatch.chdir(tmp_path)
    lines = [line for piece in pieces.values() for line in piece.missing]
    lines += [finding.way_out for it in judged for finding in it.findings]
    commands = {found for line in lines for found in re.findall("`([^`]*)`", line)}
    assert len(commands) > 10
    for text in of_each_kind(commands):
        python, script, *arguments = shlex.split(text)
        assert (python, script) == ("python", "main.py")
        assert command.check(arguments).points


def test_responses_side_by_side(pieces):
    frame = pieces["table5-micro-micro"].frame
    assert frame.loc[0, "what"] == "annotated y"
    of = frame[frame["label"] == "T-SPIN"]
    assert of["response"].tolist() == ["0, 0 | y'", "0, 1 | y'", "0"]
    assert of["logp"].tolist()[:2] == [-3.0, -3.0]


def test_a_beats_b():
    """T-SPIN has 26 of 50 right where SPIN has 24: the two prompts between them differ."""
    runs = Runs.read(FOLDERS).of(MICRO)
    tspin, spin = (Side(runs.by_label()[label], 1) for label in ("T-SPIN", "SPIN"))
    found = differences(runs, tspin, spin, "greedy")
    assert found.shape == (2, 50) and found.sum(axis=1).tolist() == [2, 2]


def test_draws_of_a_prompt_count_as_one(tmp_path):
    """A second draw that is never right halves what each prompt of the first run is worth."""
    write_run(tmp_path, "spin")
    write_run(tmp_path, "tspin")
    answers = RunDir(tmp_path / "micro-tspin-micro-s0").iteration(1).answers
    rows = read_rows(answers)
    second = [row | {"draw": 1, "correct": False} for row in rows]
    write_rows(answers, [row | {"draw": 0} for row in rows] + second, ANSWERS)
    runs = Runs.read(tmp_path)
    tspin, spin = (Side(runs.by_label()[label], 1) for label in ("T-SPIN", "SPIN"))
    found = differences(runs, tspin, spin, "greedy")
    assert found.shape == (1, 50) and found.sum() == 26 / 2 - 24


def test_verdicts(tmp_path):
    """40 of 50 right against 26, three seeds: A; 26 against 24: cannot tell; one seed: neither."""
    for seed in range(3):
        for loss in ("spin", "tspin"):
            write_run(tmp_path, loss, seed=seed)
        write_run(tmp_path, "sft", seed=seed, iterations=2, apart="", heldout=50)
    write_run(tmp_path, "wo_ha")
    table, _ = catalogue.build(Runs.read(tmp_path), ["comparison"])
    greedy = table.frame[table.frame["measure"] == "accuracy, greedy"]
    verdict = {(row.a, row.b): row.verdict for row in greedy.itertuples()}
    assert verdict["SPIN", "SFT"] == "B" and verdict["T-SPIN", "SPIN"] == "cannot tell"
    assert verdict["w/o H-A", "SFT"] == "not enough data"


def test_a_comparison_is_drawn_as_it_is_tabled(tmp_path):
    """A point at A - B with its interval, on the row of its pair; the zero line through all."""
    for seed in range(3):
        for loss in ("sft", "spin"):
            write_run(tmp_path, loss, seed=seed)
    table, drawing = catalogue.build(Runs.read(tmp_path), ["comparison"])
    greedy = table.frame[table.frame["measure"] == "accuracy, greedy"].iloc[0]
    axes = drawing.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["SPIN - SFT"]
    assert axes.get_xlabel() == "difference, accuracy, greedy (points)"
    ((point, _, (bar,)),) = axes.containers
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (pytest.approx(greedy["difference"]), 0)
    ends = bar.get_segments()[0][:, 0].tolist()
    assert ends == pytest.approx([greedy["difference:low"], greedy["difference:high"]])


def test_objectives_are_shown_in_every_regime(tmp_path):
    """All five by default; and where two share another learning rate, those two."""
    for loss in ("sft", "spin", "tspin", "tspin_ref", "wo_ha"):
        write_run(tmp_path, loss)
    for loss in ("spin", "tspin"):
        write_run(tmp_path, loss, apart="-lr=0.0003", lr=3e-4)
    write_run(tmp_path, "sft", apart="-lr=0.001", lr=1e-3)  # alone: no regime
    found = {piece.name: piece for piece in catalogue.build(Runs.read(tmp_path), ["objectives"])}
    usual, stress = "objectives-micro-micro", "objectives-micro-micro-lr=0.0003"
    assert sorted(found) == sorted([usual, f"{usual}-table", stress, f"{stress}-table"])
    assert list(lines(found[usual].figure.axes[0])) == [*style.COLOURS]
    drawn = lines(found[stress].figure.axes[0])
    assert list(drawn) == ["SPIN lr=0.0003", "T-SPIN lr=0.0003"]
    assert drawn["T-SPIN lr=0.0003"] == ([BASE, 0, 1], pytest.approx([40, 48, 56]))  # 20 + 4 an it.
    row = found[f"{stress}-table"].frame.iloc[-1]
    assert row["label"] == "T-SPIN lr=0.0003"
    assert (row["exact_match,greedy"], row["delta"]) == pytest.approx((56, 8))
    assert any("seed=0,1,2 optim.lr=0.0003" in line for line in found[stress].missing)


def test_where_many_answers_are_right_samples_are_the_main_number(tmp_path):
    for loss in ("spin", "tspin"):
        folder = write_run(tmp_path, loss)
        for out in (folder.base, folder.iteration(0), folder.iteration(1)):
            found = read_json(out.evaluation)
            found["heldout"]["distinct_right,sampled"] = {"value": 1.5, "stderr": 0.1, "n": 50}
            write_json(out.evaluation, found)
    drawing, table = catalogue.build(Runs.read(tmp_path), ["objectives"])
    titles = [column.title for column in table.columns]
    assert titles[4:7] == [
        "accuracy, sampled (%)",
        "accuracy, greedy (%)",
        "different right answers",
    ]
    assert titles[-1] == "change of accuracy, sampled"
    assert drawing.figure.axes[0].get_ylabel() == "accuracy, sampled (%)"


def test_learning_rates_by_hand(tmp_path, monkeypatch):
    """Of 50 prompts 20 + 2 GAIN + seed: SPIN ends at 27, 31, 29 of 50 over two seeds (a mean of
    .5 more), best inside; T-SPIN rises to the edge."""
    for loss, gains in {"spin": (3, 5, 4), "tspin": (2, 3, 5)}.items():
        for lr, gain in zip((1e-5, 3e-5, 1e-4), gains, strict=True):
            for seed in (10, 11):
                apart = f"-eval_split=validation-lr={lr:g}"
                monkeypatch.setitem(GAIN, loss, gain - 1)  # a variant gains one more
                write_run(tmp_path, loss, seed=seed, split="validation", apart=apart, lr=lr)
    runs = Runs.read(tmp_path)
    table, drawing = catalogue.build(runs, ["tuning"])
    rows = table.frame.set_index("label")
    right = [100 * (20 + 2 * gain + 10.5) / 50 for gain in (3, 5, 4)]
    assert rows.loc["SPIN", "alike"] == "1e-05, 0.0001"  # by 1 and 2 of 50 prompts
    assert rows.loc["SPIN", ["1e-05", "3e-05", "0.0001"]].tolist() == pytest.approx(right)
    assert rows.loc["SPIN", ["best", "above", "where", "seeds"]].tolist() == [
        "3e-05", pytest.approx(4), "inside", 2
    ]  # fmt: skip
    edge = rows.loc["T-SPIN"]
    assert (edge["best"], edge["where"]) == ("0.0001", "on the edge: widen the grid")
    assert lines(drawing.figure.axes[0])["SPIN"] == ([1e-5, 3e-5, 1e-4], pytest.approx(right))
    assert table.missing == []


def test_the_best_rate_is_one_of_those_with_the_most_seeds(tmp_path, monkeypatch):
    """One seed of 32 right at 3e-5, and three of 28 on average at 1e-5, as `choose` has it."""
    for lr, gain, seeds in ((1e-5, 3, (10, 11, 12)), (3e-5, 6, (10,)), (1e-4, 2, (10, 11, 12))):
        for seed in seeds:
            monkeypatch.setitem(GAIN, "spin", gain - 1)
            apart = f"-eval_split=validation-lr={lr:g}"
            write_run(tmp_path, "spin", seed=seed, split="validation", apart=apart, lr=lr)
    table, drawing = catalogue.build(Runs.read(tmp_path), ["tuning"])
    (row,) = table.frame.to_dict("records")
    assert row["3e-05"] > row["1e-05"] and (row["best"], row["seeds"]) == ("1e-05", 3)
    assert lines(drawing.figure.axes[0])["SPIN"][0] == [1e-5, 3e-5, 1e-4]
    (circled,) = (line for line in drawing.figure.axes[0].lines if line.get_fillstyle() == "none")
    assert [*circled.get_xdata()] == [1e-5]


def test_a_coefficient_that_was_tuned_has_rows_of_its_own(tmp_path):
    """T-SPIN at two alphas and two rates, SFT at two rates."""
    for lr in (1e-5, 1e-4):
        for loss, alpha in (("sft", None), ("tspin", 1.0), ("tspin", 0.02)):
            apart = f"-eval_split=validation-lr={lr:g}-alpha={alpha}"
            folder = write_run(tmp_path, loss, seed=10, split="validation", apart=apart, lr=lr)
            if alpha is not None:
                tree = yaml.safe_load(folder.config.read_text())
                tree["loss"]["alpha"] = alpha
                write_text(folder.config, yaml.safe_dump(tree))
    table, drawing = catalogue.build(Runs.read(tmp_path), ["tuning"])
    labels = ["SFT", "T-SPIN alpha=0.02", "T-SPIN alpha=1.0"]
    assert table.frame["label"].tolist() == labels
    drawn = [line for line in drawing.figure.axes[0].lines if line.get_label() in labels]
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == 3


def test_without_validation_runs_there_is_nothing_tuned(tmp_path):
    write_run(tmp_path, "tspin")
    (table,) = catalogue.build(Runs.read(tmp_path), ["tuning"])
    assert table.frame.empty
    way = "`python main.py -m model=micro data=micro sweep=tune`"
    assert table.missing == [f"no run on validation prompts: {way}"]


def test_methods_of_different_length_are_compared_at_their_ends(tmp_path):
    """SFT has one iteration by plan: 25 right, against 26 of T-SPIN's second."""
    write_run(tmp_path, "sft", iterations=1)
    write_run(tmp_path, "tspin")
    table, _ = catalogue.build(Runs.read(tmp_path), ["comparison"])
    row = table.frame.iloc[0]
    assert (row["iteration"], row["difference"]) == ("1, 0", pytest.approx(2))


# --- figures -------------------------------------------------------------------------------------


def test_figure2_over_iterations(pieces):
    axes = pieces["figure2-micro-micro"].figure.axes
    assert [a.get_ylabel() for a in axes] == [
        "accuracy, greedy (%)", "accuracy, sampled (%)", "perplexity"
    ]  # fmt: skip
    drawn = lines(axes[0])
    assert drawn["T-SPIN"] == ([BASE, 0, 1], pytest.approx([41, 47, 53]))
    assert set(drawn) == {"SFT", "SFT size=4", "SPIN", "T-SPIN"}
    assert {to_hex(line.get_color()) for line in axes[0].lines} == {
        style.COLOURS[label].lower() for label in ("SFT", "SPIN", "T-SPIN")
    }
    assert axes[0].get_xlabel() == "iteration"
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["base", "0", "1"]


def test_figure2_of_benchmarks_has_the_papers_panels(pieces):
    for name in ("figure2-zephyr-ultrachat", "figure2-paper"):
        labels = [a.get_ylabel() for a in pieces[name].figure.axes]
        assert labels == ["GSM8K (%)", "IFEval (%)", "Avg (%)"]
    _, y = lines(pieces["figure2-paper"].figure.axes[2])["T-SPIN"]
    assert y == [38.56, 39.75, 42.56, 42.79, 43.23, 43.47]


def test_figure5_and_4b(pieces):
    assert set(lines(pieces["figure5-micro-micro"].figure.axes[0])) == {"T-SPIN", "w/o H-A"}
    (axes,) = pieces["figure4b-micro-micro"].figure.axes
    assert set(lines(axes)) == {"T-SPIN", "T-SPIN_ref"}


def test_bands_are_intervals(pieces):
    """Two seeds, 46 and 48: 47 +- t(1) x 1 = 12.706; one seed: no band"""
    data = pieces["figure2-micro-micro"].data.set_index(["key", "label", "iteration"])
    row = data.loc[("exact_match,greedy", "T-SPIN", 0)]
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([47, 34.294, 59.706], abs=1e-3)
    axes = pieces["figure2-micro-micro"].figure.axes[0]
    heights = [path.vertices[:, 1] for band in axes.collections for path in band.get_paths()]
    assert max(h.max() for h in heights if len(h)) == pytest.approx(73.706, abs=1e-3)


def test_figure3(pieces):
    """Iteration 1 at its end: log pi(y) = -10 + 1 + 1, log pi(y') = -13, SPIN's reward a tenth."""
    drawing = pieces["figure3-micro-micro"]
    spin = drawing.figure.axes[:3]
    x, y = lines(spin[1])["annotated y"]
    assert (x[-1], y[-1]) == pytest.approx((100, -8.0))
    assert lines(spin[0])["synthetic y'"][1][-1] == pytest.approx(-1.3)
    assert spin[0].get_xlabel() == "training of iteration 1 (%)"
    assert spin[0].get_ylabel() == "reward (nats)"
    assert [text.get_text() for text in spin[2].texts] == [
        "50.0%\n4", "37.5%\n3", "0.0%\n0", "12.5%\n1"
    ]  # fmt: skip
    tspin = drawing.figure.axes[3:]
    assert lines(tspin[0]) == lines(tspin[1])  # reward = 1.0 x log-likelihood
    assert spin[0].get_title() == "SPIN" and tspin[0].get_title() == "T-SPIN"


def test_figure7(pieces):
    """The gap at the end of iteration 1: -8 - (-13) = 5; nothing of iteration 2 is drawn."""
    drawing = pieces["figure7-micro-micro"]
    gap = drawing.figure.axes[2]
    x, y = lines(gap)["T-SPIN"]
    assert max(x) <= 2 and y[-1] == pytest.approx(5)
    assert any("iteration 2" in line for line in drawing.missing)


def test_figure4a(pieces):
    """T-SPIN after iteration 1: 56% with 4 pairs (a variant gains one more), 53% with 8."""
    drawing = pieces["figure4a-micro-micro"]
    (axes,) = drawing.figure.axes
    drawn = lines(axes)
    assert drawn["T-SPIN, iteration 1 (4 epochs)"] == ([4, 8], pytest.approx([56, 53]))
    assert drawn["SFT, iteration 0 (2 epochs)"][1] == pytest.approx([52, 51])
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "annotated pairs"
    points = pieces["figure4a-paper"].data
    assert set(zip(points["size"], points["mean"], strict=True)) == {
        (50_000, 42.56), (50_000, 40.65), (200_000, 42.01)
    }  # fmt: skip


def test_figure4c(pieces):
    """Two of sixteen cells have runs; the others are crossed out and named."""
    drawing = pieces["figure4c-micro-micro"]
    axes = drawing.figure.axes[0]
    (image,) = axes.images
    shown = image.get_array()
    assert shown.shape == (4, 4) and np.isfinite(shown.filled(np.nan)).sum() == 2
    assert shown[3, 0] == pytest.approx(53) and shown[1, 0] == pytest.approx(56)
    crosses = [text for text in axes.texts if text.get_text() == "x"]
    assert len(crosses) == 14
    named = [line for line in drawing.missing if line.startswith("alpha=")]
    assert len(named) == 14 and "coef.alpha=0.1 'coef.beta=[0,0.1]'" in named[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (r"$\beta$", r"$\alpha$")


def test_a_seed_counts_once_in_a_cell(tmp_path):
    """beta=0.1 and beta=[0,0.1] are the same from iteration 1 on: two seeds, not four."""
    for seed in (0, 1):
        write_run(tmp_path, "tspin", seed=seed)
        folder = write_run(tmp_path, "tspin", seed=seed, apart="-beta=0.1")
        config = yaml.safe_load(folder.config.read_text())
        config["coef"]["beta"] = 0.1
        folder.config.write_text(yaml.safe_dump(config))
    (drawing,) = catalogue.build(Runs.read(tmp_path), ["figure4c"])
    assert drawing.data[["alpha", "beta", "n"]].to_numpy().tolist() == [[1.0, 0.1, 2]]


def test_alignment_over_iterations(pieces):
    axes = pieces["contingency-micro-micro"].figure.axes[0]
    drawn = lines(axes)
    assert drawn["SPIN"] == ([0, 1], pytest.approx([37.5, 37.5]))
    assert drawn["T-SPIN"][1] == [0, 0] and drawn["w/o H-A"][1] == [0, 0]


def test_every_axis_has_a_name(pieces):
    """Heat maps, the contingency table and rows of comparisons have words for ticks instead."""
    for piece in pieces.values():
        for axes in piece.figure.axes if isinstance(piece, Drawing) else ():
            if axes.lines:
                rows = piece.name.startswith(("comparison", "rivals", "stress"))
                assert axes.get_xlabel() and (axes.get_ylabel() or rows), piece.name


# --- the paper's numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table1", "table2", "table4"])
def test_printed_averages_are_means_or_marked(name):
    printed = paper.table(name)
    off = (printed.iloc[:, 3:13].mean(axis=1) - printed["avg_printed"]).abs() > 0.0051
    assert printed.loc[off, "note"].notna().all()
    assert off.sum() == (name == "table2")


def test_notes_are_shown(pieces):
    assert "printed 41.64" in pieces["table2-paper"].caption


# --- the report ----------------------------------------------------------------------------------


def test_one_that_fails_costs_only_itself(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no")

    monkeypatch.setitem(catalogue.HOMES, "table1", broken)
    runs = Runs.read(FOLDERS)
    made = catalogue.build(runs, ["table1", "table3"])
    assert [piece.name for piece in made] == ["table3"]
    assert runs.problems == ["table1: could not be made (RuntimeError: no)"]


def test_files(pieces, tmp_path):
    chosen = [pieces["table3"], pieces["figure4b-micro-micro"]]
    write(chosen, render.images(chosen), tmp_path)
    files = list(tmp_path.iterdir())
    assert {path.suffix for path in files} == {".csv", ".md", ".tex", ".pdf", ".png"}
    assert all(path.stat().st_size for path in files)


@pytest.mark.process
def test_no_torch():
    code = "import sys, analysis.report.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
