"""Which questions.Source answers for a policy: decoding.engine's choice.

The only module that knows all of them. vLLM gets the machine's memory for itself: the policy here
is forgotten before it starts.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tspin.config.run import Run
from tspin.policy import dtypes, policy
from tspin.policy.policy import Policies
from tspin.sampling import openai, vllm
from tspin.sampling.native import Native
from tspin.sampling.requests import Source
from tspin.tools.files import check_sums


def check(cfg: Run) -> None:
    """ValueError, within seconds, for an engine that is not there. An endpoint may come later."""
    if cfg.decoding.engine == "vllm":
        vllm.check(cfg.decoding)
        vllm.devices(cfg.decoding, _visible(cfg.compute.device))


def source(folder: Path, policies: Policies, cfg: Run, *, log: Path) -> Source:
    """What answers for the policy in `folder`. log: file for what another process says"""
    how = cfg.decoding
    if cfg.outside:
        check_sums(folder)  # of the native engine when the policy is loaded
    match how.engine:
        case "vllm":
            policies.forget()
            return vllm.VLLM(
                folder,
                policy.renderer(folder, template=cfg.model.template),
                dtypes.facts(cfg.compute, cfg.optim.precision, cfg.model)["dtype"],
                vllm.devices(how, _visible(cfg.compute.device)),
                log,
            )
        case "openai":
            assert how.url is not None and how.url_model is not None  # config: rules
            return openai.Endpoint(
                how.url,
                how.url_model.replace("CHECKPOINT", str(folder.absolute())),
                policy.renderer(folder, template=cfg.model.template),
            )
        case _:
            return Native(policies(folder))


def _visible(device: str) -> list[str]:
    """The CUDA devices that compute.device means, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or not torch.cuda.is_available():
        return []
    found = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    _, colon, index = device.partition(":")
    return [found[int(index)]] if colon else found
