"""What `pip install tspin` gives: a wheel in a fresh environment, used from another folder.

Dependencies come from the environment of the tests, by a .pth file: nothing is downloaded.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("tspin", "analysis", "hydra_plugins", "conf", "sweeps")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "main.py")
TINY = ("experiment=quick", "data.size=4", "data.heldout=4", "track=none", "track.report=false",
        "evals=none")  # fmt: skip

pytestmark = pytest.mark.process


def called(*words, cwd, code=0):
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TQDM_DISABLE")}
    done = subprocess.run(words, cwd=cwd, env=plain, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: what setuptools leaves beside its sources stays out of the checkout."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    how = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
    called(sys.executable, "-m", "pip", "wheel", *how, "-w", str(out), str(copy), cwd=out)
    (built,) = out.glob("tspin-*.whl")
    return built


@pytest.fixture(scope="module")
def tspin(wheel, tmp_path_factory):
    """The installed command, run in a folder."""
    place = tmp_path_factory.mktemp("environment")
    called(sys.executable, "-m", "venv", "--without-pip", str(place), cwd=place)
    python = str(place / "bin" / "python")
    how = ("--no-deps", "--no-index", "--quiet")
    pip = (sys.executable, "-m", "pip", "--python", python)
    called(*pip, "install", *how, str(wheel), cwd=place)
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(called(python, "-c", purelib, cwd=place).strip())
    (own / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def call(*words, cwd, **how):
        return called(str(place / "bin" / "tspin"), *words, cwd=cwd, **how)

    return call


def test_a_wheel_holds_what_the_checkout_does(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in SOURCES:
        for file in (ROOT / folder).rglob("*"):
            path = file.relative_to(ROOT)
            if file.is_dir() or "__pycache__" in path.parts:
                continue
            moved = Path("tspin") / path if folder in ("conf", "sweeps") else path
            assert str(moved) in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        *("tspin", "analysis", "hydra_plugins")
    }


def test_the_command_does_all_from_another_folder(tspin, tmp_path):
    """A run and its record, a plan of a sweep, a status and the report."""
    assert "tspin 0" in tspin("--version", cwd=tmp_path)
    (tmp_path / "own" / "optim").mkdir(parents=True)
    (tmp_path / "own/optim/mine.yaml").write_text("defaults: [adamw]\nepochs: 1\n")
    words = ["--config-dir", "own", *TINY, "optim=mine", "selfplay.iterations=1"]
    tspin("run", *words, cwd=tmp_path)
    (folder,) = (tmp_path / "runs").glob("micro-*")
    assert sorted(os.listdir(tmp_path)) == ["own", "runs"]
    (launch,) = json.loads((folder / "provenance.json").read_text())["launches"]
    assert launch["command"][:3] == ["-m", "tspin", "run"]
    assert sorted(launch["command"][3:]) == sorted(words)  # Hydra wants flags last
    assert launch["git"] is None
    assert "1 complete" in tspin("status", cwd=tmp_path)
    assert "3 points" in tspin("run", "-m", "--dry-run", "seed=0,1,2", *TINY, cwd=tmp_path)
    tspin("report", "runs=runs", "out=page", cwd=tmp_path)
    assert (tmp_path / "page" / "index.html").stat().st_size > 10_000


def test_the_help_and_mistakes_speak_of_the_command(tspin, tmp_path):
    text = tspin("run", "--help", cwd=tmp_path)
    assert "tspin run -m sweep=alpha_beta" in text and "main.py" not in text
    assert "usage: tspin plan " in tspin("plan", "--help", cwd=tmp_path)
    assert "did you mean tspin?" in tspin("run", "loss=tspn", cwd=tmp_path, code=2)
    assert "alpha_beta" in tspin("completion", "words", "run", "sweep=", cwd=tmp_path)
    assert os.listdir(tmp_path) == []
