"""The packed path against the plain one: losses, gradients, families, precision, refusals."""

import logging
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import signatures
from support.families.architectures import FAMILIES, REFUSED, Exact, family
from support.tiny import (
    LOSSES,
    checkpointed,
    compose,
    random_model,
    random_triplets,
    triplet,
)
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tspin.data.triplets import micro_batches
from tspin.logprobs import attention, fused_head
from tspin.logprobs.packing import pack
from tspin.objectives import ROLES, Logps
from tspin.policy.policy import Policy
from tspin.tools.log import once
from tspin.training.cut import Cut
from tspin.training.recipe import Recipe
from tspin.training.step import accumulate, gradient_step
from tspin.training.strategy import Strategy

CPU = torch.device("cpu")
RUN = compose()
OPTIM = replace(RUN.optim, lr=1e-3, batch_size=4, epochs=1, max_grad_norm=None)
CUT = Cut(64, None)
LAYOUTS = ("shared", "separate")
VOCAB = 97


def recipe(loss, reference=None):
    return Recipe(loss=loss, reference=reference, optim=OPTIM, compute=RUN.compute, seed=0, t=1)


class NoText:
    pad_id = 0


def policy_of(network, attention, *, autocast=None):
    return Policy(network, NoText(), CPU, autocast, attention)


def awkward(seed=0):
    """Prompts of 1 token, responses of 1 token, identical ones, and many lengths."""
    more = [
        triplet("one", [5], [7], [8], [9]),
        triplet("same", [5, 6, 7], [8, 2], [8, 2], [8, 2]),
        triplet("long", [9] * 11, [4], list(range(3, 20)), [6, 2]),
    ]
    return more + random_triplets(5, seed=seed, vocab_size=VOCAB)


def reference_of(triplets):
    """Stored log-probs from nowhere: near those of a uniform model."""
    keys = [(x.id, x.source, role) for x in triplets for role in ROLES]
    noise = torch.randn(len(keys), generator=torch.Generator().manual_seed(3)).tolist()
    return {key: 4 * value - 20 for key, value in zip(keys, noise, strict=True)}


def gradient(policy, triplets, loss, cut=CUT):
    """-> the mean loss, all gradients in a row"""
    policy.model.zero_grad()
    with_ = recipe(loss, reference_of(triplets))
    losses = [part for part, _ in accumulate(Strategy(policy), triplets, with_, cut)]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.model.parameters()]
    return torch.cat(losses).mean(), torch.cat([part.flatten() for part in parts])


def apart(found, expected):
    """The largest difference, as a share of the largest value."""
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def same_gradient(name, layout, loss, triplets, *, tolerance=1e-12, cut=CUT):
    with Exact():
        expected = gradient(policy_of(family(name), "plain"), triplets, loss)
        found = gradient(policy_of(family(name), layout), triplets, loss, cut)
    assert apart(found[0], expected[0]) < tolerance
    assert apart(found[1], expected[1]) < tolerance


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_and_its_gradient_in_float64(name, layout):
    same_gradient("llama", layout, LOSSES[name], awkward())


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_in_float64(name, layout):
    """Windows, soft-caps, scales, biases, tied and untied heads, absolute positions, experts."""
    same_gradient(name, layout, LOSSES["tspin"], awkward(1))


def lengths():
    return st.tuples(*[st.integers(1, 12)] * 4)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(lengths(), min_size=1, max_size=6), st.sampled_from(sorted(LOSSES)),
       st.sampled_from(["llama", "mistral-window", "gemma2"]), st.integers(0, 99))  # fmt: skip
def test_any_lengths_any_loss(shapes, loss, name, seed):
    generator = torch.Generator().manual_seed(seed)
    triplets = [
        triplet(i, *(torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in shape))
        for i, shape in enumerate(shapes)
    ]
    for layout in LAYOUTS:
        same_gradient(name, layout, LOSSES[loss], triplets)


@pytest.mark.parametrize("cut", [{"micro_batch": 1}, {"max_tokens": 40}, {"max_tokens": 1}])
def test_no_cut_changes_the_gradient(cut, monkeypatch):
    """Nor does the cut of the vocabulary's projection: here a chunk per triplet."""
    monkeypatch.setitem(fused_head.CHUNK, "cpu", 1)
    same_gradient("llama", "shared", LOSSES["spin"], awkward(2), cut=replace(CUT, **cut))


@pytest.mark.parametrize(
    ("dtype", "autocast", "of_logps", "of_gradient"),
    [
        (torch.float32, None, 2e-6, 2e-5),
        (torch.float32, torch.bfloat16, 2e-2, 1e-1),
        (torch.bfloat16, None, 2e-2, 1e-1),
    ],
    ids=["float32", "autocast", "bfloat16"],
)
def test_lower_precision_is_off_by_its_rounding(dtype, autocast, of_logps, of_gradient):
    """Against float64: what the plain path is off by, within a factor."""
    triplets, loss = awkward(5), LOSSES["tspin"]
    exact = random_model(vocab_size=VOCAB, scale=0.3)
    with Exact():
        expected = policy_of(exact, "plain").logps(triplets, ROLES)
        _, slope = gradient(policy_of(exact, "plain"), triplets, loss)
    for path in ("plain", *LAYOUTS):
        network = random_model(vocab_size=VOCAB, scale=0.3, dtype=dtype)
        policy = policy_of(network, path, autocast=autocast)
        with torch.no_grad():
            found = policy.logps(triplets, ROLES)
        assert found["annotated"].dtype == torch.float32
        for role in ROLES:
            assert apart(found[role], expected[role]) < of_logps
        assert apart(gradient(policy, triplets, loss)[1], slope) < of_gradient


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scored_and_trained_log_probs_have_the_same_bits(layout):
    """So that the first margin against the stored reference is exactly 0."""
    policy = policy_of(random_model(vocab_size=VOCAB, dtype=torch.float32), layout)
    triplets, seen = awkward(6), []

    def losses(part, logps):
        seen.extend(
            zip([x.id for x in part], *(logps[role].tolist() for role in ROLES), strict=True)
        )
        return logps.annotated

    with torch.no_grad():
        scored = policy.logps(triplets, ROLES)
    policy.loss_sum(triplets, ROLES, losses)
    columns = [[x.id for x in triplets], *(scored[role].tolist() for role in ROLES)]
    assert seen == list(zip(*columns, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_checkpointing_computes_the_same(layout):
    """Its recomputation in the backward pass goes through the packed attention again."""
    grads = []
    for checkpointing in (False, True):
        network = random_model(vocab_size=VOCAB)
        if checkpointing:
            checkpointed(network)
        grads.append(gradient(policy_of(network, layout), awkward(7), LOSSES["tspin"])[1])
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_ordinary_batch_is_computed_as_before(name):
    """The attention stays installed, and generation and benchmarks go through it."""
    network, ids = family(name), torch.arange(3, 15).view(2, 6)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    default = network.config._attn_implementation
    with torch.no_grad(), Exact():
        before = network(ids, attention_mask=mask).logits[mask.bool()]
        assert attention.install(network) is None
        after = network(ids, attention_mask=mask).logits[mask.bool()]
    assert torch.equal(after, before) if default == "sdpa" else apart(after, before) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name_or_computed_plainly(name, caplog):
    once.cache_clear()
    network = family(name, dtype=torch.float32)
    before = network.config._attn_implementation
    with pytest.raises(ValueError, match=rf"shared.*{type(network).__name__}.*auto or plain"):
        policy_of(network, "shared").logps(awkward(), ROLES)
    with caplog.at_level(logging.INFO, "tspin"):
        policies = [policy_of(network, path) for path in ("auto", "auto", "plain")]
        found = [policy.logps(awkward(), ROLES)["synthetic"] for policy in policies]
    assert torch.equal(found[0], found[2])
    (said,) = (record for record in caplog.records if record.name == "tspin")
    assert f"{type(network).__name__} is computed in padded rows" in said.getMessage()
    assert network.config._attn_implementation == before


def test_a_head_that_is_no_linear_map_is_refused():
    network = random_model()
    network.lm_head = torch.nn.Sequential(network.lm_head)
    with pytest.raises(ValueError, match="head is a Sequential"):
        policy_of(network, "separate").logps(awkward(), ROLES)


def test_a_transformed_logit_is_found_out(monkeypatch):
    """A model that does to its logits what no key of its configuration says."""
    network = random_model(vocab_size=VOCAB)
    network.lm_head.register_forward_hook(lambda _, args, logits: logits * 2)
    with pytest.raises(ValueError, match="differ from the plain path"):
        policy_of(network, "shared").logps(awkward(), ROLES)


class WideProducts(TorchFunctionMode):
    """torch.mm with out_dtype, which the CPU has not."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.mm and "out_dtype" in (kwargs or {}):
            return torch.mm(*(x.to(kwargs["out_dtype"]) for x in args))
        return function(*args, **(kwargs or {}))


def test_logits_are_not_rounded_where_products_come_in_float32(monkeypatch):
    """Of bfloat16 factors, so that what is left is their own rounding."""
    errors, head = [], fused_head.head(random_model(vocab_size=VOCAB), None)
    hidden = torch.randn(50, head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    hidden, weight = hidden.bfloat16(), head.weight.detach().bfloat16()
    expected = hidden.double() @ weight.double().T
    for devices in ((), ("cpu",)):
        fused_head.wide_products.cache_clear()
        with monkeypatch.context() as patch, WideProducts():
            patch.setattr(fused_head, "WIDE_DEVICES", devices)
            logits = replace(head, dtype=torch.bfloat16).logits(hidden, weight)
        assert logits.dtype == torch.float32
        errors.append(apart(logits.double(), expected))
    fused_head.wide_products.cache_clear()
    assert errors[0] > 1e-3 and errors[1] < 1e-6


def test_a_cpu_multiplies_as_before():
    assert not fused_head.wide_products(CPU, torch.bfloat16)


class AttentionCalls(TorchFunctionMode):
    """The dtypes of queries, keys and values that reach scaled dot-product attention."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is scaled_dot_product_attention:
            self.dtypes.add(tuple(x.dtype for x in args[:3]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3"])
def test_under_autocast_queries_keys_and_values_have_its_dtype(name, monkeypatch):
    """Rotary embeddings, and norms of queries and keys, leave float32, for which there is no flash
    attention. Forward, and again in the backward pass of a checkpointed layer."""
    monkeypatch.setattr(attention, "SHORT", 0)
    network = family(name, dtype=torch.float32)
    checkpointed(network)
    policy = policy_of(network, "shared", autocast=torch.bfloat16)
    assert policy.packed is not None  # which is checked once, with calls of its own
    with AttentionCalls() as calls:
        policy.loss_sum(awkward(), ROLES, lambda part, logps: logps.annotated).backward()
    assert calls.dtypes == {(torch.bfloat16,) * 3}
    assert policy.kernels == ["sdpa"]  # a CPU has no other


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["llama", "mistral-window"])
def test_two_products_compute_the_attention_of_short_rows(name, layout, monkeypatch):
    """On a CPU in bfloat16. The law is held in float64, in which the other paths are equal, too."""
    monkeypatch.setattr(attention, "HALF", (torch.float64,))
    same_gradient(name, layout, LOSSES["tspin"], awkward(8))


def test_which_rows_are_short(monkeypatch):
    policy = policy_of(family("llama", dtype=torch.float32), "shared", autocast=torch.bfloat16)
    policy.logps(awkward(), ROLES)
    assert policy.kernels == ["products"]
    monkeypatch.setattr(attention, "SHORT", 12 * 12)  # queries of "long" see 11 and 17 tokens
    policy.logps(awkward(), ROLES)
    assert policy.kernels == ["products", "sdpa"]


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("hidden", [True, False])
def test_one_token_attends_as_many_do(heads, hidden):
    """What decodes is computed by another call: heads that share keys together."""
    torch.manual_seed(0)
    many, few = heads
    query = torch.randn(3, many, 2, 16, dtype=torch.float64)
    key, value = torch.randn(2, 3, few, 9, 16, dtype=torch.float64)
    mask = torch.rand(3, 1, 2, 9) < 0.7 if hidden else None
    if mask is not None:
        mask[..., 0] = True
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = many // few, False
    two, _ = attention.packed_attention(module, query, key, value, mask)
    one, _ = attention.packed_attention(
        module, query[:, :, 1:], key, value, None if mask is None else mask[:, :, 1:]
    )
    assert one.shape == (3, 1, many, 16) and torch.allclose(one[:, 0], two[:, 1], atol=1e-12)


def varlen_attn_of(version):
    """What that version's documentation says it computes, row by row, for calls that it takes."""
    known = signatures.table()["torch"][version]["torch.nn.attention.varlen.varlen_attn"]
    parameters = signatures.signature(known)

    def varlen_attn(*args, **options):
        call = parameters.bind(*args, **options).arguments
        query, key, value = (call[name] for name in ("query", "key", "value"))
        ends_q, ends_k = call["cu_seq_q"], call["cu_seq_k"]
        left, right = call["window_size"]
        assert left < call["max_k"] - 1  # a window that hides nothing would be a slower kernel
        assert query.dtype == key.dtype == value.dtype and ends_q.dtype == torch.int32
        assert right == 0 and call["max_q"] == int(ends_q.diff().max()) <= call["max_k"]
        if "enable_gqa" in parameters.parameters:
            assert call.get("enable_gqa", False) == (query.shape[1] != key.shape[1])
        rows = []
        for i in range(len(ends_q) - 1):
            q, k, v = (x[ends[i] : ends[i + 1]] for x, ends in
                       ((query, ends_q), (key, ends_k), (value, ends_k)))  # fmt: skip
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
            scores = torch.einsum("qhd,khd->hqk", q, k) * call["scale"]
            ahead = torch.arange(len(k)) - torch.arange(len(q))[:, None] - (len(k) - len(q))
            hidden = (ahead > 0) | ((ahead < -left) if left >= 0 else False)
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            rows.append(torch.einsum("hqk,khd->qhd", weights.to(v.dtype), v))
        return torch.cat(rows)

    varlen_attn.__signature__ = parameters
    return varlen_attn


@pytest.fixture(params=["2.11.0", "2.12.0", "2.14.1"])
def flash(request, monkeypatch):
    """As on a GPU with that version of torch; flash attention itself is a stand-in."""
    varlen_attn = varlen_attn_of(request.param)
    monkeypatch.setattr(attention, "_varlen_attn", lambda: varlen_attn)
    monkeypatch.setattr(attention, "FLASH_DEVICES", ("cpu",))


@pytest.mark.slow
def test_flash_attention_is_given_the_rows_as_they_are(flash, monkeypatch):
    monkeypatch.setattr(attention, "HALF", (torch.float64,))
    for name in ("llama", "mistral-window"):
        for layout in LAYOUTS:
            same_gradient(name, layout, LOSSES["tspin"], awkward(8))
    short = [triplet("no row as long as a window", [5], [7], [8], [9])]
    same_gradient("mistral-window", "shared", LOSSES["tspin"], short)


def test_flash_attention_computes_under_autocast(flash):
    """And is what the record of the run says."""
    triplets = awkward(8)
    network = family("llama", dtype=torch.float32)
    policies = {
        path: policy_of(network, path, autocast=torch.bfloat16) for path in ("shared", "plain")
    }
    logps = {path: policy.logps(triplets, ROLES) for path, policy in policies.items()}
    assert apart(logps["shared"]["annotated"], logps["plain"]["annotated"]) < 2e-2
    assert policies["shared"].kernels == ["varlen_attn"]


def test_which_kernel_computes_where(monkeypatch):
    monkeypatch.setattr(attention, "_varlen_attn", lambda: varlen_attn_of("2.11.0"))
    cuda, half, single = torch.device("cuda"), torch.bfloat16, torch.float32
    assert attention.kernel(cuda, half, half, half) == "varlen_attn"
    assert attention.kernel(CPU, half, half, half) == "sdpa"
    for dtypes in ((single, single, half), (half, half, single), (single, single, single)):
        assert attention.kernel(cuda, *dtypes) == "sdpa"


def out_of_memory(policy, monkeypatch, fits):
    """The policy on a device that holds no more than `fits` triplets at a time."""
    honest, asked = policy.loss_sum, []

    def loss_sum(triplets, roles, loss_function):
        asked.append(len(triplets))
        if len(triplets) > fits:
            # Half of the work is done.
            loss_function(triplets, Logps(*torch.zeros(3, len(triplets))))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return honest(triplets, roles, loss_function)

    monkeypatch.setattr(type(policy), "loss_sum", lambda _, *args: loss_sum(*args))
    return asked


@pytest.mark.parametrize("budget", [{"micro_batch": 8}, {"max_tokens": 10**9}])
def test_a_step_out_of_memory_is_taken_again_in_smaller_parts(budget, monkeypatch, caplog):
    """And the next step begins with what did fit: said once, the same gradient and metrics."""
    batch = random_triplets(8, seed=1, vocab_size=VOCAB)
    runs = []
    for fits in (8, 2):
        policy = policy_of(random_model(vocab_size=VOCAB), "auto")
        with monkeypatch.context() as patch:
            asked = out_of_memory(policy, patch, fits)
            strategy, with_ = Strategy(policy), recipe(LOSSES["tspin"])
            optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
            cut = whole_cut = replace(CUT, **budget)
            metrics, cut = gradient_step(strategy, optimizer, batch, with_, cut, where="train 0")
            assert (cut == whole_cut) == (fits == 8)
            said = len(caplog.records)
            gradient_step(strategy, optimizer, batch, with_, cut, where="train 1")
        weights = torch.cat([p.detach().flatten() for p in policy.model.parameters()])
        runs.append((metrics, weights, len(caplog.records), said))
    (whole, weights, silent, _), (cut, close, said, said_first) = runs
    assert silent == 0 and said == said_first > 0 and "train 0: CUDA out of memory" in caplog.text
    assert max(asked[-4:]) <= 2
    torch.testing.assert_close(close, weights, rtol=1e-5, atol=1e-6)
    assert cut == pytest.approx(whole, rel=1e-5, abs=1e-6)


def test_one_triplet_that_does_not_fit_is_an_error(monkeypatch):
    policy = policy_of(random_model(vocab_size=VOCAB), "auto")
    out_of_memory(policy, monkeypatch, 0)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    strategy, with_ = Strategy(policy), recipe(LOSSES["tspin"])
    for cut in (CUT, replace(CUT, max_tokens=100)):
        with pytest.raises(torch.OutOfMemoryError):
            batch = random_triplets(3, vocab_size=VOCAB)
            gradient_step(strategy, optimizer, batch, with_, cut, where="x")


@settings(deadline=None)
@given(st.lists(lengths(), min_size=1, max_size=12), st.integers(1, 90))
def test_token_budget(shapes, budget):
    """Each part within the budget unless it is one triplet, and none could take in the next."""
    triplets = [triplet(i, *([3] * n for n in shape)) for i, shape in enumerate(shapes)]
    parts = list(micro_batches(triplets, ROLES, size=1, max_tokens=budget))
    sizes = [sum(x.length([role]) for x in part for role in ROLES) for part in parts]
    assert sorted(x.id for part in parts for x in part) == sorted(x.id for x in triplets)
    assert all(size <= budget or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
    for size, after in zip(sizes, parts[1:], strict=False):
        assert size + sum(after[0].length([role]) for role in ROLES) > budget


@pytest.mark.parametrize("work", ["score", "train"])
def test_no_more_logits_than_a_triplet_has(work, monkeypatch):
    """8 triplets of 10 response tokens each, chunks of at most 12 rows of logits: 8 projections,
    and each finds the logits before it gone."""
    monkeypatch.setitem(fused_head.CHUNK, "cpu", 12 * VOCAB)
    rows, made = [], []
    honest = fused_head.Head.logits

    def logits(self, hidden, weight):
        assert all(earlier() is None for earlier in made)
        rows.append(len(hidden))
        found = honest(self, hidden, weight)
        made.append(weakref.ref(found))
        return found

    policy = policy_of(random_model(vocab_size=VOCAB), "shared")
    assert policy.packed is not None  # which is checked once, with logits of its own
    monkeypatch.setattr(fused_head.Head, "logits", logits)
    triplets = [triplet(i, [3] * 20, [4] * 5, [5] * 5) for i in range(8)]
    if work == "train":
        gradient(policy, triplets, LOSSES["wo_ha"])
    else:
        policy.logps(triplets, ("annotated", "synthetic"))
    assert rows == [10] * 8


def test_a_shared_prompt_is_in_the_stream_once():
    """8 triplets: prompts of 20, two responses of 5, whose last id predicts nothing."""
    triplets = [triplet(i, [3] * 20, [4] * 5, [5] * 5) for i in range(8)]
    stream = pack(triplets, ("annotated", "synthetic"), "shared", device=CPU)
    assert stream.input_ids.numel() == 8 * (20 + 4 + 4)
