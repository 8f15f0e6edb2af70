"""Weights and tokenizers from a folder: all of what it holds, and nothing that it does not.

transformers draws tensors that a file lacks at random, and drops those that the configuration has
no place for; here either ends the run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tspin.config.run import Quantize
from tspin.policy import finite, model_files, quantization
from tspin.policy.dtypes import MixedPrecision
from tspin.policy.model_files import CONFIG, VOCABULARIES, listed
from tspin.tools.log import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Constants that older files hold beside the weights and models compute themselves: masks, angles.
_CONSTANTS = re.compile(
    r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias|position_ids)$"
)


def read_model(
    folder: Path, dtype: torch.dtype, how: MixedPrecision, quantize: Quantize | None
) -> PreTrainedModel:
    """The model in `folder` on its device, without dropout.

    Another device than the CPU gets tensor by tensor what is read: the host's memory, which all
    processes of a machine share, never holds a model.
    Raises ValueError where a file is not whole, where the tensors are not those of config.json, or
    where one of them is not finite.
    """
    model_files.check(folder)
    config = read_config(folder)
    for name in vars(config):
        if "dropout" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "use_safetensors": True}
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        # Scaled dot products know no soft-cap, and transformers before 5.23 leaves it out in them.
        options["attn_implementation"] = "eager"
    packed = quantize is not None or quantization.method(config.to_dict()) is not None
    if packed or how.device.type != "cpu":
        options["device_map"] = {"": with_index(how.device)}
    if quantize is not None:
        options["quantization_config"] = quantization.base_config(quantize, how.products)
    model = strictly(folder, **options)
    finite.check_weights(model, folder)
    return model


def with_index(device: torch.device) -> torch.device:
    """cuda as this process's own card, cuda:N.

    transformers reads in threads, and in a new thread cuda is the machine's first card.
    """
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def strictly(folder: Path, *, source: Path | None = None, **options: Any) -> PreTrainedModel:
    """AutoModelForCausalLM.from_pretrained, with ValueError for tensors too few, many or misshapen.

    source  what errors name, where it is not the folder
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    # Of reading, and of saving later: stages have progress bars of their own.
    transformers_logging.disable_progress_bar()
    source = source or folder
    with _without_report() as reports:
        try:  # mismatches are let through for `_check_tensors` to say
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, **options, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except RuntimeError as error:  # tensors that it puts together from several do not fit
            names = re.findall(r"^(\S+) *\|.*CONVERSION", "".join(reports), re.MULTILINE)
            if not names:
                raise
            raise ValueError(f"{_unlike(source)} {listed(names)} cannot be made of it") from error
    _check_tensors(info, source)
    return model


def read_config(folder: Path) -> PretrainedConfig:
    """config.json as transformers has it. ValueError for what it cannot make sense of."""
    from transformers import AutoConfig

    model_files.config(folder)
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # whatever a class of configurations raises
        raise ValueError(
            f"{folder / CONFIG} is of no model that transformers knows ({one_line(error)})"
        ) from None


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. ValueError names the file that is missing or broken."""
    from transformers import AutoTokenizer

    names = [path.name for path in model_files.tokenizer_files(folder)]
    if not any(name.startswith(VOCABULARIES) for name in names):  # else one may be made up
        beside = f" (but {listed(names)})" if names else ""
        raise ValueError(
            f"{folder} holds no tokenizer{beside}: copy tokenizer.json, or tokenizer.model, there"
        )
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever a class of tokenizers raises
        raise ValueError(
            f"{folder} holds no tokenizer that can be read ({', '.join(names)}): {one_line(error)}"
        ) from None


def _check_tensors(info: Mapping[str, Any], source: Path) -> None:
    """info: of from_pretrained(output_loading_info=True); tied heads are no part of it"""
    unexpected = {name for name in info["unexpected_keys"] if not _CONSTANTS.search(name)}
    faults = []
    if info["missing_keys"]:
        faults.append(f"it lacks {listed(sorted(info['missing_keys']))}")
    if unexpected:
        faults.append(f"it has no place for {listed(sorted(unexpected))}")
    if info["mismatched_keys"]:
        shapes = [f"{n} {list(a)}, not {list(b)}" for n, a, b in sorted(info["mismatched_keys"])]
        faults.append(f"it has {listed(shapes)}")
    faults += map(str, info["error_msgs"])
    if faults:
        raise ValueError(f"{_unlike(source)} {'; '.join(faults)}")


def _unlike(source: Path) -> str:
    return f"{source} does not hold the model that its {CONFIG} describes:"


@contextmanager
def _without_report() -> Iterator[list[str]]:
    """Keeps transformers' table of tensors that do not fit out of the log. -> the table"""
    logger, reports = logging.getLogger("transformers.modeling_utils"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" in record.getMessage():
            reports.append(record.getMessage())
            return False
        return True

    logger.addFilter(keep)
    try:
        yield reports
    finally:
        logger.removeFilter(keep)
