"""The page of all options: every key of every file of conf/, with its default and its comment."""

import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
HOOK = runpy.run_path(str(ROOT / "docs" / "hooks" / "options.py"))
FILES = sorted(CONF.rglob("*.yaml"))
OF_FILES = {  # keys of a file that says where they go
    "_global_": "",
    "model": "model.",
    "data": "data.",
}


@pytest.fixture(scope="module")
def sections():
    """The text below each heading of the page."""
    parts = HOOK["reference"](CONF).split("\n##")
    return {part.splitlines()[0].strip("# "): part for part in parts}


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_key_is_there_with_its_default(sections, path):
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    tree.pop("defaults", None), tree.pop("hydra", None)
    group = path.parent.relative_to(CONF).as_posix()
    prefix = "" if group == "." else group.replace("/", ".") + "."
    if text.startswith("# @package "):
        prefix = OF_FILES[text.split()[2]]
    name = "Of the run itself" if group == "." else f"{group}={path.stem}"
    section = sections.get(name) or sections[f"{name} (the default)"]
    lines = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    shown = {cells[0].strip("| `"): cells[1].strip("`") for cells in lines}
    for key, value in leaves(tree, prefix):
        assert yaml.safe_load(shown[key].replace(r"\|", "|")) == value


def test_comments_stand_at_their_keys(sections):
    """Beside a key, above it, at a key that holds others, at the head of a file."""
    loss = sections["loss=tspin (the default)"]
    assert "| `loss.link` | `logistic` | the paper's default; exponential is its other" in loss
    micro = sections["model=micro (the default)"]
    assert "| 0.5M parameters take far larger steps than 7B. Chosen on validation" in micro
    assert "| `sync` |  | a copy of the run folder elsewhere" in sections["Of the run itself"]
    assert "Builds on `compute=auto`." in sections["compute=ddp"]
    assert "Started by torchrun or `accelerate launch`: a whole copy" in sections["compute=ddp"]


def test_one_option_of_a_group_is_its_default(sections):
    marked = [name for name in sections if name.endswith("(the default)")]
    chosen = [
        f"{group}={option} (the default)"
        for entry in yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
        if isinstance(entry, dict)
        for group, option in entry.items()
        if option is not None and not group.startswith("override")
    ]
    assert sorted(marked) == sorted([*chosen, "hydra/sweeper=points (the default)"])
