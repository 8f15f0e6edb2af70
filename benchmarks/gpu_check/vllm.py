"""decoding.engine=vllm on the embedded model: greedy, beside our own decoding."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.gpu_check.models import timed
from benchmarks.gpu_check.results import Outcome, Skip, verdict
from benchmarks.gpu_check.setting import Setting
from tspin import micro
from tspin.data.templates import Conversation, Rendering
from tspin.micro import task
from tspin.policy import policy
from tspin.policy.policy import Policies
from tspin.sampling import engines
from tspin.sampling.native import Native
from tspin.sampling.requests import Engine, Request

PROMPTS = 64
LEAST = 0.9  # of the responses are equal: bfloat16 may turn a near tie


def vllm(setting: Setting) -> Iterator[Outcome]:
    python = "null" if setting.vllm_python is None else setting.vllm_python
    run = setting.run(
        *("model=micro", "decoding.engine=vllm", f"decoding.vllm_python={python}"),
        *("decoding.gpu_memory=0.3", "decoding.vllm_args={enforce_eager: true}"),
    )
    try:
        engines.check(run)
    except ValueError as error:
        raise Skip(str(error)) from None
    folder = micro.folder("warm")
    read = partial(
        policy.load,
        template=Rendering.of(run),
        compute=run.compute,
        precision=run.optim.precision,
    )
    policies = Policies(read, check=lambda folder: None)
    renderer = policy.renderer(folder, template=Rendering.of(run))
    texts = [prompt for prompt, _ in task.pairs("validation", PROMPTS, 0)]
    requests = [Request(renderer.prompt_ids(Conversation(text)), None, 1.0) for text in texts]

    def respond(engine: Engine) -> list[list[int]]:
        ((_, responses),) = engine.respond([(0, requests)], run.decoding, done=lambda count: None)
        return responses

    # vLLM first, while this process holds nothing of the card.
    engine = engines.engine_of(folder, policies, run, log=setting.folder / "engine.log")
    theirs: list[list[int]] = []
    seconds = timed(setting, lambda: theirs.extend(respond(engine)))
    ours = respond(Native(policies.to_infer(folder)))
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    yield verdict(
        "greedy responses",
        equal >= LEAST * PROMPTS,
        {
            "equal": f"{equal} of {PROMPTS}",
            "seconds with its start": seconds,
            "engine": str(engine.facts.get("engine")),
        },
        rule=f"{LEAST:.0%} of them are to be those of our own decoding",
    )
