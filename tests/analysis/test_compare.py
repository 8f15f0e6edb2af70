"""analysis.compare and analysis.show: two runs side by side, and the numbers of one."""

import math
import re

import pytest
from support.report_runs import add_triplets, write_run

from analysis import compare, show
from analysis.options import named
from analysis.report import comparison_page


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """T-SPIN ends with 26, SPIN with 24 of 50 right, of the same prompts."""
    root = tmp_path_factory.mktemp("compared")
    for loss in ("spin", "tspin"):
        add_triplets(write_run(root, loss))
    return root


def sides(runs, *iterations):
    names = ("micro-tspin-micro-s0", "micro-spin-micro-s0")
    return [comparison_page.side(runs / name, t) for name, t in zip(names, iterations, strict=True)]


def test_paired_differences_by_hand(runs):
    """Two prompts of 50 are right under T-SPIN alone: +4 points."""
    first, *_ = comparison_page.differences(*sides(runs, "", ""))
    assert (first.shown(first.a), first.shown(first.b)) == ("52.0", "48.0")
    assert first.text.startswith("+4.0 [") and first.over.num_prompts == 50


def test_perplexity_is_compared_in_percent_over_the_same_responses(tmp_path):
    """log pi(y) of held-out responses, from the scores of both; without them no interval."""
    for loss, scores in (("spin", True), ("tspin", True), ("tspin_ref", False)):
        write_run(tmp_path, loss, scores=scores)
    a, b, bare = (comparison_page.side(tmp_path / f"micro-{loss}-micro-s0", "1")
                  for loss in ("tspin", "spin", "tspin_ref"))  # fmt: skip

    def perplexity(*sides):
        return next(
            it for it in comparison_page.differences(*sides) if it.measure.key == "perplexity"
        )

    lower = a.runs.heldout_logps(a.run, 1)["logp"] - b.runs.heldout_logps(b.run, 1)["logp"]
    tokens = a.runs.heldout_logps(a.run, 1)["num_tokens"]
    over = perplexity(a, b).over
    assert over.num_prompts == len(tokens)
    assert over.mean == pytest.approx(100 * (math.exp(-lower.sum() / tokens.sum()) - 1))
    assert "%" in perplexity(a, b).text and "[" in perplexity(a, b).text
    assert "%" in perplexity(a, bare).text and "[" not in perplexity(a, bare).text


def test_only_what_differs_is_in_the_configuration(runs):
    rows = comparison_page.configuration(*sides(runs, "", ""))
    assert ("loss.name", "tspin", "spin") in rows and ("loss.beta", "[0.0, 0.1]", "-") in rows
    assert "loss.label" not in dict((key, a) for key, a, _ in rows)
    assert {key.partition(".")[0] for key, *_ in rows} == {"loss"}


def test_two_iterations_of_one_run(runs):
    folder = runs / "micro-tspin-micro-s0"
    a, b = comparison_page.side(folder, "base"), comparison_page.side(folder, "1")
    assert comparison_page.configuration(a, b) == []
    difference = comparison_page.differences(a, b)[0]
    assert (difference.a, difference.b) == (pytest.approx(40), pytest.approx(52))


@pytest.mark.parametrize(("t", "says"), [("7", "use base or one of 0, 1"), ("x", "iteration x")])
def test_an_iteration_that_is_not_there(runs, t, says):
    with pytest.raises(ValueError, match=says):
        sides(runs, t, "")


def test_only_answers_that_differ_are_shown(runs):
    """p24 and p25 are right under T-SPIN alone; the 48 others have the same answer in both."""
    samples = comparison_page.samples(*sides(runs, "", ""))
    assert [row["prompt"] for row in samples.rows] == ["p24", "p25"]
    assert samples.rows[0]["answers"] == [("24", True), ("24", False)]
    assert (samples.num_different, samples.num_prompts) == (2, 50)


def test_texts_are_compared_as_texts(tmp_path):
    """Also where the tokens of a response are known."""
    for loss in ("spin", "tspin"):
        add_triplets(write_run(tmp_path, loss), number=30, tokens=True)
    rows = comparison_page.samples(*sides(tmp_path, "", "")).rows
    assert [row["annotated"] for row in rows] == ["y 24", "y 25"]


def test_the_command_writes_a_page(runs, tmp_path, capsys):
    names = [str(runs / f"micro-{loss}-micro-s0") for loss in ("tspin", "spin")]
    compare.main([names[0], f"{names[1]}:0", f"out={tmp_path / 'two.html'}"])
    printed = capsys.readouterr().out
    assert "B  micro-spin-micro-s0, after iteration 0" in printed
    assert "accuracy, greedy (%): 52.0 and 44.0, A - B +8.0" in printed
    assert "What is better" in (tmp_path / "two.html").read_text()


def test_what_is_missing_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare.main([f"out={tmp_path / 'two.html'}"])
    assert capsys.readouterr().err == (
        "error: a= is missing: runs/NAME, or runs/NAME:T for its iteration T\n"
    )


def test_folders_need_no_key(tmp_path):
    """Their names may hold an equals sign, and an iteration behind them."""
    (tmp_path / "run-size=4").mkdir()
    one = str(tmp_path / "run-size=4")
    assert named([one, f"{one}:1", "out=x"], "a", "b") == [f"a={one}", f"b={one}:1", "out=x"]
    assert named(["b=x", one], "a", "b") == ["b=x", f"a={one}"]
    assert named(["--all", "nowhere"], "run") == ["--all", "run=nowhere"]


# --- show ----------------------------------------------------------------------------------------


def test_main_numbers_of_a_run(runs):
    lines = show.text(runs / "micro-tspin-micro-s0").splitlines()
    assert "40.0% to 52.0%, +12.0 points" in lines[0]
    (greedy,) = [line for line in lines if line.startswith("accuracy, greedy")]
    assert greedy.split() == ["accuracy,", "greedy", "(%)", "40.0", "[27.6,", "53.8]", "46.0",
                              "[33.2,", "59.4]", "52.0", "[38.8,", "65.0]"]  # fmt: skip
    assert max(map(len, lines[1:])) <= 100


def test_all_numbers_of_a_run(runs):
    """Of every file: evaluations, contingency tables, seconds, means over the steps."""
    text = show.text(runs / "micro-tspin-micro-s0", every=True)
    cells = [re.split(r"\s{2,}", line) for line in text.splitlines()[2:]]
    rows = {key: values for key, *values in cells}
    assert rows["heldout.exact_match,greedy.value"] == ["0.4", "0.46", "0.52"]
    assert rows["train.contingency.both"] == ["-", "7", "7"]
    assert rows["seconds.train"] == ["-", "1.5", "1.5"]
    assert rows["steps, mean: logps/annotated"] == ["-", "-9.375", "-8.375"]


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        show.main([str(tmp_path)])
    assert "is no run that can be read" in capsys.readouterr().err
