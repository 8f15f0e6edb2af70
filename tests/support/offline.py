"""What wandb wrote offline, read back with its own command."""

import json
import subprocess
import sys


def inspect(file):
    """One file of W&B. -> its records"""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def recorded(folder):
    """The W&B runs below `folder`: a list of records each, in no order.

    Neither the files' times nor their names, which have seconds, tell which was first.
    """
    return [inspect(path) for path in folder.glob("**/wandb/offline-run-*/*.wandb")]


def of(records, kind):
    return [record[kind] for record in records if record["type"] == kind]
