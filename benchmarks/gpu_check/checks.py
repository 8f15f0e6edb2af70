"""Which checks there are, most important first, and the seconds that each may take. No torch."""

from __future__ import annotations

from benchmarks.gpu_check.runner import Check


def _check(name: str, function: str, seconds: float) -> Check:
    """function: MODULE:NAME of this package"""
    return Check(name, f"{__package__}.{function}", seconds)


CHECKS = (
    _check("versions", "versions:versions", 30),
    _check("kernels", "kernels:kernels", 45),
    _check("accuracy", "accuracy:accuracy", 60),
    _check("first margin", "accuracy:margins", 35),
    _check("training step", "step:as_configured", 80),
    _check("step without checkpointing", "step:without_checkpointing", 60),
    _check("sampling 64 x 1792", "engine:long_prompts", 45),
    _check("sampling 256 x 400", "engine:many_prompts", 50),
    _check("out of memory", "memory:memory", 40),
    _check("one rank", "ranks:ranks", 35),
    _check("adapters", "adapters:lora", 50),
    _check("kill and resume", "resume:resume", 100),
    _check("vLLM", "vllm:vllm", 90),
    _check("compile", "compiled:compiled", 60),
)
