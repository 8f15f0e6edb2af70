"""The state of a training: trained weights, optimiser tensors, the next step, in one file.

shards.py has the same for weights that lie in shards, in files of another kind; a run may go on
from either, on any number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tspin.policy.policy import Policy
from tspin.tools.files import atomic, damaged
from tspin.training.optimizer import Optimizer, trained

STEP, VALUES = "next_step", "sha256"


def save_state(path: Path, policy: Policy, optimizer: Optimizer, next_step: int) -> None:
    """Trained weights, optimiser tensors and the next step as one safetensors file."""
    tensors = {name: t.contiguous() for name, t in state(policy, optimizer).items()}
    facts = {STEP: str(next_step), VALUES: _digest(tensors, tensors.__getitem__, next_step)}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata=facts)


def load_state(path: Path, policy: Policy, optimizer: Optimizer, *, shards: bool = False) -> int:
    """The inverse of save_state, in place. -> the next step

    shards  whether weights lie in shards here; then all processes call this
    Raises ValueError for a file whose values are not those that were written.
    """
    weight_of = weights(policy)
    opened, facts = _open(path)
    with opened as file:
        # A state of an older version has no digest.
        digest = _digest(file.keys(), file.get_tensor, int(facts[STEP]))
        if facts.get(VALUES) not in (None, digest):
            raise damaged(path, "its values are not those that were written")
        tensors = ((name, file.get_tensor(name)) for name in file.keys())
        if shards:
            tensors = ((name, _own_shard(tensor, weight_of(name))) for name, tensor in tensors)
        restore(policy, optimizer, tensors)
    return int(facts[STEP])


def next_step(path: Path) -> int:
    """What a file of save_state says."""
    return int(_open(path)[1][STEP])


def state(policy: Policy, optimizer: Optimizer) -> dict[str, Tensor]:
    """model/NAME and optimizer/NUMBER/KEY: all but the step."""
    tensors = {f"model/{name}": p.detach() for name, p in trained(policy)}
    for index, held in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in held.items()}
    return tensors


def weights(policy: Policy) -> Callable[[str], Tensor]:
    """The weight that a tensor of `state` is, or is about, by the tensor's name."""
    by_name = dict(trained(policy))
    by_number = list(by_name.values())

    def weight_of(name: str) -> Tensor:
        kind, _, rest = name.partition("/")
        return by_name[rest] if kind == "model" else by_number[int(rest.partition("/")[0])]

    return weight_of


def restore(policy: Policy, optimizer: Optimizer, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Puts what `state` took back in its place, one tensor after another."""
    held: dict[int, dict[str, Tensor]] = {}
    weight_of = weights(policy)
    for name, tensor in tensors:
        kind, _, rest = name.partition("/")
        if kind == "model":
            with torch.no_grad():
                weight_of(name).copy_(tensor)
        else:
            index, _, key = rest.partition("/")
            held.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": held})


def _open(path: Path) -> tuple[Any, dict[str, str]]:
    """The file and what it says of itself."""
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise damaged(path, error) from None
    facts = file.metadata() or {}
    if not facts.get(STEP, "").isdecimal():
        raise damaged(path, f"it has no {STEP}")
    return file, facts


def _digest(names: Iterable[str], tensor_of: Callable[[str], Tensor], next_step: int) -> str:
    """sha256, in hex, of the step and of names, types, shapes and values, one tensor at a time."""
    sha = hashlib.sha256(str(next_step).encode())
    for name in sorted(names):
        tensor = tensor_of(name)
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _own_shard(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, as this process's part of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
