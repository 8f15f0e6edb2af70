"""`python -m tspin export`: an iteration's policy as a model for others, with its card.

What is written is a plain transformers folder: weights (adapters are merged into their base),
tokenizer with the chat template that renders the prompts of training, generation config with the
ids that end a response and the sampling of the run, README.md with what is known of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tspin.cli import options
from tspin.cli.options import Told
from tspin.config.run import Run
from tspin.data.tokens import Renderer
from tspin.export import card, chat_template, destination
from tspin.policy import policy
from tspin.runs.artifacts import Iteration, RunDir

ABOUT = """Writes the policy of an iteration as a plain transformers folder with tokenizer, chat
template, generation config and model card: for transformers, vLLM, lm-eval, llama.cpp. Adapters
are merged into their base.

  python -m tspin export run=runs/NAME iteration=best to=FOLDER
  python -m tspin export run=runs/NAME to=hub:OWNER/NAME dtype=bfloat16 private=false"""
OPTIONS = {
    "run": options.RUN,
    "iteration": options.ITERATION,
    "to": destination.TO,
    "dtype": ("same", "of the weights: same (merged adapters: float32), float32 or bfloat16"),
    "private": destination.PRIVATE,
}
LOADING = ("is_local", "local_files_only")  # how a tokenizer was loaded here, nothing of its own
DTYPES = ("same", "float32", "bfloat16")


def main(arguments: Sequence[str]) -> int:
    return options.answer("export", ABOUT, OPTIONS, arguments, _export)


def _export(told: Told) -> None:
    dtype = options.choice(told, "dtype", DTYPES)
    private = options.choice(told, "private", ("true", "false")) == "true"
    destination.check(told["to"])
    cfg, folder = options.opened(told["run"])
    out = options.iteration(folder, told["iteration"])
    to = destination.opened(told["to"], "model", name=card.title(folder, out), private=private)
    with to as place:
        kind = None if dtype == "same" else getattr(torch, dtype)
        export(cfg, folder, out, place.folder, dtype=kind)
    sys.stdout.write(f"iteration {out.t} of {folder.path} -> {place.where}\n")


def export(
    cfg: Run, folder: RunDir, out: Iteration, made: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Fills the folder `made` with iteration `out` of the run.

    dtype  of the weights; None: as they are, and float32 for merged adapters
    """
    weights = options.weights(folder, out)
    policy.write(weights, made, dtype)
    renderer = policy.renderer(weights, template=cfg.model.template)
    template = chat_template.of(renderer)
    tokenizer = renderer.tokenizer
    tokenizer.chat_template = template
    for key in LOADING:
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(made)
    _write_generation(cfg, renderer, made)
    card.write(cfg, folder, out, made, messages=template is not None)


def _write_generation(cfg: Run, renderer: Renderer, made: Path) -> None:
    """generation_config.json: how the run sampled is the default of whoever loads the folder.

    Not its length: max_new_tokens there would cut what lm-eval and vLLM's server are asked for.
    """
    from transformers import GenerationConfig

    how = cfg.decoding
    sampling = {}
    if how.sample:
        # What is not filtered is said: defaults of other versions do filter.
        sampling = {"temperature": how.temperature, "top_k": how.top_k or 0}
        sampling |= {"top_p": 1.0 if how.top_p is None else how.top_p}
        sampling |= {} if how.min_p is None else {"min_p": how.min_p}
    GenerationConfig(
        do_sample=how.sample,
        eos_token_id=renderer.stop_ids,
        pad_token_id=renderer.pad_id,
        bos_token_id=renderer.tokenizer.bos_token_id,
        **sampling,
    ).save_pretrained(made)
