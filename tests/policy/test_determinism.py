"""compute.deterministic: what torch is told, when, and that the CPU's numbers stay."""

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import compose, play

from tspin.config.load import dump, load
from tspin.config.older import ADDED
from tspin.policy.determinism import FIXED, WORKSPACE, before_cuda, repeatable
from tspin.selfplay import session

COMPUTE = compose().compute
ON = replace(COMPUTE, deterministic=True)
TINY = ["data.size=8", "data.heldout=4", "optim.epochs=1", "selfplay.iterations=2"]


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv(WORKSPACE, "to be restored")
    monkeypatch.delenv(WORKSPACE)
    return monkeypatch


def test_cublas_is_told_before_cuda_starts_and_only_if_asked(environment):
    before_cuda(COMPUTE)
    assert WORKSPACE not in os.environ
    before_cuda(ON)
    assert os.environ[WORKSPACE] == FIXED[0]
    environment.setenv(WORKSPACE, FIXED[1])
    before_cuda(ON)
    assert os.environ[WORKSPACE] == FIXED[1]  # one's own, as good


def test_too_late_is_an_error(environment):
    environment.setattr(torch.cuda, "is_initialized", lambda: True)
    before_cuda(COMPUTE)
    with pytest.raises(ValueError, match=f"{WORKSPACE}=:4096:8 before CUDA starts"):
        before_cuda(ON)


def test_what_does_not_repeat_is_refused_inside_and_only_there():
    """put_ adds up in no order, says torch, on the CPU too."""

    def unordered():
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    with repeatable(ON), pytest.raises(RuntimeError, match="deterministic"):
        unordered()
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(COMPUTE):
        unordered()


@pytest.mark.slow
def test_on_the_cpu_a_run_has_the_same_bits(tmp_path, environment):
    """Training and scoring under it, each of which would raise for what does not repeat."""
    seen = []
    for name in ("train", "score"):
        stage = getattr(session, name)

        def recorded(*args, name=name, stage=stage, **kwargs):
            seen.append((name, torch.are_deterministic_algorithms_enabled()))
            return stage(*args, **kwargs)

        environment.setattr(session, name, recorded)
    for folder, words in (("usual", []), ("asked", ["compute.deterministic=true"])):
        play(tmp_path / folder, "tspin", *TINY, *words)
    half = len(seen) // 2
    assert half >= 4 and seen == [*((n, False) for n, _ in seen[:half]),
                                  *((n, True) for n, _ in seen[:half])]  # fmt: skip
    for t in range(2):
        files = [
            next((tmp_path / folder).glob(f"*/iter_{t}/checkpoint/model.safetensors"))
            for folder in ("usual", "asked")
        ]
        usual, asked = map(load_file, files)
        assert all(torch.equal(usual[name], asked[name]) for name in usual)


def test_it_is_off_and_older_runs_were_without_it():
    assert COMPUTE.deterministic is ADDED["compute.deterministic"] is False
    run = compose("compute.deterministic=true")
    assert load(dump(run)).compute.deterministic
