"""Where numbers come from: one record per launch of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tspin import __version__
from tspin.runs.artifacts import RunDir
from tspin.tools.files import read_json, write_json

PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "datasets", "pyarrow"),
    *("hydra-core", "omegaconf", "pydantic", "wandb", "numpy"),
)


def record(folder: RunDir, *, command: list[str], config: dict[str, Any], **facts: Any) -> None:
    """Appends this launch to provenance.json. facts: digests of weights and data."""
    launches = read_json(folder.provenance)["launches"] if folder.provenance.exists() else []
    launch = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "config": config,
        "git": _git_revision(),
        "versions": {"python": platform.python_version(), "tspin": __version__}
        | {package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "devices": {
            "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        **facts,
    }
    write_json(folder.provenance, {"launches": [*launches, launch]})


def add_kernels(folder: RunDir, kernels: list[str]) -> None:
    """Records in the last launch what has computed attention in it, once it has: no forecast."""
    launches = read_json(folder.provenance)["launches"]
    arithmetic = launches[-1]["arithmetic"]
    names = sorted({*arithmetic.get("kernels", []), *kernels})
    if names != arithmetic.get("kernels"):
        arithmetic["kernels"] = names
        write_json(folder.provenance, {"launches": launches})


def add_zero_stage(folder: RunDir, stage: int) -> None:
    """Records in the last launch what compute.zero_stage came to."""
    launches = read_json(folder.provenance)["launches"]
    processes = launches[-1]["processes"]
    if processes.get("zero_stage") != stage:
        processes["zero_stage"] = stage
        write_json(folder.provenance, {"launches": launches})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> dict[str, Any] | None:
    """Commit of the source tree and whether it has changes; None where it is no git checkout."""
    tree = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(tree), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    if not (tree / ".git").exists():
        return None
    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return None
