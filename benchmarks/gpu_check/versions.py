"""Which card, driver and libraries the other lines belong to."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from importlib import metadata

import torch

from benchmarks.gpu_check.results import Figure, Outcome, Skip, measured, verdict
from benchmarks.gpu_check.setting import Setting
from tspin import __version__
from tspin.logprobs import attention, fused_head

LIBRARIES = {  # module -> distribution
    **{name: name for name in ("transformers", "accelerate", "peft", "bitsandbytes", "triton")},
    **{"vllm": "vllm", "liger_kernel": "liger-kernel"},
}
QUERY = "driver_version,power.limit,clocks.max.sm"


def device(setting: Setting) -> Iterator[Outcome]:
    """The probe: is there a card that the checks can use?"""
    if not torch.cuda.is_available():
        raise Skip(f"torch {torch.__version__} finds no CUDA device")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        raise Skip(f"{torch.cuda.get_device_name()} has capability {major}.{minor}")
    yield Outcome("device", "pass")


def versions(setting: Setting) -> Iterator[Outcome]:
    facts: dict[str, Figure] = {"tspin": __version__, "torch": torch.__version__}
    for module, name in LIBRARIES.items():
        there = importlib.util.find_spec(module) is not None
        facts[name] = metadata.version(name) if there else "not installed"
    yield measured("libraries", facts)
    device = torch.device(setting.device)
    chosen: dict[str, Figure] = {
        "attention": attention.kernel(device, *[torch.bfloat16] * 3),
        "products in float32": str(fused_head.wide_products(device, torch.bfloat16)),
    }
    if setting.tiny:
        yield measured("device", chosen)
        return
    card = torch.cuda.get_device_properties(0)
    cudnn = torch.backends.cudnn.version()
    yield verdict(
        "device",
        torch.cuda.is_bf16_supported(),
        {
            "card": card.name,
            "capability": f"{card.major}.{card.minor}",
            "memory GB": card.total_memory / 1e9,
            "free GB": torch.cuda.mem_get_info()[0] / 1e9,
            "cuda": torch.version.cuda,
            "cudnn": cudnn,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            QUERY: _driver(),
            **chosen,
        },
        rule="the card does not multiply in bfloat16",
    )


def _driver() -> str:
    """What nvidia-smi says of the first card; it is only asked."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip() or "unknown"
