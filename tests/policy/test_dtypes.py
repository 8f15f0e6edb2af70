"""What a policy computes in, and what is said where another dtype would be faster."""

from dataclasses import replace

import pytest
import torch
from support.tiny import compose

from tspin.policy import dtypes

COMPUTE = compose().compute
SMOLLM2 = 134_515_008  # parameters


@pytest.fixture
def native(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.mark.parametrize(
    ("dtype", "parameters", "said"),
    [
        ("float32", SMOLLM2, True),
        ("auto", SMOLLM2, True),
        ("bfloat16", SMOLLM2, False),
        ("float64", SMOLLM2, False),
        ("float32", 460_000, False),
    ],
)
def test_a_cpu_with_bfloat16_products_is_pointed_out_to_large_models(
    native, dtype, parameters, said
):
    compute = replace(COMPUTE, device="cpu", dtype=dtype)
    hint = dtypes.faster(dtypes.resolve(compute, "fp32_master"), parameters)
    assert said == (hint is not None and "compute.dtype=bfloat16" in hint)


@pytest.mark.parametrize(
    ("dtype", "parameters", "said"),
    [("bfloat16", SMOLLM2, True), ("float32", SMOLLM2, False), ("bfloat16", 460_000, False)],
)
def test_a_cpu_without_them_too_where_bfloat16_is_asked_for(monkeypatch, dtype, parameters, said):
    known = {"avx2": True, "avx512_f": False, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    how = dtypes.resolve(replace(COMPUTE, device="cpu", dtype=dtype), "fp32_master")
    hint = dtypes.faster(how, parameters)
    assert said == (hint is not None and "compute.dtype=float32" in hint)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("known", [{}, {"avx512_bf16": False}, {"avx2": True, "avx512_f": True}])
def test_nothing_is_said_of_other_cpus(known, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    how = dtypes.resolve(replace(COMPUTE, device="cpu", dtype=dtype), "fp32_master")
    assert dtypes.faster(how, SMOLLM2) is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert dtypes.faster(how, SMOLLM2) is None
