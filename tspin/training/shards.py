"""Files of a policy whose weights lie in shards (FSDP2): its checkpoint and its training state.

A checkpoint is what transformers writes, tensor by tensor put together on the process that writes
it: no process ever holds the model. Training state is torch's distributed checkpoint, which any
number of processes reads, one alone too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from tspin.distributed.world import World
from tspin.policy.policy import Policy
from tspin.tools.files import check_sums, sums, write_sums
from tspin.training.optimizer import Optimizer
from tspin.training.train_state import STEP, restore, weights

FILE_SIZE = 5 * 10**9  # bytes of a file of weights; a tensor is never cut


def check(policy: Policy) -> None:
    """ValueError for a model whose checkpoint has other tensors than it holds in memory."""
    from transformers.core_model_loading import revert_weight_conversion

    names = {name: tensor.to("meta") for name, tensor in policy.model.state_dict().items()}
    if revert_weight_conversion(policy.model, dict(names)).keys() != names.keys():
        raise ValueError(
            f"{type(policy.model).__name__} is stored as other tensors than it computes with, "
            "which compute=fsdp2 cannot write; use compute=ddp"
        )


def save_checkpoint(policy: Policy, world: World, folder: Path) -> None:
    """Policy.save from shards: files of at most FILE_SIZE, written by the processes in turn."""
    from huggingface_hub import split_state_dict_into_shards_factory
    from torch.distributed.tensor import DTensor

    tensors = _stored(policy)
    cut = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.numel() * tensor.element_size(),
        get_storage_id=lambda tensor: None,
        filename_pattern=SAFE_WEIGHTS_NAME.replace(".", "{suffix}."),
        max_shard_size=FILE_SIZE,
    )
    files = {name: i % world.size for i, name in enumerate(sorted(cut.filename_to_tensors))}
    mine: dict[str, dict[str, Tensor]] = {
        name: {} for name, rank in files.items() if rank == world.rank
    }
    with world.atomic(folder) as temporary:
        for name, tensor in tensors.items():
            # Put together by all processes, which forget it at once.
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            file = cut.tensor_to_filename[name]
            if file in mine:
                mine[file][name] = whole.cpu().contiguous()
        for file, held in mine.items():
            save_file(held, temporary / file, metadata={"format": "pt"})
        if world.is_main:
            _describe(policy, temporary)
            if cut.is_sharded:
                index = {"metadata": cut.metadata, "weight_map": cut.tensor_to_filename}
                (temporary / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2))
        world.barrier()
        others = {file.name for file in temporary.iterdir() if file.is_file()} - files.keys()
        _write_sums(temporary, [*mine, *others] if world.is_main else mine, world)


def save_state(path: Path, tensors: Mapping[str, Tensor], next_step: int, world: World) -> None:
    """Each process its own part of state.state's tensors."""
    with world.atomic(path) as temporary:
        dcp.save(
            {**tensors, STEP: torch.tensor(next_step)},
            storage_writer=dcp.FileSystemWriter(temporary),
            process_group=world.control,
        )
        # Each the files that it wrote, and the main process what is nobody's: the index.
        own = f"__{world.rank}_"
        mine = [
            file.name
            for file in temporary.iterdir()
            if file.name.startswith(own) or (world.is_main and not file.name.startswith("__"))
        ]
        _write_sums(temporary, mine, world)


def load_state(path: Path, policy: Policy, optimizer: Optimizer, world: World) -> int:
    """The inverse of save_state, in place, on any number of processes. -> the next step

    Raises ValueError for a folder whose files are not those that were written.
    """
    check_sums(path, world.rank, world.size)
    weight_of, tensors = weights(policy), {}
    reader = dcp.FileSystemReader(path)
    for name, about in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        dtype = about.properties.dtype
        if name != STEP and weight_of(name).shape == about.size:
            # A shard, as the weight is.
            tensors[name] = torch.empty_like(weight_of(name), dtype=dtype)
        else:
            tensors[name] = torch.empty(about.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is ")  # not there: one process
        dcp.load(tensors, storage_reader=reader, process_group=world.control)
    next_step = int(tensors.pop(STEP))
    restore(policy, optimizer, tensors.items())
    return next_step


def _write_sums(folder: Path, mine: Iterable[str], world: World) -> None:
    """Digests of a folder's files, of which each process reads its own. mine: names"""
    parts = world.gather(sums(folder / name for name in mine))
    if world.is_main:
        write_sums(folder, {name: sha for part in parts for name, sha in part.items()})


def _stored(policy: Policy) -> dict[str, Tensor]:
    """What a checkpoint holds, in the model's order: tied weights once."""
    ignored = set(policy.model._keys_to_ignore_on_save or ())
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in policy.model.state_dict(keep_vars=True).items():
        if name not in ignored and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def _describe(policy: Policy, folder: Path) -> None:
    """The other files of save_pretrained."""
    model = policy.model
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    policy.renderer.tokenizer.save_pretrained(folder)
