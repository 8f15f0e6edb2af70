"""Which checks there are, most important first, and the seconds that each may take. No torch."""

from __future__ import annotations

from benchmarks.gpu_check.runner import Check

CHECKS = (
    Check("versions", "versions:versions", 40),
    Check("kernels", "kernels:kernels", 60),
    Check("accuracy", "accuracy:accuracy", 90),
    Check("first margin", "accuracy:margins", 50),
    Check("training step", "step:as_configured", 100),
    Check("step without checkpointing", "step:without_checkpointing", 80),
    Check("sampling 64 x 1792", "engine:long_prompts", 70),
    Check("sampling 256 x 400", "engine:many_prompts", 70),
    Check("out of memory", "memory:memory", 60),
    Check("one rank", "ranks:ranks", 50),
    Check("adapters", "adapters:lora", 90),
    Check("kill and resume", "resume:resume", 90),
    Check("vLLM", "vllm:vllm", 120),
    Check("compile", "compiled:compiled", 90),
)
