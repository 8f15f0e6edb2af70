"""The bench of objectives on made-up runs, by hand: rivals, stress, anchors, verdicts, the section.

After iteration t, of 50 prompts 20 + GAIN (t + 1) + seed are right (support/report_runs.py): an
objective ends at 2 GAIN prompts, or 4 GAIN points, above its start; a variant at 4 points more.
"""

import pytest
import yaml
from support import report_runs
from support.report_runs import write_run

from analysis import study as command
from analysis.claims import claims
from analysis.figures import anchors, answers, likelihood, rivals
from analysis.reading import bench
from analysis.reading.runs import Runs
from tspin.tools.files import read_json, write_json, write_text

pytestmark = pytest.mark.slow

STUDY = command.STUDIES["objectives"]
STRESS = 3e-4
SEEDS = range(3)


@pytest.fixture
def gains(monkeypatch):
    """Sets how many prompts more an objective has right after each iteration."""
    return lambda **given: [
        monkeypatch.setitem(report_runs.GAIN, loss, gain) for loss, gain in given.items()
    ]


def make(root, loss, *, lr=1e-4, anchor=None, fall=0.0, seeds=SEEDS, apart=None):
    """Seeds of a method; log pi(y) is -10 at first and falls by so many nats an iteration.

    apart  what names say beyond model, loss, data and seed; None: how it differs
    """
    values = anchor or {}
    words = [f"{key}={value}" for key, value in values.items()]
    words += [f"lr={lr:g}"] if lr != 1e-4 else []
    apart = "".join(f"-{word}" for word in words) if apart is None else apart
    for seed in seeds:
        folder = write_run(root, loss, seed=seed, lr=lr, apart=apart)
        tree = yaml.safe_load(folder.config.read_text())
        tree["anchor"] = values
        write_text(folder.config, yaml.safe_dump(tree))
        for t, out in enumerate([folder.base, folder.iteration(0), folder.iteration(1)]):
            held = read_json(out.evaluation)
            held["heldout"]["logp"] = {"value": -10 - fall * t, "stderr": 0.1, "n": 50}
            write_json(out.evaluation, held)


def pieces(root, build, name):
    table, drawing = build(Runs.read(root), name)
    return table, drawing


def findings(root, key):
    runs = Runs.read(root)
    (judged,) = (it for it in claims.judge(runs) if it.claim.key == key)
    assert runs.problems == []
    return judged.findings


# --- which runs ----------------------------------------------------------------------------------


def test_stress_is_the_rate_that_objectives_share_beside_their_own(tmp_path):
    """sft's own rate is the one under stress: it is in both."""
    make(tmp_path, "sft", lr=STRESS, seeds=[0])
    for loss in ("spin", "tspin"):
        make(tmp_path, loss, seeds=[0])
        make(tmp_path, loss, lr=STRESS, seeds=[0])
    make(tmp_path, "tspin", lr=1e-2, seeds=[0])
    make(tmp_path, "tspin", anchor={"hinge": 1.0}, lr=STRESS, seeds=[0])
    runs = Runs.read(tmp_path)
    assert bench.stress(runs) == STRESS
    stressed, tuned = bench.stressed(runs), bench.tuned(runs)
    assert [run.loss for run in bench.plain(stressed)] == ["sft", "spin", "tspin"]
    assert [run.loss for run in tuned] == ["sft", "spin", "tspin"]
    (anchored,) = bench.of(stressed, "tspin", "hinge 1")
    assert (bench.kind(anchored), bench.anchor(anchored)) == ("hinge", "hinge 1")


def test_names_that_are_digests_say_nothing(tmp_path):
    """Of two the first in the alphabet passes for the main variant, here the one under stress; a
    name in words comes before them. None of it is a problem."""
    for loss in ("spin", "tspin"):
        make(tmp_path, loss, seeds=[0])
        make(tmp_path, loss, lr=STRESS, seeds=[0])
    make(tmp_path, "tspin", anchor={"nll": 1.0}, lr=STRESS, seeds=[0], apart="-00000000")
    make(tmp_path, "sft", lr=STRESS, seeds=[0], apart="-aaaaaaaa")
    make(tmp_path, "sft", lr=1e-5, seeds=[0], apart="-bbbbbbbb")
    runs = Runs.read(tmp_path)
    assert runs.problems == []
    assert [run.label for run in runs if run.is_main] == ["SFT", "SPIN", "T-SPIN"]
    rates = {run.loss: run.values[bench.LR] for run in bench.plain(bench.tuned(runs))}
    assert rates == {"sft": 1e-5, "spin": 1e-4, "tspin": 1e-4}
    assert {run.loss for run in bench.plain(bench.stressed(runs))} == {"sft", "spin", "tspin"}


def test_without_a_shared_rate_there_is_no_stress(tmp_path):
    make(tmp_path, "spin", seeds=[0])
    make(tmp_path, "tspin", lr=STRESS, seeds=[0])
    runs = Runs.read(tmp_path)
    assert bench.stress(runs) is None and len(bench.stressed(runs)) == 0


# --- rivals --------------------------------------------------------------------------------------


def test_rivals_by_hand(tmp_path, gains):
    """From 40, 42, 44% (seeds): T-SPIN ends 12 points on, SPIN 8, SFT 20; log pi(y) of SPIN falls
    by 2 x 0.5. Against T-SPIN: SFT +8, SPIN -4, in every seed and on other prompts each."""
    for loss, fall in (("sft", 0.0), ("spin", 0.5), ("tspin", 0.0)):
        make(tmp_path, loss, fall=fall)
    table, drawing = pieces(tmp_path, rivals.build, "rivals")
    frame = table.frame.set_index("label")
    assert frame.index.tolist() == ["SFT", "T-SPIN", "SPIN"]  # the best first
    assert frame["start"].tolist() == pytest.approx([42] * 3)
    assert frame["end"].tolist() == pytest.approx([62, 54, 50])
    assert frame["over"].tolist() == pytest.approx([8, float("nan"), -4], nan_ok=True)
    assert frame.loc["SPIN", "moved"] == pytest.approx(-1)
    alone = [rivals.over(Runs.read(tmp_path), *sides, main=table_main(tmp_path)).p
             for sides in pairs(tmp_path)]  # fmt: skip
    assert sorted(frame["p"].dropna()) == pytest.approx(sorted(holm_of_two(alone)))
    assert len(drawing.data) == 3 and len(drawing.figure.axes) == 2
    assert table.missing[0].startswith("no run with loss=apo_zero, cpo, ipo, ")


def test_an_objective_alone_has_no_empty_axes(tmp_path):
    """Nothing to compare it with, and how far log pi(y) has moved is one panel."""
    make(tmp_path, "sft")
    _, drawing = pieces(tmp_path, rivals.build, "rivals")
    (axes,) = drawing.figure.axes
    assert axes.get_xlabel() == "log pi(y), moved (nats)"
    for folder in Runs.read(tmp_path):
        for out in (folder.folder.base, folder.folder.iteration(0), folder.folder.iteration(1)):
            held = read_json(out.evaluation)
            del held["heldout"]["logp"]
            write_json(out.evaluation, held)
    (table,) = rivals.build(Runs.read(tmp_path), "rivals")
    assert table.frame["label"].tolist() == ["SFT"]


def table_main(root):
    from analysis.reading import measures

    return measures.main_of(Runs.read(root))


def pairs(root):
    runs = Runs.read(root)
    sides = runs.grouped(lambda run: run.loss)
    return [(sides["sft"], sides["tspin"]), (sides["spin"], sides["tspin"])]


def holm_of_two(p):
    """The smaller one twice, the larger one at least as much."""
    low, high = sorted(p)
    return [min(1, 2 * low), min(1, max(2 * low, high))]


def test_under_stress_all_have_one_rate(tmp_path):
    for loss in ("spin", "tspin"):
        make(tmp_path, loss)
        make(tmp_path, loss, lr=STRESS, fall=2.0)
    table, _ = pieces(tmp_path, rivals.build, "stress")
    assert table.frame["lr"].tolist() == ["0.0003", "0.0003"]
    assert table.frame["moved"].tolist() == pytest.approx([-4, -4])
    assert "all at one learning rate, 0.0003" in table.caption


# --- anchors -------------------------------------------------------------------------------------


def study(root, *, kept=0.25, tspin=3, spin=2, gains):
    """T-SPIN and SPIN tuned and under stress, and T-SPIN with a hinge in both."""
    gains(tspin=tspin, spin=spin)
    for loss in ("spin", "tspin"):
        make(root, loss)
        make(root, loss, lr=STRESS, fall=5.0)
    make(root, "tspin", anchor={"hinge": 1.0})
    make(root, "tspin", anchor={"hinge": 1.0}, lr=STRESS, fall=kept)


def test_anchors_by_hand(tmp_path, gains):
    """A variant has two prompts more at its end, so the hinge ends 4 points above T-SPIN by default
    and level with T-SPIN under stress, where it loses 0.5 nats and not 10."""
    study(tmp_path, gains=gains)
    table, drawing = pieces(tmp_path, anchors.build, "anchors")
    none, hinge = table.frame.to_dict("records")
    assert [none["anchor"], hinge["anchor"]] == ["none", "hinge 1"]
    assert (none["stress_moved"], hinge["stress_moved"]) == pytest.approx((-10, -0.5))
    assert (hinge["tuned_over"], hinge["stress_over"]) == pytest.approx((4, 0))
    assert {*drawing.data["line"]} == {"SPIN", "T-SPIN", "T-SPIN, hinge 1"}


@pytest.mark.parametrize(
    ("kept", "tspin", "spin", "expected"),
    [
        (0.25, 12, 2, claims.SUPPORTED),  # loses 0.5 nats; 46 + 2 of 50 right against 26
        (1.0, 12, 2, claims.NOT_SUPPORTED),  # loses 2 nats
        (0.25, 2, 12, claims.NOT_SUPPORTED),  # ends below SPIN
    ],
)
def test_the_target_of_an_anchor(tmp_path, gains, kept, tspin, spin, expected):
    study(tmp_path, kept=kept, tspin=tspin, spin=spin, gains=gains)
    (found,) = findings(tmp_path, "anchor_hinge")
    assert found.verdict == expected
    assert [part.over.mean for part in found.parts] == pytest.approx(
        [-2 * kept, 4 * (tspin - spin), 4]
    )
    judged = [it for it in claims.judge(Runs.read(tmp_path)) if it.claim.place == claims.HERE]
    (mended,) = command.target(judged)
    assert mended.startswith("T-SPIN mended by an anchor, micro on micro: ")
    reached = mended.endswith("reached with anchor=hinge.")
    assert reached == (expected == claims.SUPPORTED)


def test_of_several_strengths_none_is_judged(tmp_path, gains):
    """They are not seeds of one method: the table has a row for each."""
    study(tmp_path, gains=gains)
    make(tmp_path, "tspin", anchor={"hinge": 3.0}, lr=STRESS)
    table, _ = pieces(tmp_path, anchors.build, "anchors")
    assert table.frame["anchor"].tolist() == ["none", "hinge 1", "hinge 3"]
    (found,) = findings(tmp_path, "anchor_hinge")
    assert found.verdict == claims.NOT_ENOUGH
    assert found.parts[0].reading == "several strengths were run: hinge 1, hinge 3"


def test_an_anchor_that_was_not_run_is_not_enough_data(tmp_path, gains):
    study(tmp_path, gains=gains)
    (found,) = findings(tmp_path, "anchor_nll")
    assert found.verdict == claims.NOT_ENOUGH and "sweep=anchors" in found.way_out


# --- the other verdicts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spin", "sft", "expected"), [(3, 3, claims.SUPPORTED), (3, 5, claims.NOT_SUPPORTED)]
)
def test_no_rival_is_above(tmp_path, gains, spin, sft, expected):
    """The same answers are as good; 4 prompts of 50 more are better."""
    gains(spin=spin, sft=sft, tspin=3)
    for loss in ("sft", "spin", "tspin"):
        make(tmp_path, loss)
    (found,) = findings(tmp_path, "rivals")
    assert found.verdict == expected and len(found.parts) == 2


def test_cooling_alone_is_what_a_gain_is_held_against(tmp_path, gains):
    """Half of 20 + 24 + seed answers sampled from T-SPIN are right; cooler, the initial policy has
    as many as it has greedily, 20 + seed: 22, 23 and 23 of 50 against 20, 21, 22 is no clear gain,
    and against none at all it is."""
    gains(tspin=12)
    make(tmp_path, "tspin")
    for cool, expected in ((1, claims.NOT_SUPPORTED), (0, claims.SUPPORTED)):
        for run in Runs.read(tmp_path):
            number = cool * (20 + run.seed)
            rows = [row | {"decoding": "cool"} for row in report_runs._answers(number, 50)
                    if row["decoding"] == "greedy"]  # fmt: skip
            report_runs.write_rows(run.folder.base.answers, rows, report_runs.ANSWERS)
        (found,) = findings(tmp_path, "cooling")
        assert found.verdict == expected, found.parts


# --- the sections of a page ----------------------------------------------------------------------


def page_of(folder):
    """With a section for every part, which says its name."""
    page = folder / "page.md"
    sections = (f"{command.BEGIN.format(part)}\n\nold {part}\n\n{command.END.format(part)}\n"
                for part in STUDY.questions)  # fmt: skip
    page.write_text(f"before\n\n{'between'.join(sections)}after\n")
    return page


def test_a_section_is_written_between_its_marks_and_the_others_stay(tmp_path, gains):
    study(tmp_path / "runs" / "test", tspin=12, gains=gains)
    page = page_of(tmp_path)
    command.write(STUDY, tmp_path / "runs", tmp_path / "report", str(page))
    text = page.read_text()
    assert text.startswith("before\n\n") and text.endswith("after\n")
    for part in STUDY.questions:
        assert text.count(command.BEGIN.format(part)) == text.count(command.END.format(part)) == 1
        assert (f"\nold {part}\n" in text) == (part != "test")
    assert text.count("between") == len(STUDY.questions) - 1
    assert "\n`test`: 18 runs of 2 iterations on 8 pairs" in text
    assert "micro on micro: reached with anchor=hinge." in text
    assert "| T-SPIN with anchor=hinge keeps" in text and "| **reached** |" in text
    pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines()
                if line.startswith("![")]  # fmt: skip
    assert len(pictures) == 3
    assert all((tmp_path / picture).stat().st_size > 5000 for picture in pictures)
    assert (tmp_path / "report" / "anchors.csv").exists()


def test_a_part_without_an_answer_stays_as_it_stands(tmp_path):
    """Strengths were tuned at one rate, and the rates themselves by an earlier study."""
    make(tmp_path / "runs" / "tune", "tspin", anchor={"hinge": 1.0}, seeds=[0])
    for run in Runs.read(tmp_path / "runs" / "tune"):
        tree = yaml.safe_load(run.folder.config.read_text())
        tree["data"]["eval_split"] = "validation"
        write_text(run.folder.config, yaml.safe_dump(tree))
    page = page_of(tmp_path)
    before = page.read_text()
    command.write(STUDY, tmp_path / "runs", tmp_path / "report", str(page))
    assert page.read_text() == before


def test_a_page_without_the_marks_is_left_as_it_is(tmp_path):
    make(tmp_path / "runs" / "test", "spin", seeds=[0])
    (tmp_path / "page.md").write_text("mine\n")
    with pytest.raises(ValueError, match="needs the lines"):
        command.write(STUDY, tmp_path / "runs", tmp_path / "report", str(tmp_path / "page.md"))
    assert (tmp_path / "page.md").read_text() == "mine\n"


def test_a_folder_that_holds_no_study_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no folder test, .*; `make objectives` makes them"):
        command.write(STUDY, tmp_path, tmp_path / "report")


# --- a study of a language model -----------------------------------------------------------------


def test_what_is_forgotten_by_hand(tmp_path):
    """Of the last iteration, -3, -3.1 and -3.2 nats a token (seeds), 0.5, 0.6 and 0.7 below the
    initial policy's; earlier iterations and other runs are no part of it."""
    make(tmp_path / "test", "tspin")
    make(tmp_path / "test", "spin")
    head = "run,iteration,n,logp_per_token,difference\n"
    lines = ["elsewhere,base,64,-9,0"]
    for run in Runs.read(tmp_path / "test"):
        if run.loss == "tspin":
            end = -3 - run.seed / 10
            lines += [f"{run.name},base,64,-2.5,0", f"{run.name},0,64,-7,-4.5",
                      f"{run.name},1,64,{end},{end + 2.5}"]  # fmt: skip
    write_text(tmp_path / command.LIKELIHOOD, head + "\n".join(lines) + "\n")
    (table,) = likelihood.build(Runs.read(tmp_path / "test"), tmp_path / command.LIKELIHOOD)
    frame = table.frame.set_index("label")
    assert frame.loc["T-SPIN", ["seeds", "start", "end", "over"]].tolist() == pytest.approx(
        [3, -2.5, -3.1, -0.6]
    )
    half = 4.3027 * 0.1 / 3**0.5  # Student's t of three
    assert frame.loc["T-SPIN", ["over:low", "over:high"]].tolist() == pytest.approx(
        [-0.6 - half, -0.6 + half], rel=1e-4
    )
    assert "64 other pairs" in table.caption
    assert frame.loc["SPIN", "seeds"] == 0 and len(table.missing) == 1
    study = command.STUDIES["smol"]
    command.write(study, tmp_path, tmp_path / "report")
    assert (tmp_path / "report" / "likelihood.md").exists()


def test_lengths_by_hand(tmp_path):
    """In tokens, of samples and greedy answers; a share that ends is of no side better."""
    make(tmp_path, "tspin")
    for run in Runs.read(tmp_path):
        for t, out in enumerate(
            [run.folder.base, run.folder.iteration(0), run.folder.iteration(1)]
        ):
            held = read_json(out.evaluation)
            held["heldout"]["num_tokens,sampled"] = {"value": 10 + t + run.seed, "n": 50}
            held["heldout"]["finished,sampled"] = {"value": 0.5, "n": 50}
            write_json(out.evaluation, held)
    (table,) = answers.build(Runs.read(tmp_path))
    assert table.frame["num_tokens,sampled"].tolist() == pytest.approx([11, 12, 13])
    assert table.frame["finished,sampled"].tolist() == pytest.approx([50, 50, 50])
    assert [column.better for column in table.columns if column.key == "finished,sampled"] == [0]
