"""`python -m tspin export`: an iteration's policy as a model for others, with its card.

What is written is a plain transformers folder: weights (adapters are merged into their base),
tokenizer with the chat template that renders the prompts of training, generation config with the
ids that end a response and the sampling of the run, README.md with what is known of it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspin.cli.options import KeyParser
from tspin.config.run import Run
from tspin.data.tokens import Renderer
from tspin.export import card, chat_template, opening
from tspin.export.opening import Source

if TYPE_CHECKING:
    import torch

LOADING = ("is_local", "local_files_only")  # how a tokenizer was loaded here, nothing of its own


def parser() -> KeyParser:
    options = KeyParser(
        "export",
        about="Writes the policy of an iteration as a plain transformers folder with tokenizer, "
        "chat\ntemplate, generation config and model card: for transformers, vLLM, lm-eval, "
        "llama.cpp. Adapters\nare merged into their base.",
        examples="  python -m tspin export run=runs/NAME iteration=best to=FOLDER\n"
        "  python -m tspin export run=runs/NAME to=hub:OWNER/NAME dtype=bfloat16 private=false",
    )
    opening.add_options(options)
    options.option(
        "dtype",
        "of the weights: same (merged adapters: float32), float32 or bfloat16",
        default="same",
        choices=("same", "float32", "bfloat16"),
    )
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().read(arguments)
    import torch  # here: --help needs none

    dtype = None if options["dtype"] == "same" else getattr(torch, options["dtype"])
    with opening.opened(options, "model") as (source, folder):
        export(source, folder, dtype=dtype)


def export(source: Source, target: Path, *, dtype: torch.dtype | None = None) -> None:
    """Fills the folder `target`.

    dtype  of the weights; None: as they are, and float32 for merged adapters
    """
    from tspin.policy import policy

    weights = source.weights(source.out)
    policy.write(weights, target, dtype)
    renderer = source.renderer(weights)
    template = chat_template.of(renderer)
    tokenizer = renderer.tokenizer
    tokenizer.chat_template = template
    for key in LOADING:
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(target)
    _write_generation(source.cfg, renderer, target)
    messages = template is not None
    card.write(
        source,
        target,
        use=_use(renderer, messages=messages),
        evaluation=_evaluation(renderer, messages=messages),
    )


def _use(renderer: Renderer, *, messages: bool) -> str:
    """How prompts go in, for the card. messages: whether the tokenizer has a chat template"""
    how = renderer.how
    if not messages:
        return (
            f"The tokenizer has no chat template: prompts have the form `{how.name}` of the run, "
            "and none renders its ids exactly."
        )
    sentences = ["Prompts go in as messages; the chat template renders the ids of training."]
    if how.args:
        arguments = json.dumps(dict(how.args))
        sentences.append(f"Its arguments were `{arguments}` (`chat_template_kwargs`).")
    if how.day is not None:
        sentences.append(f"The date in the prompts was {how.day}.")
    if renderer.form.departure is not None:
        own, generation = map(json.dumps, renderer.form.departure)
        sentences.append(
            f"Prompts of the run ended with `{own}`; the generation prompt has `{generation}`."
        )
    return " ".join(sentences)


def _evaluation(renderer: Renderer, *, messages: bool) -> str:
    """The arguments of lm-eval's command line that render prompts as the run did, or nearly."""
    arguments: dict[str, Any] = {"pretrained": "FOLDER"}
    if messages and renderer.encoder.prefix:
        arguments["add_bos_token"] = False  # the template writes what stands before a text
    if renderer.how.args:
        arguments["chat_template_args"] = dict(renderer.how.args)
        words = shlex.quote(json.dumps(arguments))
    else:
        words = ",".join(f"{key}={value}" for key, value in arguments.items())
    return f"--model_args {words}{' --apply_chat_template' if messages else ''}"


def _write_generation(cfg: Run, renderer: Renderer, target: Path) -> None:
    """generation_config.json: how the run sampled is the default of whoever loads the folder.

    Not its length: max_new_tokens there would cut what lm-eval and vLLM's server request.
    """
    from transformers import GenerationConfig

    how = cfg.decoding
    sampling = {}
    if how.sample:
        # What is not filtered is written, too: defaults of other versions do filter.
        sampling = {"temperature": how.temperature, "top_k": how.top_k or 0}
        sampling |= {"top_p": 1.0 if how.top_p is None else how.top_p}
        sampling |= {} if how.min_p is None else {"min_p": how.min_p}
    GenerationConfig(
        do_sample=how.sample,
        eos_token_id=renderer.stop_ids,
        pad_token_id=renderer.pad_id,
        bos_token_id=renderer.tokenizer.bos_token_id,
        **sampling,
    ).save_pretrained(target)
