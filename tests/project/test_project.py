"""The files that introduce the project to people and sites agree with the code and each other."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import tspin

ROOT = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="git lists the files"
)
def test_no_file_of_the_project_is_large():
    """Neither weights nor packages: 2 MB at most."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 100
    assert not [file for file in files if file.exists() and file.stat().st_size > 2_000_000]


def test_one_version():
    """pyproject.toml reads tspin.__version__; the newest entry of the changelog is that one's."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.findall(r"^## (\d\S+) - (\S+)$", text, re.M)[0]
    assert CITATION["version"] == version == tspin.__version__
    assert str(CITATION["date-released"]) == date
    assert 'version = { attr = "tspin.__version__" }' in (ROOT / "pyproject.toml").read_text()


def test_the_citation_names_the_paper_of_the_readme():
    (paper,) = CITATION["references"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"title   = {{{paper['title']}}}" in readme
    assert f"journal = {{{paper['journal']}}}" in readme


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_are_as_github_wants_them(form):
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} == set(tree)
    fields = [(field["type"], field["id"], field["attributes"]["label"]) for field in tree["body"]]
    assert len({name for _, name, _ in fields}) == len(fields) > 1
    assert {kind for kind, _, _ in fields} <= {"textarea", "input", "dropdown", "markdown"}


def pages(nav):
    """The files of a navigation, sections opened."""
    for entry in nav:
        for inner in entry.values():
            yield from [inner] if isinstance(inner, str) else pages(inner)


def test_every_page_of_docs_is_on_the_site_once():
    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert set(listed) == there and len(listed) == len(there)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_code_fences_are_those_that_the_site_renders(page):
    """A word behind the language makes Python's Markdown take the block for prose."""
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.M)
    assert all(re.fullmatch(r"\w*", info) for info in fences) and len(fences) % 2 == 0
