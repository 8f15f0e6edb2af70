"""Where conf/ and sweeps/ are: the one place that knows."""

from __future__ import annotations

from pathlib import Path


def root() -> Path:
    """The folder that has main.py, conf/ and sweeps/."""
    return Path(__file__).resolve().parents[2]


CONF, SWEEPS = root() / "conf", root() / "sweeps"
