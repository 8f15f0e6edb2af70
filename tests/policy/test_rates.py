"""How fast this machine multiplies, and what is said where another dtype would be faster."""

from dataclasses import replace

import pytest
import torch
from support.tiny import compose

from tspin.policy import dtypes, rates

COMPUTE = compose().compute
SMOLLM2 = 134_515_008  # parameters
FLOAT32, BFLOAT16, FLOAT64 = torch.float32, torch.bfloat16, torch.float64


def test_the_peak_is_the_best_of_sizes_and_of_numbers_of_threads(monkeypatch):
    of = {(256, 1): 40e9, (1024, 1): 30e9, (256, 2): 4e9, (1024, 2): 60e9}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(rates, "_rate", lambda size, threads, *_: of[size, threads])
    assert rates.matmul_rate.__wrapped__(torch.device("cpu"), torch.float32) == 60e9
    of[256, 1] = 80e9  # two threads that wait for each other are slower than one
    assert rates.matmul_rate.__wrapped__(torch.device("cpu"), torch.float32) == 80e9


def test_a_product_that_takes_long_is_not_tried(monkeypatch):
    """bfloat16 on a CPU that has no instruction for it: 1.4e9 a second, 28 s were spent on it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    tried = []
    monkeypatch.setattr(rates, "_rate", lambda size, *_: tried.append(size) or rate)
    for rate, sizes in [(1.4e9, [256]), (60e9, [256, 1024])]:
        tried.clear()
        peak = rates.matmul_rate.__wrapped__(torch.device("cpu"), torch.bfloat16)
        assert peak == rate and tried == sizes


def test_a_peak_is_measured_once(monkeypatch):
    monkeypatch.setitem(rates.SIZES, "cpu", (32, 64))
    state = torch.get_rng_state()
    one, two = (rates.matmul_rate(torch.device("cpu"), torch.float32) for _ in range(2))
    assert one == two > 0
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are used up


@pytest.mark.parametrize(
    ("dtype", "parameters", "measured", "said"),
    [
        ("float32", SMOLLM2, {FLOAT32: 60e9, BFLOAT16: 120e9}, "bfloat16 2.0"),
        ("auto", SMOLLM2, {FLOAT32: 60e9, BFLOAT16: 120e9}, "bfloat16 2.0"),
        ("bfloat16", SMOLLM2, {FLOAT32: 60e9, BFLOAT16: 120e9}, None),
        ("bfloat16", SMOLLM2, {FLOAT32: 158e9, BFLOAT16: 84e9}, "float32 1.9"),
        ("float32", SMOLLM2, {FLOAT32: 158e9, BFLOAT16: 84e9}, None),
        ("float32", SMOLLM2, {FLOAT32: 60e9, BFLOAT16: 70e9}, None),  # less than a step's rest
        ("float64", SMOLLM2, {FLOAT64: 30e9, FLOAT32: 60e9, BFLOAT16: 120e9}, None),
        ("bfloat16", 460_000, {FLOAT32: 158e9, BFLOAT16: 84e9}, None),
    ],
)
def test_a_dtype_that_is_multiplied_faster_is_named_for_large_models(
    dtype, parameters, measured, said, monkeypatch
):
    """By what was measured: the same instructions are fast on one CPU and slow on another."""
    monkeypatch.setattr(rates, "matmul_rate", lambda device, dtype: measured[dtype])
    compute = replace(COMPUTE, device="cpu", dtype=dtype)
    hint = rates.faster(dtypes.resolve(compute, "fp32_master"), parameters)
    if said is None:
        assert hint is None
    else:
        name, times = said.split()
        assert hint.startswith(f"compute.dtype={name} would train faster")
        assert f"{times} times as fast" in hint
        assert ("stay float32" in hint) == (name == "bfloat16")
