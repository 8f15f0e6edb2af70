"""The verbs of python -m tspin: mistakes, help, what the pages say of them."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import tspin
from tspin.__main__ import VERBS, main
from tspin.cli.command import check
from tspin.tools.files import read_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["to=x"], "run= is missing"),
        (["run=RUN"], "to= is missing"),
        (["run=RUN", "to=x", "iteraton=1"], r"did you mean iteration="),
        (["run=RUN", "to=x", "iteration=7"], "use best, last or one of 0, 1"),
        (["run=RUN", "to=RUN"], "is there already"),
        (["run=RUN", "to=hub:x"], "write to=hub:OWNER/NAME"),
        (["run=RUN", "to=x", "dtype=int8"], "choices: bfloat16, float32, same"),
        (["run=nowhere", "to=x"], "nowhere is no run that can be read: it is not there"),
    ],
)
def test_mistakes_are_one_line(run, call, words, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = call("export", *(word.replace("RUN", str(run.path)) for word in words))
    assert code == 1 and why in output and output.startswith("error: ") and output.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_removed_weights_are_named_with_the_way_out(run, call, tmp_path):
    from tspin.tools.files import write_json

    out = run.iteration(0)
    write_json(out.removed, {"keep": "last"})
    try:
        code, output = call("export", f"run={run.path}", "iteration=0", f"to={tmp_path / 'x'}")
    finally:
        out.removed.unlink()
    assert code == 1 and "removed by selfplay.keep=last" in output
    assert "weights are there of iteration 1" in output


KEYED = [name for name, verb in VERBS.items() if verb.module.startswith("tspin.")]


@pytest.mark.parametrize("verb", [verb for verb in KEYED if verb != "run"])  # which has Hydra's
def test_every_verbs_help_has_examples_of_it(verb, capsys):
    """Those of KEY=VALUE name options that there are; nothing is wider than a terminal."""
    assert main([verb, "--help"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: python -m tspin {verb} ")
    examples = [line.split() for line in output.split("examples:\n")[1].splitlines()]
    assert examples and all(words[:4] == ["python", "-m", "tspin", verb] for words in examples)
    assert max(map(len, output.splitlines())) <= 100
    module = importlib.import_module(VERBS[verb].module)
    if hasattr(module, "parser"):
        for words in examples:
            module.parser().read([word for word in words[4:] if "=" in word])


VERB_ON_A_PAGE = r"(?:python -m tspin|[`(]tspin|^ *tspin) ([a-z]+)((?: +[^\s`#<|,)]+)*)"


def test_every_verb_on_a_page_is_right():
    """Verbs, and the options of those of KEY=VALUE; overrides are tested in test_main.py."""
    shown = []
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        shown += re.findall(VERB_ON_A_PAGE, text, re.M)
    assert {verb for verb, _ in shown} == set(VERBS)
    for verb, words in shown:
        module = importlib.import_module(VERBS[verb].module)
        if words and hasattr(module, "parser"):
            module.parser().read(words.split())
        elif verb == "plan":
            check([word for word in words.split() if "=" in word])


def test_the_version_has_one_owner(run, call):
    assert call("--version") == (0, f"tspin {tspin.__version__}\n")
    assert read_json(run.provenance)["launches"][0]["versions"]["tspin"] == tspin.__version__
