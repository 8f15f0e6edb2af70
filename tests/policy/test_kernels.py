"""compute.compile and compute.kernels: the same numbers, and who says no before anything is loaded.

What compiles runs on the CPU too; Liger's kernels want a card.
"""

import inspect
import shutil
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from support.tiny import checkpointed, compose, random_model, random_policy, random_triplets
from torch._dynamo.utils import counters
from transformers.models.llama import modeling_llama

from tspin.config.older import ADDED
from tspin.micro import folder
from tspin.objectives import ROLES
from tspin.policy import kernels, policy
from tspin.sampling.native import respond
from tspin.sampling.requests import Request

COMPUTE = compose().compute
LIGER = replace(COMPUTE, kernels="liger")


def losses(triplets, logps):
    return logps.annotated - torch.sigmoid(logps.synthetic) + logps.proto**2 / 100


def gradient(policy, triplets, of=losses):
    policy.model.zero_grad()
    policy.loss_sum(triplets, ROLES, of).backward()
    return [p.grad.clone() for p in policy.model.parameters()]


def scores(policy, triplets):
    logps = policy.logps(triplets, ROLES)
    return torch.stack([logps[role] for role in ROLES])


@pytest.fixture
def fresh():
    """Nothing is compiled yet, and nothing counted."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["shared", "separate"])
def test_streams_of_all_lengths_run_in_one_graph_a_layer(fresh, attention, checkpointing):
    """No breaks; later streams are longer, and nothing is compiled for them. The same bits."""
    eager, compiled = (random_policy(dtype=torch.float32, attention=attention) for _ in range(2))
    for each in (eager, compiled):
        assert each.packed is not None
        if checkpointing:
            checkpointed(each.model)
    state = kernels.compile_layers(compiled.model, backend="eager")
    graphs = []
    for i in range(5):
        triplets = random_triplets(3 + i, seed=i, low=3 + i, high=9 + 4 * i)
        for one, other in zip(gradient(eager, triplets), gradient(compiled, triplets), strict=True):
            assert torch.equal(one, other)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[-2] == graphs[-3]
    assert not counters["graph_break"] and state.failure is None
    assert state.facts == ["torch.compile"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch.compile's code")
def test_compiled_layers_give_the_log_probs_and_gradients_of_eager_ones(fresh):
    eager, compiled = (random_policy(layers=1) for _ in range(2))  # float64; each layer is compiled
    assert eager.packed is not None and compiled.packed is not None
    state, seen, triplets = kernels.compile_layers(compiled.model), [], random_triplets(4)

    def watched(triplets, logps):
        seen.append(torch.stack([logps[role].detach() for role in ROLES]))
        return losses(triplets, logps)

    ours, theirs = (gradient(policy, triplets, watched) for policy in (compiled, eager))
    torch.testing.assert_close(*seen)
    # transformers' RMSNorm rounds to float32, and code that is fused may round elsewhere.
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert state.failure is None and counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
def test_a_compiler_that_fails_is_left_out_and_said_once(fresh, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no such compiler")

    eager, compiled = (random_policy(dtype=torch.float32) for _ in range(2))
    assert eager.packed is not None and compiled.packed is not None
    triplets = random_triplets(3)
    expected = scores(eager, triplets)
    state = kernels.compile_layers(compiled.model, backend=broken)
    messages = []
    monkeypatch.setattr(kernels, "once", messages.append)
    for _ in range(2):
        assert torch.equal(scores(compiled, triplets), expected)
    assert "no such compiler" in state.failure
    assert messages == [
        f"compute.compile=true: layers are not compiled from here on: {state.failure}"
    ]
    record = replace(compiled, compiled=state).kernels
    assert f"torch.compile off: {state.failure}" in record


def test_sampling_is_not_compiled(fresh):
    eager, compiled = (random_policy(dtype=torch.float32) for _ in range(2))
    kernels.compile_layers(compiled.model, backend="eager")
    how = replace(compose().decoding, max_new_tokens=4)
    requests = [Request([5, 6], 1, 1.0), Request([7], 2, 1.0)]
    assert respond(compiled, requests, how) == respond(eager, requests, how)
    assert counters["stats"]["unique_graphs"] == 0


def test_a_policy_is_compiled_where_it_is_asked_for(tmp_path):
    options = {"template": "alpaca_space", "precision": "fp32_master"}
    usual = policy.load(folder("warm"), compute=COMPUTE, **options)
    compiled = policy.load(folder("warm"), compute=replace(COMPUTE, compile=True), **options)
    assert usual.compiled is None and "torch.compile" in compiled.kernels
    compiled.save(tmp_path / "out")  # the names of its weights are the usual ones
    again = policy.load(tmp_path / "out", compute=COMPUTE, **options)
    for (name, one), (same, other) in zip(
        usual.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert name == same and torch.equal(one, other)


def test_an_old_run_has_neither():
    assert (COMPUTE.compile, COMPUTE.kernels) == (False, "torch")
    assert (ADDED["compute.compile"], ADDED["compute.kernels"]) == (False, "torch")


# --- Liger ---------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a card")
def test_liger_is_refused_where_there_is_no_card():
    with pytest.raises(ValueError, match="liger needs a CUDA device.*compute.kernels=torch"):
        kernels.check(LIGER)
    kernels.check(COMPUTE)


def test_liger_is_refused_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ValueError, match="needs liger-kernel.*not installed.*liger"):
        kernels.check(LIGER)


def test_liger_is_refused_for_a_family_that_it_does_not_know():
    kernels.check_family("llama", LIGER)
    kernels.check_family("gpt2", COMPUTE)
    with pytest.raises(ValueError, match="models of the type gpt2, but llama, .*kernels=torch"):
        kernels.check_family("gpt2", LIGER)


def test_liger_changes_one_model_and_no_other(monkeypatch):
    """The function has the signature of liger-kernel 0.8, and changes what that one changes."""
    rope, norm = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm

    def apply(*, rope, cross_entropy, fused_linear_cross_entropy, rms_norm, swiglu, model):
        assert rope and rms_norm and swiglu
        assert not cross_entropy and not fused_linear_cross_entropy
        modeling_llama.apply_rotary_pos_emb = lambda *args: ("Liger's", *args)
        modeling_llama.LlamaRMSNorm = modeling_llama.LlamaMLP = None

    stand_in = ModuleType("liger_kernel.transformers.monkey_patch")
    stand_in.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply}
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    model = random_model()
    try:
        kernels.use_liger(model)
        kernels.use_liger(model)  # the next policy of the same run
        assert modeling_llama.apply_rotary_pos_emb(1) == ("Liger's", 1)
        assert modeling_llama.LlamaRMSNorm is norm and modeling_llama.LlamaMLP is not None
    finally:
        kernels.use_torch(model)
    assert modeling_llama.apply_rotary_pos_emb is rope


@pytest.mark.parametrize("family", kernels.LIGER_FAMILIES)
def test_our_call_fits_the_function_of_every_family(family):
    module = pytest.importorskip("liger_kernel.transformers.monkey_patch")
    signature = inspect.signature(module.MODEL_TYPE_TO_APPLY_LIGER_FN[family])
    assert signature.bind(model=None, **kernels.LIGER_OPTIONS).arguments.keys() == {
        *signature.parameters
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
@pytest.mark.parametrize("kernel", ["rope", "rms_norm", "swiglu"])
def test_each_kernel_of_ligers_gives_the_numbers_of_torchs(kernel, monkeypatch):
    pytest.importorskip("liger_kernel")
    usual, other = (random_model(dtype=torch.float32).cuda() for _ in range(2))
    monkeypatch.setattr(
        kernels, "LIGER_OPTIONS", {key: key == kernel for key in kernels.LIGER_OPTIONS}
    )
    ids = (torch.arange(3, 43, device="cuda") * 7 % 97).view(4, 10)
    expected = usual(ids).logits
    expected.square().mean().backward()
    try:
        kernels.use_liger(other)
        logits = other(ids).logits
        logits.square().mean().backward()
    finally:
        kernels.use_torch(other)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for one, same in zip(usual.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(same.grad, one.grad, rtol=1e-3, atol=1e-4)
