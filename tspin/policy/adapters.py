"""LoRA through peft: a frozen base and small trained matrices beside its linear layers.

A policy under model.lora is W + (alpha / rank) B A in every adapted layer, B = 0 at first: the
initial policy is the base, bit for bit. Its checkpoints hold A and B alone and name their base;
iteration t + 1 goes on from those of iteration t. `merge` makes the whole model of them.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tspin.config.run import LoraConfig
from tspin.policy.model_files import check_tensors, listed
from tspin.tools.files import digest, file_digest, read_json
from tspin.tools.log import first_line
from tspin.tools.seeds import seed_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INSTALL = "pip install -e '.[lora]'"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's own names
_PREFIX = "base_model.model."  # likewise, of every tensor in the file


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds adapters in place of a model."""
    return (folder / CONFIG).exists()


def base_of(folder: Path) -> Path:
    """The folder of the model that the adapters in `folder` belong to; `folder`, without adapters.

    Raises ValueError where it is neither on this disk nor in the hub's cache.
    """
    if not is_adapter(folder):
        return folder
    config = read_json(folder / CONFIG)
    name, revision = config["base_model_name_or_path"], config["revision"]
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not cached; no hub id
        raise ValueError(
            f"{folder} holds adapters of {name}, which is not here; put that model back, or write "
            f"where it is into {CONFIG} as base_model_name_or_path"
        ) from None


def adapters_digest(folder: Path, base: str) -> str:
    """What a policy of adapters IS, in hex: they, how they are scaled, and the base's digest."""
    config = read_json(folder / CONFIG)
    return digest([file_digest(folder / WEIGHTS), config["r"], config["lora_alpha"], base])


def add(model: PreTrainedModel, lora: LoraConfig, *, base: Path, dtype: torch.dtype) -> None:
    """Puts adapters at B = 0 into the model, in `dtype`, and freezes everything else.

    base  the folder that their checkpoints will name
    Raises ValueError for targets that the model has not, or that are its head or embeddings.
    """
    need()
    import peft

    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets == "all" else list(lora.targets),
        task_type="CAUSAL_LM",
    )
    _refuse_ends(model, lora)
    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if type(m) is nn.Linear}
    try:
        model.add_adapter(config)
    except ValueError as error:
        raise ValueError(
            f"model.lora.targets={lora.targets}: {str(error).split('. ')[0]} (linear layers of "
            f"{type(model).__name__}: {', '.join(sorted(linear))})"
        ) from None
    config.base_model_name_or_path, config.revision = _name(base)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def begin(model: PreTrainedModel, seed: int) -> None:
    """A drawn anew, a function of the seed and of nothing else; B stays 0."""
    from peft.tuners.lora import LoraLayer

    layers = (module for module in model.modules() if isinstance(module, LoraLayer))
    for number, layer in enumerate(layers):
        for linear in layer.lora_A.values():
            generator = torch.Generator().manual_seed(seed_for(seed, "lora", number))
            bound = linear.weight.shape[1] ** -0.5  # as torch and peft begin a linear layer
            drawn = torch.empty(linear.weight.shape).uniform_(-bound, bound, generator=generator)
            linear.weight.data.copy_(drawn)


def resume(model: PreTrainedModel, lora: LoraConfig, folder: Path) -> None:
    """The adapters of a checkpoint, into those that `add` made.

    Raises ValueError where they are of another shape, scale or place.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    config = read_json(folder / CONFIG)
    mine = model.peft_config["default"]
    for key, saved, wanted in [
        ("model.lora.rank", config["r"], lora.rank),
        ("model.lora.alpha", config["lora_alpha"], lora.alpha),
        ("model.lora.targets", sorted(config["target_modules"]), sorted(mine.target_modules)),
    ]:
        if saved != wanted:
            raise ValueError(
                f"{folder} has adapters with {key}={saved}, and this run {wanted}: they cannot go "
                f"on; set {key} as there, or merge them first (python -m tspin export)"
            )
    check_files(folder)
    _check_tensors(model, folder)
    tensors = {k.removeprefix(_PREFIX): v for k, v in load_file(folder / WEIGHTS).items()}
    set_peft_model_state_dict(model, tensors)


def compute_in(model: PreTrainedModel, autocast: torch.dtype | None) -> None:
    """Under autocast what goes into an adapter stays as it is: peft would widen it, and keep it."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = autocast is None


def attach(base: PreTrainedModel, folder: Path) -> None:
    """The adapters in `folder`, beside the weights of the base, as they are."""
    need()
    check_files(folder)
    with _in_one_line(folder):
        base.load_adapter(str(folder))
    _check_tensors(base, folder)


def merge(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The whole model: the base, with the adapters in `folder` added to its weights in place.

    The sum is rounded to the dtype of the base: float32 loses nothing that matters.
    """
    need()
    from peft import PeftModel

    check_files(folder)
    if getattr(base, "is_quantized", False):
        raise ValueError(
            f"{folder} holds adapters of a quantised base, and their sum would be rounded to its "
            "few bits; merge them by hand into the base that was not quantised"
        )
    with _in_one_line(folder):
        adapted = PeftModel.from_pretrained(base, folder)
    _check_tensors(adapted.base_model.model, folder)
    return adapted.merge_and_unload().requires_grad_(True)  # peft has frozen it


def check_files(folder: Path) -> None:
    """ValueError where adapters are not whole, or peft would read a pickle, which can run code."""
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} holds no {WEIGHTS}, the one kind of adapters that is read")
    check_tensors([folder / WEIGHTS])


def _check_tensors(model: nn.Module, folder: Path) -> None:
    """The file holds each matrix of the adapters that the model has now, and no other.

    Of what else peft may save (a head, an embedding) the model has a place for.
    """
    from safetensors import safe_open

    have = {_adapterless(name): tuple(value.shape) for name, value in model.state_dict().items()}
    with safe_open(folder / WEIGHTS, "pt") as file:
        stored = {_adapterless(k): tuple(file.get_slice(k).get_shape()) for k in file.keys()}
    faults = [
        ("it lacks", [name for name in have if "lora_" in name and name not in stored]),
        ("it has no place for", [name for name in stored if name not in have]),
        ("of another shape are", [n for n in stored if have.get(n, stored[n]) != stored[n]]),
    ]
    if any(names for _, names in faults):
        raise ValueError(
            f"{folder / WEIGHTS} does not hold the adapters that its {CONFIG} describes: "
            + "; ".join(f"{what} {listed(sorted(names))}" for what, names in faults if names)
        )


def _adapterless(name: str) -> str:
    """A tensor's name as peft writes it into a file, without the names of base and adapter."""
    name = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
    return name.replace(".default.", ".").removesuffix(".default")


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """What peft raises for adapters that fit nowhere, as a ValueError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} holds adapters that do not fit: {first_line(error)}") from None


def need() -> None:
    """ValueError where peft is missing."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"model.lora needs peft, which is not installed: {INSTALL}")
    # What the libraries below say of each other, and no user can mend.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # here an error
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


def _refuse_ends(model: PreTrainedModel, lora: LoraConfig) -> None:
    """Head and embedding are often one matrix, and read past the modules that peft replaces."""
    if lora.targets == "all":
        return
    for what, end in [
        ("head", model.get_output_embeddings()),
        ("embedding", model.get_input_embeddings()),
    ]:
        names = [name for name, module in model.named_modules() if module is end]
        for target in lora.targets:
            if any(f".{name}".endswith(f".{target}") for name in names):
                raise ValueError(
                    f"model.lora.targets names {target}, the {what} of {type(model).__name__}, "
                    "which stays as it is under LoRA; leave it out, or train all weights"
                )


def _name(base: Path) -> tuple[str, str | None]:
    """How a checkpoint names its base: OWNER/NAME and revision, or a folder of this disk."""
    cached = re.search(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$", base.as_posix())
    if cached:
        return f"{cached[1]}/{cached[2]}", cached[3]
    return str(base.absolute()), None
