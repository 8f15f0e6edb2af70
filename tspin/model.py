"""The policy: where its weights are, loading, the device it runs on, saving.

A policy is loaded from a folder (a checkpoint, a hub snapshot, or a GGUF file that is converted
once) and saved as a plain transformers folder, in the dtype in which it is held: float32, or
bfloat16 under optim.precision=bf16_stochastic.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tspin import attention, micro
from tspin.config import Attention, ComputeConfig, ModelConfig, Precision, arithmetic_dtype
from tspin.files import atomic, cache, file_digest, owner
from tspin.logps import Logps, Role, sequence_logps
from tspin.packed import Judge, Packed, packed
from tspin.packing import Layout
from tspin.tokens import Renderer
from tspin.triplets import Triplet, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("tspin")
HUB_SECONDS = 5.0  # an unreachable hub should be known now, not after the client's retries


@dataclass(frozen=True)
class Policy:
    """A language model, how its text becomes ids, and how it computes."""

    model: PreTrainedModel
    renderer: Renderer
    device: torch.device
    autocast: torch.dtype | None  # None: compute in the dtype of the weights
    attention: Attention  # how micro-batches are laid out

    @property
    def products(self) -> torch.dtype:
        """The dtype in which matrices are multiplied."""
        return self.autocast or self.model.dtype

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    @cached_property
    def packed(self) -> Packed | None:
        """The packed path; None where the plain one is chosen, or under `auto` has to do.

        Raises ValueError for a layout that was asked for and that the architecture cannot do.
        """
        if self.attention == "plain":
            return None
        found = packed(self.model, self.autocast, self.arithmetic)
        if isinstance(found, Packed):
            return found
        name = type(self.model).__name__
        if self.attention != "auto":
            raise ValueError(
                f"compute.attention={self.attention} does not work with {name}: {found}; use "
                "compute.attention=auto or plain"
            )
        _say_once(f"{name} is computed in padded rows (compute.attention=plain): {found}")
        return None

    def layout(self, triplets: Sequence[Triplet], roles: Sequence[Role]) -> Layout | None:
        """How these triplets are laid out, a function of their lengths; None: padded rows."""
        if self.packed is None:
            return None
        if self.attention == "shared" or self.attention == "separate":
            return self.attention
        return self.packed.cheaper(triplets, roles)

    def logps(self, triplets: Sequence[Triplet], roles: tuple[Role, ...]) -> Logps:
        """log pi(z | x) of the triplets' responses in one forward pass, by role."""
        layout = self.layout(triplets, roles)
        if self.packed is not None and layout is not None:
            return self.packed.logps(triplets, roles, layout)
        batch = collate(triplets, roles, pad_id=self.renderer.pad_id).to(self.device)
        with self.arithmetic():
            logps = sequence_logps(
                self.model, batch.input_ids, batch.attention_mask, batch.response_mask
            )
        return Logps(**dict(zip(roles, logps.chunk(len(roles)), strict=True)))

    def loss_sum(
        self, triplets: Sequence[Triplet], roles: tuple[Role, ...], judge: Judge
    ) -> Tensor:
        """The sum of the triplets' losses as `judge` finds them, ready for backward(). -> ()

        `judge` may be given the triplets in parts, in their order.
        """
        layout = self.layout(triplets, roles)
        if self.packed is not None and layout is not None:
            return self.packed.loss_sum(triplets, roles, layout, judge)
        return judge(triplets, self.logps(triplets, roles)).sum()

    def save(self, folder: Path) -> None:
        """A plain transformers folder: loads in transformers, vLLM, lm-eval."""
        with atomic(folder) as temporary:
            self.model.save_pretrained(temporary)
            self.renderer.tokenizer.save_pretrained(temporary)


def check_reachable(model: ModelConfig) -> None:
    """ValueError, within seconds and before anything is loaded, if the weights cannot be had."""
    if _local(model) is None and _cached(model) is None:
        _ask_hub(model)


def fetch(model: ModelConfig) -> Path:
    """The folder with the model's weights and tokenizer; downloads or builds them if it must."""
    local = _local(model)
    if local is not None:
        if not local.exists():
            _build_open(local)
        return _convert(local) if local.suffix == ".gguf" else local
    cached = _cached(model)
    if cached is not None:
        return cached
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model.path, revision=model.revision, ignore_patterns=_UNUSED))


def weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"model.path={folder} holds no *.safetensors")
    return files


def weight_digest(folder: Path) -> str:
    """sha256 of the weight files, in hex: what a policy IS, whatever it is called."""
    return file_digest(*weight_files(folder))


@dataclass(frozen=True)
class Arithmetic:
    """Where to compute, the dtype of the weights, and that of the products."""

    device: torch.device
    weights: torch.dtype
    products: torch.dtype

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.products == self.weights else self.products


def arithmetic(compute: ComputeConfig, precision: Precision) -> Arithmetic:
    """What compute.device, compute.dtype and optim.precision come to on this machine.

    Raises ValueError for a device that is not there.
    """
    name = compute.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"compute.device={name}, but torch finds no CUDA device; use cpu or auto")
    dtype = arithmetic_dtype(compute, precision)
    if dtype == "auto":
        dtype = "bfloat16" if name.startswith("cuda") else "float32"
    products = getattr(torch, dtype)
    weights = torch.float32 if dtype == "bfloat16" else products
    return Arithmetic(
        torch.device(name), products if precision == "bf16_stochastic" else weights, products
    )


def arithmetic_facts(compute: ComputeConfig, precision: Precision) -> dict[str, Any]:
    """What computes there, for the record of a run. compute.attention=auto may yet be plain."""
    found = arithmetic(compute, precision)
    return {
        "device": found.device.type,
        "weights": _word(found.weights),
        "dtype": _word(found.products),
        "attention": compute.attention,
        "kernel": attention.kernel(found.device, found.products),
    }


def sampling_key(compute: ComputeConfig, precision: Precision) -> list[str]:
    """What of the arithmetic decides samples, as part of their key."""
    found = arithmetic(compute, precision)
    key = [found.device.type, str(found.autocast or arithmetic_dtype(compute, precision))]
    # Said only where it is not float32: keys of folders that are there stay what they are.
    return [*key, "bfloat16 weights"] if found.weights == torch.bfloat16 else key


def load(folder: Path, *, template: str, compute: ComputeConfig, precision: Precision) -> Policy:
    """The policy in `folder`, in evaluation mode, without dropout."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    _quiet()
    how = arithmetic(compute, precision)
    config = AutoConfig.from_pretrained(folder)
    for name in vars(config):
        if "dropout" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=how.weights)
    model.to(how.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    renderer = Renderer(tokenizer, template)
    model.generation_config = GenerationConfig(
        eos_token_id=renderer.stop_ids,
        pad_token_id=renderer.pad_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    if compute.gradient_checkpointing:
        # The name changes during transformers 5.
        old = "gradient_checkpointing_enable"
        enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, old)
        enable({"use_reentrant": False})
    model.eval()  # train() alone turns training mode on, for checkpointing
    policy = Policy(model, renderer, how.device, how.autocast, compute.attention)
    _ = policy.packed  # an architecture that cannot do what was asked for is known now
    return policy


class Policies:
    """Loads policies by folder and keeps the last one: stages that follow share it."""

    def __init__(self, read: Callable[[Path], Policy]) -> None:
        self._read = read
        self._folder: Path | None = None
        self._policy: Policy | None = None

    def __call__(self, folder: Path) -> Policy:
        if self._policy is None or self._folder != folder:
            self._policy = None  # never two in memory
            self._policy, self._folder = self._read(folder), folder
        return self._policy

    def forget(self) -> None:
        """The policy in memory no longer is what any folder holds, or its memory is needed."""
        self._policy = None
        if torch.cuda.is_available():
            gc.collect()  # modules and their hooks hold each other
            torch.cuda.empty_cache()  # else another process could not have it

    def hold(self, policy: Policy, folder: Path) -> None:
        """`policy` has been saved to `folder` and need not be loaded from there."""
        self._policy, self._folder = policy, folder


_UNUSED = ["*.bin", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]


def _local(model: ModelConfig) -> Path | None:
    """The folder or GGUF file on this disk, or None for a hub id.

    Policies of micro_open may not be there yet: `fetch` builds them.
    """
    task, colon, which = model.path.partition(":")
    if colon and task in micro.POLICIES:
        return micro.folder(which, task)
    path = Path(model.path).expanduser()
    if path.exists():
        return path
    if model.package and (spec := importlib.util.find_spec(model.package)) and spec.origin:
        return next(iter(Path(spec.origin).parent.glob("*.gguf")), None)
    if model.path.count("/") != 1 or model.path.startswith(("/", ".", "~")):
        raise ValueError(f"model.path={model.path}: no such folder, and not a hub id OWNER/NAME")
    return None


def _cached(model: ModelConfig) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            model.path, revision=model.revision, local_files_only=True, ignore_patterns=_UNUSED
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if any(Path(folder).glob("*.safetensors")) else None


def _ask_hub(model: ModelConfig) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(model.path, revision=model.revision, timeout=HUB_SECONDS)
    except Exception as error:  # the HTTP client, and with it its errors, changes by version
        reason = str(error).strip().split("\n", 1)[0]
        package = f" or install the package {model.package}" if model.package else ""
        raise ValueError(
            f"the model {model.path} is neither in reach on the hub ({reason}) nor in the local "
            f"cache; give a local folder with model.path=FOLDER{package}"
        ) from None


def _build_open(folder: Path) -> None:
    """The policies of micro_open, made once and kept in the cache."""
    from tspin.micro import open_build

    log.info(
        "building the policies of micro_open in %s (once, about %d minutes on one core)",
        folder.parent,
        open_build.MINUTES,
    )
    open_build.build(folder.parent)


def _convert(gguf: Path) -> Path:
    """A GGUF file as a transformers folder of float32 safetensors, made once per file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = cache()
    folder = root / f"{gguf.stem}-{file_digest(gguf)[:12]}"
    with owner(root, wait=True):
        if folder.exists():
            return folder
        log.info("converting %s to safetensors in %s (once, about a minute)", gguf.name, folder)
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # A model loaded from GGUF refuses to be saved: its weights go into one that was not.
        config = quantized.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantized.state_dict())
        with atomic(folder) as temporary:
            model.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(**source).save_pretrained(temporary)
    return folder


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@lru_cache
def _say_once(sentence: str) -> None:
    log.info("%s", sentence)


def _quiet() -> None:
    """Stages have progress bars of their own; reading and writing weights needs none."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
