"""README and docs/: their links lead somewhere, and the glossary has every number of a run."""

import itertools
import json
import re
from pathlib import Path

import pytest
from support.tiny import play

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/objectives.md"])
def test_every_objective_and_anchor_is_in_a_table(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = {name for row in re.findall(r"^\| (`[^|]*`) \|", text, re.M) for name in row.split("`")}
    assert {file.stem for file in (ROOT / "conf" / "loss").glob("*.yaml")} <= rows
    assert all(anchor.stem in text for anchor in (ROOT / "conf" / "anchor").glob("*.yaml"))


def glossary():
    """The keys of the tables in docs/runs.md, `a/{b,c}` as a/b and a/c."""
    text = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    found = set()
    for row in re.findall(r"^\| (`.*?) \|", text, re.M):
        for key in re.findall(r"`([^`]+)`", row):
            parts = re.split(r"\{([^}]*)\}", key)
            choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
            found |= {"".join(chosen) for chosen in itertools.product(*choices)}
    return found


@pytest.mark.runs
@pytest.mark.parametrize("loss", ["sft", "tspin", "tspin_ref"])
def test_the_glossary_names_every_number(loss, tmp_path):
    run, _ = play(tmp_path, loss, "selfplay.iterations=2", "track.diagnostics=true")
    named = glossary()
    out = run.iteration(1)
    for line in out.metrics.read_text().splitlines():
        assert {*json.loads(line)} <= named
    measured = json.loads(out.evaluation.read_text())["heldout"]
    assert {*measured} <= named | {"num_prompts"}
