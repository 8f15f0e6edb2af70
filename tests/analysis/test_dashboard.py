"""The dashboard and the command line of analysis: nothing drawn that no run logs."""

import io
import json
import re
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import wandb
from support.offline import inspect, of
from support.tiny import play

from analysis.__main__ import COMMANDS, main
from analysis.options import command
from analysis.wandb import dashboard

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "dashboard.json"

# Table 3 of the paper, by lm-eval's names: shots and metric.
TASKS = {
    "gsm8k": (5, "exact_match,strict-match"),
    "leaderboard_math_hard": (4, "exact_match,none"),
    "leaderboard_musr": (0, "acc_norm,none"),
    "mmlu": (5, "acc,none"),
    "leaderboard_mmlu_pro": (5, "acc,none"),
    "leaderboard_gpqa": (0, "acc_norm,none"),
    "hellaswag": (10, "acc_norm,none"),
    "winogrande": (5, "acc,none"),
    "leaderboard_bbh": (3, "acc_norm,none"),
    "leaderboard_ifeval": (0, "strict_acc_mean,none"),
}
OF_NO_TASKS = ("none", "local", "tasks")  # which tasks there are, the command line says
BENCHMARKS = [
    "eval/average",
    "eval/gsm8k/exact_match_strict_match",
    "eval/leaderboard_math_hard/exact_match",
    "eval/leaderboard_musr/acc_norm",
    "eval/mmlu/acc",
    "eval/leaderboard_mmlu_pro/acc",
    "eval/leaderboard_gpqa/acc_norm",
    "eval/hellaswag/acc_norm",
    "eval/winogrande/acc",
    "eval/leaderboard_bbh/acc_norm",
    "eval/leaderboard_ifeval/strict_acc_mean",
]


def keys(panels):
    """Every metric that the panels draw, axes included."""
    return {key for panel in panels for key in (*panel.keys, *(panel.axis or ())[:1])}


def specification():
    page = dashboard.workspace(
        dashboard.sections(TASKS), name="T-SPIN", project="tspin", entity="us"
    )
    return dashboard.specification(page)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Every key of a run that has all roles, an answer checker and held-out prompts."""
    folder, _ = play(tmp_path_factory.mktemp("runs"), "tspin", "track=wandb_offline")
    [file] = folder.path.glob("wandb/offline-run-*/*.wandb")
    keys = {key for row in of(inspect(file), "history") for key in row["item"]}
    # A picture or a table is logged as facts about its file: KEY.format, KEY.nrows, ...
    return keys | {re.sub(r"\.\w+$", "", key) for key in keys if key.endswith(("format", "nrows"))}


@pytest.mark.runs
def test_every_key_that_is_drawn_is_logged(logged):
    drawn = keys(sum(dashboard.sections(TASKS).values(), []))
    assert len(drawn) > 60 and set(BENCHMARKS) <= set(drawn)
    assert [key for key in drawn if key not in logged and key not in BENCHMARKS] == []


def test_every_benchmark_has_a_panel_and_without_any_there_is_no_section():
    drawn = dashboard.sections(TASKS)
    assert [panel.keys for panel in drawn["Benchmarks over iterations"]] == [
        (key,) for key in BENCHMARKS
    ]
    assert "gsm8k, 5-shot" in {panel.title for panel in drawn["Benchmarks over iterations"]}
    assert list(dashboard.sections({})) == [
        title for title in drawn if title != "Benchmarks over iterations"
    ]


def test_what_is_drawn_is_what_is_specified():
    """The specification holds each key of each panel, every axis and a unit for every curve."""
    spec = specification()["spec"]["section"]
    panels = [p for s in spec["panelBankConfig"]["sections"] for p in s["panels"]]
    text = json.dumps(panels)
    for key in keys(sum(dashboard.sections(TASKS).values(), [])):
        assert f'"{key}"' in text
    lines = [p["config"] for p in panels if p["viewType"] == "Run History Line Plot"]
    assert all(line["xAxisTitle"] and line["yAxisTitle"] for line in lines)
    by_iteration = [line for line in lines if line["xAxis"] != "train/step"]
    assert {line["smoothingType"] for line in by_iteration} == {"none"}  # few points, each exact
    assert len({panel["__id__"] for panel in panels}) == len(panels)
    assert [key["name"] for key in spec["runSets"][0]["grouping"]] == ["jobType", "group"]


def test_the_specification_is_the_golden_one():
    """To change it on purpose:

    PYTHONPATH=.:tests:tests/analysis python -c "import test_dashboard as t; t.regenerate()"
    """
    assert chosen() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def regenerate():
    GOLDEN.write_text(f"{json.dumps(chosen(), indent=2)}\n", encoding="utf-8")


def chosen(value=None):
    """The specification without what is null: options of the library that nobody set."""
    value = specification() if value is None else value
    if isinstance(value, dict):
        return {key: chosen(x) for key, x in value.items() if x is not None}
    return [chosen(x) for x in value] if isinstance(value, list) else value


# --- the command ---------------------------------------------------------------------------------


def run(*arguments):
    """-> the line that python -m analysis ends with, its exit code without one, or None"""
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            main(arguments)
    except SystemExit as stopped:
        return errors.getvalue().rstrip("\n") or stopped.code
    return None


def test_the_command_writes_the_specification(tmp_path):
    out = tmp_path / "a" / "page.json"
    assert run("dashboard", f"out={out}", "evals=none", "name=ours", "project=p") is None
    page = json.loads(out.read_text())
    assert (page["displayName"], page["project"]) == ("ours", "p")


def test_the_benchmarks_are_those_of_table_3_with_its_shots():
    assert dashboard.benchmarks("paper") == TASKS


@pytest.mark.parametrize("option", sorted(path.stem for path in dashboard.EVALS.glob("*.yaml")))
def test_every_option_of_evals_has_a_dashboard(option):
    drawn = dashboard.sections(dashboard.benchmarks(option))
    scores = drawn["Benchmarks over iterations"] if option not in OF_NO_TASKS else []
    assert len(scores) == (0 if option in OF_NO_TASKS else 1 + len(dashboard.benchmarks(option)))


def test_an_option_of_evals_is_drawn_with_its_shots_and_metrics(tmp_path, monkeypatch):
    tasks = {"mmlu": {"shots": 5, "metric": "acc,none"}, "ours": {"shots": 0, "metric": None}}
    (tmp_path / "mine.yaml").write_text(json.dumps({"name": "mine", "tasks": tasks}))
    monkeypatch.setattr(dashboard, "EVALS", tmp_path)
    assert dashboard.benchmarks("mine") == {"mmlu": (5, "acc,none")}
    assert "did you mean mine?" in run("dashboard", "evals=min")


def test_saving_needs_an_entity_and_a_login(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    assert "entity=NAME" in run("dashboard", "--save", "evals=none")
    assert "run `wandb login`" in run("dashboard", "--save", "entity=us", "evals=none")


def test_saving_publishes_the_page(monkeypatch, caplog):
    import wandb_workspaces.workspaces as ws

    saved = []
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(ws.Workspace, "save", lambda page: saved.append(page.name))
    monkeypatch.setattr(ws.Workspace, "url", "https://there", raising=False)
    caplog.set_level("INFO", "tspin")
    assert run("dashboard", "--save", "entity=us", "evals=none", "name=ours") is None
    assert saved == ["ours"] and caplog.messages[-1] == "published: https://there"


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert ".[dashboards]" in run("dashboard", "evals=none")


# --- the command line of analysis ----------------------------------------------------------------


def test_help_has_a_line_for_each_command(capsys):
    assert run("--help") is None
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert list(found) == ["all", *COMMANDS] and all(len(x) <= 100 for x in found.values())
    assert run("dashboard", "--help") == 0
    assert "--save publishes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dashbord"], "unknown command dashbord; did you mean dashboard?"),
        (["objectives", "rnus=x"], "unknown option rnus=; did you mean runs=?"),
        (["objectives", "runs"], "runs: write runs=VALUE"),
        (["dashboard", "--sav"], "did you mean save=?"),
        (["dashboard", "--save=yes"], "save=yes: unknown value"),
    ],
)
def test_what_is_mistyped_is_one_line_with_the_nearest(arguments, says):
    line = run(*arguments)
    assert line.startswith("error: ") and says in line and "\n" not in line


def test_options_are_the_defaults_with_what_is_given():
    defaults = {"out": "report", "save": "false"}
    with command("doc", [], **defaults) as options:
        assert options == defaults
    with command("doc", ["--save", "out=a=b"], **defaults) as options:
        assert options == {"out": "a=b", "save": "true"}


def test_what_a_user_cannot_mend_is_no_line_but_a_traceback():
    with pytest.raises(ZeroDivisionError), command("doc", []):
        raise ZeroDivisionError
