"""Where weights come from: a folder, a snapshot of the hub, a GGUF file converted once."""

from __future__ import annotations

import importlib.util
import logging
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from tspin import micro
from tspin.config.run import ModelConfig
from tspin.policy import adapters
from tspin.policy.loading import strictly
from tspin.policy.model_files import check_gguf, is_hub_id, no_such, no_weights, weight_files
from tspin.tools import hub
from tspin.tools.files import atomic, cache, file_digest, owner
from tspin.tools.log import first_line

log = logging.getLogger("tspin")
_UNUSED = ["*.bin", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]


def check_reachable(model: ModelConfig) -> None:
    """ValueError, within seconds and before anything is loaded, if the weights cannot be had."""
    if model.lora is not None:
        adapters.need()
        if adapters.is_adapter(Path(model.path).expanduser()):
            raise ValueError(
                f"model.path={model.path} holds adapters, and new ones would have no base: merge "
                "them first (python -m tspin export), or go on from them (selfplay.start_from)"
            )
    local = _local(model)
    if local is not None and local.suffix == ".gguf":
        check_gguf(local)
    if local is None and _cached(model) is None:
        _ask_hub(model)


def on_disk(model: ModelConfig) -> Path | None:
    """The folder that `fetch` would return, where nothing is left to download, build or convert."""
    local = _local(model)
    if local is None:
        return _cached(model)
    return local if local.exists() and local.suffix != ".gguf" else None


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


def weight_digest(folder: Path) -> str:
    """sha256 of the weight files, in hex: what a policy IS, whatever it is called.

    Of adapters that of them and of their base. Raises ValueError where weights are of another
    kind: pickles, which can run code when they are read.
    """
    if adapters.is_adapter(folder):
        return adapters.adapters_digest(folder, weight_digest(adapters.base_of(folder)))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(no_weights(folder))
    return file_digest(*files)


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
    if not is_hub_id(model.path):
        raise ValueError(no_such(model.path))
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
    try:
        weight_files(Path(folder))
    except ValueError:  # a part of it, or another kind: the hub may have the rest
        return None
    return Path(folder)


def _ask_hub(model: ModelConfig) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(model.path, revision=model.revision, timeout=hub.SECONDS)
    except Exception as error:  # the HTTP client, and with it its errors, changes by version
        package = f" or install the package {model.package}" if model.package else ""
        raise ValueError(
            f"the model {model.path} is neither in reach on the hub ({first_line(error)}) nor in "
            f"the local cache; give a local folder with model.path=FOLDER{package}"
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

    check_gguf(gguf)
    root = cache()
    folder = root / f"{gguf.stem}-{file_digest(gguf)[:12]}"
    with owner(root, wait=True):
        if folder.exists():
            return folder
        log.info("converting %s to safetensors in %s (once, about a minute)", gguf.name, folder)
        try:
            with redirect_stderr(StringIO()):  # a bar that no setting of the library's turns off
                quantized = strictly(
                    gguf.parent, source=gguf, gguf_file=gguf.name, dtype=torch.float32
                )
                tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except Exception as error:  # the reader's own, and those of each architecture
            raise ValueError(f"{gguf} cannot be converted ({first_line(error)})") from None
        # A model loaded from GGUF refuses to be saved: its weights go into one that was not.
        config = quantized.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantized.state_dict())
        with atomic(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return folder
