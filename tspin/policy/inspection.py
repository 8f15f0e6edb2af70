"""What is known of a model before its weights are read: can a run train it?

From config.json, the tokenizer, the headers of the weights, and the modules that transformers
builds for that configuration, without memory for them.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tspin.config.run import ComputeConfig, ModelConfig
from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.policy import adapters, kernels, model_files, quantization
from tspin.policy.loading import read_config
from tspin.policy.model_files import CONFIG, listed
from tspin.policy.policy import renderer
from tspin.tools.log import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Of what `architectures` names beside the class that is built: bare models, and other spellings.
_CAUSAL = ("ForCausalLM", "LMHeadModel", "Model")
_POSITIONS = re.compile(r"(wpe|pos[a-z]*(_emb[a-z]*)?)$", re.IGNORECASE)

log = logging.getLogger("tspin")


def check(folder: Path, model: ModelConfig, compute: ComputeConfig) -> None:
    """ValueError, naming the file or the value, for a model that no run could be made with.

    folder  what model.path stands for; adapters there, with a base, are a model too
    """
    base = adapters.base_of(folder)
    if base != folder:
        adapters.check_files(folder)
    quantization.check_base(base, model, compute)
    kernels.check_family(str(model_files.config(base).get("model_type")), compute)
    stated = read_config(base)
    _check_causal(stated, base)
    model_files.check(base)
    empty = _empty_model(stated, base)
    _check_length(empty, model)
    text = renderer(folder, template=Rendering(model.template, model.template_args))
    _check_ids(text, empty.get_input_embeddings().num_embeddings, folder)


def _check_causal(stated: PretrainedConfig, folder: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    kind, known = stated.model_type, AutoModelForCausalLM._model_mapping
    named = (getattr(stated, "architectures", None) or [""])[0]
    reason = None
    if getattr(stated, "is_encoder_decoder", False):
        reason = "an encoder-decoder"
    elif type(stated) not in known:
        reason = "no causal language model"
    elif stated.get_text_config() is not stated:
        reason = "a model of more than text"
    elif kind in MASKED and not getattr(stated, "is_decoder", True):
        reason = "an encoder"
    elif named and not named.endswith((known[type(stated)].__name__, *_CAUSAL)):
        reason = "a model with another head"
    if reason:
        raise ValueError(
            f"model.path={folder} is {reason} ({named or kind}), and a policy continues text: take "
            f"a causal language model ({CONFIG} names ...ForCausalLM among its architectures)"
        )


def _empty_model(stated: PretrainedConfig, folder: Path) -> PreTrainedModel:
    """The modules of the model, without memory for weights."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(stated)
    except Exception as error:  # whatever the modules of an architecture raise
        raise ValueError(
            f"{folder / CONFIG} describes no model that can be built ({one_line(error)})"
        ) from None


def _check_length(empty: PreTrainedModel, model: ModelConfig) -> None:
    """Learnt positions end; others were not seen in training behind their end."""
    rows = _position_rows(empty)
    if rows is not None and model.max_length > rows:
        raise ValueError(
            f"model.max_length={model.max_length} is more than the {rows} positions that "
            f"{model.path} has; use model.max_length={rows} or less"
        )
    own = empty.config.to_dict().get("max_position_embeddings")
    if rows is None and isinstance(own, int) and model.max_length > own:
        _warn_once(
            f"model.max_length={model.max_length} is more than the {own} positions that "
            f"{model.path} was trained with (max_position_embeddings): longer texts are new to it"
        )


def _position_rows(empty: PreTrainedModel) -> int | None:
    """Positions that the model has a table for; None where it computes them."""
    tokens = empty.get_input_embeddings()
    for name, module in empty.named_modules():
        if isinstance(module, nn.Embedding) and module is not tokens:
            if _POSITIONS.search(name):
                pad = module.padding_idx
                before = getattr(module, "offset", 0) if pad is None else pad + 1
                return module.num_embeddings - before
    tables = (b for name, b in empty.named_buffers() if name.endswith("embed_positions"))
    return next((len(table) for table in tables), None)


def _check_ids(text: Renderer, rows: int, folder: Path) -> None:
    """Ids that data, templates or padding can bring must have a row; further rows are padding.

    Control tokens that nothing here writes may lie behind: images of a text-only Gemma 3.
    """
    tokenizer = text.tokenizer
    used = {text.pad_id, *text.stop_ids, *text.prompt_ids(Conversation("a"))}
    beyond = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (number in used or number not in text.control_ids)
    }
    if beyond:
        pairs = sorted(beyond.items(), key=lambda pair: pair[1])
        raise ValueError(
            f"{folder}: the tokenizer has ids that the model's {rows} embeddings do not reach: "
            f"{listed([f'{number} ({token!r})' for token, number in pairs])}; take the tokenizer "
            "that the model was trained with, or give it rows: "
            "resize_token_embeddings(len(tokenizer)) in transformers"
        )


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)
