"""Four layers of Mistral's shape: what bfloat16 on this card makes of log-probs and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch

from benchmarks.gpu_check.models import (
    apart_per_token,
    cosine,
    gradient,
    mean_loss,
    policy_of,
    recipe_of,
    reference_of,
    triplets,
)
from benchmarks.gpu_check.results import Outcome, verdict
from benchmarks.gpu_check.setting import Setting
from tspin.cli.folders import CONF
from tspin.config.run import Run
from tspin.data.triplets import Triplet
from tspin.logprobs import attention
from tspin.objectives import ROLES
from tspin.policy import dtypes
from tspin.policy.inference import narrow
from tspin.policy.policy import Policy, checkpoint
from tspin.runs import provenance
from tspin.runs.artifacts import RunDir
from tspin.stages.score import score
from tspin.tools.files import read_json
from tspin.training.cut import Cut

NATS = 0.05  # a token, between bfloat16 and float32
COSINE = 0.999  # between gradients in bfloat16 and in float32
SAME = 0.99999  # between gradients that are rounded in another order
PADDED = Cut(2, None)  # float32 holds the logits of whole rows
LAYERS = 4


def accuracy(setting: Setting) -> Iterator[Outcome]:
    shape = setting.mistral(LAYERS)
    run, exactly = setting.run(), setting.run("compute.dtype=float32", "compute.attention=plain")
    policy = policy_of(setting, shape, run)
    exact = policy_of(setting, shape, exactly, model=policy.model)  # the same weights
    batch = triplets(shape, 6, setting.lengths(), spread=0.5)
    cut = Cut(3, None)
    theirs = score(exact, PADDED.micro_batches(batch, ROLES), ROLES, label="float32").logps
    ours = score(policy, cut.micro_batches(batch, ROLES), ROLES, label="bfloat16").logps
    apart = apart_per_token(ours, theirs, batch, ROLES)
    yield verdict(
        "log-probs beside float32",
        apart < NATS,
        {"layers": shape.layers, "responses": len(ours), "nats a token at most": apart},
        rule=f"no response is to differ by {NATS} nats a token",
    )
    yield _kernel(setting, policy, run)
    names = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
    for name in names:
        yield _gradient(setting.run(f"loss={name}"), name, policy, exact, batch, cut)
    yield _checkpointing(policy, run, batch, cut)


def _kernel(setting: Setting, policy: Policy, run: Run) -> Outcome:
    """What the record of a run would say of it: provenance.json of the check's own folder."""
    folder = RunDir(setting.folder / "record")
    facts = dtypes.facts(run.compute, run.optim.precision, run.model)
    provenance.record(folder, command=["gpu_check"], config={}, arithmetic=facts)
    provenance.add_kernels(folder, policy.kernels)
    recorded = read_json(folder.provenance)["launches"][-1]["arithmetic"]
    kernel = ", ".join(recorded["kernels"])
    flash = kernel == "varlen_attn"
    possible = attention.kernel(policy.device, *[torch.bfloat16] * 3) == "varlen_attn"
    figures = {"kernels": kernel, "weights": recorded["weights"], "dtype": recorded["dtype"]}
    name = "kernel in provenance.json"
    if not possible and not flash:
        why = "torch on this device has no varlen_attn with scale and windows (2.11 has, on CUDA)"
        return Outcome(name, "skipped", figures, why)
    return verdict(name, flash, figures, rule="attention is to be varlen_attn and nothing else")


def _gradient(
    run: Run, name: str, policy: Policy, exact: Policy, batch: list[Triplet], cut: Cut
) -> Outcome:
    """The gradient of one objective at iteration 1, against that of float32 in padded rows."""
    loss = run.loss_at(1)
    recipe = recipe_of(run, loss, reference_of(policy, batch, loss, cut))
    parts, ours = gradient(policy, batch, recipe, cut)
    exactly = recipe_of(run, loss, reference_of(exact, batch, loss, PADDED))
    their_parts, theirs = gradient(exact, batch, exactly, PADDED)
    alike = cosine(ours, theirs)
    norms = [float(torch.stack([x.norm() for x in each]).norm()) for each in (ours, theirs)]
    return verdict(
        f"gradient of {name}",
        alike > COSINE and all(norm > 0 for norm in norms),
        {
            "cosine": f"{alike:.6f}",
            "norm": norms[0],
            "norm in float32": norms[1],
            "loss": mean_loss(parts),
            "loss in float32": mean_loss(their_parts),
        },
        rule=f"its cosine with the one of float32 is to be above {COSINE}",
    )


def _checkpointing(policy: Policy, run: Run, batch: list[Triplet], cut: Cut) -> Outcome:
    """The same gradient with the layers computed again on the way back."""
    recipe = recipe_of(run, run.loss_at(1))
    before, kept = gradient(policy, batch, recipe, cut)
    checkpoint(policy.model)
    policy.model.train()
    after, again = gradient(policy, batch, recipe, cut)
    policy.model.eval()
    alike, losses = cosine(kept, again), (mean_loss(before), mean_loss(after))
    apart = abs(losses[1] - losses[0]) / abs(losses[0])
    return verdict(
        "gradient checkpointing",
        alike > SAME and apart < 1e-5,
        {"cosine": f"{alike:.8f}", "loss": losses[0], "relative difference": apart},
        rule=f"on and off are to have one loss, and a cosine above {SAME}",
    )


def margins(setting: Setting) -> Iterator[Outcome]:
    """The first step of an iteration, whose advantages are known beforehand."""
    shape, cut = setting.mistral(LAYERS), Cut(3, None)
    policy = policy_of(setting, shape, setting.run())
    # As a run scores its reference: from a policy whose matrices are held in bfloat16.
    scorer = policy_of(setting, shape, setting.run(), model=deepcopy(policy.model))
    narrow(scorer.model, scorer.autocast)
    batch = triplets(shape, 6, setting.lengths(), spread=0.5)
    for name in ("spin", "tspin_ref"):
        run = setting.run(f"loss={name}")
        loss = run.loss_at(1)
        reference = reference_of(scorer, batch, loss, cut)
        largest = _advantages(policy, run, batch, cut, reference)
        yield verdict(
            f"{name}: the reference is the policy",
            not any(largest.values()),
            {f"largest {key}": value for key, value in largest.items()},
            rule="c - c_ref and h - h_ref are to be exactly 0 before the first update",
        )
    same = [_at_0(triplet) for triplet in batch]
    run = setting.run("loss=tspin")
    historical = _advantages(policy, run, same, cut, None)["historical"]
    tokens = min(len(triplet.responses["proto"]) for triplet in same)
    yield verdict(
        "tspin: y' is y0 at iteration 0",
        historical / tokens < 1e-3,
        {"largest h": historical, "nats a token": historical / tokens},
        rule="h is to be 0, or below 0.001 nats a token where equal rows are rounded apart",
    )
    yield verdict(
        "tspin at iteration 0",
        run.loss_at(0) == setting.run("loss=wo_ha").loss_at(0),
        {"roles": ", ".join(run.loss_at(0).roles)},
        rule="it is to be w/o H-A",
    )


def _advantages(
    policy: Policy,
    run: Run,
    batch: list[Triplet],
    cut: Cut,
    reference: dict[tuple[str, int, str], float] | None,
) -> dict[str, float]:
    """The largest |current| and |historical| of the batch's triplets, in nats."""
    parts, _ = gradient(policy, batch, recipe_of(run, run.loss_at(1), reference), cut)
    prefix, largest = "advantages/", dict[str, float]()
    for _, metrics in parts:
        for key, values in metrics.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                largest[name] = max(float(values.abs().max()), largest.get(name, 0.0))
    return largest


def _at_0(triplet: Triplet) -> Triplet:
    """The triplet as iteration 0 has it: y' is y0."""
    responses = {**triplet.responses, "synthetic": triplet.responses["proto"]}
    return Triplet(triplet.id, triplet.split, 0, triplet.prompt_ids, responses)
