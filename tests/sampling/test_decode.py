"""Decoding: the same tokens as transformers' generate, whatever rows are computed together."""

import logging
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import compose, random_model, random_policy, random_triplets, triplet
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tspin.logprobs import attention
from tspin.micro import folder
from tspin.policy import products
from tspin.policy.products import Library
from tspin.sampling import decode
from tspin.sampling.decode import Cut
from tspin.sampling.native import _Choice, _until, respond
from tspin.sampling.requests import Request, sample_seed
from tspin.tools.log import once

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=64),  # rows are shorter
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, attn_implementation="eager"),  # caps its logits
    "gemma3": Gemma3TextConfig(**SIZES),
    "phi3": Phi3Config(**SIZES | {"num_key_value_heads": 4}),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
}
PROMPTS = [[5 + i % 80, *range(7, 7 + 5 * i % 13)] for i in range(17)] + [[9], [9, 9], [9]]
STOP = [1, 2, 3]
POLICY = random_policy(scale=0.4)  # in float64
MODEL = POLICY.model
DECODING = compose().decoding


def family(name, dtype=torch.float32):
    torch.manual_seed(0)
    config = FAMILIES[name]
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=config._attn_implementation_internal or "sdpa"
    )
    return model.to(dtype).eval()


def likeliest(logits, rows, steps):
    return logits.argmax(-1)


def alone(model, prompt, max_new_tokens, stop=STOP):
    """transformers' greedy response, one prompt at a time: no padding, nothing beside it."""
    output = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop, pad_token_id=0,
    )  # fmt: skip
    return output[0, len(prompt) :].tolist()


def assert_equal_up_to_ties(model, prompts, ours, theirs):
    """Rounding may decide between two tokens whose logits differ by less than it can tell apart;
    what follows such a token is another response."""
    for prompt, one, other in zip(prompts, ours, theirs, strict=True):
        if one == other:
            continue
        at = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *one[:at]]])).logits[0, -1]
        assert abs(logits[one[at]] - logits[other[at]]) < 1e-5 * logits.abs().max()


class Forced:
    """Row i says 7 until it has `lengths[i]` tokens, the last of them the stop id 1."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __call__(self, logits, rows, steps):
        return torch.tensor(
            [1 if k + 1 == self.lengths[r] else 7 for r, k in zip(rows, steps, strict=True)]
        )


@pytest.fixture
def passes(monkeypatch):
    """What was computed: ("read", prompts, rows filled) and ("step", rows) of every pass."""
    seen = []
    read, step = decode._Table.read, decode._Table.step

    def reading(table, prompts, owner, **options):
        seen.append(("read", [tuple(p) for p in prompts], len(owner)))
        return read(table, prompts, owner, **options)

    def stepping(table, tokens, lengths):
        seen.append(("step", len(tokens)))
        return step(table, tokens, lengths)

    monkeypatch.setattr(decode._Table, "read", reading)
    monkeypatch.setattr(decode._Table, "step", stepping)
    return seen


# --- the same tokens as transformers' ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_transformers_greedy_in_float32(name):
    model = family(name)
    prompts = PROMPTS[::2]
    theirs = [alone(model, prompt, 12, stop=None) for prompt in prompts]
    stop = {response[4] for response in theirs[:4]}
    theirs = [_until(response, stop) for response in theirs]
    assert len({len(response) for response in theirs}) > 1
    for slots in (4, 64):
        ours = decode.decode(
            model, prompts, likeliest, max_new_tokens=12, stop=stop, cut=Cut(slots)
        )
        assert_equal_up_to_ties(model, prompts, ours, theirs)


def test_greedy_is_transformers_greedy_on_the_embedded_model():
    model = AutoModelForCausalLM.from_pretrained(folder("warm"), dtype=torch.float32).eval()
    stop = AutoConfig.from_pretrained(folder("warm")).eos_token_id
    prompts = [[3 + (7 * i + k) % 250 for k in range(4 + i % 9)] for i in range(24)]
    ours = decode.decode(model, prompts, likeliest, max_new_tokens=10, stop=[stop], cut=Cut(9))
    theirs = [alone(model, prompt, 10, [stop]) for prompt in prompts]
    assert_equal_up_to_ties(model, prompts, ours, theirs)


FILTERS = [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}]


@pytest.mark.slow
@pytest.mark.parametrize("filters", [*FILTERS, {"top_k": 9, "top_p": 0.9, "temperature": 1.3}])
def test_both_engines_draw_the_same_samples(filters):
    how = replace(DECODING, max_new_tokens=12, batch_size=5, **filters)
    requests = [
        Request(prompt, sample_seed(0, 1, str(i)), how.temperature)
        for i, prompt in enumerate(PROMPTS)
    ]
    ours = respond(POLICY, requests, how)
    assert ours == respond(POLICY, requests, replace(how, engine="transformers"))
    assert len({tuple(response) for response in ours}) > 15


# --- whatever is computed together ---------------------------------------------------------------

prompt_lists = st.lists(st.lists(st.integers(3, 293), min_size=1, max_size=9), max_size=12)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(prompt_lists, st.integers(1, 8), st.integers(1, 13), st.randoms())
def test_a_sample_depends_on_its_prompt_and_numbers_alone(prompts, max_new, slots, random):
    """In float64: other slots, another order, fewer prompts, greedy ones and draws between."""
    policy, how = POLICY, replace(DECODING, max_new_tokens=max_new)
    requests = [
        Request(prompt, None if i % 4 == 3 else sample_seed(0, 1, f"{i}"), 1.0)
        for i, prompt in enumerate(prompts)
    ]
    whole = respond(policy, requests, replace(how, batch_size=slots))
    order = random.sample(range(len(prompts)), len(prompts))
    again = respond(policy, [requests[i] for i in order], replace(how, batch_size=3))
    assert again == [whole[i] for i in order]
    for question, response in list(zip(requests, whole, strict=True))[:2]:
        assert respond(policy, [question], replace(how, batch_size=1)) == [response]


def test_the_same_call_gives_the_same_bits_in_float32():
    """Rows that are computed together are a function of the arguments: restarts repeat them."""
    model = random_model(scale=0.4, dtype=torch.float32)
    logits = [[], []]

    def draw(seen):
        def choose(found, rows, steps):
            seen.append(found.clone())
            return found.argmax(-1)

        return decode.decode(model, PROMPTS, choose, max_new_tokens=9, stop=STOP, cut=Cut(6))

    assert draw(logits[0]) == draw(logits[1])
    assert all(torch.equal(a, b) for a, b in zip(*logits, strict=True))


# --- no work that nobody reads -------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 9))
def test_a_row_is_computed_once_a_token(lengths, slots):
    """Never after its end: rows of all steps = tokens of all responses."""
    prompts = [[5 + i, *[4] * (i % 5)] for i in range(len(lengths))]
    rows = []

    def choose(logits, numbers, steps):
        rows.append(len(numbers))
        return Forced(lengths)(logits, numbers, steps)

    found = decode.decode(MODEL, prompts, choose, max_new_tokens=9, stop=[1], cut=Cut(slots))
    assert [len(response) for response in found] == lengths
    assert all(set(response[:-1]) <= {7} and response[-1] == 1 for response in found)
    assert sum(rows) == sum(lengths) and max(rows) <= slots


def test_waiting_rows_take_freed_slots(passes):
    """4 slots, one response of 12 tokens and eleven of 3: batches of 4 would need 12 + 3 + 3
    passes, a slot of its own for the long one and the rest in three others needs 12."""
    lengths = [12] + [3] * 11
    prompts = [[9, 9, 9]] + [[10 + i, 4] for i in range(11)]
    decode.decode(MODEL, prompts, Forced(lengths), max_new_tokens=12, stop=[1], cut=Cut(4))
    steps = [rows for kind, rows, *_ in passes if kind == "step"]
    assert len(steps) == 12 and steps[:9] == [4] * 9


def test_equal_prompts_are_read_once(passes):
    """Greedy and three draws of each prompt: one row of a reading pass, four slots."""
    how = replace(DECODING, max_new_tokens=6, batch_size=6)
    prompts = [[5, 6, 7], [8, 9], [3, 4, 5, 6]]
    seeds = [None, *(sample_seed(0, 1, "p", draw=draw) for draw in range(3))]
    requests = [Request(prompt, seed, 1.0) for seed in seeds for prompt in prompts]
    together = respond(POLICY, requests, how)
    read = Counter(prompt for kind, found, *_ in passes if kind == "read" for prompt in found)
    assert read == {(3, 4, 5): 1, (5, 6): 1, (8,): 1}  # the last token is the first step's
    assert sum(rows for kind, _, *rest in passes if kind == "read" for rows in rest) == 12
    assert together == [respond(POLICY, [question], how)[0] for question in requests]


def brute_force(widths, limit, cost):
    """The least cost of all ways to cut the prompts into passes."""
    n = len(widths)
    found = []
    for ends in product([False, True], repeat=n - 1):
        cuts = [0, *(i + 1 for i, end in enumerate(ends) if end), n]
        passes = [widths[a:b] for a, b in pairwise(cuts)]
        if all(len(p) == 1 or limit is None or len(p) * p[0] <= limit for p in passes):
            found.append(sum(cost + len(p) * p[0] for p in passes))
    return min(found)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=8),
    st.none() | st.integers(1, 200),
    st.integers(0, 80),
)
def test_prompts_are_read_in_passes_that_cost_least(widths, limit, cost):
    widths = sorted(widths, reverse=True)
    sizes = decode._parts(widths, limit=limit, cost=cost)
    assert sum(sizes) == len(widths)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    found = sum(cost + widths[start] * size for start, size in zip(starts, sizes, strict=True))
    assert found == brute_force(widths, limit, cost)


def test_a_long_prompt_does_not_widen_the_others(passes):
    """One of 400 tokens and eight of 5: two passes, not one of nine times 400."""
    prompts = [[9] * 400] + [[10 + i, 3, 4, 5, 6] for i in range(8)]
    decode.decode(MODEL, prompts, Forced([2] * 9), max_new_tokens=3, stop=[1], cut=Cut(9))
    assert [len(found) for kind, found, *_ in passes if kind == "read"] == [1, 8]


@pytest.mark.parametrize(
    ("dtype", "library", "tolerance"),
    [
        (torch.float64, Library(), 1e-6),  # rotary embeddings are made in float32
        (torch.float32, Library(), 1e-4),
        (torch.float32, Library(onednn=True, packs=True), 1e-4),
    ],
)
def test_the_sampler_draws_from_what_the_scorer_scores(dtype, library, tolerance, monkeypatch):
    """Token by token: their log-probs differ by rounding alone, of rows of any lengths beside each
    other."""
    monkeypatch.setattr(products, "LEAST_PACKED", 64)
    monkeypatch.setattr(products, "FEWEST_TOKENS", 2)
    policy = random_policy(scale=0.4, dtype=dtype)
    policy = replace(policy, library=library)
    requests = [
        Request(t.prompt_ids, sample_seed(0, 1, t.id), 1.0) for t in random_triplets(12, high=30)
    ]
    found: dict[int, list[float]] = {}
    honest = _Choice.__call__

    def choose(self, logits, rows, steps):
        tokens = honest(self, logits, rows, steps)
        of_tokens = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
        for row, logp in zip(rows, of_tokens, strict=True):
            found.setdefault(row, []).append(logp)
        return tokens

    monkeypatch.setattr(_Choice, "__call__", choose)
    responses = respond(policy, requests, replace(DECODING, max_new_tokens=9, batch_size=5))
    triplets = [
        triplet(i, request.prompt, response)
        for i, (request, response) in enumerate(zip(requests, responses, strict=True))
    ]
    _, tokens = policy.token_logps(triplets, ("annotated",))
    scored = torch.cat(list(tokens)).double()
    sampled = torch.tensor([logp for row in range(12) for logp in found[row]]).double()
    assert len(scored) == len(sampled) > 12
    assert float((scored - sampled).abs().max()) < tolerance


# --- odd shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "lengths", "max_new", "slots"),
    [
        ([], [], 4, 3),
        ([[5]], [1], 1, 1),
        ([[5]], [4], 4, 7),
        ([[5], [6], [7]], [2, 3, 1], 4, 2),  # prompts of one token: nothing to read
        ([[5, 6]] * 5, [3] * 5, 4, 2),  # more draws than slots
        ([[5, 6], [7], [8, 9, 4]], [3, 3, 3], 3, 3),  # all end at once, at the limit
        ([[5, 6], [7], [8, 9, 4]], [1, 1, 1], 5, 2),  # EOS first
        ([[4] * 30, [5]], [1, 6], 6, 2),
    ],
)
def test_odd_shapes(prompts, lengths, max_new, slots):
    ended = []
    found = decode.decode(
        MODEL, prompts, Forced(lengths), max_new_tokens=max_new, stop=[1], cut=Cut(slots),
        done=ended.append,
    )  # fmt: skip
    assert [len(response) for response in found] == lengths
    assert sum(ended) == len(prompts)


def test_a_slot_shows_nothing_of_the_row_it_held_before():
    """One slot, a long row before a short one: the short one as if it were alone."""
    prompts = [[*range(4, 40)], [5, 6]]
    both = decode.decode(MODEL, prompts, likeliest, max_new_tokens=8, stop=STOP, cut=Cut(1))
    assert both == [alone(MODEL, prompt, 8) for prompt in prompts]


def test_bfloat16_arithmetic_over_float32_weights():
    policy = replace(random_policy(scale=0.4, dtype=torch.float32), autocast=torch.bfloat16)
    how = replace(DECODING, max_new_tokens=5, batch_size=4)
    requests = [Request(p, sample_seed(0, 0, f"{i}"), 1.0) for i, p in enumerate(PROMPTS)]
    assert respond(policy, requests, how) == respond(policy, requests, how)


# --- models it cannot serve ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(**SIZES, sliding_window=16), "window of 16 is shorter than some rows"),
        (Gemma3TextConfig(**SIZES, sliding_window=16), "window of 16 is shorter than some rows"),
        (AutoConfig.for_model("mamba", hidden_size=32, vocab_size=97, num_hidden_layers=1),
         "takes no past_key_values"),
        (AutoConfig.for_model("bloom", hidden_size=32, vocab_size=97, n_layer=1, n_head=4),
         "takes no position_ids"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_missing(config, reason):
    model = AutoModelForCausalLM.from_config(config)
    assert reason in decode.refusal(model, 17)


def test_a_window_hides_nothing_of_a_row_that_fits_into_it():
    model = AutoModelForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=16))
    assert decode.refusal(model, 16) is None
    model.config._attn_implementation = "flash_attention_2"
    assert decode.refusal(model, 16).startswith("its attention is flash_attention_2")


def test_where_a_window_ends():
    """Rows as long as the window: the first key is still seen from the last token."""
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, sliding_window=12)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    prompts = [[5, 6, 7, 8], [9, 4]]
    ours = decode.decode(model, prompts, likeliest, max_new_tokens=8, stop=[], cut=Cut(2))
    assert ours == [alone(model, prompt, 8, stop=None) for prompt in prompts]


def test_the_attention_of_packed_streams_decodes_the_same():
    policy = random_policy(scale=0.4)
    prompts = PROMPTS[:9]
    before = decode.decode(
        policy.model, prompts, likeliest, max_new_tokens=9, stop=STOP, cut=Cut(4)
    )
    assert policy.packed is not None  # and put its attention under the model
    assert policy.model.config._attn_implementation == attention.NAME
    assert decode.refusal(policy.model, 60) is None
    after = decode.decode(policy.model, prompts, likeliest, max_new_tokens=9, stop=STOP, cut=Cut(4))
    assert after == before


def test_what_cannot_be_served_falls_back_and_is_named_once(caplog):
    torch.manual_seed(0)
    config = MistralConfig(**SIZES | {"vocab_size": 294}, sliding_window=8)
    policy = replace(
        random_policy(), model=AutoModelForCausalLM.from_config(config).double().eval()
    )
    how = replace(DECODING, max_new_tokens=9, batch_size=4)
    requests = [Request(prompt, sample_seed(0, 0, "p"), 1.0) for prompt in PROMPTS]
    once.cache_clear()
    with caplog.at_level(logging.INFO, logger="tspin"):
        found = [respond(policy, requests, how) for _ in range(2)]
    assert found[0] == found[1]
    assert [record.getMessage() for record in caplog.records] == [
        "MistralForCausalLM: sampling with transformers' generate, for its attention window of 8 "
        "is shorter than some rows"
    ]
