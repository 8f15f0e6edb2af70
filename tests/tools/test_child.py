"""Both ends of a child process: messages, a log, and every way in which one of the two ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tspin.tools import child

CHILD = Path(child.__file__)
SERVE = f"""import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("child", {str(CHILD)!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
def work(receive, send):
    print("libraries print")
    while (message := receive()) is not None:
        if message == "fail":
            raise ValueError("no\\nroom")
        if message == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        send({{"got": message}})
child.serve(work)
assert "tspin" not in sys.modules
"""


@pytest.fixture
def started(tmp_path):
    log = tmp_path / "log"

    def start():
        command = [sys.executable, "-S", "-c", SERVE]  # -S: an interpreter that has no packages
        plain = os.environ | {"PYTHONUNBUFFERED": ""}  # as a shell is, whoever runs the tests
        return child.started(command, log=log.open("ab"), environment=plain)

    yield start
    assert "libraries print" in log.read_text()


def test_messages_go_both_ways_and_nothing_else_is_one(started):
    with started() as process:
        messages = process.messages()
        for message in ([1, 2], "\u2028", {"a": None}):
            process.send(message)
            assert next(messages) == {"got": message}
        process.send(None)
        assert list(messages) == [] and process.death("it") is None


ENDS = {
    "fail": ([{"failed": "ValueError: no room"}], "it ended with status 1"),
    "die": ([], "it was ended by SIGKILL, as when memory runs out"),
}


@pytest.mark.parametrize(("message", "end"), ENDS.items(), ids=ENDS)
def test_how_it_ended_is_one_line(started, message, end):
    with started() as process:
        process.send(message)
        assert (list(process.messages()), process.death("it")) == end
        process.send("nobody reads this")


def test_it_ends_with_its_block_and_with_its_parent(started, tmp_path):
    with pytest.raises(RuntimeError), started() as process:
        process.send(1)
        next(process.messages())
        raise RuntimeError
    assert process.process.poll() is not None
    with (tmp_path / "log").open("ab") as log:
        alone = subprocess.Popen(
            [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stderr=log, text=True
        )
    alone.stdin.close()  # what the end of a parent is
    assert alone.wait(60) == 1


@pytest.mark.parametrize(
    "rank",
    ["RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "GROUP_RANK", "TORCHELASTIC_RUN_ID", "PMI_SIZE"]
    + ["ACCELERATE_USE_FSDP", "FSDP_VERSION", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"],
)
def test_what_a_launcher_says_of_ranks_is_left_out_and_nothing_else(rank):
    kept = {"RANKING": "1", "LOCAL_DIR": "x", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    assert child.without_ranks({rank: "1", **kept}) == kept
