"""What wandb wrote offline, read back with its own command."""

import json
import subprocess
import sys


def recorded(folder):
    """The W&B runs below `folder`, oldest first -> one list of records each."""
    found = []
    for path in sorted(
        folder.glob("**/wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime
    ):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found.append([json.loads(line) for line in out.splitlines()])
    return found


def of(records, kind):
    return [record[kind] for record in records if record["type"] == kind]
