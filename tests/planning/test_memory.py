"""The plan of a 7B by hand; benchmarks/test_simulation.py holds it against live tensors."""

from support.tiny import compose

from tspin.planning import shapes
from tspin.planning.memory import PACKED, PROCESS, PROMPT_TOKENS, host, memory
from tspin.policy import products
from tspin.sampling import decode

RUN = compose(
    *("model=zephyr", "compute=cuda", "decoding.batch_size=64"),
    *("compute.score_batch=16", "compute.max_tokens=null"),
)
PLAN = memory(shapes.KNOWN[RUN.model.path], RUN, device="cuda")


def test_what_is_said_twice_so_that_the_plan_need_not_import_torch():
    assert PROMPT_TOKENS == decode.PROMPT_TOKENS
    assert PACKED == products.LEAST_PACKED


def test_to_sample_on_a_cpu_large_weights_lie_there_twice():
    shape = shapes.KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    plans = {
        words: memory(
            shape,
            compose("model=smollm2", "data=verifiable", "compute.device=cpu", *words),
            device="cpu",
        )
        for words in [(), ("compute.products=torch",), ("compute.dtype=bfloat16",)]
    }
    auto, torchs, bfloat16 = (plan.sampled for plan in plans.values())
    assert auto - torchs == 4 * (shape.linear + shape.head)
    assert bfloat16 < auto


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


def gigabytes(*words, **options):
    run = compose("model=zephyr", "compute=cuda", *words)
    return memory(shapes.KNOWN[RUN.model.path], run, device="cuda", **options)


def test_a_process_holds_all_weights_before_it_cuts_them_into_shards():
    """29 GB in float32: more than 8 processes hold of weights, gradients and state together."""
    m = gigabytes(gpus=8, sharding="fsdp2")
    shape = shapes.KNOWN[RUN.model.path]
    assert m.loading == 4 * shape.parameters
    assert m.weights + m.gradients + m.state == 3 * 4 * shape.parameters / 8 < m.loading
    assert m.training >= m.context + m.loading


def test_what_is_whole_under_shards_by_stage():
    """Of 218e6 weights a layer, 131e6 of a head and as many of an embedding in float32."""
    shape = shapes.KNOWN[RUN.model.path]
    three, two, one = (gigabytes(gpus=8, sharding="fsdp2", stage=stage) for stage in (3, 2, 1))
    layer = shape.linear / 32
    assert three.copies == two.copies == 0  # they are gathered in bfloat16
    assert three.gathered == 2 * (2 * layer + shape.head)
    assert two.gathered == one.gathered == 2 * (shape.linear + shape.head) + 4 * shape.head
    assert three.unreduced == two.unreduced == (2 + 4) * layer
    assert one.unreduced == two.unreduced + 4 * shape.parameters
    assert three.training < two.training < one.training < 80e9


def test_under_shards_adapters_are_whole_and_their_base_is_not():
    shape = shapes.KNOWN[RUN.model.path]
    m = gigabytes("lora=default", gpus=8, sharding="fsdp2")
    assert m.weights == 2 * shape.parameters / 8 + 4 * 41_943_040
    assert m.gradients == m.state == 4 * 41_943_040
    assert m.unreduced == 0


def test_a_training_state_passes_through_the_host():
    """8 processes, and weights and one number a weight in float32: 58 GB."""
    shape = shapes.KNOWN[RUN.model.path]
    run = compose("model=zephyr", "compute=cuda")
    assert host(shape, run, device="cuda", gpus=8) == 8 * PROCESS + 8 * shape.parameters
    never = compose("model=zephyr", "compute=cuda", "compute.save_seconds=1e9")
    assert host(shape, never, device="cuda", gpus=1) == PROCESS + 4 * shape.parameters
    m = memory(shape, run, device="cpu", gpus=2)
    assert host(shape, run, device="cpu", gpus=2) == 2 * m.peak


def test_an_overlapped_iteration_is_judged_beside_the_next_one():
    """By one more process, on a CPU that all of a run is alone on (Run.cannot_overlap)."""
    shape = shapes.KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    words = ("model=smollm2", "data=verifiable", "compute.device=cpu")
    run, overlapped = compose(*words), compose(*words, "compute.overlap=true")
    m = memory(shape, run, device="cpu")
    more = max(m.sampling, m.scoring)
    assert host(shape, run, device="cpu", gpus=1) == m.peak < m.peak + more
    assert host(shape, overlapped, device="cpu", gpus=1) == m.peak + more
    for device, gpus in [("cpu", 2), ("cuda", 1)]:
        alike = [host(shape, each, device=device, gpus=gpus) for each in (run, overlapped)]
        assert alike[0] == alike[1]
    vllm = compose(*words, "compute.overlap=true", "decoding.engine=vllm")
    assert host(shape, vllm, device="cpu", gpus=1) == m.peak
