"""docs/tutorials/: every command of a page, from its first to its last, at a tiny size.

The embedded model stands in for SmolLM2, which has to be fetched, and one seed for three (two where
a plan alone is made). Trackers have tests of their own, and one run leaves its page as all do by
default.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tutorials"
TINY = ["data.size=8", "data.heldout=16", "selfplay.iterations=2", "optim.batch_size=8",
        "optim.epochs=1", "decoding.batch_size=16"]  # fmt: skip
WITH_PAGE = "name=first"
SMALLER = {"model=smollm2": "model=micro data=file", "seed=0,1,2": "seed=0"}


def commands(text):
    """The lines of indented blocks, as lists of words."""
    lines = re.findall(r"^    (\S.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return [shlex.split(line, comments=True) for line in lines]


def small(words):
    """The words of a run, at the size of this test; what the page itself says stays."""
    smaller = SMALLER | ({"seed=0,1,2": "seed=0,1"} if "--dry-run" in words else {})
    typed = [part for word in words for part in smaller.get(word, word).split()]
    keys = {word.split("=")[0] for word in typed}
    keys |= {"data.heldout"} if "data" in keys else set()  # of a page's own rows
    unseen = ["track=none"] + ["track.report=false"] * (WITH_PAGE not in words)
    return [*typed, *unseen, *(word for word in TINY if word.split("=")[0] not in keys)]


def walk(page, folder, forker):
    """Saves the files that the page shows and runs its commands in `folder`. -> their output"""
    text = (PAGES / page).read_text(encoding="utf-8")
    for name, content in re.findall(r"as `([\w.]+)`:\n\n```\w+\n(.*?)^```", text, re.M | re.S):
        (folder / name).write_text(content, encoding="utf-8")
    output = {}
    for program, *words in commands(text):
        shown = shlex.join([program, *words])
        if program == "ls":
            output[shown] = subprocess.check_output([program, *words], cwd=folder, text=True)
            continue
        if words[0] == "main.py":
            words = [str(ROOT / "main.py"), *small(words[1:])]
        ended = forker.python(*words, cwd=folder, typed="Say it.\n/quit\n")
        output[shown] = ended.out + ended.err
    return output


@pytest.mark.runs
def test_a_first_run(tmp_path, forker):
    output = walk("first-run.md", tmp_path, forker)
    assert len(output) == 6  # one of the seven is typed twice
    assert "metrics.jsonl" in output["ls runs/first/iter_0"]
    assert "first" in output["python -m tspin status"]
    answers = output["python -m tspin chat run=runs/first against=base"]
    assert answers.startswith("iteration 1") and "initial policy" in answers
    assert (tmp_path / "runs" / "second" / "iter_1" / "done.json").exists()
    assert (tmp_path / "report" / "index.html").exists()
    assert (tmp_path / "runs" / "first" / "report.html").exists()


@pytest.mark.runs
def test_own_data(tmp_path, forker, monkeypatch):
    output = walk("own-data.md", tmp_path, forker)
    assert len(output) == 4
    assert "GB" in output["python -m tspin plan model=smollm2 data=pairs.jsonl"]
    (code,) = re.findall(r"^```python\n(.*?)^```", (PAGES / "own-data.md").read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "docs/tutorials/own-data.md", "exec"), names)
    assert names["model"].config.model_type == "llama"
    assert names["tokenizer"]("Paris")["input_ids"]


@pytest.mark.runs
def test_an_experiment(tmp_path, forker):
    output = walk("sweep.md", tmp_path, forker)
    assert len(output) == 7
    done = list((tmp_path / "runs" / "compare").glob("*/iter_1/done.json"))
    assert len(done) == 2 + 3  # SPIN and T-SPIN; of the grid's four points one was there
    compared = (tmp_path / "report" / "comparison.md").read_text()
    assert re.search(r"T-SPIN \| SPIN|SPIN \| T-SPIN", compared) and "verdict" in compared
    assert not (tmp_path / "runs" / "grid").exists()
    assert (tmp_path / "report" / "index.html").exists()
