"""make gpu-check: its runner, its files, the names that only a card reaches, and all of it tiny."""

import ast
import importlib
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from support import vllm_stand_in
from support.waiting import until

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import engine, models, runner, step, vllm
from benchmarks.gpu_check.checks import CHECKS
from benchmarks.gpu_check.results import Line, Outcome, Report, Skip, measured, verdict
from benchmarks.gpu_check.runner import Check
from benchmarks.gpu_check.setting import LENGTHS, Setting
from benchmarks.gpu_check.versions import device
from tspin.planning.memory import longest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "benchmarks" / "gpu_check"
PAGE = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
NO_CARD = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")


def lines(name, tmp_path, *, seconds=60.0):
    check = Check(name, f"support.gpu_checks:{name}", seconds)
    return list(runner.run(check, Setting(True, tmp_path / name)))


# --- the runner ----------------------------------------------------------------------------------


@pytest.mark.process
def test_a_check_runs_in_a_process_of_its_own_and_a_line_that_fails_ends_nothing(tmp_path):
    one, two = lines("passes", tmp_path)
    assert one.outcome.figures["pid"] != os.getpid() and one.check == "passes"
    assert two.outcome == Outcome("two", "fail", {"nats": 0.5}, "2 is not 1") and two.seconds >= 0


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "line", "status", "reason"),
    [
        ("raises", "error", "fail", "RuntimeError: no such kernel ("),
        ("skips", "all", "skipped", "there is no card"),
        ("dies", "process", "fail", "its process ended with -9 (killed: out of memory?) ("),
    ],
)
def test_what_was_there_before_the_end_is_kept(name, line, status, reason, tmp_path):
    one, last = lines(name, tmp_path)
    assert one.outcome == Outcome("one", "pass")
    assert (last.outcome.name, last.outcome.status) == (line, status)
    assert last.outcome.reason.startswith(reason)
    if name == "raises":
        log = (tmp_path / name / "log.txt").read_text()
        assert log.splitlines()[-2:] == ["RuntimeError: no such", "kernel"]


@pytest.mark.process
def test_a_check_begins_in_an_empty_folder(tmp_path):
    (tmp_path / "passes" / "runs").mkdir(parents=True)
    lines("passes", tmp_path)
    assert [path.name for path in (tmp_path / "passes").iterdir()] == ["log.txt"]


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_that_hangs_is_killed_after_its_seconds_with_what_it_has_started(tmp_path):
    one, last = lines("hangs", tmp_path, seconds=3.0)
    assert one.outcome.status == "pass" and last.outcome.name == "time"
    assert last.outcome.reason.startswith("not done after its 3 s; killed (")
    status = Path(f"/proc/{one.outcome.figures['child']}/status")
    until(lambda: not status.exists() or "\nState:\tZ" in status.read_text())


# --- its files -----------------------------------------------------------------------------------


def test_the_files_are_written_after_each_line(tmp_path):
    report = Report(tmp_path / "out", tiny=False, command="gpu_check")
    report.add(Line("speed", measured("step", {"share": 0.41234}, missed="below 45%"), 1.26))
    seen = json.loads((tmp_path / "out/results.json").read_text())
    assert seen["counts"] == {"pass": 1, "fail": 0, "skipped": 0}
    report.add(Line("memory", verdict("peak", False, {"GB": 3}, rule="at most | 2"), 2.0))
    seen = json.loads((tmp_path / "out/results.json").read_text())
    assert [line["status"] for line in seen["lines"]] == ["pass", "fail"]
    assert seen["lines"][0]["figures"] == {"share": 0.41234}
    page = (tmp_path / "out/table.md").read_text()
    assert "| speed | step | pass | 1.3 | share 0.4123 | below 45% |" in page
    assert "| memory | peak | fail | 2.0 | GB 3 | at most / 2 |" in page
    assert "1 pass, 1 fail, 0 skipped" in page and "CPU" not in page


def test_a_rule_is_said_of_a_failure_alone():
    assert verdict("x", True, {}, rule="x is to be 1") == Outcome("x", "pass")
    assert verdict("x", False, {}, rule="x is to be 1").reason == "x is to be 1"


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.process
def test_the_process_that_forks_has_no_torch():
    """CUDA cannot begin in a fork of a process in which any library has asked for it."""
    modules = "benchmarks.gpu_check.__main__, benchmarks.gpu_check.resume"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.process
@pytest.mark.parametrize(("name", "code"), [("passes", 1), ("skips", 0)])
def test_a_line_that_failed_is_the_exit_code(name, code, tmp_path, monkeypatch, caplog):
    """And says there what it measured: often the screen is all that is passed on."""
    caplog.set_level(logging.INFO, "benchmarks")
    checks = (Check(name, f"support.gpu_checks:{name}", 60.0),)
    monkeypatch.setattr(command, "CHECKS", checks)
    assert command.main(["--tiny", "--out", str(tmp_path / "out")]) == code
    assert ("passes: two (2 is not 1; nats 0.5)" in caplog.text) == (name == "passes")


def test_a_word_in_no_check_is_refused():
    with pytest.raises(SystemExit, match="--only kernel5: no check .*versions, kernels,"):
        command.main(["--tiny", "--only", "kernel5"])


@NO_CARD
@pytest.mark.process
def test_without_a_card_it_says_what_it_needs(tmp_path):
    with pytest.raises(SystemExit, match="finds no CUDA device; it needs .* --tiny runs all"):
        command.main(["--out", str(tmp_path)])
    with pytest.raises(Skip):
        next(device(Setting(False, tmp_path)))


def test_every_check_is_there_once_and_has_its_place_in_the_manual():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert sum(check.seconds for check in CHECKS) == 780  # as the page says
    rows = re.findall(r"^\| ([^|]+?) \| ", PAGE, re.M)
    assert [row for row in rows if row in {check.name for check in CHECKS}] == [
        check.name for check in CHECKS
    ]
    for check in CHECKS:
        function = getattr(importlib.import_module(check.module), check.function.split(":")[1])
        assert (
            inspect.isgeneratorfunction(function)
            or "_step(" in inspect.getsource(function)
            or ("_sample(" in inspect.getsource(function))
        )


# --- what only a card reaches --------------------------------------------------------------------


def chains():
    """(place, name in full) of each torch.a.b that the package spells."""
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {
                    a.asname or a.name: a.name for a in node.names if a.asname or "." not in a.name
                }
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        names = {name: whole for name, whole in names.items() if whole.split(".")[0] == "torch"}
        for node in ast.walk(tree):
            words, inner = [], node
            while isinstance(inner, ast.Attribute):
                words.insert(0, inner.attr)
                inner = inner.value
            if words and isinstance(inner, ast.Name) and inner.id in names:
                yield f"{path.name}:{node.lineno}", ".".join([names[inner.id], *words])


def test_every_name_of_torch_is_there():
    """On the CPU no line behind `if not setting.tiny` runs; a name misspelt there would wait for
    somebody's card."""
    seen = list(chains())
    reached = {"torch.cuda.set_sync_debug_mode", "torch.cuda.mem_get_info"}
    assert reached <= {name for _, name in seen}
    for place, name in seen:
        thing = torch
        for word in name.split(".")[1:]:
            assert hasattr(thing, word), f"{place}: {name}"
            thing = getattr(thing, word)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "checkpointing", "layers", "precision"),
    [
        (148e9, True, 32, "fp32_master"),  # H200
        (148e9, False, 32, "bf16_stochastic"),
        (84e9, True, 32, "bf16_stochastic"),  # H100
        (23e9, True, 8, "bf16_stochastic"),
    ],
)
def test_a_step_is_as_large_as_the_plan_allows(
    memory, checkpointing, layers, precision, monkeypatch, tmp_path
):
    monkeypatch.setattr(models, "card_memory", lambda: memory)
    precisions = ("fp32_master", "bf16_stochastic") if checkpointing else ("bf16_stochastic",)
    shape, run, plan = step._fitting(Setting(False, tmp_path), checkpointing, precisions)
    assert (shape.layers, run.optim.precision) == (layers, precision)
    assert plan.training < memory and run.compute.gradient_checkpointing == checkpointing
    # All triplets are of one length, so that the plan's longest micro-batch is the one trained.
    tokens = step.MICRO_BATCH * sum(LENGTHS)
    assert longest(run)[0] == tokens


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "layers"), [(148e9, 32), (23e9, 16)])
def test_a_sampled_batch_is_of_as_many_layers_as_the_card_holds(
    memory, layers, monkeypatch, tmp_path
):
    monkeypatch.setattr(models, "card_memory", lambda: memory)
    shape, run, _ = engine._fitting(Setting(False, tmp_path), 64, 1792)
    assert (shape.layers, run.max_prompt_length) == (layers, 1792)


def test_waits_are_counted_where_tspin_waits(monkeypatch):
    """As torch warns of them under its debug mode, which needs a card."""
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another matter", stacklevel=1)

    outcome = step._syncs(work)
    assert outcome.figures == {"waits": 3, "places": 1} and modes == ["warn", "default"]
    assert outcome.details == ["3 times the backward pass or a library"]


# --- what may not be installed -------------------------------------------------------------------


@pytest.mark.process
def test_vllm_is_held_beside_our_own_decoding(tmp_path, monkeypatch):
    """The stand-in draws its responses from nowhere: the check runs to its end, and fails."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("STAND_IN_CALLS", str(calls))
    python = str(vllm_stand_in.environment(tmp_path))
    (outcome,) = vllm.vllm(Setting(True, tmp_path, python))
    assert (outcome.name, outcome.status) == ("greedy responses", "fail")
    assert re.fullmatch(rf"\d+ of {vllm.PROMPTS}", outcome.figures["equal"])
    engine, *_ = [json.loads(line) for line in calls.read_text().splitlines()]
    assert "gpu_memory_utilization" in str(engine) and "enforce_eager" in str(engine)


# --- all of it -----------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks with torch loaded")
def test_all_of_it_runs_on_the_cpu(tmp_path):
    """Not in this process: a fork of one that has computed gradients may compute none."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--tiny", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [*dict.fromkeys(line["check"] for line in results["lines"])] == [c.name for c in CHECKS]
    by_name = {(line["check"], line["name"]): line for line in results["lines"]}
    assert results["counts"]["fail"] == 0 and len(by_name) == len(results["lines"])
    skipped = {check for check, _ in by_name if by_name[check, _]["status"] == "skipped"}
    assert skipped <= {
        *("accuracy", "training step", "step without checkpointing", "adapters"),
        *("vLLM", "compile"),
    }
    for name in (path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")):
        cosine = float(by_name["accuracy", f"gradient of {name}"]["figures"]["cosine"])
        assert 0.999 < cosine < 1.0  # bfloat16 is no float32
    margins = by_name["first margin", "tspin_ref: the reference is the policy"]["figures"]
    assert margins == {"largest current": 0.0, "largest historical": 0.0}
    killed = by_name["kill and resume", "SIGKILL while training"]["figures"]
    assert killed["killed after step"] < killed["of"] and killed["steps that differ"] == 0
    layers = by_name["compile", "layers compiled"]["figures"]  # graphs without machine code
    assert (layers["cosine"], layers["nats a token at most"]) == ("1.000000", 0.0)
    assert by_name["out of memory", "training"]["figures"]["micro-batch"] == "4, then 2"
    assert "nothing about a card" in (tmp_path / "table.md").read_text()
