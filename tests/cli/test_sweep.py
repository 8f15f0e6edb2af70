"""Sweeps: what their files mean, the plan by hand on made-up folders, real ones of tiny runs."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import hydra
import pytest
import yaml
from omegaconf import OmegaConf
from support.waiting import until

from analysis.report import catalogue, report
from tspin.cli import arguments, sweep
from tspin.cli.command import check
from tspin.cli.compose import typed as as_run
from tspin.cli.folders import CONF, SWEEPS, root
from tspin.config.load import dump
from tspin.config.schedules import at
from tspin.runs.artifacts import RunDir
from tspin.tools.files import owner, read_json, write_json, write_text
from tspin.tracking.replay import eval_key

ROOT = root()
NAMES = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
WANDB = sorted((SWEEPS / "wandb").glob("*.yaml"))
# Counted by hand: method.md, "Experiments to rebuild".
COUNTS = {
    "alpha_beta": 16,  # 4 alphas x 4 betas
    "curriculum": 24,  # (all, skip, and gate, band, random with 2 shares) x 3 seeds
    "figure3": 2,
    "figure4a": 6,  # T-SPIN on 3 sizes, SFT on 3
    "figure4b": 2,
    "figure4c": 16,
    "figure7": 2,
    "seeds": 15,  # 5 losses x 3 seeds
    "tune": 50,  # 5 losses x 5 learning rates x 2 seeds
    "table1": 3,
    "table2": 2,
    "table4": 3,
    "rivals": 8,  # table1 3, others 4, T-SPIN with an anchor
}
TINY = ["data.size=16", "data.heldout=4", "optim.epochs=1", "track=none"]


def points(*typed):
    """What `python main.py -m TYPED` would run."""
    return check(["-m", *typed]).points


def names(found):
    return [point.run.name for point in found]


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", ["micro", "zephyr"])
@pytest.mark.parametrize("name", COUNTS)
def test_every_sweep_composes_with_either_model(name, model):
    found = points(f"sweep={name}", f"model={model}")
    assert len(found) == COUNTS[name]
    assert {point.run.model.name for point in found} == {model}
    assert all(point.run.track.tags == [name] for point in found)


@pytest.mark.slow
def test_the_paper_is_all_of_its_sweeps():
    """By hand on one model: table1 3 (table4 is it again); w/o H-A of table2; figure3 2; figure4a
    4 more (T-SPIN on 50k is figure3's, SFT on 200k table1's); T-SPIN_ref of figure4b; alpha x beta
    16; figure7 2.
    """
    found = points("sweep=paper", "model=zephyr")
    assert len(found) == 3 + 1 + 2 + 4 + 1 + 16 + 2
    parts = [
        names(points(f"sweep={one}", "model=zephyr"))
        for one in COUNTS
        if one not in ("seeds", "tune", "rivals", "curriculum")
    ]
    assert set(names(found)) == {name for part in parts for name in part}
    # tests/benchmarks/test_objectives.py; tests/analysis/test_drift.py
    bench = {"objectives", "anchors", "drift"}
    assert set(COUNTS) | {"paper", "miniature"} | bench == set(NAMES)


@pytest.mark.slow
def test_the_miniature_is_the_paper_and_more_for_every_seed():
    """29 points of the paper; of `seeds` only SFT over five iterations is new; 5 under stress."""
    found = points("sweep=miniature", "model=micro", "seed=0,1")
    assert len(found) == 2 * (29 + 1 + 5)
    paper = points("sweep=paper", "model=micro", "seed=0,1")
    assert set(names(paper)) < set(names(found))


@pytest.mark.slow
def test_what_the_points_are():
    by_loss = {point.run.loss.name: point.run for point in points("sweep=table1", "model=zephyr")}
    facts = {
        loss: (run.data.size, run.optim.epochs, run.selfplay.iterations)
        for loss, run in by_loss.items()
    }
    assert facts == {"sft": (200_000, 2, 1), "spin": (50_000, 2, 5), "tspin": (50_000, 2, 5)}

    grid = [point.run for point in points("sweep=alpha_beta")]
    assert {run.selfplay.iterations for run in grid} == {2}
    values = (0.1, 0.3, 0.5, 1.0)
    pairs = {(at(run.coef.alpha, 1), at(run.coef.beta, 1)) for run in grid}
    assert pairs == {(alpha, beta) for alpha in values for beta in values}

    sized = [(p.run.loss.name, p.run.data.size, p.run.selfplay.iterations)
             for p in points("sweep=figure4a", "model=zephyr")]  # fmt: skip
    tspin = [("tspin", size, 2) for size in (14_000, 26_000, 50_000)]
    assert sized == [*tspin, *(("sft", size, 1) for size in (50_000, 100_000, 200_000))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1", "figure4a", "table4"])
def test_the_baseline_of_a_7b_has_the_step_size_of_sft_and_no_other_point_has(name):
    """zephyr-7b-beta/sft/config_full.yaml: AdamW, 2e-5, cosine, warmup_ratio 0.1."""
    recipes = {"sft": set(), "self-play": set()}
    for point in points(f"sweep={name}", "model=zephyr"):
        kind = "sft" if point.run.loss.name == "sft" else "self-play"
        optim = point.run.optim
        recipes[kind].add((optim.name, at(optim.lr, 0), optim.schedule, optim.warmup))
    assert recipes == {
        "sft": {("adamw", 2e-5, "cosine", 0.1)},
        "self-play": {("rmsprop", 5e-7, "linear", 0.1)},
    }
    as_self_play = points(f"sweep={name}", "model=zephyr", "optim=paper")
    assert {p.run.optim.name for p in as_self_play} == {"rmsprop"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["micro", "micro_open_weak"])
def test_sizes_on_built_in_tasks_keep_the_papers_proportions(model):
    """512 pairs stand for 50k: 14k of 50k is 143 of 512."""
    for size, num in (("14k", 143), ("26k", 266), ("50k", 512), ("100k", 1024), ("200k", 2048)):
        (point,) = points(f"size={size}", f"model={model}")
        assert point.run.data.size == num == int(512 * int(size[:-1]) / 50)
        (file,) = points(f"size={size}", "data=file", "data.path=pairs.jsonl")
        assert file.run.data.size == int(size[:-1]) * 1000


@pytest.mark.slow
@pytest.mark.parametrize("model", ["micro", "micro_open_weak"])
def test_the_largest_size_is_there_on_built_in_tasks(model):
    from tspin.data import annotated

    (point,) = points("size=200k", f"model={model}")
    found = annotated.load(point.run.data)
    assert (len(found.train), len(found.heldout)) == (2048, 800)


@pytest.mark.slow
def test_table4_is_table1_from_mistral():
    assert {point.run.model.name for point in points("sweep=table4")} == {"mistral"}
    for model in ("micro", "mistral"):
        four, one = (
            names(points(f"sweep={name}", f"model={model}")) for name in ("table4", "table1")
        )
        assert four == one


def test_typed_words_replace_the_files_and_add_to_them():
    """alpha_beta with one alpha and three seeds: 1 x 4 x 3."""
    found = points("sweep=alpha_beta", "coef.alpha=0.3", "seed=0,1,2")
    assert len(found) == 12
    assert {point.run.coef.alpha for point in found} == {0.3}
    assert Counter(point.run.seed for point in found) == {0: 4, 1: 4, 2: 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["sweep=table1", "loss=tspin"], [("tspin", 512, 5)]),
        (["sweep=table1", "loss=sft,tspin,space,kto"],
         [("sft", 2048, 1), ("tspin", 512, 5), ("space", 512, 5), ("kto", 512, 5)]),
        (["sweep=figure4a", "loss=space", "size=14k"], [("space", 143, 2)]),  # as its first line
        (["sweep=seeds", "loss=nca", "seed=0"], [("nca", 512, 5)]),
        (["sweep=table1", "loss=dpo", "selfplay.iterations=2"], [("spin", 512, 2)]),
    ],
)  # fmt: skip
def test_a_typed_loss_chooses_among_a_sweeps_objectives_and_adds_to_them(typed, expected):
    """Each keeps what its line says: SFT its pairs, epochs and one iteration."""
    found = [point.run for point in points(*typed)]
    assert [(r.loss.name, r.data.size, r.selfplay.iterations) for r in found] == expected
    assert {r.optim.lr for r in found if r.loss.name == "sft"} <= {1e-4}


def test_a_typed_loss_adds_to_every_line_that_compares(tmp_path):
    """And to lines that say nothing of it."""
    file = tmp_path / "own.yaml"
    file.write_text("points: ['loss=sft seed=1', 'loss=spin,tspin', 'loss=tspin,wo_ha seed=2', "
                    "'coef.alpha=0.3']")  # fmt: skip
    _, lines = arguments.sweep(["sweep=" + str(file), "loss=tspin,cpo", "seed=0"], tmp_path)
    assert lines == [
        ["loss=tspin,cpo", "seed=0"],
        ["loss=tspin,cpo", "seed=0"],
        ["loss=tspin,cpo", "coef.alpha=0.3", "seed=0"],
    ]


@pytest.mark.slow
def test_48_points_are_one_line():
    found = points("sweep=alpha_beta", "model=zephyr", "seed=0,1,2")
    assert len(set(names(found))) == 48


def test_points_that_are_the_same_are_one():
    assert names(points("seed=0,0")) == ["micro-tspin-micro-s0"]
    assert len(points("coef.alpha=1,1.0", "loss=w/o-H-A,wo_ha")) == 1


@pytest.mark.parametrize(
    ("typed", "tags"),
    [
        (["sweep=table2"], ["table2"]),
        (["sweep=table2", "track.tags=[mine,table2]"], ["table2", "mine"]),
        (["seed=0,1", "track.tags=[mine]"], ["mine"]),
        (["seed=0,1"], []),
    ],
)
def test_points_are_tagged_with_their_sweep(typed, tags):
    assert [point.run.track.tags for point in points(*typed)] == [tags] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        ["sweep=paper"],
        ["sweep=seeds", "model=zephyr"],
        ["data.seed=4"],
        ["evals=gsm8k", "seed=0,1"],
        ["name='a=b,c'"],
        ["name='inf-nan'"],
        ["name='1e-5'"],
        ["name='true'"],
    ],
    ids=str,
)
def test_a_point_is_what_hydra_makes_of_its_words(typed):
    """Here options are composed once for many points, there all words for one."""
    for point in points(*typed)[::5]:
        made = []
        for line in (point.words, point.launch_words):  # the latter have the tags and the name
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                whole = hydra.compose("config", list(line), return_hydra_config=True)
                ours = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
                made.append(as_run(ours, whole.hydra))
        assert made[1] == point.run
        name = point.run.name
        quoted = "=" in name or name in ("1e-5", "true")
        assert (f"name='{name}'" if quoted else f"name={name}") in point.launch_words
        assert replace(made[0], track=point.run.track) == point.run


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("points: [loss=tspin", ["is no YAML"]),
        ("- loss=tspin", ["is no sweep", "title, points, include"]),
        ("point: [loss=tspin]", ["unknown key point", "did you mean points?"]),
        ("points: loss=tspin", ["points has to be a list"]),
        ("title: only", ["neither points nor include"]),
        ("points: [{loss: tspin}]", ["{'loss': 'tspin'} is no line of overrides"]),
        ("points: [tspin]", ["tspin is neither GROUP=OPTION nor KEY=VALUE"]),
        ("points: [~loss]", ["~loss: nothing can be left out"]),
        ('points: ["loss=\'tspin"]', ["No closing quotation"]),
        ("points: [sweep=table1]", ["'sweep=table1'", "under include"]),
        ("include: [tabel1]", ["unknown sweep tabel1", "did you mean table1?"]),
        ("include: [own]", ["own.yaml includes itself"]),
    ],
)
def test_a_file_that_is_no_sweep_is_one_line(tmp_path, text, says):
    (tmp_path / "table1.yaml").write_text("points: [loss=spin]\n")
    (tmp_path / "own.yaml").write_text(text + "\n")
    with pytest.raises(ValueError) as refused:
        arguments.sweep(["sweep=own"], tmp_path)
    line = str(refused.value)
    assert "own.yaml" in line and "\n" not in line and all(word in line for word in says), line


def test_a_sweep_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("include: [table2]\npoints:\n  - loss=sft seed=0,1\n")
    found = points(f"sweep={file}")
    assert [(p.run.loss.name, p.run.seed) for p in found] == [
        ("tspin", 0), ("wo_ha", 0), ("sft", 0), ("sft", 1)
    ]  # fmt: skip
    assert found[0].run.track.tags == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("file", WANDB, ids=lambda path: path.stem)
def test_a_wandb_sweep_has_the_points_of_ours(file):
    """Every combination, in the words that wandb's agent would give, through the real config."""
    from itertools import product

    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (told["program"], told["method"]) == ("main.py", "grid")
    assert told["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    metric = "eval/" + eval_key("heldout", "exact_match,greedy")
    assert told["metric"] == {"name": metric, "goal": "maximize"}
    values = {
        name: told["values"] if "values" in told else [told["value"]]
        for name, told in told["parameters"].items()
    }
    found = []
    for combination in product(*values.values()):
        args = {k: {"value": v} for k, v in zip(values, combination, strict=True)}
        line = create_sweep_command_args({"args": args})["args_no_hyphens"]
        (point,) = check(line).points
        found.append(point.run.name)
    assert sorted(found) == sorted(names(points(f"sweep={file.stem}")))


def test_what_is_one_grid_is_there_for_wandb_too():
    """Unions of grids (table1, table4, figure4a, paper) are none; figure4c is another name."""
    one = {name for name in NAMES if len(arguments.read_sweep(name, SWEEPS)) == 1}
    assert {file.stem for file in WANDB} == one - {"figure4c"}


# --- the plan, on made-up folders ----------------------------------------------------------------


@pytest.fixture
def runs(tmp_path):
    """typed words -> points whose folders are in tmp_path"""
    return lambda *typed: points(f"runs_dir={tmp_path}", *typed)


def finish(point, t, *, source=None, train=10.0, score=2.0):
    """Leaves what sweep reads of iteration t: 12 seconds unless they are said."""
    folder = RunDir(point.run.folder)
    if not folder.config.exists():
        write_text(folder.config, yaml.safe_dump(dump(point.run), sort_keys=False))
    facts = {"seconds": {"train": train, "score": score}}
    write_json(folder.iteration(t).done, facts | ({"from": source} if source else {}))


def sources(plan):
    """Per point, per iteration: the run it is linked from."""
    return [[step.source for step in item.steps] for item in plan.items]


def test_one_alpha_trains_iteration_0_once(runs):
    found = runs("sweep=alpha_beta")
    plan = sweep.plan("alpha_beta", found)
    for i, shared in enumerate(sources(plan)):
        leader = found[i - i % 4].run.name
        assert shared == ([None, None] if i % 4 == 0 else [leader, None])
    assert plan.line() == (
        "alpha_beta: 16 points, 0 done, 16 to run; 32 iterations, 12 of them shared, 20 to train; "
        "time unknown until an iteration is done"
    )


def test_points_that_others_wait_for_come_first(runs):
    found = runs("sweep=alpha_beta")
    order = sweep.plan("alpha_beta", found).to_run()
    first = [found[i] for i in (0, 4, 8, 12)]
    assert order == [*first, *(point for point in found if point not in first)]
    assert sweep.plan("x", runs("loss=sft,spin")).to_run() == runs("loss=sft,spin")  # as typed


def test_equal_beginnings_are_shared_across_objectives(runs):
    """w/o H-A begins as T-SPIN, T-SPIN_ref as SPIN with lambda = alpha; SFT as nobody."""
    found = runs("loss=sft,spin,tspin,tspin_ref,wo_ha", "selfplay.iterations=2")
    _, spin, tspin, *_ = names(found)
    plan = sweep.plan("x", found)
    assert sources(plan) == [[None] * 2, [None] * 2, [None] * 2, [spin, None], [tspin, None]]
    assert plan.leaders == {spin, tspin}


def test_nothing_is_shared_between_seeds_places_or_where_it_is_off(runs, tmp_path):
    apart = [
        *runs("loss=tspin", "seed=0,1"),
        *points(f"runs_dir={tmp_path / 'other'}", "loss=wo_ha"),
        *runs("loss=wo_ha", "selfplay.share=false"),
    ]
    assert {source for steps in sources(sweep.plan("x", apart)) for source in steps} == {None}


def test_an_iteration_of_a_run_outside_the_plan_is_shared(runs):
    (other,) = runs("loss=tspin", "selfplay.iterations=3")
    for t in range(2):
        finish(other, t)
    plan = sweep.plan("x", runs("loss=tspin", "selfplay.iterations=5"))
    assert sources(plan) == [[other.run.name] * 2 + [None] * 3]
    assert plan.leaders == frozenset()  # it is there: nobody has to come first


def test_how_far_each_point_is(runs):
    found = runs("loss=tspin,wo_ha,spin", "selfplay.iterations=2")
    tspin, wo_ha, spin = found
    finish(tspin, 0)
    finish(tspin, 1)
    finish(wo_ha, 0, source=f"{tspin.run.name}/iter_0")
    plan = sweep.plan("x", found)
    assert [item.complete for item in plan.items] == [True, False, False]
    assert plan.to_run() == [wo_ha, spin]
    assert plan.line() == (
        "x: 3 points, 1 done, 2 to run; 6 iterations, 1 of them shared, 3 to train; about 36 s"
    )
    rows = [line.split() for line in plan.table().splitlines()[3:]]
    assert rows == [
        ["1", "tspin", "done", "2", "of", "2", "-"],
        ["2", "wo_ha", "begun", "1", "of", "2", "0", "from", "1"],
        ["3", "spin", "to", "do", "0", "of", "2", "-"],
    ]


def test_a_folder_with_another_configuration_is_not_done(runs):
    """selfplay refuses it, so it must be asked."""
    (old,) = runs("name=mine", "selfplay.iterations=1")
    finish(old, 0)
    (new,) = runs("name=mine", "selfplay.iterations=1", "coef.alpha=0.3")
    assert sweep.plan("x", [old]).to_run() == []
    assert sweep.plan("x", [new]).to_run() == [new]


def test_missing_benchmarks_are_left_to_do(runs, monkeypatch):
    (point,) = runs("selfplay.iterations=1")
    finish(point, 0)
    assert sweep.plan("x", [point]).num_done == 1
    monkeypatch.setattr(sweep.benchmarks, "due", lambda out, run: ["gsm8k"])
    assert sweep.plan("x", [point]).num_done == 0


@pytest.mark.parametrize(
    ("finished", "seconds"),
    [
        # three iterations are left: 1 of the first point, 2 of the second; the median of what is
        # most alike: the same objective (T-SPIN is w/o H-A at iteration 0), else any
        ([("tspin", 0, 8.0)], 10.0 * 3),
        ([("tspin", 0, 8.0), ("spin", 0, 98.0), ("spin", 1, 198.0)], 100.0 + 100.0 + 200.0),
        # what is linked takes no time and says nothing about it
        ([("tspin", 0, 8.0), ("wo_ha", 0, None)], 30.0),
    ],
)
def test_the_time_left_by_hand(runs, finished, seconds):
    others = {loss: runs(f"loss={loss}", "selfplay.iterations=2", "seed=7")[0]
              for loss in ("spin", "wo_ha")}  # fmt: skip
    found = runs("loss=tspin,spin", "selfplay.iterations=2")
    others["tspin"] = found[0]
    for loss, t, train in finished:
        source = "elsewhere/iter_0" if train is None else None
        finish(others[loss], t, train=train or 1e6, source=source)
    plan = sweep.plan("x", found)
    assert plan.seconds(plan.to_train) == seconds


def test_benchmarks_take_time_too(runs):
    (point,) = runs("loss=tspin", "selfplay.iterations=2")
    finish(point, 0)
    out = RunDir(point.run.folder).iteration(0)
    write_json(out.evaluation, {"benchmarks": {"a": {"seconds": 30.0}, "b": {"seconds": 58.0}}})
    plan = sweep.plan("x", [point])
    assert plan.seconds(plan.to_train) == 12.0 + 88.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "1.5 min"), (660, "11 min"), (5400, "1.5 h"), (1e5, "28 h")],
)
def test_time_in_the_unit_people_would_use(seconds, text):
    assert sweep.duration(seconds) == text


def test_points_in_other_processes_are_counted_where_that_is_new(runs, caplog):
    """Done by their files, running by who holds their folder."""
    caplog.set_level("INFO", "tspin")
    one, other = runs("loss=tspin,spin", "selfplay.iterations=1", "selfplay.share=false")
    watch = sweep.Watch([one, other])
    with owner(other.folder.path):
        watch.look()
        watch.look()
        finish(one, 0)
        watch.look()
    assert caplog.messages == [
        f"0 of 2 points done, 1 running: {other.run.name}",
        f"1 of 2 points done, 1 running: {other.run.name}",
    ]


def test_the_summary_by_hand(runs):
    tspin, wo_ha, spin = found = runs("loss=tspin,wo_ha,spin", "selfplay.iterations=2")
    finish(tspin, 0)
    finish(tspin, 1, train=106.0)
    finish(wo_ha, 0, source=f"{tspin.run.name}/iter_0")
    finish(wo_ha, 1)
    out = tspin.folder.iteration(1).evaluation
    half = {"exact_match,greedy": {"value": 0.5, "stderr": None, "n": 100}}
    write_json(out, {"heldout": half, "average": {"value": 0.25}})
    for point in (tspin, wo_ha):
        write_json(point.folder.base.evaluation, {})
        write_json(point.folder.proto.manifest, {})
    half = ["50.0%", "[40.4,", "59.6]"]  # Wilson, 50 of 100
    text = sweep.plan("x", found).summary({spin.run.name: "out of luck"})
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["point", "loss", "state", "average", "accuracy", "minutes", "why"]
    assert rows[3] == ["1", "tspin", "done", "0.25", *half, "2", "-"]  # 12 + 108 s
    assert rows[4] == ["2", "wo_ha", "done", "-", "-", "0.2", "-"]  # 12 s: the other is not its own
    assert rows[5] == ["3", "spin", "failed", "-", "-", "0", "out", "of", "luck"]
    shared, figure = text.split("\n\n")[-2:]  # one point with a number is no best one
    assert shared == (
        "shared: 1 iteration (12 s where they were trained), 1 base evaluation, 1 set of y0"
    )
    assert (
        figure == f"its figure: python -m analysis comparison runs={tspin.run.runs_dir} out=report"
    )


@pytest.mark.parametrize(
    ("metric", "number", "loss"), [("exact_match,greedy", 2, "spin"), ("perplexity", 1, "tspin")]
)
def test_the_best_point_is_the_one_whose_main_number_is(runs, metric, number, loss):
    """More right answers; less perplexity. Points with different ones have no best."""
    found = runs("loss=tspin,spin", "selfplay.iterations=1")
    for point, value in zip(found, (0.2, 0.5), strict=True):
        finish(point, 0)
        estimate = {"value": value, "stderr": None, "n": 100}
        write_json(point.last.evaluation, {"heldout": {metric: estimate}})
    line = sweep.plan("x", found).best()
    assert line.startswith(f"best of 2: point {number} (loss={loss}), held-out ")
    other = {"value": 0.2, "stderr": None, "n": 100}
    write_json(found[0].last.evaluation, {"heldout": {"exact_match,sampled": other}})
    assert sweep.plan("x", found).best() is None


@pytest.mark.parametrize("name", [*NAMES, "multirun"])
def test_every_sweep_ends_with_a_figure_that_analysis_knows(runs, name):
    command = sweep.plan(name, runs("seed=0,1")).figure_command().split()
    assert command[3] in (report.ALL, *catalogue.NAMES)


@pytest.mark.parametrize(
    ("typed", "columns"),
    [
        (["seed=0", "coef.alpha=0.3"], ["point", "run", "state", "iterations"]),
        (["loss=sft,spin", "coef.alpha=0.3"], ["point", "loss", "state", "iterations"]),
        (["coef.alpha=0.3,1", "coef.beta=[0,1],[0,2]", "loss=wo_ha", "selfplay.share=false"],
         ["point", "alpha", "beta", "state", "iterations"]),
        # the same last word twice: the whole key, its end in a second line
        (["optim.batch_size=8,16", "decoding.batch_size=64,128", "selfplay.share=false"],
         ["optim.batch", "decoding.batch", "point", "size", "size", "state", "iterations"]),
    ],
)  # fmt: skip
def test_columns_say_only_what_differs(runs, typed, columns):
    head, _, _ = sweep.plan("x", runs(*typed)).table().partition("---")
    assert head.split() == ["Points", *columns]


# --- real ones -----------------------------------------------------------------------------------


@pytest.fixture
def process(forker):
    """A real one, from another folder. -> what it said"""

    def call(*typed, folder, code=0):
        return forker.python(str(ROOT / "main.py"), *typed, cwd=folder, code=code).err

    return call


def linked(folder):
    """Iterations that were shared, of those there are."""
    done = [read_json(path) for path in folder.glob("runs/*/iter_*/done.json")]
    return sum("from" in facts for facts in done), len(done)


@pytest.mark.process
def test_a_failing_point_stops_nothing_and_is_in_the_summary(process, tmp_path):
    rows = [{"prompt": f"Say {i}.", "response": f"It is {i}."} for i in range(24)]
    (tmp_path / "there.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = ["-m", "data=file", "data.path=missing.jsonl,there.jsonl", *TINY,
             "selfplay.iterations=1", "loss=tspin,wo_ha"]  # fmt: skip
    said = process(*typed, folder=tmp_path, code=1)
    assert "multirun: 4 points, 0 done, 4 to run; 4 iterations, 2 of them shared" in said
    table = said[said.rindex("\nmultirun\n") :]
    assert len(re.findall(r"failed .*data.path=missing.jsonl: no such file", table)) == 2
    assert len(re.findall(r" done ", table)) == 2
    assert linked(tmp_path) == (1, 2)
    assert "shared: 1 iteration (" in table and "1 base evaluation, 1 set of y0" in table
    # again: what is done is not started, the rest is tried once more
    again = process(*typed, folder=tmp_path, code=1)
    assert "multirun: 4 points, 2 done, 2 to run" in again and again.count("\n--- ") == 2


@pytest.mark.process
def test_a_finished_sweep_says_so_without_torch(tmp_path, monkeypatch):
    for point in points("sweep=figure3", f"runs_dir={tmp_path}"):
        for t in range(2):
            finish(point, t)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main\n"
        f"sys.argv = ['main.py', '-m', 'sweep=figure3', 'runs_dir={tmp_path}']\n"
        "main.main()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "figure3: 2 points, all done: nothing to run" in done.stderr


# Under launchers: joblib's two workers in project/test_contributing.py, submitit's jobs in
# tools/test_signals.py.


@pytest.mark.process
def test_an_interrupted_sweep_ends_with_130(forker, tmp_path):
    typed = ["-m", "seed=0,1,2", *TINY, "selfplay.iterations=50", "data.size=256"]
    running = forker.start_python(str(ROOT / "main.py"), *typed, cwd=tmp_path)
    until(lambda: list(tmp_path.glob("runs/*/iter_0")), 300)
    for _ in range(20):
        running.signal(signal.SIGINT)  # Python loses one that meets a destructor
        with suppress(AssertionError):
            until(running.over, 15)
            break
    assert "the same command goes on" in running.ended(130).err.splitlines()[-1]


@pytest.mark.process
def test_killed_twice_it_ends_complete(forker, process, tmp_path):
    """2 alphas x 4 betas: 16 iterations, of which 6 are shared however often it is killed.

    Needs selfplay to link equal iterations (Run.history); the kills come after a random number of
    finished iterations and a random moment more.
    """
    typed = ["-m", "sweep=alpha_beta", "coef.alpha=0.3,1", "model=micro", *TINY]
    draw = random.Random(0)
    for low, high in ((1, 5), (6, 10)):
        num, moment = draw.randint(low, high), draw.uniform(0, 1)
        running = forker.start_python(str(ROOT / "main.py"), *typed, cwd=tmp_path)
        until(lambda num=num: linked(tmp_path)[1] >= num, 300)
        time.sleep(moment)
        running.signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert linked(tmp_path)[1] < 16
    said = process(*typed, folder=tmp_path)
    assert linked(tmp_path) == (6, 16)
    assert "shared: 6 iterations (" in said and "7 base evaluations, 7 sets of y0" in said
    assert "8 points, all done" in process(*typed, folder=tmp_path)
