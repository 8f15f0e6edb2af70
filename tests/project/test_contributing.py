"""CONTRIBUTING.md: its examples, applied to a copy of the sources, do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tspin.tools.files import read_json

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCES = ("analysis", "conf", "hydra_plugins", "main.py", "sweeps", "tests", "tspin")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("git") is None, reason="git applies the examples"),
]


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.M | re.S)


def run(words, folder, **environment):
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "WANDB_MODE": "disabled", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_examples_work(tmp_path):
    for name in SOURCES:
        place, hidden = ROOT / name, shutil.ignore_patterns("__pycache__", ".*")
        if place.is_dir():
            shutil.copytree(place, tmp_path / name, ignore=hidden)
        else:
            shutil.copy(place, tmp_path)
    changes = "".join(blocks("diff"))
    subprocess.run(["git", "apply", "-"], input=changes, text=True, check=True, cwd=tmp_path)
    commands = [shlex.split(line) for line in "".join(blocks("sh")).splitlines()]
    assert len(blocks("diff")) == 3 and len(commands) == 4
    assert all(python == "python" for python, *_ in commands)
    tests = [words for _, *words in commands if words[:2] == ["-m", "pytest"]]
    assert len(tests) == 2  # one process runs what they name
    both = ["-m", "pytest", *(word for words in tests for word in words[2:])]
    output = ""
    for words in (both, *(words for _, *words in commands if words not in tests)):
        output += run(words, tmp_path, PYTHONPATH=str(tmp_path))
    assert output.count("optim.lr=3e-05: model=micro has none for loss=slic; optim.lr=VALUE") == 1
    (folder,) = (tmp_path / "runs").glob("micro-slic-*")
    assert (folder / "iter_1" / "done.json").exists()
    assert (tmp_path / "report" / "lengths.png").stat().st_size > 10_000


# --- the objective in a package and a folder of somebody's own -----------------------------------

FAST = ("experiment=quick", "data.size=16", "data.heldout=4", "track=none", "track.report=false",
        "coef.alpha=0.3")  # fmt: skip


def added(path):
    """The text of a file that the examples add."""
    (lines,) = re.findall(rf"^\+\+\+ b/{path}\n@@.*@@\n((?:\+.*\n)+)", TEXT, re.M)
    return "".join(line[1:] for line in lines.splitlines(keepends=True))


@pytest.fixture
def command(forker):
    """`python main.py WORDS` in a folder, by its path. -> what it wrote"""

    def call(*words, folder, code=0):
        main = str(ROOT / "main.py")
        return forker.python(main, *words, cwd=folder, code=code, WANDB_MODE="disabled").err

    return call


@pytest.fixture
def own(tmp_path):
    """A folder with slic.py and my_conf/loss/slic.yaml, and nothing of tspin's."""
    (tmp_path / "slic.py").write_text(
        added("tspin/objectives/slic.py").replace('    name = "slic"\n', "")
    )
    (tmp_path / "my_conf" / "loss").mkdir(parents=True)
    text = added("conf/loss/slic.yaml").replace("tspin.objectives.slic.SLiC", "slic.SLiC")
    (tmp_path / "my_conf" / "loss" / "slic.yaml").write_text(text)
    return tmp_path


def names(folder):
    return sorted(config.parent.name for config in (folder / "runs").glob("*/config.yaml"))


def test_an_objective_of_ones_own_runs_from_ones_own_folder(own, command):
    """main.py by its path: neither the module nor the options lie where tspin is."""
    words = ["--config-dir", "my_conf", "loss=slic", *FAST]
    command(*words, folder=own)
    (name,) = names(own)
    assert name.startswith("micro-slic-micro-s0-alpha=0.3-")  # alpha once, beta as in its file
    assert "complete: nothing to do" in command(*words, folder=own)
    main = own / "runs" / name / "config.yaml"
    assert "_target_: slic.SLiC" in main.read_text(encoding="utf-8")


def test_a_multirun_over_ones_own_and_built_in_objectives(own, command):
    """In two processes of joblib's: what points have in common is sampled and trained once, and
    who needs it waits for who makes it."""
    words = ["-m", "--config-dir", "my_conf", "loss=slic,tspin,wo_ha", *FAST]
    output = command(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", folder=own)
    assert [name.split("-")[1] for name in names(own)] == ["slic", "tspin", "wo_ha"]
    assert output.count("has none for loss=slic") == 1
    assert len([*(own / "runs" / "proto").iterdir()]) == 1
    assert "3 points, 0 done, 3 to run; 6 iterations, 1 of them shared" in output
    assert "shared: 1 iteration (" in output
    done = [read_json(path) for path in own.glob("runs/*/iter_*/done.json")]
    assert (sum("from" in facts for facts in done), len(done)) == (1, 6)
    (launch,) = read_json(next(own.glob("runs/*-wo_ha-*/provenance.json")))["launches"]
    assert {"loss=wo_ha", "data.size=16"} <= set(launch["command"])  # of the point, not the worker
    assert "3 points, all done" in command(*words, "--dry-run", folder=own)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("loss.alhpa=1", "unknown key loss.alhpa; did you mean alpha?"),
        ("loss._target_=slic.SLiK", "unknown class SLiK; did you mean SLiC?"),
        ("loss._target_=slik.SLiC", "cannot be imported"),
        ("loss.beta=0", "loss.beta=0.0 must be above 0, one value or one per iteration"),
        ("optim.lr=1e-5 loss.beta=0", "error: loss.beta=0.0 must be above 0"),
    ],
)
def test_what_is_wrong_with_it_is_said_in_one_line(own, command, word, reason):
    words = ["--config-dir", "my_conf", "loss=slic", *FAST, *word.split()]
    output = command(*words, folder=own, code=2)
    error = [line for line in output.splitlines() if "has none for loss=slic" not in line]
    assert len(error) == 1 and reason in error[0]
    assert "optim.lr" not in word or "has none" not in output  # whoever sets it is not told
    assert not (own / "runs").exists()
