"""Every verdict by hand, on runs whose numbers follow tests/support/report_runs.py.

After iteration t, of 50 prompts 20 + GAIN (t + 1) + seed are right, so that a prompt is 2 points
and every seed says the same of a difference: its interval over seeds is a point.
"""

import re

import pytest
import yaml
from support import report_runs
from support.report_runs import write_run

from analysis.claims import claims, evidence
from analysis.claims.claims import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, Part, verdict
from analysis.figures import grids
from analysis.reading import paper
from analysis.reading.runs import Runs
from analysis.reading.stats import Interval, mean_interval
from tspin.tools.files import read_json, write_json, write_text

pytestmark = pytest.mark.slow


@pytest.fixture
def gains(monkeypatch):
    """Sets how many prompts more an objective has right after each iteration."""
    return lambda **given: [
        monkeypatch.setitem(report_runs.GAIN, loss, gain) for loss, gain in given.items()
    ]


def make(root, *losses, seeds=3, **options):
    return [write_run(root, loss, seed=seed, **options) for loss in losses for seed in range(seeds)]


def finding(root, key):
    """The first finding of a claim."""
    runs = Runs.read(root)
    (judged,) = (it for it in claims.judge(runs) if it.claim.key == key)
    assert runs.problems == []
    return judged.findings[0]


def configure(folder, section, **values):
    tree = yaml.safe_load(folder.config.read_text())
    tree[section] |= values
    write_text(folder.config, yaml.safe_dump(tree, sort_keys=False))


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([True, True], SUPPORTED),
        ([True, False], NOT_SUPPORTED),
        ([None, False], NOT_SUPPORTED),
        ([True, None], NOT_ENOUGH),
        ([], NOT_ENOUGH),
    ],
)
def test_verdict(held, expected):
    parts = [Part("", holds=holds) for holds in held]
    assert verdict(parts) == expected


def test_numbers_of_a_part():
    part = Part("", Interval(1.2, 0.3, 2.1, 0.01, 0.1, 3, 800), "points")
    assert part.numbers == "+1.20 points [0.30, 2.10], 3 seeds, 800 prompts"
    alone = Part("", mean_interval([37.5]), "%")
    assert alone.numbers == "37.50%, 1 seed"
    assert Part("").numbers == Part("", mean_interval([])).numbers == ""


@pytest.mark.slow
@pytest.mark.parametrize("key", [claim.key for claim in claims.CLAIMS])
def test_fewer_than_three_seeds_are_not_enough(tmp_path, key):
    make(tmp_path, "sft", "spin", "tspin", "tspin_ref", "wo_ha", seeds=2)
    found = finding(tmp_path, key)
    assert found.verdict == NOT_ENOUGH
    assert found.way_out.startswith("`python main.py -m model=micro data=micro sweep=")
    assert found.way_out.endswith(" seed=0,1,2`")


@pytest.mark.parametrize("key", [claim.key for claim in claims.CLAIMS])
def test_no_runs_of_it_are_not_enough(tmp_path, key):
    make(tmp_path, "tspin_ref")
    assert finding(tmp_path, key).verdict == NOT_ENOUGH


# --- the claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "expected", "reading"),
    [(3, SUPPORTED, "shown: "), (0, NOT_SUPPORTED, "not shown: "),
     (-1, NOT_SUPPORTED, "the reverse is shown: ")],
)  # fmt: skip
def test_every_iteration_gains(tmp_path, gains, gain, expected, reading):
    """Two iterations, each by 2 GAIN points in every seed."""
    gains(tspin=gain)
    make(tmp_path, "tspin")
    found = finding(tmp_path, "gains")
    assert found.verdict == expected
    assert [part.over.mean for part in found.parts] == pytest.approx([2 * gain, 2 * gain])
    assert all(part.reading.startswith(reading) for part in found.parts)


def test_one_iteration_that_loses_is_enough(tmp_path):
    """20, 23, 26 and then 23 of 50 again: +6, +6, -6."""
    for folder in make(tmp_path, "tspin", iterations=3):
        path = folder.iteration(2).evaluation
        write_json(path, read_json(folder.iteration(0).evaluation))
    found = finding(tmp_path, "gains")
    assert found.verdict == NOT_SUPPORTED
    assert [part.holds for part in found.parts] == [True, True, False]


@pytest.mark.parametrize(
    ("key", "other"), [("above_spin", "spin"), ("history", "wo_ha"), ("above_sft", "sft")]
)
@pytest.mark.parametrize(
    ("ours", "theirs", "expected", "reading"),
    [
        (12, 2, SUPPORTED, "shown: "),  # 44 of 50 against 24
        (2, 2, NOT_SUPPORTED, "not shown: "),
        (3, 2, NOT_SUPPORTED, "not shown: "),  # two prompts of 50 may be chance
        (2, 12, NOT_SUPPORTED, "the reverse is shown: "),
    ],
)
def test_ends_above(tmp_path, gains, key, other, ours, theirs, expected, reading):
    gains(**{"tspin": ours, other: theirs})
    make(tmp_path, "tspin", other)
    found = finding(tmp_path, key)
    (part,) = found.parts
    assert found.verdict == expected and part.reading.startswith(reading)
    assert part.over.mean == pytest.approx(4 * (ours - theirs))  # two iterations, 2 points a prompt
    assert (part.over.n, part.over.num_prompts) == (3, 50)


def test_history_is_judged_with_the_same_settings_only(tmp_path):
    make(tmp_path, "tspin")
    for folder in make(tmp_path, "wo_ha"):
        configure(folder, "optim", lr=3e-5)
    found = finding(tmp_path, "history")
    assert found.verdict == NOT_ENOUGH
    assert found.parts[0].reading == "their settings differ: optim.lr 0.0001 and 3e-05"


def test_sft_on_other_data_is_another_question(tmp_path):
    make(tmp_path, "tspin", size=8)
    make(tmp_path, "sft", size=16)
    found = finding(tmp_path, "above_sft")
    assert found.verdict == NOT_ENOUGH
    assert "different numbers of pairs, 8 and 16" in found.parts[0].reading


@pytest.mark.parametrize(
    ("spin", "tspin", "expected"),
    [(-2, 3, SUPPORTED), (3, 3, NOT_SUPPORTED), (-1, -2, NOT_SUPPORTED)],
)
def test_steadier_than_spin(tmp_path, gains, spin, tspin, expected):
    """Each iteration of a gain below 0 drops by twice that in points; a gain drops by 0."""
    gains(spin=spin, tspin=tspin)
    make(tmp_path, "spin", "tspin")
    found = finding(tmp_path, "steady")
    assert found.verdict == expected
    assert found.parts[0].over.mean == pytest.approx(2 * (max(-spin, 0) - max(-tspin, 0)))


@pytest.mark.parametrize(
    ("sft", "expected"),
    [(5, SUPPORTED), (6, SUPPORTED), (7, NOT_SUPPORTED)],  # of 50: 25, 26 and 27, against 26
)
def test_a_quarter_of_the_data(tmp_path, gains, sft, expected):
    """T-SPIN's second iteration against SFT's first: equal is a match, 2 points less is none."""
    gains(sft=sft)
    make(tmp_path, "tspin", size=8)
    make(tmp_path, "sft", size=32)
    found = finding(tmp_path, "quarter")
    assert found.verdict == expected
    assert found.parts[0].over.mean == pytest.approx(2 * (6 - sft))


def test_the_quarter_may_be_a_variant(tmp_path):
    """T-SPIN by default on all 32, its variant on 8."""
    make(tmp_path, "tspin", "sft", size=32)
    make(tmp_path, "tspin", size=8, apart="-size=8")
    assert finding(tmp_path, "quarter").parts[0].what.startswith("T-SPIN on 8 pairs")


@pytest.mark.parametrize(
    ("rows", "astray", "expected"),
    [(4, 0, SUPPORTED), (3, 0, NOT_SUPPORTED), (4, 1, NOT_SUPPORTED)],
)
def test_misaligned(tmp_path, rows, astray, expected):
    """Of 8 rows: SPIN ranks 4 by reward alone (50%), or 3 (37.5%, below 40); T-SPIN 0, or 1."""
    for loss, key, number in (("spin", "reward_only", rows), ("tspin", "logp_only", astray)):
        for folder in make(tmp_path, loss):
            path = folder.iteration(1).contingency
            table = read_json(path)
            table["train"]["contingency"] |= {key: number}
            write_json(path, table)
    found = finding(tmp_path, "misaligned")
    assert found.verdict == expected
    assert [part.over.mean for part in found.parts] == pytest.approx([12.5 * rows, 12.5 * astray])
    assert found.judged_on == ""


@pytest.mark.parametrize(
    ("reference", "expected"), [(3, SUPPORTED), (12, NOT_SUPPORTED), (4, NOT_SUPPORTED)]
)
def test_no_reference_is_needed(tmp_path, gains, reference, expected):
    """The same answers: as good. 44 or 28 right of 50 against 26: the interval is not above -1."""
    gains(tspin_ref=reference)
    make(tmp_path, "tspin", "tspin_ref")
    assert finding(tmp_path, "reference_free").verdict == expected


def grid(root, points, **options):
    for alpha, beta in points:
        usual = (alpha, beta) == (1.0, 0.1)
        apart = "" if usual else f"-alpha={alpha}-beta={beta}"
        make(root, "tspin", apart=apart, alpha=alpha, beta=beta, **options)


ALL = [(alpha, beta) for alpha in grids.GRID for beta in grids.GRID]


@pytest.mark.slow
def test_robust_on_the_whole_grid(tmp_path, gains):
    """Variants have 48 of 50 right after iteration 1, the default 46."""
    gains(tspin=13)
    grid(tmp_path, ALL)
    found = finding(tmp_path, "robust")
    assert len(found.parts) == 15
    assert {round(part.over.mean, 6) for part in found.parts} == {4.0}
    assert found.verdict == SUPPORTED


@pytest.mark.slow
def test_robust_needs_the_whole_grid_and_one_point_refutes_it(tmp_path, gains):
    gains(tspin=13)
    grid(tmp_path, ALL[4:])
    found = finding(tmp_path, "robust")
    assert found.verdict == NOT_ENOUGH
    assert found.parts[-1].reading == "4 of the 16 points were not run"
    gains(tspin=5)  # 20 + 2 x 6 = 32 of 50
    grid(tmp_path, ALL[:1])
    found = finding(tmp_path, "robust")
    assert found.verdict == NOT_SUPPORTED and found.parts[0].over.mean == pytest.approx(-28)


# --- where they are judged ------------------------------------------------------------------------


def test_variants_that_objectives_share_are_a_regime(tmp_path):
    make(tmp_path, "spin", "tspin")
    for loss in ("spin", "tspin"):
        for folder in make(tmp_path, loss, apart="-lr=0.0003"):
            configure(folder, "optim", lr=3e-4)
    for folder in make(tmp_path, "tspin", apart="-lr=0.01"):  # of one objective alone
        configure(folder, "optim", lr=1e-2)
    judged = {it.claim.key: it for it in claims.judge(Runs.read(tmp_path))}
    regimes = [str(found.regime) for found in judged["above_spin"].findings]
    assert regimes == ["micro on micro", "micro on micro, lr=0.0003"]
    assert judged["above_spin"].findings[1].parts[0].what.startswith("T-SPIN lr=0.0003 over SPIN")
    assert len(judged["robust"].findings) == 1
    way_out = judged["history"].findings[1].way_out
    words = "model=micro data=micro sweep=table2 seed=0,1,2 optim.lr=0.0003"
    assert way_out == f"`python main.py -m {words}`"


def test_validation_is_for_choosing(tmp_path):
    for folder in make(tmp_path, "spin", "tspin"):
        configure(folder, "data", eval_split="validation")
    assert all(it.findings == [] for it in claims.judge(Runs.read(tmp_path)))


def test_what_stands_for_quality_is_said(tmp_path):
    make(tmp_path / "a", "spin", "tspin")
    assert (
        "accuracy, greedy, of held-out prompts" in finding(tmp_path / "a", "above_spin").judged_on
    )
    make(tmp_path / "b", "spin", "tspin", model="mistral", data="ultrachat", benchmarks=True)
    found = finding(tmp_path / "b", "above_spin")
    assert found.judged_on == "judged on the average of the benchmarks that were run"
    assert found.parts[0].over.num_prompts is None  # benchmarks are compared seed by seed
    assert "sweep=table4" not in found.way_out and found.verdict == SUPPORTED


def test_lower_is_better_for_perplexity(tmp_path):
    """Without answers it is what there is, and 0.2 lower is 0.2 better."""
    for folder in make(tmp_path, "spin", "tspin"):
        less = 0.2 * folder.path.name.startswith("micro-tspin")
        for t, out in enumerate([folder.base, folder.iteration(0), folder.iteration(1)]):
            out.answers.unlink(missing_ok=True)
            held = {"perplexity": {"value": 2 - 0.1 * t - less, "stderr": 0.01, "n": 50}}
            write_json(out.evaluation, {"heldout": held})
    found = finding(tmp_path, "above_spin")
    assert found.verdict == SUPPORTED and found.parts[0].over.mean == pytest.approx(0.2)


def test_a_claim_that_fails_costs_only_itself(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken")

    make(tmp_path, "spin", "tspin")
    monkeypatch.setattr(evidence.comparison, "ends", fail)
    runs = Runs.read(tmp_path)
    judged = {it.claim.key: it.findings[0].verdict for it in claims.judge(runs)}
    assert judged["above_spin"] == NOT_ENOUGH and judged["gains"] == SUPPORTED
    assert runs.problems == [
        f"claim {key}: could not be judged (RuntimeError: broken)"
        for key in ("above_spin", "rivals")
    ]


def test_the_table_has_a_row_per_finding(tmp_path):
    make(tmp_path, "spin", "tspin")
    judged = claims.judge(Runs.read(tmp_path))
    frame = claims.table(judged).frame
    assert len(frame) == len(claims.CLAIMS)
    row = frame.iloc[0]
    assert row["verdict"] == SUPPORTED and "+6.00 points [6.00, 6.00], 3 seeds" in row["evidence"]


def test_quoted_numbers_are_the_papers():
    """Averages that statements name, against the transcribed tables."""
    printed = {f"{value:.2f}" for name in ("table1", "table2", "table4")
               for value in paper.table(name)["avg_printed"]}  # fmt: skip
    printed |= {f"{value:.2f}" for value in paper.table("figure4a")["avg"]}
    quoted = {n for claim in claims.CLAIMS for n in re.findall(r"\d+\.\d\d", claim.statement)}
    assert len(quoted) == 8 and quoted <= printed
