"""What a shell is told that may stand at the cursor."""

import shutil
import subprocess

import pytest

from tspin.__main__ import VERBS, main
from tspin.cli.completion import SHELLS, complete
from tspin.cli.folders import SWEEPS


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["pl"], ["plan"]),
        (["run", "loss=sp"], ["loss=space", "loss=spif", "loss=spin", "loss=sppo"]),
        (["run", "-m", "loss=sft,tspin_"], ["loss=sft,tspin_ref"]),
        (["plan", "coef.al"], ["coef.alpha="]),
        (["run", "see"], ["seed="]),
        (["status", "ru"], []),
        (["run", "../=x"], []),
    ],
)
def test_what_may_stand_at_the_cursor(words, choices):
    assert complete(words) == choices


def test_verbs_and_sweeps_are_those_there_are():
    assert complete([""]) == list(VERBS)
    sweeps = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
    assert complete(["run", "sweep="]) == [f"sweep={name}" for name in sweeps]


@pytest.mark.process
@pytest.mark.skipif(shutil.which("bash") is None, reason="asks bash")
def test_bash_takes_the_part_behind_the_equals_sign(tmp_path, capsys):
    """In place of the command itself stands one that prints two options, as it would."""
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert script == SHELLS["bash"]
    (tmp_path / "tspin").write_text('#!/bin/sh\necho "$@" > asked\necho loss=sft\necho loss=spin\n')
    (tmp_path / "tspin").chmod(0o755)
    asks = (
        f'PATH="{tmp_path}:$PATH"\n{script}\nCOMP_LINE="tspin run seed=1 loss=s"\n'
        'COMP_POINT=${#COMP_LINE}\n_tspin\necho "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asks], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("sft spin\n", "")
    assert (tmp_path / "asked").read_text() == "completion words run seed=1 loss=s\n"
