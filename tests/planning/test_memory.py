"""The plan of a 7B by hand; benchmarks/test_simulation.py holds it against live tensors."""

from support.tiny import compose

from tspin.planning import shapes
from tspin.planning.memory import PROMPT_TOKENS, memory
from tspin.sampling import decode

RUN = compose(
    *("model=zephyr", "compute=cuda", "decoding.batch_size=64"),
    *("compute.score_batch=16", "compute.max_tokens=null"),
)
PLAN = memory(shapes.KNOWN[RUN.model.path], RUN, device="cuda")


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
