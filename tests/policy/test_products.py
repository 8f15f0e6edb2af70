"""compute.products: the same numbers by another library, in large layers on a CPU alone."""

from dataclasses import replace

import pytest
import torch
from support.tiny import compose, random_model, random_triplets
from torch import nn

from tspin.config.identity import IDENTITY_FREE
from tspin.config.older import ADDED
from tspin.logprobs import fused_head
from tspin.objectives import ROLES
from tspin.policy import dtypes, products
from tspin.policy.policy import Policy
from tspin.policy.products import Library
from tspin.sampling.native import respond
from tspin.sampling.requests import Request

COMPUTE = compose().compute
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not products.is_here(), reason="torch without oneDNN")


class NoText:
    pad_id, stop_ids = 0, (1,)


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(products, "LEAST", 64)
    monkeypatch.setattr(products, "LEAST_PACKED", 64)
    monkeypatch.setattr(products, "FEWEST_TOKENS", 2)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the products that oneDNN makes."""
    seen, honest = [], products._product

    def product(a, b, bias=None):
        seen.append((tuple(a.shape), tuple(b.shape)))
        return honest(a, b, bias)

    monkeypatch.setattr(products, "_product", product)
    return seen


def onednn(compute=COMPUTE):
    return replace(compute, products="onednn")


def use(compute, model):
    return products.use(compute, dtypes.resolve(compute, "fp32_master"), model)


def close(a, b, tolerance=1e-5):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("sizes", [(1, 7, 5), (48, 64, 32), (33, 100, 257)])
def test_a_product_and_its_gradients_are_torchs(sizes):
    m, k, n = sizes
    torch.manual_seed(0)
    a, b, gradient = torch.randn(k, m).T, torch.randn(n, k), torch.randn(m, n)
    found = []
    for product in (products.times_transposed, lambda a, b: a @ b.T):
        left, right = (x.detach().clone().requires_grad_() for x in (a, b))
        result = product(left, right)
        result.backward(gradient)
        found.append((result.detach(), left.grad, right.grad))
    assert all(close(ours, torchs) for ours, torchs in zip(*found, strict=True))


def test_of_one_factor_alone_the_gradient_is_made(calls):
    a, b = torch.randn(4, 6), torch.randn(5, 6, requires_grad=True)
    products.times_transposed(a, b).sum().backward()
    assert b.grad.shape == b.shape and len(calls) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_to_torch(dtype, calls):
    a, b = torch.randn(4, 6, dtype=dtype), torch.randn(5, 6, dtype=dtype)
    assert torch.equal(products.times_transposed(a, b), a @ b.T) and not calls


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_same(bias, small_is_large, calls):
    layer = nn.Linear(16, 24, bias=bias)
    x = torch.randn(2, 3, 16)
    with torch.no_grad():
        expected = layer(x)
        assert use(onednn(), layer) == Library(onednn=True, packs=True)
        assert close(layer(x), expected) and calls == [((6, 16), (24, 16))]
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert len(calls) == 1


def policies():
    """Ours by oneDNN, and by torch, of the same weights."""
    for compute in (onednn(), replace(COMPUTE, products="torch")):
        model = random_model(dtype=torch.float32)
        yield Policy(model, NoText(), CPU, None, "auto", library=use(compute, model))


@pytest.mark.parametrize("words", [5, fused_head.WORDS])
def test_losses_and_gradients_are_the_same_and_the_record_names_it(
    words, small_is_large, calls, monkeypatch
):
    monkeypatch.setattr(fused_head, "WORDS", words)
    triplets, found = random_triplets(6), []
    for policy in policies():
        before = len(calls)
        loss = policy.loss_sum(triplets, ROLES, lambda part, logps: logps.annotated)
        loss.backward()
        gradients = [p.grad for p in policy.model.parameters() if p.grad is not None]
        found.append([loss.detach(), *gradients])
        assert ("onednn" in policy.kernels) == (len(calls) > before)
    assert len(found[0]) == len(found[1]) > 10
    assert all(close(a, b, 1e-4) for a, b in zip(*found, strict=True))
    vocabulary, widths = policy.model.config.vocab_size, {a[0] for a, _ in calls}
    assert {min(words, vocabulary), vocabulary % words or words} <= widths


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_packed_weights_give_the_same_tokens_and_go(autocast, small_is_large, calls):
    model = random_model(dtype=torch.float32)
    plain = Policy(model, NoText(), CPU, autocast, "auto")
    how = compose("decoding.max_new_tokens=12").decoding
    requests = [Request(t.prompt_ids, None, 1.0) for t in random_triplets(8)]
    expected = respond(plain, requests, how)
    assert not calls
    assert respond(replace(plain, library=Library(packs=True)), requests, how) == expected
    assert bool(calls) == ((autocast or torch.float32) in products._packable())
    assert not any("forward" in vars(module) for module in model.modules())


def test_bfloat16_is_left_to_torch_where_the_processor_has_nothing_for_it(
    small_is_large, calls, monkeypatch
):
    monkeypatch.setattr(products, "_packable", lambda: [torch.float32])
    policy = Policy(
        random_model(dtype=torch.float32),
        *(NoText(), CPU, torch.bfloat16, "auto"),
        library=Library(packs=True),
    )
    requests = [Request([5, 6, 7 + i], None, 1.0) for i in range(2)]
    respond(policy, requests, compose("decoding.max_new_tokens=4").decoding)
    assert not calls


@pytest.mark.parametrize(
    ("rows", "tokens", "pays"), [(1, 4096, False), (2, 128, True), (8, 16, False), (48, 8, True)]
)
def test_packing_pays_where_many_tokens_are_to_come(rows, tokens, pays):
    assert products.packing_pays(rows, tokens) == pays


def test_for_a_single_row_nothing_is_packed(small_is_large, calls):
    library = Library(packs=True)
    policy = Policy(random_model(dtype=torch.float32), NoText(), CPU, None, "auto", library=library)
    respond(policy, [Request([5, 6, 7], None, 1.0)], compose("decoding.max_new_tokens=4").decoding)
    assert not calls


def test_what_was_packed_goes_after_an_error_too(small_is_large):
    layer = nn.Linear(16, 24)
    assert use(onednn(), layer).onednn
    before = layer.forward
    with pytest.raises(KeyError), products.packed(layer, torch.float32):
        assert layer.forward is not before
        raise KeyError
    assert layer.forward is before


def test_small_layers_are_left_alone():
    layer = nn.Linear(16, 24)
    assert not use(onednn(), layer).onednn and "forward" not in vars(layer)


def test_bfloat16_is_packed_and_else_as_torch_has_it(small_is_large):
    layer, compute = nn.Linear(16, 24), onednn(replace(COMPUTE, dtype="bfloat16"))
    assert use(compute, layer) == Library(onednn=False, packs=True)


def test_auto_is_onednn_where_mkl_is_slow(monkeypatch):
    for slow in (True, False):
        monkeypatch.setattr(products, "is_slow_with_mkl", lambda slow=slow: slow)
        assert products.resolve(COMPUTE) == ("onednn" if slow else "torch")
        assert products.resolve(replace(COMPUTE, products="torch")) == "torch"
        assert products.resolve(onednn()) == "onednn"
        # What is compiled has products of the compiler's choice.
        assert products.resolve(replace(COMPUTE, compile=True)) == "torch"


def test_a_torch_without_it_is_named(monkeypatch):
    monkeypatch.setattr(products, "is_here", lambda: False)
    with pytest.raises(ValueError, match="compute.products=onednn.*compute.products=auto"):
        products.resolve(onednn())
    assert use(COMPUTE, nn.Linear(16, 24)) == Library()


def test_a_run_goes_on_with_another_library():
    """Its last bits alone are others, as with another number of threads."""
    assert "compute.products" in IDENTITY_FREE and ADDED["compute.products"] == "auto"
