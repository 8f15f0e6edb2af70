"""examples/loop.py is Algorithm 1: its weights are those of a run."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import SMALL, play

LOOP = Path(__file__).resolve().parents[2] / "examples" / "loop.py"


def test_it_is_short():
    assert len(LOOP.read_text().splitlines()) <= 200


@pytest.mark.runs
@pytest.mark.parametrize("loss", ["tspin", "tspin_ref"])
def test_its_weights_are_those_of_a_run(loss, tmp_path, monkeypatch, capsys):
    folder, _ = play(tmp_path, loss)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(LOOP))["main"]([f"loss={loss}", *SMALL, "to=made"])
    ours = load_file(folder.iteration(1).checkpoint / "model.safetensors")
    made = load_file(tmp_path / "made" / "model.safetensors")
    assert ours.keys() == made.keys()
    assert all(torch.equal(ours[name], made[name]) for name in ours)
    assert capsys.readouterr().out.count("iteration") == 2
