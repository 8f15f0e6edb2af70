"""Algorithm 1 of arXiv 2601.08198 in one file, made of the parts of tspin.

    python examples/loop.py [GROUP=OPTION ...] [KEY=VALUE ...] [to=FOLDER]

Words are those of main.py, and the weights are those of a run with the same words, bit for bit.
What a run has besides: files after each stage, resuming, evaluation, tracking, several processes,
rows that have a time (data.shift), curricula.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch

from tspin.cli.command import check
from tspin.config.run import Run
from tspin.data import annotated
from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.data.triplets import Key, Triplet, epoch, join
from tspin.distributed.world import ALONE
from tspin.objectives import Objective
from tspin.policy.policy import Policy, load
from tspin.sampling import native
from tspin.sampling.requests import Draws, Request
from tspin.selfplay.preflight import fetch
from tspin.stages.score import score
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import strategy_of
from tspin.training.recipe import Recipe
from tspin.training.schedule import begin_step
from tspin.training.step import gradient_step

Ids = Sequence[int]


def main(words: list[str]) -> None:
    run = check([word for word in words if not word.startswith("to=")]).points[0].run
    policy = self_play(run)
    for word in words:
        if word.startswith("to="):
            policy.save(Path(word.removeprefix("to=")))


def self_play(run: Run) -> Policy:
    """theta_T from theta_0."""
    if run.compute.threads is not None:
        torch.set_num_threads(run.compute.threads)
    policy = load(
        fetch(run),
        template=Rendering.of(run),
        compute=run.compute,
        precision=run.optim.precision,
        lora=run.model.lora,
        seed=run.seed,
    )
    prompts = encode(run, policy.renderer)
    proto = sample(policy, run, prompts, t=0)  # y0 ~ pi_theta_0, once
    for t in range(run.selfplay.iterations):
        synthetic = proto if t == 0 else sample(policy, run, prompts, t=t)  # y' ~ pi_theta_t
        triplets = join(prompts, t, synthetic, proto)  # x, y, y', y0
        objective = run.loss_at(t)  # beta is 0 where y' is y0
        reference = reference_scores(policy, run, triplets, objective, t)
        train(policy, run, triplets, objective, reference, t)  # theta_t+1
    return policy


def encode(run: Run, renderer: Renderer) -> list[dict]:
    """Training pairs as ids. A run cuts what is too long; here nothing may be."""
    rows = []
    for pair in annotated.load(run.data).train:
        conversation = Conversation(pair.prompt, pair.system, pair.history)
        prompt, response = renderer.pair_ids(conversation, pair.annotated)
        if len(prompt) > run.max_prompt_length or len(prompt + response) > run.model.max_length:
            raise ValueError(f"a pair of {len(prompt)} and {len(response)} tokens is too long")
        rows.append(
            {"id": pair.id, "split": "train", "prompt_ids": prompt, "annotated_ids": response}
        )
    return rows


def sample(policy: Policy, run: Run, prompts: Sequence[dict], *, t: int) -> Mapping[str, Ids]:
    """prompt id -> one response; its random numbers are a function of seed, t and the id alone."""
    draws, how = Draws(run.decoding, run.seed, t), run.decoding
    requests = [
        Request(row["prompt_ids"], draws.seed_of(row["id"]), how.temperature) for row in prompts
    ]
    responses = native.respond(policy, requests, how)
    return {row["id"]: response for row, response in zip(prompts, responses, strict=True)}


def reference_scores(
    policy: Policy, run: Run, triplets: Sequence[Triplet], objective: Objective, t: int
) -> dict[Key, float] | None:
    """log pi_theta_t in the batches of the first steps, where the objective compares with it."""
    if not objective.reference_roles:
        return None
    cut = Cut.of(run.compute)
    first = epoch(triplets, batch_size=run.optim.batch_size, seed=run.seed, t=t, epoch=0)
    batches = chain.from_iterable(cut.micro_batches(batch, objective.roles) for batch in first)
    label = f"iteration {t}: reference"
    return score(policy, batches, objective.reference_roles, label=label).logps


def train(
    policy: Policy,
    run: Run,
    triplets: Sequence[Triplet],
    objective: Objective,
    reference: dict[Key, float] | None,
    t: int,
) -> None:
    """Minimises the objective in place, with a new optimiser and a new schedule."""
    recipe = Recipe(
        loss=objective,
        reference=reference,
        optim=run.optim,
        compute=run.compute,
        seed=run.seed,
        t=t,
    )
    policy.model.train(run.compute.gradient_checkpointing or policy.dropout)
    strategy = strategy_of(policy, run.compute, ALONE)
    optimizer = build_optimizer(policy, run.optim)
    cut, step = Cut.of(run.compute), 0
    for number in range(run.optim.epochs):
        size = run.optim.batch_size
        batches = epoch(triplets, batch_size=size, seed=run.seed, t=t, epoch=number)
        for batch in batches:
            begin_step(policy, optimizer, recipe, step, len(batches))
            metrics, cut = gradient_step(
                strategy, optimizer, batch, recipe, cut, where=f"iteration {t} {step}"
            )
            step += 1
    policy.model.eval()
    sys.stdout.write(f"iteration {t}: loss {metrics['loss']:.4f} in the last step\n")


if __name__ == "__main__":
    main(sys.argv[1:])
