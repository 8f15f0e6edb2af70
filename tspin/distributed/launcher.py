"""What a launcher (torchrun, `accelerate launch`) and its configuration ask for; what is refused.

Read from the environment it sets. No torch until devices are counted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

from tspin.config.run import ComputeConfig, OptimConfig, Quantize

Parallel = Literal["ddp", "fsdp2"]


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, number of processes) as a launcher set them; (0, 1) where there was none."""
    return int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))


def chosen(
    compute: ComputeConfig,
    optim: OptimConfig,
    environment: Mapping[str, str],
    *,
    quantize: Quantize | None,
) -> Parallel:
    """How the processes train: compute.parallel, or what accelerate's own configuration says.

    Raises ValueError where the two differ, and for what of either cannot be done.
    """
    by_accelerate = _accelerate_shards(environment)
    if by_accelerate and compute.parallel not in ("auto", "fsdp2"):
        raise ValueError(
            f"compute.parallel={compute.parallel} contradicts accelerate's configuration, which "
            "says fsdp2 (ACCELERATE_USE_FSDP); leave one of them out"
        )
    parallel: Parallel = "fsdp2" if by_accelerate or compute.parallel == "fsdp2" else "ddp"
    if parallel == "fsdp2" and (reason := whole(optim, quantize)) is not None:
        raise ValueError(f"{reason} and knows no compute=fsdp2; use compute=ddp")
    mixed = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed not in ("no", "bf16") or (
        mixed == "bf16" and compute.dtype not in ("auto", "bfloat16")
    ):
        raise ValueError(
            f"accelerate's mixed_precision={mixed} contradicts compute.dtype={compute.dtype}: the "
            "arithmetic is chosen by compute.dtype and optim.precision; use mixed_precision: 'no'"
        )
    return parallel


def whole(optim: OptimConfig, quantize: Quantize | None) -> str | None:
    """Why weights cannot be cut into shards; None: they can."""
    if optim.precision == "bf16_stochastic":
        return "optim.precision=bf16_stochastic rounds whole matrices"
    if quantize is not None:
        return f"model.quantize={quantize} packs whole matrices, with their scales beside them,"
    return None


def _accelerate_shards(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` was configured for FSDP2; ValueError for what it knows more."""

    def on(name: str) -> bool:
        return environment.get(name, "false").lower() in ("true", "1", "yes")

    if on("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError(
            "accelerate's configuration asks for DeepSpeed (ACCELERATE_USE_DEEPSPEED), which is "
            "not supported; use FSDP with fsdp_version: 2, which shards the same"
        )
    if not on("ACCELERATE_USE_FSDP"):
        return False
    version = environment.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(
            f"accelerate's configuration says fsdp_version={version}, which torch gives up; use "
            "fsdp_version: 2"
        )
    if on("FSDP_OFFLOAD_PARAMS"):
        raise ValueError(
            "accelerate's fsdp_offload_params=true is not there yet; use more processes, or "
            "fsdp_offload_params: false"
        )
    return True


def check_devices(compute: ComputeConfig) -> None:
    """ValueError for a device that several processes cannot each have."""
    import torch

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ":" in compute.device:
        raise ValueError(
            f"compute.device={compute.device} is one device for {processes} processes: use cuda, "
            "where each takes its own"
        )
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if compute.device != "cpu" and devices and processes > devices:
        raise ValueError(
            f"{processes} processes on a machine with {devices} CUDA devices: start {devices} "
            f"(--nproc_per_node={devices}), or use compute.device=cpu"
        )
