"""CONTRIBUTING.md: its examples, applied to a copy of the sources, do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCES = ("analysis", "conf", "hydra_plugins", "main.py", "sweeps", "tests", "tspin")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("git") is None, reason="git applies the examples"),
]


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.M | re.S)


def test_the_examples_work(tmp_path):
    for name in SOURCES:
        place, hidden = ROOT / name, shutil.ignore_patterns("__pycache__", ".*")
        if place.is_dir():
            shutil.copytree(place, tmp_path / name, ignore=hidden)
        else:
            shutil.copy(place, tmp_path)
    changes = "".join(blocks("diff"))
    subprocess.run(["git", "apply", "-"], input=changes, text=True, check=True, cwd=tmp_path)
    commands = "".join(blocks("sh")).splitlines()
    assert len(blocks("diff")) == 3 and len(commands) == 4
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "WANDB_MODE": "disabled"}
    for command in commands:
        python, *words = shlex.split(command)
        assert python == "python"
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").glob("micro-cpo-*")
    assert (run / "iter_1" / "done.json").exists()
    assert (tmp_path / "report" / "lengths.png").stat().st_size > 10_000
