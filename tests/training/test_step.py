"""One optimiser step: every objective and anchor takes one, the same however it is cut; how often
it waits for the device, and what processes exchange of it."""

from dataclasses import replace

import pytest
import torch
from support.families.architectures import Exact
from support.tiny import CONF, LOSSES, compose, random_model, random_policy, random_triplets
from support.waits import Waits

from tspin.data.triplets import collate
from tspin.logprobs import fused_head
from tspin.logprobs.padded import sequence_logps
from tspin.objectives import IRIS, KTO, Logps, WithoutHA
from tspin.objectives.anchored import Anchors
from tspin.policy.policy import Policy
from tspin.training import step
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.parallel import Strategy
from tspin.training.recipe import Recipe, gentler

CFG = compose("optim.max_grad_norm=1.0")


def recipe_of(loss, triplets):
    """With reference log-probs that are all -3."""
    keys = [(t.id, t.source, role) for t in triplets for role in loss.reference_roles]
    reference = dict.fromkeys(keys, -3.0)
    return Recipe(loss=loss, reference=reference, optim=CFG.optim, compute=CFG.compute, seed=0, t=1)


CHOICES = [
    f"{group}={file.relative_to(CONF / group).with_suffix('')}"
    for group in ("loss", "anchor")
    for file in sorted((CONF / group).rglob("*.yaml"))
]


@pytest.mark.slow
@pytest.mark.parametrize("words", CHOICES)
def test_every_file_of_objectives_and_anchors_takes_a_step(words):
    """As a run configures it at iteration 1; and it moves the weights."""
    policy, triplets = random_policy(dtype=torch.float32), random_triplets(4)
    loss = compose(words).loss_at(1)
    optimizer, strategy = torch.optim.SGD(policy.model.parameters(), lr=1e-3), Strategy(policy)
    before = policy.model.lm_head.weight.detach().clone()
    metrics, _ = step.gradient_step(
        strategy, optimizer, triplets, recipe_of(loss, triplets), Cut(3, None), where=words
    )
    assert metrics["grad_norm"] > 0 and metrics["num_examples"] == 4
    assert not torch.equal(policy.model.lm_head.weight, before)


OF_BATCH = {
    "kto": KTO(0.5),
    "iris": IRIS(0.5),
    "anchored": Anchors(hinge=0.3, average=True).on(IRIS(2.0)),
}


@pytest.mark.parametrize("objective", OF_BATCH.values(), ids=OF_BATCH)
@pytest.mark.parametrize("attention", ["plain", "shared"])
def test_no_cut_changes_the_gradient_of_what_compares_with_the_batch(
    objective, attention, monkeypatch
):
    """Against autograd through the whole batch at once, in padded rows."""
    monkeypatch.setitem(fused_head.CHUNK, "cpu", 1)  # a chunk for each triplet
    triplets, policy = random_triplets(7), random_policy(attention=attention)
    recipe, roles = recipe_of(objective, triplets), objective.roles
    rows, weights = collate(triplets, roles, pad_id=0), [*policy.model.parameters()]
    lengths = {role: torch.tensor([len(t.responses[role]) for t in triplets]) for role in roles}
    with Exact():
        logps = sequence_logps(
            policy.model, rows.input_ids, rows.attention_mask, rows.response_mask
        )
        whole = Logps(**dict(zip(roles, logps.chunk(len(roles)), strict=True)), lengths=lengths)
        losses, _ = objective(whole, recipe.reference_logps(triplets, whole))
        expected = torch.autograd.grad(losses.mean(), weights)
    for cut in (Cut(1, None), Cut(3, None), Cut(7, None), Cut(1, 60)):
        policy.model.zero_grad()
        with Exact():
            parts = step.accumulate(Strategy(policy), triplets, recipe, cut)
        mean = torch.cat([part for part, _ in parts]).mean()
        torch.testing.assert_close(mean, losses.mean(), rtol=1e-12, atol=1e-12)
        for weight, gradient in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("attention", ["plain", "shared"])
def test_a_pair_that_is_far_apart_takes_part_with_zeros(attention, monkeypatch):
    """Where others are not, the gradient is to the bit the one with its part, of 1e-38 and less;
    where all are, there is none."""
    policy, triplets = random_policy(dtype=torch.float32, attention=attention), random_triplets(6)
    with torch.no_grad():
        logps = policy.logps(triplets, ("annotated", "synthetic"))
    margins = (logps["annotated"] - logps["synthetic"]).tolist()
    far = [triplet for triplet, c in zip(triplets, margins, strict=True) if c > 0]
    assert 0 < len(far) < len(triplets)
    objective = WithoutHA(alpha=90 / min(c for c in margins if c > 0))
    gradients = {}
    for negligible in (0.0, step.NEGLIGIBLE):
        monkeypatch.setattr(step, "NEGLIGIBLE", negligible)
        for batch in (triplets, far):
            policy.model.zero_grad()
            step.accumulate(Strategy(policy), batch, recipe_of(objective, batch), Cut(6, None))
            weights = [weight.grad.flatten() for weight in policy.model.parameters()]
            gradients[negligible, len(batch)] = torch.cat(weights)
    every, some = len(triplets), len(far)
    assert torch.equal(gradients[0.0, every], gradients[step.NEGLIGIBLE, every])
    assert 0 < gradients[0.0, some].abs().max() < 1e-35
    assert not gradients[step.NEGLIGIBLE, some].any()


@pytest.mark.parametrize("fits", [{"logps": 2, "loss_sum": 7}, {"logps": 7, "loss_sum": 3}],
                         ids=["before", "in"])  # fmt: skip
def test_out_of_memory_before_the_gradient_or_in_it_changes_no_step(fits, monkeypatch):
    """Triplets of a pass that fit, 7 in the batch: cut until both do, and the same weights."""
    triplets, after, cuts = random_triplets(7), [], []
    for limits in ({}, fits):
        policy = random_policy()
        with monkeypatch.context() as patch:
            for name, most in limits.items():
                honest = getattr(Policy, name)

                def limited(self, triplets, *args, honest=honest, most=most):
                    if len(triplets) > most:
                        raise torch.OutOfMemoryError("CUDA out of memory.")
                    return honest(self, triplets, *args)

                patch.setattr(Policy, name, limited)
            optimizer = torch.optim.SGD(policy.model.parameters(), lr=1e-2)
            _, cut = step.gradient_step(
                Strategy(policy), optimizer, triplets, recipe_of(OF_BATCH["iris"], triplets),
                Cut(7, None), where="step 0",
            )  # fmt: skip
        after.append([*policy.model.parameters()])
        cuts.append(cut.micro_batch)
    assert cuts == [7, 1 if fits["logps"] == 2 else 3]
    for whole, halved in zip(*after, strict=True):
        torch.testing.assert_close(halved, whole, rtol=1e-10, atol=1e-12)
    start = random_model()
    assert not torch.equal(after[0][0], next(start.parameters()))


def test_the_pass_before_the_gradient_is_without_dropout_and_leaves_the_mode():
    """Dropout would draw from the step's random numbers, and the cut would decide which."""
    policy, triplets = random_policy(), random_triplets(3)
    policy.model.train()
    seen = []
    policy.model.model.register_forward_hook(lambda module, *_: seen.append(module.training))
    step.accumulate(Strategy(policy), triplets, recipe_of(OF_BATCH["kto"], triplets), Cut(3, None))
    assert policy.model.training and seen[-2:] == [False, True]


@pytest.mark.parametrize("loss", [*LOSSES.values(), KTO(0.1)], ids=[*LOSSES, "kto"])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_step_waits_twice_however_it_is_cut(loss, micro_batch):
    """For the norm of the gradient, and for the means of loss and metrics together."""
    triplets, policy = random_triplets(4), random_policy()
    assert policy.packed is not None  # compared once a model, which waits
    recipe = recipe_of(loss, triplets)
    optimizer, strategy = build_optimizer(policy, CFG.optim), Strategy(policy)
    with Waits() as waits:
        step.gradient_step(
            strategy, optimizer, triplets, recipe, Cut(micro_batch, None), where="step 0"
        )
    assert waits.calls == {"__float__": 1, "tolist": 1}


def test_what_processes_exchange_is_the_same_numbers_in_one_transfer():
    triplets, policy = random_triplets(5), random_policy(dtype=torch.float32)
    recipe = recipe_of(LOSSES["spin"], triplets)
    parts = step.accumulate(Strategy(policy), triplets, recipe, Cut(2, None))
    by_number = {4: parts[:2], 9: parts[2:]}
    with Waits() as waits:
        on_cpu = step._on_cpu(by_number)
    assert waits.calls == {"cpu": 1}
    assert step._on_cpu({}) == {}
    for number, mine in by_number.items():
        for (losses, metrics), (same_losses, same_metrics) in zip(
            mine, on_cpu[number], strict=True
        ):
            assert torch.equal(losses.double(), same_losses)
            assert [*metrics] == [*same_metrics]
            assert all(torch.equal(metrics[k].double(), same_metrics[k]) for k in metrics)


class Broken(WithoutHA):
    def __call__(self, policy, reference=None):
        return policy.annotated * torch.nan, {}


def test_a_step_that_is_not_finite_names_its_prompts():
    triplets, policy = random_triplets(2), random_policy()
    recipe = recipe_of(LOSSES["tspin"], triplets)
    recipe = replace(recipe, loss=Broken(alpha=1.0))
    optimizer = build_optimizer(policy, CFG.optim)
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan, .* prompts are 0, 1$"):
        step.gradient_step(
            Strategy(policy), optimizer, triplets, recipe, Cut(2, None), where="step 3"
        )


@pytest.mark.parametrize("file", sorted((CONF / "loss").glob("*.yaml")), ids=lambda file: file.stem)
def test_what_diverged_is_told_to_lower_only_what_its_objective_has(file):
    """coef.alpha where the objective is another with another; clipping where there is none yet."""
    run = compose(f"loss={file.stem}", "optim.lr=50", "optim.max_grad_norm=1.0")
    advice = gentler(run.loss_at(1), run.optim, t=1)
    assert advice.startswith("lower optim.lr (50 here)") and "max_grad_norm" not in advice
    for key in ("coef.alpha", "coef.lambda"):
        other = compose(f"loss={file.stem}", f"{key}=0.3")
        assert (f" or {key}" in advice) == (other.loss_at(1) != run.loss_at(1))
    free = compose(f"loss={file.stem}", "optim.max_grad_norm=null").optim
    assert gentler(run.loss_at(1), free, t=1).endswith(", or set optim.max_grad_norm=1.0")
