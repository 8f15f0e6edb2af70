"""What a family's network computes: docs/models.md's columns sampling and packing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from support.families.architectures import Exact
from support.families.folders import FAMILIES
from support.families.texts import PROMPTS, RESPONSES, Apart, first_apart
from support.tiny import compose
from tspin.config.run import LoraConfig, Run
from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.data.triplets import Triplet
from tspin.logprobs.packed import packed
from tspin.objectives import ROLES, TSPIN, Logps
from tspin.policy import policy
from tspin.policy.policy import Policy
from tspin.sampling import decode
from tspin.sampling.native import respond
from tspin.sampling.requests import Request

NEW_TOKENS = 16


def sampling(name: str, model: Path) -> str:
    """Greedy responses in a batch are those of generate, each prompt alone."""
    ours = load(name, model)
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    prompts = prompts_of(ours.renderer)
    how = _plain_run().decoding
    how = replace(how, sample=False, max_new_tokens=NEW_TOKENS, batch_size=3)
    responses = respond(ours, [Request(prompt, None, 1.0) for prompt in prompts], how)
    assert len({*map(tuple, responses)}) > 3, "the weights say the same to every prompt"
    for prompt, response in zip(prompts, responses, strict=True):
        alone = plain.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=ours.renderer.stop_ids,
            pad_token_id=ours.renderer.pad_id,
        )[0, len(prompt) :].tolist()
        if alone != response:
            at = first_apart(alone, response)
            raise Apart(f"token {at} behind a prompt of {len(prompt)} is another")
    refusal = decode.refusal(ours.model, max(map(len, prompts)) + NEW_TOKENS)
    return "yes" if refusal is None else f"yes, through generate: {refusal}"


def packing(name: str, model: Path) -> str:
    """In float64: log-probs and the loss are those of one row at a time, to 1e-9."""
    renderer = policy.renderer(model, template=FAMILIES[name].template)
    triplets = _triplets(renderer)
    with Exact():
        alone = _one_at_a_time(_float64(model), triplets)
        ours = Policy(_float64(model), renderer, torch.device("cpu"), None, "auto")
        layouts = ["plain"] if ours.packed is None else ["shared", "separate"]
        for layout in layouts:
            laid = replace(ours, attention=layout)
            with torch.no_grad():
                logps = laid.logps(triplets, ROLES)
            for role in ROLES:
                _same(logps[role], alone[role], f"{layout}: log-probs of {role}")
            loss = laid.loss_sum(triplets, ROLES, lambda part, of: _losses(of))
            _same(loss.detach(), _losses(alone).sum(), f"{layout}: the loss")
        if ours.packed is None:
            reason = packed(ours.model, None, ours.arithmetic)
            return f"no: padded rows (equal, too), for {reason}"
    return "yes"


def _losses(logps: Logps) -> torch.Tensor:
    losses, _ = TSPIN(alpha=0.3, beta=0.1)(logps, None)
    return losses


def _same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    apart = float((ours - theirs).abs().max())
    if not apart < 1e-9:
        raise Apart(f"{what} differ by {apart:.0e}")


def _float64(model: Path) -> Any:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    if any("experts" in module for module, _ in network.named_modules()):
        network.set_experts_implementation("eager")  # the default has no float64
    return network


@torch.no_grad()
def _one_at_a_time(network: Any, triplets: list[Triplet]) -> Logps:
    """log pi(z | x) by the model's own logits of one unpadded sequence after the other."""

    def logp(triplet: Triplet, role: str) -> torch.Tensor:
        prompt, response = list(triplet.prompt_ids), list(triplet.responses[role])
        logits = network(torch.tensor([prompt + response])).logits[0]
        scores = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return scores.gather(1, torch.tensor(response)[:, None]).sum()

    return Logps(**{role: torch.stack([logp(x, role) for x in triplets]) for role in ROLES})


def _triplets(renderer: Renderer) -> list[Triplet]:
    """Prompts and responses of several lengths, longer and shorter than a window of 16."""

    def response_ids(text: str) -> list[int]:
        return renderer.pair_ids(Conversation("Hi"), text)[1]

    texts = [RESPONSES[i % 5] + " and" * i for i in range(9)]
    return [
        Triplet(
            str(i),
            "train",
            1,
            prompt,
            {role: response_ids(texts[i + k]) for k, role in enumerate(ROLES)},
        )
        for i, prompt in enumerate(prompts_of(renderer))
    ]


def prompts_of(renderer: Renderer) -> list[list[int]]:
    return [renderer.prompt_ids(Conversation(prompt)) for prompt in PROMPTS]


@cache
def _plain_run() -> Run:
    return compose("compute.device=cpu")


def load(name: str, folder: Path, *, lora: LoraConfig | None = None) -> Policy:
    """The policy in a folder, on the CPU."""
    run = _plain_run()
    return policy.load(
        folder,
        template=FAMILIES[name].template,
        compute=run.compute,
        precision=run.optim.precision,
        lora=lora,
    )
