"""The plan of sampling and scoring against the live tensors of a 7B that holds no numbers."""

import pytest
import torch
from support.live import LiveBytes
from support.tiny import compose, triplet
from torch._subclasses import FakeTensorMode
from transformers import AutoModelForCausalLM, MistralConfig

from tspin.logprobs import attention, fused_head
from tspin.logprobs.packed import Packed
from tspin.objectives import ROLES
from tspin.planning import shapes
from tspin.planning.memory import CONTEXT, PROMPT_TOKENS, memory
from tspin.policy.inference import narrow
from tspin.sampling import decode

RUN = compose(
    *("model=zephyr", "compute=cuda", "decoding.batch_size=64"),
    *("compute.score_batch=16", "compute.max_tokens=null"),
)
PLAN = memory(shapes.KNOWN[RUN.model.path], RUN, device="cuda")
CUDA = torch.device("cuda")
PROMPT = [5] * RUN.max_prompt_length


def arithmetic():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def fake():
    """Tensors in the block have shapes and dtypes, and no memory."""
    with FakeTensorMode(), torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model(fake):
    """Mistral-7B, the default of its configuration, as it is sampled and scored from."""
    model = AutoModelForCausalLM.from_config(MistralConfig(sliding_window=None)).eval()
    assert sum(p.numel() for p in model.parameters()) == 7_241_732_096
    assert narrow(model, torch.bfloat16)
    return model


def live_bytes(model):
    live = LiveBytes()
    for parameter in model.parameters():
        live.add(parameter)
    return live


@pytest.mark.slow
def test_sampling_64_slots_with_prompts_of_1792_tokens(model):
    """Weights, the keys of 64 rows of 2048 tokens, and the second of the passes that read."""
    how = RUN.decoding
    cut = decode.Cut.of(how, CUDA)
    with live_bytes(model) as live, arithmetic():
        assert live.now == pytest.approx(PLAN.inferring, rel=1e-3)
        columns = len(PROMPT) + how.max_new_tokens - 1
        table = decode._Table(model, slots=cut.slots, columns=columns)
        rows = 2 * (cut.tokens // len(PROMPT))
        decode._read(table, [[i] for i in range(rows)], [PROMPT] * rows, start=0, tokens=cut.tokens)
        assert live.now == pytest.approx(PLAN.inferring + PLAN.cache, rel=0.01)
        table.step([5] * cut.slots, [columns - 1] * cut.slots)
    assert PLAN.sampling - CONTEXT["cuda"] == pytest.approx(live.peak, rel=0.1)
    assert live.peak < 36e9


@pytest.mark.slow
def test_scoring_16_of_the_longest_triplets(model):
    assert attention.install(model) is None
    path = Packed(model, fused_head.head(model, torch.bfloat16), arithmetic)
    response = [5] * RUN.decoding.max_new_tokens
    triplets = [triplet(i, PROMPT, *[response] * 3) for i in range(RUN.compute.score_batch)]
    with live_bytes(model) as live:
        path.logps(triplets, ROLES, "shared")
    assert PLAN.inferring + PLAN.scored == pytest.approx(live.peak, rel=0.1)


def test_prompts_are_read_by_as_many_tokens_as_the_plan_says():
    """Said twice so that the plan need not import torch."""
    assert PROMPT_TOKENS == decode.PROMPT_TOKENS


def test_what_samples_is_whole_and_narrow_under_shards():
    """14.5 GB of bfloat16, and an embedding and norms that stay in float32."""
    shape = shapes.KNOWN[RUN.model.path]
    for gpus, sharding in [(1, "ddp"), (8, "ddp"), (8, "fsdp2")]:
        m = memory(shape, RUN, device="cuda", gpus=gpus, sharding=sharding)
        assert m.inferring == 2 * shape.parameters + 2 * (shape.head + shape.layers * 8192 + 4096)
        assert m.loading == 4 * shape.parameters
        assert m.sampling == PLAN.sampling


def test_nothing_is_narrow_that_is_multiplied_as_it_is_held():
    shape = shapes.KNOWN[RUN.model.path]
    for words in (["compute.dtype=float32"], ["optim.precision=bf16_stochastic"]):
        m = memory(shape, compose("model=zephyr", "compute=cuda", *words), device="cuda")
        assert m.inferring == m.loading == m.weights
