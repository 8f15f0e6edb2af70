"""Which requests.Engine samples from a policy: decoding.engine's choice.

The only module that knows all of them. vLLM gets the machine's memory for itself: the policy here
is forgotten before it starts.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch

from tspin.config.run import Run
from tspin.data.templates import Rendering
from tspin.policy import adapters, dtypes, policy
from tspin.policy.policy import Policies
from tspin.sampling import vllm
from tspin.sampling.native import Native
from tspin.sampling.requests import Engine


def check(cfg: Run) -> None:
    """ValueError, within seconds, for an engine that is not there."""
    if cfg.decoding.engine == "vllm":
        vllm.check(cfg.decoding)
        vllm.devices(cfg.decoding, _visible(cfg.compute.device))


def engine_of(folder: Path, policies: Policies, cfg: Run, *, log: Path) -> Engine:
    """What samples from the policy in `folder`. log: file for what another process says"""
    how = cfg.decoding
    if how.engine != "vllm":
        return Native(policies.to_infer(folder))
    policies.check(folder)  # of the native engine when the policy is loaded
    policies.forget()
    dtype = dtypes.facts(cfg.compute, cfg.optim.precision, cfg.model)["dtype"]
    merge = None
    if adapters.is_adapter(folder):
        merge = partial(policy.write, folder, dtype=getattr(torch, dtype))
    return vllm.VLLM(
        folder,
        policy.renderer(folder, template=Rendering.of(cfg)),
        dtype,
        vllm.devices(how, _visible(cfg.compute.device)),
        log,
        merge,
    )


def _visible(device: str) -> list[str]:
    """The CUDA devices that compute.device means, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or not torch.cuda.is_available():
        return []
    names = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    _, colon, index = device.partition(":")
    return [names[int(index)]] if colon else names
