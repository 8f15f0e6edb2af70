"""The plan of a 7B against the live tensors of one that holds no numbers, and who attends."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from benchmarks import simulation
from benchmarks.live import Live

LAYERS = 32
FEW = 8  # of the same width: what is beside the layers weighs more, and the plan holds still
WORKS = {work.name: work for work in simulation.ALL}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layers, gigabytes, attention",
    [  # checkpointed, a layer attends once more in the backward pass
        ("training, checkpointed", LAYERS, 115.9, {"varlen_attn bfloat16": 2 * LAYERS}),
        ("training, not checkpointed", FEW, 44.8, {"varlen_attn bfloat16": FEW}),
        ("sampling, 64 slots", FEW, 11.0, {"sdpa bfloat16": 3 * FEW}),  # two passes read, one draws
        ("scoring, 16 triplets", FEW, 10.5, {"varlen_attn bfloat16": FEW}),
    ],
)
def test_a_7b_is_as_planned_and_attends_in_bfloat16(name, layers, gigabytes, attention):
    """The update takes the most of a checkpointed training: weights, gradients, their squares and
    the roots of these, 4 x 7.24e9 numbers of 4 bytes. All of its layers there, fewer elsewhere."""
    result = WORKS[name].run("cpu", layers=layers)
    assert result.planned == pytest.approx(result.peak, rel=simulation.TOLERANCE)
    assert result.peak / 1e9 == pytest.approx(gigabytes, abs=0.1)
    assert result.attention == attention
    assert result.operations < 300  # 722 where rows attend in blocks of scaled-dot-product


def test_bytes_live_until_they_are_freed():
    """Two float32 matrices of 8 x 8, one after the other freed; a view is no storage."""
    with FakeTensorMode(), Live() as live:
        a = torch.zeros(8, 8)
        b = a + 1
        view = b[0]
        assert live.now == live.peak == 2 * 256
        del a
        assert (live.now, live.peak) == (256, 512)
        del b
        assert live.now == 256
        del view
        assert live.now == 0


def test_operations_of_a_layer_are_counted():
    with FakeTensorMode(), Live() as live:
        layer = nn.Sequential(nn.ReLU(), nn.Tanh())
        counts = live.operations_of(layer)
        x = torch.zeros(2)
        layer(layer(x).neg())
    assert counts == [2, 2]


def test_the_table_and_the_verdict(tmp_path, monkeypatch, capsys):
    """400 GB of the planned 430 are within a tenth, 400 of 500 are not."""
    works = []
    for planned in (430e9, 500e9):
        result = simulation.Simulated("a matrix", "", planned, 400e9, 7, {"sdpa float32": 2}, 1.0)
        works.append(SimpleNamespace(name=f"planned {planned}", run=lambda device, r=result: r))
    monkeypatch.setattr(simulation, "ALL", works)
    assert simulation.main(["--only", "43"]) == 0
    assert simulation.main(["--out", str(tmp_path / "s")]) == 1
    line = "| a matrix | 500.0 | 400.0 | 1.25 | 7 | 2 x sdpa float32 |"
    assert line in capsys.readouterr().out
    assert line in (tmp_path / "s.md").read_text()
    results = json.loads((tmp_path / "s.json").read_text())["results"]
    assert [(r["planned"], r["peak"]) for r in results] == [(430e9, 400e9), (500e9, 400e9)]
    with pytest.raises(SystemExit, match="--only nothing: no work on cpu"):
        simulation.main(["--only", "nothing"])
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(SystemExit, match="built without CUDA: make gpu-simulate"):
        simulation.main(["--device", "cuda"])
