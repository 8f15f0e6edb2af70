"""examples/torchrun.sbatch with srun and scontrol made up; bash is real."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import until

from tspin.tools.signals import REQUEUE

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "torchrun.sbatch"
SLURM = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def start(folder, srun):
    """The script, with an `srun` of that text. `requeued` holds what scontrol is asked besides."""
    executable(folder / "srun", srun)
    executable(folder / "sleep", f"#!/bin/sh\nexec {shutil.which('sleep')} 0.01\n")
    show = 'if [ "$1" = show ]; then echo node1'
    executable(folder / "scontrol", f'#!/bin/sh\n{show}; else echo "$@" >> {folder}/requeued; fi\n')
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(SCRIPT), "loss=tspin", "seed=1"], env=os.environ | SLURM | {"PATH": path}
    )


@pytest.mark.parametrize(
    ("number", "code", "requeued"),
    [
        (signal.SIGUSR1, REQUEUE, True),  # the time is nearly over
        (signal.SIGUSR1, 1, True),  # torchrun's code, whatever its workers' was
        (signal.SIGUSR1, 0, False),  # it was done just then
        (signal.SIGTERM, REQUEUE, False),  # scancel, or a preemption
        (None, 1, False),  # a failure
    ],
)
def test_the_batch_file_requeues_what_slurm_would_not(number, code, requeued, tmp_path):
    words = tmp_path / "words"
    run = (
        f"#!{sys.executable}\n"
        "import signal, sys\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\n"
        f"print(*sys.argv, file=open({str(words)!r}, 'w'), flush=True)\n"
        f"{'' if number is None else 'signal.pause(); '}sys.exit({code})\n"
    )
    batch = start(tmp_path, run)
    try:
        until(lambda: words.exists() and words.read_text().endswith("\n"), process=batch)
        if number is not None:
            batch.send_signal(number)
        assert batch.wait(120) == code
    finally:
        batch.kill()
    typed = words.read_text().split()
    assert typed[1:3] == ["torchrun", "--nnodes=2"]
    assert typed[-3:] == ["main.py", "loss=tspin", "seed=1"]
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 12\n"


@pytest.mark.process
@pytest.mark.parametrize(
    "signals",
    [
        "kill -USR1 $PPID",  # in the moment of its exit
        "kill -TERM $PPID; kill -USR1 $PPID; kill -TERM $PPID",
        "( while kill -USR1 $PPID; do :; done ) 2>/dev/null & sleep",  # to the end of the script
    ],
    ids=["one", "three", "many"],
)
def test_the_code_is_that_of_a_run_that_ends_as_a_signal_comes(signals, tmp_path):
    """A blocking `wait` instead has 138, 143 or 255 in two of three."""
    run = f"#!/bin/sh\ntrap '' TERM\n{signals}\nexit 3\n"
    codes = []
    for _ in range(40):
        with start(tmp_path, run) as batch:
            codes.append(batch.wait(120))
    assert set(codes) == {3}
