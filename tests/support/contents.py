"""What a run left, without what a clock measured: two runs are compared by it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

TIMES = ("seconds", "tokens_per_second", "useful_tokens_per_second", "flop_utilisation")
TIMES += ("from",)  # the run that an iteration is linked from
TIMES += ("files", "sha256")  # digests, of files with seconds in them too
OF_A_LAUNCH = ("provenance.json", "tracking.json", "stages.json", ".stages.json.tmp", ".lock")
OF_A_LAUNCH += ("heartbeat.json", ".heartbeat.json.tmp")  # by the clock, and never read again
OF_A_LAUNCH += (".mirror.json",)  # where a copy is
OF_A_LAUNCH += ("errors.log",)  # what stopped a launch


def contents(folder: Path) -> dict[str, object]:
    """Every file of a run by its path: its digest, or its values without what a clock measured."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in OF_A_LAUNCH:
            continue
        name = str(path.relative_to(folder))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        with suppress(ValueError):  # damaged (chaos.py): the digest
            if path.name == "metrics.jsonl":
                found[name] = [_timeless(json.loads(line)) for line in path.open()]
            elif path.name in ("done.json", "manifest.json"):
                found[name] = _timeless(json.loads(path.read_text()))
            elif path.name == "config.yaml":
                found[name] = [
                    li for li in path.open() if not li.startswith(("runs_dir", "  save_", "  url"))
                ]
    return found


def _timeless(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in TIMES}


def differences(runs: Path, whole: Path) -> list[str]:
    """The files that one of two runs lacks or that differ."""
    ours, theirs = contents(runs / "run"), contents(whole / "run")
    return sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
