"""What is read from run folders, and what is said of those that are broken."""

import json
import math
from dataclasses import asdict

import pytest
import yaml
from support.report_runs import FOLDERS, write_run
from support.tiny import compose

from analysis.claims import claims
from analysis.figures import style
from analysis.reading import commands
from analysis.reading.methods import Setting, coefficients
from analysis.reading.runs import BASE, Runs
from analysis.report import catalogue, overview, site
from tspin.config import older
from tspin.config.load import dump
from tspin.runs.artifacts import RunDir
from tspin.runs.heartbeat import Beat
from tspin.tools.files import flatten, read_json, write_json

MICRO = Setting("micro", "micro", "test")


@pytest.fixture
def runs(tmp_path):
    for loss in ("spin", "tspin"):
        write_run(tmp_path, loss)
    return tmp_path


def one(runs, label="T-SPIN"):
    return next(run for run in runs if run.label == label)


def test_runs_settings_and_labels():
    found = Runs.read(FOLDERS)
    assert found.problems == []
    assert found.settings() == [MICRO, Setting("zephyr", "ultrachat", "test")]
    assert sorted(found.of(MICRO).labels()) == [
        "SFT", "SFT size=4", "SPIN", "T-SPIN", "T-SPIN alpha=0.3", "T-SPIN size=4", "T-SPIN_ref",
        "w/o H-A",
    ]  # fmt: skip
    variant = one(found.of(MICRO), "T-SPIN alpha=0.3")
    assert variant.variant == {"coef.alpha": 0.3} and not variant.is_main
    assert variant.differs_only_in("coef.alpha", "coef.beta")


def test_coefficients_of_an_iteration():
    """beta = [0, 0.1]: the last value repeats; SPIN has no historical term"""
    found = Runs.read(FOLDERS).of(MICRO)
    assert [one(found).coefficient("beta", t) for t in (0, 1, 5)] == [0, 0.1, 0.1]
    assert math.isnan(one(found, "SPIN").coefficient("beta", 1))


def test_an_unused_coefficient_makes_no_variant(tmp_path):
    write_run(tmp_path, "spin", seed=0)
    write_run(tmp_path, "spin", seed=1, alpha=0.3)
    assert Runs.read(tmp_path).labels() == ["SPIN"]


def test_evaluation_numbers():
    """Iteration 1, seed 1: 20 + 3 x 2 + 1 of 50 right; the initial policy is iteration BASE."""
    numbers = Runs.read(FOLDERS).evaluation
    of = numbers[(numbers["run"] == "micro-tspin-micro-s1")]
    greedy = of[of["key"] == "exact_match,greedy"].set_index("iteration")["value"]
    assert greedy.to_dict() == {BASE: 21 / 50, 0: 24 / 50, 1: 27 / 50}
    tasks = numbers[numbers["part"] == "benchmark"]
    assert tasks.groupby(["run", "iteration"])["key"].agg(list).map(len).eq(10).all()
    assert tasks["value"].max() < 0.9  # that of each task's other metric


def test_contingency_shares():
    table = Runs.read(FOLDERS).contingency
    of = table[(table["run"] == "micro-spin-micro-s0") & (table["split"] == "train")]
    assert (
        of[["both", "reward_only", "logp_only", "neither"]].values.tolist()
        == [[0.5, 0.375, 0.0, 0.125]] * 2
    )


def test_steps():
    found = Runs.read(FOLDERS)
    steps = found.steps(one(found.of(MICRO)), 1)
    assert steps["progress"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert steps["logps/annotated"].tolist() == [-8.75, -8.5, -8.25, -8.0]


def test_scores_of_some_prompts_are_not_taken_for_those_of_all(tmp_path):
    """Samples show p0 and p1 of 50 held-out prompts; one file, read in two ways, in either order.
    log pi(y) is -0.9 after iteration 1."""
    write_run(tmp_path, "tspin", scores=True)
    for first in (Runs.scores, Runs.heldout_logps):
        found = Runs.read(tmp_path)
        first(found, one(found), 1)
        assert {*found.scores(one(found), 1)["id"]} == {"p0", "p1"}
        logps = found.heldout_logps(one(found), 1)
        assert len(logps) == 50 and (logps["logp"] == -0.9).all() and found.problems == []


def test_what_is_no_run_is_named(runs):
    (runs / "empty").mkdir()
    (runs / "proto").mkdir()
    found = Runs.read(runs)
    assert found.problems == [
        f"{runs / 'empty'}: no configuration in it; no run, or one that never began"
    ]


@pytest.mark.parametrize("path, says", [("nowhere", "no folder"), (".", "no run")])
def test_a_folder_without_runs_is_an_error(tmp_path, path, says):
    with pytest.raises(ValueError, match=says):
        Runs.read(tmp_path / path)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def not_a_number(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["loss"] = math.nan
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def half_a_line(path):
    path.write_text(path.read_text()[:-20])


def older_evaluation(path):
    path.write_text(json.dumps({"micro": {"exact_match,greedy": {"value": 0.5}}}))


def older_contingency(path):
    path.write_text(json.dumps({"both": 1}))


def no_loss(path):
    path.write_text(yaml.safe_dump({"name": "x", "seed": 0, "model": {"name": "micro"}}))


BROKEN = [  # seed, file, what happens to it
    (0, "scores", cut, "cannot be read"),  # scores and samples are read of the first seed
    (0, "samples", half_a_line, "line 2 is no whole line"),
    (0, "metrics", not_a_number, "not finite in 1 of 4 steps, first at step 2"),
    (0, "contingency", older_contingency, "cannot be read"),
    (1, "answers", cut, "cannot be read"),
    (1, "metrics", half_a_line, "line 4 is no whole line"),
    (1, "evaluation", older_evaluation, "older layout, with micro"),
    (1, "contingency", lambda path: path.unlink(), "is not there"),
    (2, "evaluation", cut, "cannot be read"),
    (3, "config", no_loss, "has no 'data.name'; it is of an older layout"),
    (4, "config", lambda path: path.write_text("a: [b"), "cannot be read"),
]


@pytest.mark.slow
def test_a_broken_file_costs_only_itself(tmp_path):
    """One message for each, which begins with the file; every piece is still made."""
    write_run(tmp_path, "spin")
    folders = [write_run(tmp_path, "tspin", seed=seed, scores=True) for seed in range(5)]
    expected = {}
    for seed, file, damage, says in BROKEN:
        folder = folders[seed]
        path = folder.config if file == "config" else getattr(folder.iteration(1), file)
        damage(path)
        expected[path] = says
    runs = Runs.read(tmp_path)
    built = {piece.name for piece in catalogue.build(runs)}
    drawn = {f"{name}-figure" for name in ("comparison", "rivals", "anchors")}  # no stress
    assert built == {*catalogue.NAMES, "objectives-table", *drawn}
    problems = {path: [p for p in runs.problems if p.startswith(f"{path}: ")] for path in expected}
    assert {path: len(lines) for path, lines in problems.items()} == dict.fromkeys(expected, 1)
    assert all(says in problems[path][0] for path, says in expected.items())
    assert len(runs) == 4 and len(runs.problems) == len(BROKEN)


def test_an_unfinished_iteration_is_named_with_the_command_that_goes_on(runs):
    (runs / "micro-tspin-micro-s0" / "iter_1" / "done.json").unlink()
    found = Runs.read(runs)
    (problem,) = found.problems
    assert (
        "iter_1: not finished" in problem
        and "`python main.py model=micro data=micro loss=tspin seed=0` goes on" in problem
    )
    assert set(found.evaluation[found.evaluation["label"] == "T-SPIN"]["iteration"]) == {BASE, 0}


@pytest.mark.parametrize("digests", [("1" * 8, "2" * 8), ("2" * 8, "1" * 8)])
def test_what_is_added_to_an_objective_is_the_variant(digests, tmp_path):
    """Where both names are digests, whichever comes first: an anchor is not what T-SPIN is."""
    for hinge, name in zip((None, 3.0), digests, strict=True):
        write_run(tmp_path, "tspin", apart=f"-{name}", hinge=hinge)
    by_hinge = {run.values.get("anchor.hinge"): run.label for run in Runs.read(tmp_path)}
    assert by_hinge == {None: "T-SPIN", 3.0: "T-SPIN hinge=3.0"}


def test_same_label_another_configuration(runs):
    """Shown apart, and said: the name does not tell."""
    other = write_run(runs, "tspin", apart="-mine", alpha=0.3)
    found = Runs.read(runs)
    assert set(found.labels()) == {"SPIN", "T-SPIN", "T-SPIN alpha=0.3"}
    (problem,) = found.problems
    assert problem.startswith(f"{other.config}: ") and "another alpha" in problem


def test_where_every_name_says_something_the_usual_number_of_pairs_is_the_main_variant(tmp_path):
    """As in a study whose runs all differ from the defaults: not the shortest name."""
    for loss in ("spin", "sft", "wo_ha"):
        write_run(tmp_path, loss, apart="-heldout=50-size=128", size=128)
    for size in (8, 32, 128):
        write_run(tmp_path, "tspin", apart=f"-heldout=50-size={size}", size=size)
    found = Runs.read(tmp_path)
    assert {run.label for run in found if run.is_main} == {"SFT", "SPIN", "T-SPIN", "w/o H-A"}
    assert {run.values["data.size"] for run in found if run.is_main} == {128}
    assert {run.label for run in found if run.loss == "tspin"} == {
        "T-SPIN", "T-SPIN size=8", "T-SPIN size=32"
    }  # fmt: skip


def test_the_same_run_twice_counts_once(runs):
    write_run(runs, "tspin", apart="-again")
    found = Runs.read(runs)
    assert len(found) == 2 and "the same method as micro-tspin-micro-s0" in found.problems[0]
    ((run, name),) = found.twins
    assert (run.name, name) == ("micro-tspin-micro-s0-again", "micro-tspin-micro-s0")


def test_a_run_that_stands_for_none_has_a_page_all_the_same(runs, tmp_path):
    """A row of the first page, a page of its own; no part of the method's numbers."""
    write_run(runs, "tspin", apart="-again")
    found = Runs.read(runs)
    site.write(found, tmp_path / "report", [])
    assert (tmp_path / "report" / "runs" / "micro-tspin-micro-s0-again.html").exists()
    text = (tmp_path / "report" / "index.html").read_text()
    assert "micro-tspin-micro-s0-again" in text and "(compared as micro-tspin-micro-s0)" in text
    assert text.count('href="runs/micro-tspin-micro-s0.html"') == 1


def test_a_run_that_diverged_is_not_suggested_again(runs):
    """It would once more; one that was killed goes on."""
    out = RunDir(runs / "micro-tspin-micro-s0")
    out.iteration(1).done.unlink()
    for why, way in (("diverged at iteration 1: lower optim.lr", False), ("no space left", True)):
        beat = Beat(None, 0, 0, "", None, None, 0.0, 0.0, ended="failed", why=why)
        write_json(out.heartbeat, asdict(beat))
        found = Runs.read(runs)
        (problem,) = found.problems
        assert ("goes on" in problem) == way and ("it diverged" in problem) != way
        (run,) = (run for run in found if run.loss == "tspin")
        assert (found.resume(run) is not None) == way


def test_a_run_that_is_the_beginning_of_another_is_no_problem(runs):
    """As points of a sweep are that share iterations: the one that went furthest is shown."""
    short = write_run(runs, "tspin", apart="-iterations=1", iterations=1)
    whole = Runs.read(runs)
    assert "the same method" in whole.problems[0]  # who knows what it is
    for name in ("micro-tspin-micro-s0", short.path.name):
        done = RunDir(runs / name).iteration(0).done
        write_json(done, read_json(done) | {"key": "equal by definition"})
    found = Runs.read(runs)
    assert found.problems == [] and [run.name for run in found] == [
        "micro-spin-micro-s0", "micro-tspin-micro-s0"
    ]  # fmt: skip


# --- objectives -----------------------------------------------------------------------------------

NAMES = ("alpha", "beta", "lambda")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sft", "spin", "tspin", "tspin_ref", "wo_ha"])
def test_coefficients_are_what_changes_the_objective(loss):
    """Changing one that it contains changes the objective, changing any other does not."""
    usual = compose(f"loss={loss}")
    effective = {
        name for name in NAMES
        if compose(f"loss={loss}", f"coef.{name}=0.7").loss_at(1) != usual.loss_at(1)
    }  # fmt: skip
    assert set(coefficients(flatten(dump(usual)))) == effective


def test_an_objective_may_hold_its_own_coefficients():
    """Where its section names a class, what stands beside name, label and link is a coefficient."""
    values = {"loss._target_": "mine.CPO", "loss.name": "cpo", "loss.label": "CPO",
              "loss.link": "logistic", "loss.alpha": 0.5, "loss.beta": [0.0, 0.1],
              "coef.alpha": 1.0, "coef.lambda": 0.1}  # fmt: skip
    assert coefficients(values) == {"alpha": 0.5, "beta": [0.0, 0.1]}


def test_both_forms_of_a_configuration_are_one_method(tmp_path):
    write_run(tmp_path, "tspin", seed=0)
    own = write_run(tmp_path, "tspin", seed=1)
    tree = older.current(yaml.safe_load(own.config.read_text()))
    assert tree["loss"]["_target_"] == "tspin.objectives.TSPIN"
    own.config.write_text(yaml.safe_dump(tree))
    runs = Runs.read(tmp_path)
    assert runs.labels() == ["T-SPIN"] and runs.problems == []
    assert [run.coefficient("beta", 1) for run in runs] == [0.1, 0.1]


@pytest.mark.slow
def test_an_objective_of_ones_own_is_in_every_table_and_figure_of_all(tmp_path):
    """Its label, its colour for all its variants; a rival of T-SPIN, in no claim of the paper."""
    for loss in ("sft", "spin", "tspin"):
        write_run(tmp_path, loss)
    for apart, beta in (("", 0.1), ("-beta=0.5", 0.5)):
        folder = write_run(tmp_path, "tspin_ref", apart=apart)
        mine = folder.path.rename(tmp_path / folder.path.name.replace("tspin_ref", "cpo"))
        tree = yaml.safe_load((mine / "config.yaml").read_text()) | {"name": mine.name}
        tree["loss"] = {"_target_": "mine.CPO", "name": "cpo", "label": "CPO", "link": "logistic",
                        "alpha": 1.0, "beta": beta}  # fmt: skip
        (mine / "config.yaml").write_text(yaml.safe_dump(tree))
    runs = Runs.read(tmp_path)
    assert runs.labels() == ["CPO", "CPO beta=0.5", "SFT", "SPIN", "T-SPIN"]
    pieces = {piece.name: piece for piece in catalogue.build(runs)}
    assert runs.problems == []
    assert "CPO" in set(pieces["objectives-table"].frame["label"])
    assert "CPO" in set(pieces["comparison"].frame["a"]) | set(pieces["comparison"].frame["b"])
    for name in ("objectives", "contingency"):
        labels = [axes.get_legend_handles_labels()[1] for axes in pieces[name].figure.axes]
        assert "CPO" in sum(labels, []), name
    colours = {style.colour(label) for label in ("CPO", "CPO beta=0.5")}
    assert len(colours) == 1 and not colours & {*style.COLOURS.values(), *style.ROLES.values()}
    of_claims = [(it.claim.key, part.what) for it in claims.judge(runs) for f in it.findings
                 for part in f.parts]  # fmt: skip
    assert {key for key, what in of_claims if "CPO" in what} == {"rivals"}


def test_a_command_that_another_includes_is_left_to_it():
    """One seed of a sweep, and points of a grid; another learning rate is another sweep."""
    sweep = "python main.py -m data=micro sweep"
    lines = [
        f"few: `{sweep}=figure4c seed=0,1,2`", f"none: `{sweep}=figure4c`",
        f"one: `{sweep}=figure4c coef.alpha=0.3 'coef.beta=[0,1]'`",
        f"stress: `{sweep}=figure4c optim.lr=3e-4`", f"other: `{sweep}=table1`", "nothing to run",
    ]  # fmt: skip
    assert overview.lacking(lines) == [
        (f"{sweep}=figure4c seed=0,1,2", ["few", "none", "one"]),
        (f"{sweep}=figure4c optim.lr=3e-4", ["stress"]),
        (f"{sweep}=table1", ["other"]),
    ]


def test_a_sweep_over_numbers_of_pairs_is_suggested_without_one():
    """A number that was typed would be that of every point."""
    words = ["experiment=quick", "data.size=32", "model=micro", "seed=1"]
    assert commands.of_setting(words, "sweep=figure4a").endswith("-m model=micro sweep=figure4a")
    assert "experiment=quick data.size=32" in commands.of_setting(words, "sweep=seeds")
