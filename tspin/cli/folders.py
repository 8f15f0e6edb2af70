"""Where conf/ and sweeps/ are, and how this process was started: the one place that knows."""

from __future__ import annotations

import sys
from pathlib import Path

from tspin.runs.commands import INSTALLED

SCRIPT = "tspin"  # the command that is installed


def root() -> Path:
    """The folder that tspin, analysis and hydra_plugins are imported from."""
    return Path(__file__).resolve().parents[2]


def _data(name: str) -> Path:
    """conf or sweeps: installed with tspin, or beside it in a checkout (setup.py)."""
    installed = root() / "tspin" / name
    return installed if installed.is_dir() else root() / name


CONF, SWEEPS = _data("conf"), _data("sweeps")


def program() -> str:
    """What is typed before a verb."""
    return SCRIPT if Path(sys.argv[0]).stem == SCRIPT else f"python -m {SCRIPT}"


def run_command() -> str:
    """What is typed before the overrides of a run."""
    return f"{program()} run" if by_verb() else "python main.py"


def torchrun_words() -> str:
    """What is typed behind torchrun --nproc_per_node=N, before the overrides."""
    return f"-m {SCRIPT} run" if by_verb() else "main.py"


def recorded() -> list[str]:
    """The words that start a run behind `python`, up to its overrides, as records keep them.

    Of the installed command -m tspin run: it means the same, and needs no search path.
    """
    return [*INSTALLED] if by_verb() else [sys.argv[0]]


def by_verb() -> bool:
    """Whether the installed command or python -m tspin was started, and no main.py."""
    started = Path(sys.argv[0])
    return started.stem == SCRIPT or started.parts[-2:] == (SCRIPT, "__main__.py")
