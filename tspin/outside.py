"""Which questions.Source answers for a policy: decoding.engine's choice.

The only module that knows all of them. vLLM gets the machine's memory for itself: the policy here
is forgotten before it starts.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tspin import arithmetic, endpoint, model, vllm
from tspin.config import Run
from tspin.files import check_sums
from tspin.model import Policies
from tspin.questions import Source
from tspin.sampling import Native


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
                model.renderer(folder, template=cfg.model.template),
                arithmetic.facts(cfg.compute, cfg.optim.precision, cfg.model)["dtype"],
                vllm.devices(how, _visible(cfg.compute.device)),
                log,
            )
        case "openai":
            assert how.url is not None and how.url_model is not None  # config: rules
            return endpoint.Endpoint(
                how.url,
                how.url_model.replace("CHECKPOINT", str(folder.absolute())),
                model.renderer(folder, template=cfg.model.template),
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
