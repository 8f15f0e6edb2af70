"""The command line: what it refuses and how, what it prints, and the names it gives. No training.

Errors come from main.main in this process; a few are asked of a real one.
"""

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import hydra
import pytest
import yaml

import main
from tspin.cli.arguments import SYNONYMS
from tspin.cli.command import SWITCHES, VALUED, check
from tspin.cli.compose import _defaults, compose
from tspin.cli.folders import CONF, SWEEPS, root
from tspin.config import rules
from tspin.config.load import dump, keys
from tspin.data import annotated
from tspin.runs.artifacts import RunDir
from tspin.selfplay import algorithm

ROOT = root()


@pytest.fixture
def started(monkeypatch):
    """What self-play was asked to run; nothing is run."""
    runs = []

    def run(cfg, *, command, alone):
        runs.append(cfg)
        return []

    monkeypatch.setattr(algorithm, "run", run)
    monkeypatch.setattr("tspin.tracking.summary.text", lambda folder, rows, *, alone: "")
    monkeypatch.setattr("tspin.cli.run.write_report", lambda folder: None)  # no run, no page
    return runs


@pytest.fixture
def cli(monkeypatch, tmp_path, started):
    """main.py WORDS, in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), *words])
        main.main()
        return started

    return call


@pytest.fixture
def refused(cli, caplog, tmp_path, started):
    """The one line that says why WORDS are no run."""

    def call(*words):
        caplog.clear()
        with pytest.raises(SystemExit) as stopped:
            cli(*words)
        assert stopped.value.code == 2
        assert started == [] and list(tmp_path.iterdir()) == []
        (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        line = record.getMessage()
        assert line.startswith("error: ") and "\n" not in line
        return line.removeprefix("error: ")

    return call


@pytest.fixture
def point(cli, started):
    """The Run that WORDS make."""

    def call(*words):
        started.clear()
        cli(*words)
        (run,) = started
        return run

    return call


def process(*words, folder, **environment):
    """A real one; nothing of the caller's caches, no network. -> (result, seconds)"""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, time.monotonic() - begun


# --- what is refused -----------------------------------------------------------------------------

# the keys of a run, and what may be typed
TOP = (
    "anchor, coef, compute, curriculum, data, decoding, evals, loss, model, name, optim, "
    "runs_dir, seed, selfplay, sync, track"
)
TYPED = (
    "coef, compute, curriculum, data, decoding, evals, experiment, lora, loss, model, name, optim, "
    "runs_dir, seed, selfplay, size, sweep, sync, track"
)
LOSSES = (
    "apo_zero, cpo, dpo, ipo, iris, kto, nca, orpo, repo, sft, simpo, space, spif, spin, sppo, "
    "ssd, tpo, tspin, tspin_ref, w/o-H-A, wo_ha"
)
PRESETS = "paper, quick, spin_code, spin_paper"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        # misspelt keys
        ("sed=1", ["key sed", "did you mean seed?", TYPED]),
        ("foo=1", ["key foo", TYPED]),
        ("+foo=1", ["key foo", TOP]),
        ("++foo=1", ["key foo", TOP]),
        ("+foo.bar=1", ["key foo", TOP]),
        ("coef.alhpa=1", ["key coef.alhpa", "did you mean alpha?", "alpha, beta, lambda"]),
        ("+coef.alhpa=1", ["key coef.alhpa", "did you mean alpha?", "alpha, beta, lambda"]),
        ("++coef.alhpa=1", ["key coef.alhpa", "did you mean alpha?", "alpha, beta, lambda"]),
        ("coef.lam=1", ["key coef.lam", "did you mean coef.lambda?"]),
        ("model.path.x=1", ["model.path.x", "model.path is a single value"]),
        ("seed=1 coef.alpha=0.3 optim.lrr=1", ["key optim.lrr", "did you mean lr?"]),
        # misspelt groups and options
        ("los=tspin", ["key los", "did you mean loss?", TYPED]),
        ("loss=tspn", ["loss=tspn", "did you mean tspin?", LOSSES]),
        ("loss=w/o-HA", ["loss=w/o-HA", "did you mean w/o-H-A?", LOSSES]),
        ("model=zephr", ["model=zephr", "did you mean zephyr?", "custom, micro, micro_base"]),
        ("model=zephyr loss=tspn", ["loss=tspn", "did you mean tspin?", LOSSES]),
        ("size=15k", ["size=15k", "14k, 200k, 26k, 50k, all"]),
        ("compute=gpu", ["compute=gpu", "auto, cpu, cuda"]),
        ("experiment=quik", ["experiment=quik", "did you mean quick?", PRESETS]),
        ("experiment=[quick,papr]", ["experiment=papr", "did you mean paper?", PRESETS]),
        ("experiment=null", ["experiment=null", PRESETS]),
        ("experiment=None", ["experiment=None", PRESETS]),
        ("experiment=", ["experiment=", PRESETS]),
        ("model=zephyr size=null", ["size=null", "14k, 200k, 26k, 50k, all"]),
        ("+loss=tspin", ["+loss=tspin", "write loss=tspin"]),
        ("+experiment=quick", ["+experiment=quick", "write experiment=quick"]),
        # wrong types, choices, words
        ("seed=abc", ["seed='abc'", "whole number"]),
        ("seed=", ["seed=''", "whole number"]),
        ("seed=null", ["seed=None", "whole number"]),
        ("coef.alpha=x", ["coef.alpha='x'", "number", "list"]),
        ("coef.alpha=[1,x]", ["coef.alpha.1='x'", "number"]),
        ("track.tags=x", ["track.tags='x'", "list"]),
        ("loss.link=logstic", ["loss.link='logstic'", "'logistic' or 'exponential'"]),
        ("track.wandb=x", ["track.wandb='x'", "'online', 'offline' or 'none'"]),
        ("seed=None", ["seed=None"]),
        ("data.revision=None", ["data.revision=None", "data.revision=null"]),
        ("name=None", ["name=None", "name=null"]),
        ("data.path=", ["data.path=''"]),
        ("seed=${foo}", ["foo", "seed"]),
        ("data=file", ["data.path has to be given: data.path=VALUE"]),
        ("model=custom data.path=x", ["model.path has to be given: model.path=VALUE"]),
        ("model=smollm2", ["data.path has to be given"]),
        ("model=/not/there", ["model.path=/not/there: no such folder", "data.path has to be gi"]),
        ("model=~/not-there", ["model.path=~/not-there: no such folder"]),
        ("model=a/b/c", ["model.path=a/b/c: no such folder, and not a hub id OWNER/NAME; data."]),
        ("tspin", ["tspin is neither GROUP=OPTION nor KEY=VALUE", "--help"]),
        ("~loss", ["~loss"]),
        ("~coef.alpha", ["~coef.alpha"]),
        ("loss='a", ["loss='a"]),
        ("optim.epochs=3 optim.schedule_epochs=2", ["optim.schedule_epochs=2", "optim.epochs=3"]),
        # sweeps, and what looks like one
        ("loss=tspin,spin", ["loss=tspin,spin", "-m"]),
        ("coef.alpha=0.1,0.3", ["coef.alpha=0.1,0.3", "-m"]),
        ("-m loss=sft,tspn", ["loss=tspn", "did you mean tspin?", LOSSES]),
        ("-m loss=tspn,sft seed=0,1", ["loss=tspn", LOSSES]),
        ("-m loss=sft,spin seed=0,1,x", ["seed='x'", "whole number"]),
        ("-m coef.alpha=0.1,0.3,x", ["coef.alpha='x'", "number"]),
        ("-m seed=0,1 coef.bta=0.1,0.3", ["key coef.bta", "did you mean beta?"]),
        ("-m seed=0,1 loss.link=logstic", ["loss.link='logstic'"]),
        ("-m experiment=quick,quik", ["experiment=quik", PRESETS]),
        ("-m data=micro,file", ["data.path has to be given"]),
        ("-m model.max_length=64,20 decoding.max_new_tokens=9,30", ["=30", "model.max_length=20"]),
        ("-m name=a seed=0,1", ["name=a", "leave it out"]),
        ("-m evals=none,quick", ["evals.name", "no run of its own", "micro-tspin-micro-s0"]),
        ("-m seed=0,1 hydra/sweeper=basic --dry-run", ["hydra/sweeper=basic has no plan"]),
        # sweeps by name
        ("swep=table1", ["key swep", "did you mean sweep?"]),
        ("sweep=table1", ["sweep=table1 makes several runs: add -m"]),
        ("-m sweep=tabel1", ["sweep tabel1", "did you mean table1?", "alpha_beta, anchors"]),
        ("-m sweep=none.yaml", ["sweep none.yaml", "FILE.yaml"]),
        ("-m sweep=table1 +sweep=table2", ["sweep=table1 and sweep=table2", "one sweep"]),
        ("-m sweep=table1 hydra/sweeper=basic", ["hydra/sweeper=basic", "leave it out"]),
        ("-m sweep=table1 loss=tspn", ["loss=tspn", "did you mean tspin?", LOSSES]),
        ("-m sweep=table1 name=x", ["name=x", "leave it out"]),
        # benchmarks by name
        ("evals=papr", ["evals=papr", "did you mean paper?", "TASK,TASK"]),
        ("evals=leaderbord_v2", ["did you mean leaderboard_v2?"]),
        ("evals=gsm8k,quik", ["evals=quik", "did you mean quick?"]),
        ("evals=gsm8k,paper", ["paper is an option", "options or tasks"]),
        ("evals=paper,quick", ["evals=paper,quick is a sweep: add -m"]),
        ("evals=null", ["evals=null", "leaderboard_v2, local, none"]),
        ("evals=gsm8k evals.limt=3", ["key evals.limt", "did you mean limit?"]),
        ("evals.tasks.gsm8k.shots=3", ["write +evals.tasks.gsm8k.shots=3"]),
        ("seed=1 -m loss=sft,tspn", ["loss=tspn", LOSSES]),
        # appending what is there, and flags
        ("+seed=1", ["+seed=1: seed is there already; write seed=VALUE"]),
        ("+coef.alpha=0.3", ["+coef.alpha=0.3: coef.alpha is there already"]),
        ("--muti seed=0,1", ["--muti", "--hydra-help"]),
        ("--cfg jbo", ["jbo", "--hydra-help"]),
    ],
)
def test_one_line_names_the_key_and_the_choices(refused, words, says):
    line = refused(*words.split())
    assert all(word in line for word in says), line


@pytest.mark.process
def test_a_real_process_says_one_line_and_exits_with_2(tmp_path):
    done, _ = process("-m", "loss=sft,tspn", "seed=0,1", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: unknown option loss=tspn.*\(choices: {LOSSES}\)\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


OFFLINE = {"HF_HUB_OFFLINE": "1"}
REFUSED = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*", "no_proxy": "*"}


@pytest.mark.process
@pytest.mark.parametrize(("model", "hub"), [("zephyr", OFFLINE), ("mistral", REFUSED)])
def test_without_the_hub_the_paper_run_says_what_to_give(tmp_path, model, hub):
    """Both missing things in one line, in seconds, and nothing left behind."""
    cache = {"HF_HOME": str(tmp_path / "hf")}
    done, seconds = process("loss=tspin", f"model={model}", folder=tmp_path, **hub, **cache)
    assert done.returncode == 1 and seconds < 90  # the client's own retries take longer
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "model.path=FOLDER" in done.stderr and "data.path=FILE" in done.stderr
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("reachable", ["policy.weights", "data.annotated"])
def test_what_is_out_of_reach_is_said_before_anything_is_loaded(
    monkeypatch, tmp_path, caplog, reachable
):
    def out_of_reach(*args, **kwargs):
        raise ValueError("out of reach")

    def loaded(*args, **kwargs):
        raise AssertionError("loaded")

    both = ["policy.weights", "data.annotated"]
    (other,) = set(both) - {reachable}
    monkeypatch.setattr(f"tspin.{reachable}.check_reachable", lambda *a, **k: None)
    monkeypatch.setattr(f"tspin.{other}.check_reachable", out_of_reach)
    monkeypatch.setattr("tspin.policy.weights.fetch", loaded)
    monkeypatch.setattr("tspin.policy.policy.load", loaded)
    monkeypatch.setattr("tspin.selfplay.algorithm.prepare", loaded)
    monkeypatch.setattr(sys, "argv", ["main.py", "model=zephyr", f"runs_dir={tmp_path / 'runs'}"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 1
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]
    assert messages == ["error: out of reach"]
    assert list(tmp_path.iterdir()) == []


# --- what is printed -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
def test_an_interrupt_ends_the_command_in_one_line(cli, monkeypatch, caplog, words):
    points = []

    def interrupted(cfg, *, command, alone):
        points.append(cfg)
        raise KeyboardInterrupt

    monkeypatch.setattr(algorithm, "run", interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli(*words)
    assert stopped.value.code == 130 and len(points) == 1  # the points behind it are not begun
    assert "the same command goes on" in caplog.messages[-1]


def listed(text):
    """--help -> (group -> options, sweeps)"""
    part = re.split(r"Groups \(GROUP=OPTION.*\n", text)[1].split("\n\n")[0]
    groups = {}
    for line in re.sub(r"\n {3,}", " ", part).splitlines():
        name, *options = line.replace("*", "").split()
        groups[name] = options
    sweeps = re.sub(r"\n  -m .*", "", text.split("Sweeps (-m sweep=NAME)\n")[1].split("\n\n")[0])
    return groups, sweeps.split()


def shown_by_help(call, capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        call(*words, "--help")
    assert not stopped.value.code
    return capsys.readouterr().out


def test_help_lists_the_groups_and_options_that_exist(cli, capsys):
    groups, sweeps = listed(shown_by_help(cli, capsys))
    files = {
        group.name: sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))
        for group in CONF.iterdir()
        if group.is_dir() and group.name != "hydra"
    }
    assert groups == files
    assert sweeps == sorted(path.stem for path in SWEEPS.glob("*.yaml"))


@pytest.mark.slow
def test_help_marks_what_is_chosen_where_nothing_is_typed(cli, capsys):
    marked = re.findall(r"(\S+)\*\s", shown_by_help(cli, capsys))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        choices = hydra.compose("config", return_hydra_config=True).hydra.runtime.choices
    chosen = [choices[g] for g in sorted(choices) if "/" not in g and choices[g] is not None]
    assert marked == chosen and "tspin" in chosen


@pytest.mark.process
def test_help_lists_what_is_added_to_conf_and_sweeps(tmp_path):
    """A checkout with an option, a group and a sweep more; nothing of the help names them."""
    for name in ("main.py", "conf", "sweeps", "tspin", "hydra_plugins"):
        source, target = ROOT / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    (tmp_path / "conf/loss/mine.yaml").write_text("name: mine\n")
    (tmp_path / "conf/own").mkdir()
    (tmp_path / "conf/own/first.yaml").write_text("{}\n")
    (tmp_path / "sweeps/nightly.yaml").write_text("points: [loss=spin]\n")
    done = subprocess.run([sys.executable, tmp_path / "main.py", "--help"], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    groups, sweeps = listed(done.stdout)
    assert "mine" in groups["loss"] and groups["own"] == ["first"] and "nightly" in sweeps


@pytest.mark.slow
def test_help_lists_the_options_of_a_config_dir(cli, capsys, tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own/model/mine.yaml").write_text("name: mine\n")
    groups, _ = listed(shown_by_help(cli, capsys, f"--config-dir={tmp_path / 'own'}"))
    assert {"micro", "mine"} <= set(groups["model"])


@pytest.mark.slow
def test_the_flags_that_are_known_are_those_of_hydra(cli, capsys):
    """Which of them take a value is how values of flags are told from overrides."""
    with pytest.raises(SystemExit):
        cli("--hydra-help")
    text = capsys.readouterr().out
    shown = re.findall(r"^(--[\w-]+)(?:,(-\w+))? :", text, re.M)
    ours = [*SWITCHES, *VALUED, ("--cfg", "-c"), ("--info", "-i")]
    assert sorted(tuple(filter(None, names)) for names in shown) == sorted(ours)


@pytest.mark.slow
def test_every_command_that_help_shows_is_right(cli, capsys, started, tmp_path):
    (tmp_path / "FILE").with_suffix(".jsonl").touch()
    text = shown_by_help(cli, capsys).replace("data=FILE", "data=FILE.jsonl")
    shown = re.findall(r"^ +python main\.py(.*?)(?:  .*)?$", text, re.M)
    assert len(shown) >= 6
    for words in shown:
        if "--hydra-help" not in words:
            check(words.split())


@cache
def check_once(*words):
    """Pages repeat each other's commands."""
    check([*words])


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_every_command_of_a_page_is_right(page, tmp_path, monkeypatch):
    """Blocks and backticks alike; what stands for a user's own file composes as it stands, and
    the files that a page shows ("as `mine.yaml`:") are there."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    files = re.findall(r"as `([\w.]+)`:\n\n```\w+\n(.*?)^```", text, re.M | re.S)
    for name, content in files:
        (tmp_path / name).write_text(content, encoding="utf-8")
    made = re.findall(r"\bto=(\w+\.yaml)", text)  # sweeps that a command of the page writes
    for name in made:
        (tmp_path / name).write_text("points: [loss=spin]", encoding="utf-8")
    if files or made:
        monkeypatch.chdir(tmp_path)
    variables = dict(re.findall(r'^ *(\w+)="([^"]*)"$', text, re.M))
    variables |= dict(re.findall(r"\bfor (\w+) in (\w+)", text))
    shown = re.findall(r"python main\.py((?: +[^\s`#&]+)*)", text)
    assert shown or page != "README.md"
    for words in shown:
        if words.strip() not in ("--help", "--cfg job"):
            typed = re.sub(r"\$(\w+)", lambda match: variables[match[1]], words)
            typed = typed.replace("seed=0,1,2", "seed=0")  # the others compose like it
            if files or made:
                check(typed.split())
            else:
                check_once(*typed.split())


def test_the_tests_that_the_method_page_names_are_there():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    named = re.findall(r"`tests/((?:\w+/)?test_\w+\.py)(?:::(test_\w+?)(\.\.\.)?)?`", text)
    assert len(named) >= 10
    for file, start, cut in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {start}" + ("" if cut or not start else "(") in source


def test_cfg_job_prints_the_composed_configuration(cli, capsys, started):
    cli("coef.alpha=0.3", "--cfg", "job", "loss=spin")  # flags may stand anywhere
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["coef"]["alpha"] == 0.3 and shown["loss"]["name"] == "spin"
    assert sorted(shown) == TOP.split(", ") and started == []


def test_info_shows_the_search_path(cli, capsys, started):
    cli("loss=spin", "--info", "searchpath")
    assert str(CONF) in capsys.readouterr().out and started == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("loss=spin", "run: 1 point, 0 done, 1 to run; 5 iterations"),
        ("-m loss=spin,tspin seed=0,1", "multirun: 4 points, 0 done, 4 to run; 20 iterations"),
        ("-m +sweep=table1 model=micro", "table1: 3 points, 0 done, 3 to run; 11 iterations"),
    ],
)
def test_a_dry_run_says_the_plan_and_starts_nothing(cli, caplog, tmp_path, words, says):
    assert cli(*words.split(), "--dry-run") == []
    assert caplog.messages[-1].startswith(says) and list(tmp_path.iterdir()) == []


# --- benchmarks by name --------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["evals=gsm8k,hellaswag", "evals=[gsm8k,hellaswag]"])
def test_tasks_of_lm_eval_by_name(point, word):
    run = point(word, "evals.limit=3", "+evals.tasks.hellaswag.shots=5")
    named = {name: (task.shots, task.metric) for name, task in run.evals.tasks.items()}
    assert named == {"gsm8k": (None, None), "hellaswag": (5, None)}
    assert (run.evals.name, run.evals.limit) == ("tasks", 3)


@pytest.mark.slow
def test_tasks_are_no_sweep(cli):
    """-m evals=gsm8k,hellaswag seed=0,1: two runs with two tasks each."""
    runs = cli("-m", "evals=gsm8k,hellaswag", "seed=0,1")
    assert [sorted(run.evals.tasks) for run in runs] == [["gsm8k", "hellaswag"]] * 2


def test_no_task_that_we_name_ourselves_looks_like_a_misspelt_option(point):
    files = [*(CONF / "evals").glob("*.yaml")]
    named = {t for f in files for t in yaml.safe_load(f.read_text()).get("tasks", {})}
    named |= {"leaderboard", "leaderboard_math_algebra_hard", "arc_challenge", "ifeval", "mmlu"}
    named -= {file.stem for file in files}  # evals=verifiable is the option that has the task
    assert {"gsm8k", "leaderboard_bbh"} <= named
    assert set(point("evals=" + ",".join(named)).evals.tasks) == named


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("", "micro-tspin-micro-s0"),
        ("seed=3", "micro-tspin-micro-s3"),
        ("model=zephyr", "zephyr-tspin-ultrachat-s0"),
        ("model=mistral loss=spin", "mistral-spin-ultrachat-s0"),
        ("coef.alpha=0.3", "micro-tspin-micro-s0-alpha=0.3"),
        ("coef.beta=[0,0.3]", "micro-tspin-micro-s0-beta=0.0,0.3"),
        ("optim.lr=1e-4 seed=2", "micro-tspin-micro-s2-lr=0.0001"),
        ("optim.batch_size=8", "micro-tspin-micro-s0-optim.batch_size=8"),
        ("model=zephyr size=14k", "zephyr-tspin-ultrachat-s0-size=14000"),
        # of one's own what the path ends in
        ("data=file data.path=pairs.csv", "micro-tspin-pairs.csv-s0"),
        ("data=file data.path=/in/pairs.csv", "micro-tspin-pairs.csv-s0"),
        ("data=file data.path=../my-pairs.csv", "micro-tspin-my-pairs.csv-s0"),
        ("data=file data.path=in/", "micro-tspin-in-s0"),
        ("data=file 'data.path=my pairs.csv'", "micro-tspin-my_pairs.csv-s0"),
        (
            "model=custom data=file data.path=a.csv model.path=me/SmolLM2-135M",
            "SmolLM2-135M-tspin-a.csv-s0",
        ),
        # where that would be an option's name, nothing, or long: a digest
        ("data=file data.path=in/micro_open", "micro-tspin-micro_open.2c9e4ae9-s0"),
        ("data=file data.path=..", "micro-tspin-file-s0-data.path=.."),
        # what is the default anyway does not show
        ("model=micro loss=tspin data=micro coef=paper", "micro-tspin-micro-s0"),
        ("coef.alpha=1", "micro-tspin-micro-s0"),
        ("coef.alpha=1.0 coef.beta=[0,0.1] seed=0", "micro-tspin-micro-s0"),
        ("model=zephyr size=50k experiment=paper", "zephyr-tspin-ultrachat-s0"),
        ("seed=4 data.seed=4", "micro-tspin-micro-s4"),
        ("data.seed=4", "micro-tspin-micro-s0-data.seed=4"),
        # nor does what changes no number
        ("track=none runs_dir=elsewhere compute.threads=2", "micro-tspin-micro-s0"),
        ("track.tags=[a] track.group=g track.project=p track.entity=e", "micro-tspin-micro-s0"),
        # a name of one's own
        ("name=mine coef.alpha=0.3", "mine"),
        ("name=null coef.alpha=0.3", "micro-tspin-micro-s0-alpha=0.3"),
    ],
)
def test_a_run_is_named_for_what_it_is(words, name):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(shlex.split(words)).name == name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("loss=sft", "loss=tspin"),
        ("model=micro", "model=zephyr"),
        ("data=micro", "data=micro_open"),
        ("anchor=hinge", "anchor=none"),
        ("compute=auto", "compute=cuda"),
        ("coef.alpha=0.1", "coef.alpha=0.3"),
        ("seed=1", "seed=2"),
    ],
)
def test_of_what_is_said_twice_the_last_holds(one, other):
    """As of a list of words that is put before a user's own."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for first, last in ((one, other), (other, one)):
            between = ["track=none", "optim=adamw"]
            assert compose([first, *between, last]) == compose([*between, last])
        assert compose([one]) != compose([other])


@pytest.mark.slow
def test_a_run_that_an_earlier_version_named_goes_on(point, tmp_path):
    words = ["data=file", "data.path=pairs.csv", f"runs_dir={tmp_path}"]
    (tmp_path / "micro-tspin-file-s0-data.path=pairs.csv").mkdir()
    assert point(*words).folder.exists()
    (tmp_path / "micro-tspin-pairs.csv-s0").mkdir()
    assert point(*words).name == "micro-tspin-pairs.csv-s0"
    exact = tmp_path / "micro-tspin-pairs_csv.86dbe883-s0"  # as the version before this named it
    exact.mkdir()
    assert point(*words).name == "micro-tspin-pairs.csv-s0"
    other = ("data=file", "data.path=in/pairs.csv", f"runs_dir={tmp_path}")
    assert point(*other).folder == exact


def test_paths_that_end_alike_never_share_a_folder(point, tmp_path):
    """One after the other, and in one multirun; each run is found again by its own command."""
    first, second = (
        ("data=file", f"data.path={d}/pairs.csv", f"runs_dir={tmp_path}") for d in "ab"
    )
    run = point(*first)
    assert run.name == "micro-tspin-pairs.csv-s0"
    RunDir(run.folder).claim(dump(run), free=())
    other = point(*second)
    assert other.name.startswith("micro-tspin-pairs_csv.")
    RunDir(other.folder).claim(dump(other), free=())
    assert (point(*first), point(*second)) == (run, other)
    apart = check(["-m", "data=c/pairs.csv,d/pairs.csv", f"runs_dir={tmp_path}"]).points
    assert [point.run.data.path for point in apart] == ["c/pairs.csv", "d/pairs.csv"]
    assert len({point.run.folder for point in apart}) == 2


@pytest.mark.slow
def test_the_folder_is_the_name_in_runs_dir(point, tmp_path):
    assert point().folder == Path("runs/micro-tspin-micro-s0")
    assert point(f"runs_dir={tmp_path}", "name=mine").folder == tmp_path / "mine"


@pytest.mark.slow
def test_the_papers_spelling_of_without_h_a(point, cli, started):
    assert point("loss=w/o-H-A") == point("loss=wo_ha")
    started.clear()
    runs = list(cli("-m", "loss=w/o-H-A,tspin"))
    assert [run.name for run in runs] == ["micro-wo_ha-micro-s0", "micro-tspin-micro-s0"]
    assert runs[0] == point("loss=wo_ha")


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (["loss=spin", "seed=3"], 1),
        (["model=micro_open", "loss=wo_ha", "data=micro_open"], 1),
        (["optim.lr=1e-3"], 1),
        (["loss=spin", "lora=default"], 2),
    ],
)
def test_a_point_and_what_names_it_are_composed_once(monkeypatch, words, times):
    """Half of what composing takes. With an option of another group they differ."""
    monkeypatch.setattr("tspin.cli.compose._compositions", {})
    monkeypatch.setattr("tspin.cli.compose._defaults", cache(_defaults.__wrapped__))
    asked = []
    whole = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: asked.append(a) or whole(*a, **k))
    names = [check(words).points[0].run.name for _ in range(2)]
    assert len(asked) == times
    assert names[0] == names[1] == check([*reversed(words)]).points[0].run.name


@pytest.mark.slow
def test_a_sweep_runs_every_combination_once(cli):
    runs = cli("loss=sft,spin", "-m", "seed=range(2)")
    assert len({run.name for run in runs}) == len(runs) == 4


@pytest.mark.slow
def test_another_sweeper_still_works(cli):
    runs = cli("-m", "loss=sft,spin", "seed=0,1", "hydra/sweeper=basic")
    assert len({run.name for run in runs}) == len(runs) == 4


@pytest.mark.slow
def test_a_swept_option_may_need_another_swept_value(cli):
    """data=file alone has no path; with the second sweep every combination has one."""
    runs = cli("-m", "data=micro,file", "data.path=a.jsonl,b.jsonl")
    assert len({run.name for run in runs}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_options_of_ones_own(point, tmp_path, how):
    own = tmp_path / "own" / "model"
    own.mkdir(parents=True)
    text = (CONF / "model" / "micro.yaml").read_text().replace("name: micro", "name: mine")
    (own / "mine.yaml").write_text(text)
    run = point(how.format(tmp_path / "own"), "model=mine", "coef.alpha=0.3")
    assert run.name == "mine-tspin-micro-s0-alpha=0.3"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("coef.alpha=abc", "coef.alpha='abc' must be a number or a list or auto"),
        ("data.heldout=abc", "data.heldout='abc' must be a whole number or auto"),
        ("coef.beta=[0,x]", "coef.beta.1='x' must be a number"),
        ("optim.epochs=1.5", "optim.epochs=1.5 must be a whole number"),
        ("data.skip_bad_rows=7", "data.skip_bad_rows=7 must be true or false"),
    ],
)
def test_a_value_of_the_wrong_kind_is_said_in_our_words(refused, word, message):
    assert refused(word) == message


def test_values_of_a_list_that_no_iteration_reads_are_named(cli, caplog):
    """A list that an option brings, the coef.beta of the paper, may be longer."""
    caplog.set_level(logging.INFO)
    cli("coef.beta=[0,0.1,0.25]", "selfplay.iterations=2")
    message = "coef.beta has 3 values for selfplay.iterations=2: 0.25 will not be used"
    assert message in caplog.messages
    caplog.clear()
    cli("selfplay.iterations=1")
    assert not [line for line in caplog.messages if "will not be used" in line]


def test_pairs_of_ones_own_on_an_embedded_model_are_warned_of_before_anything_runs(cli, caplog):
    caplog.set_level(logging.INFO)
    cli("data=doubtful.csv", "--dry-run")
    (line,) = [line for line in caplog.messages if "knows the language of its own tasks" in line]
    assert line.startswith("model=micro ") and "model=smollm2" in line and "doubtful.csv" in line
    caplog.clear()
    for words in (["model=micro_open"], ["data=other.csv", "model=smollm2"]):
        cli(*words, "--dry-run")
    assert "its own tasks" not in caplog.text
    assert {*rules.BUILT_IN} == {*annotated.BUILT_IN}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr=1e-5", "optim.lr"),
        ("alpha=0.3", "coef.alpha"),
        ("epochs=2", "optim.epochs"),
        ("batch_size=4", "optim.batch_size"),
        ("iterations=4", "selfplay.iterations"),
        ("fsdp2=true", "compute=fsdp2"),
        ("learning_rate=1e-5", "optim.lr"),
        ("learning-rate=1e-5", "optim.lr"),
        ("optim.learning_rate=1e-5", "optim.lr"),
        ("optim.learning=1e-5", "optim.lr"),
        ("data.batch_size=4", "optim.batch_size"),
        ("decoding.max_length=40", "model.max_length"),
        ("evals.max-length=40", "evals.max_length"),
        ("model.alpha=4", "model.lora.alpha"),
        ("compute.fsdp2=true", "compute=fsdp2"),
        ("per_device_train_batch_size=4", "optim.batch_size"),
    ],
)
def test_a_key_without_its_section_gets_it(refused, word, meant):
    assert refused(word) == f"unknown key {word.split('=')[0]}; did you mean {meant}?"


def test_words_of_other_libraries_lead_to_a_key_or_group_that_is_there():
    """And none of them is a key here, which `_meant` would find first."""
    endings = {key.rsplit(".", 1)[-1] for key in keys()}
    for word, meant in SYNONYMS.items():
        assert meant in keys() or (CONF / meant).is_dir(), word
        assert word not in endings


def test_wandb_is_a_matter_of_tracking(refused):
    assert "did you mean track" in refused("wandb=none")


@pytest.mark.slow
def test_a_file_and_a_folder_are_what_they_seem(point, tmp_path):
    """The same run as by the long words, and of one name with it."""
    run = point("data=pairs.csv")
    assert run == point("data=file", "data.path=pairs.csv") and run.data.path == "pairs.csv"
    both = point("model=OWNER/NAME", "data=my data/pairs.jsonl")
    assert (both.model.name, both.model.path) == ("custom", "OWNER/NAME")
    assert (both.data.name, both.data.path) == ("file", "my data/pairs.jsonl")
    columns = point("data=a.tsv", "data.columns={prompt: question, response: answer}").data.columns
    assert columns == {"prompt": "question", "response": "answer"}


@pytest.mark.slow
def test_an_option_is_meant_before_a_folder_of_its_name(point, tmp_path):
    for name in ("micro", "mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own/data/mine.yaml").write_text("defaults: [micro]\nname: mine\n")
    assert point("data=micro").data.path == "micro"
    assert point("--config-dir", "own", "data=mine").data.name == "mine"
    assert point("data=other").data.path == "other"
