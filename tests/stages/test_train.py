"""One iteration's training: the gradient, the optimiser, the schedule, the reference."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from support.tiny import LOSSES, compose, random_policy, random_triplets

from tspin.data.triplets import epoch, keyed, micro_batches
from tspin.objectives import IPO, SFT, SPIN, SSD, TSPIN, Logps, TSPINRef
from tspin.objectives.anchored import Anchors
from tspin.runs.artifacts import Iteration
from tspin.runs.metrics import StepLog
from tspin.stages.score import score, write_scores
from tspin.stages.train import train
from tspin.tools.parquet import read_rows
from tspin.tracking.tracker import Tracker
from tspin.training.cut import Cut
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step
from tspin.training.strategy import Strategy

RUN = compose()
OPTIM = replace(RUN.optim, lr=1e-3, batch_size=4, epochs=1, max_grad_norm=None)
COMPUTE = replace(RUN.compute, micro_batch=2, save_seconds=1e9)
TRACKER = Tracker([])


def recipe(loss, reference=None, *, weights=None, optim=OPTIM, compute=COMPUTE):
    return Recipe(
        loss=loss, reference=reference, weights=weights, optim=optim, compute=compute, seed=0, t=1
    )


def reference_for(policy, triplets, loss, *, optim=OPTIM, compute=COMPUTE):
    batches = epoch(triplets, batch_size=optim.batch_size, seed=0, t=1, epoch=0)
    cut = [m for b in batches for m in micro_batches(b, loss.roles, size=compute.micro_batch)]
    return score(policy, cut, loss.reference_roles, label="reference").logps


def gradients(policy, batch, loss, reference, *, micro_batch, weights=None):
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    strategy, cut = Strategy(policy), Cut(micro_batch, None)
    metrics, _ = gradient_step(
        strategy, optimizer, batch, recipe(loss, reference, weights=weights), cut, where="test"
    )
    return metrics, torch.cat([p.grad.flatten() for p in policy.model.parameters()])


# Of means over tokens; with a reference for one role alone; without an annotated response.
MORE = {
    "ipo": IPO(beta=0.5),
    "hinge": Anchors(hinge=1.0, cap=5.0).on(LOSSES["tspin"]),
    "average": Anchors(nll=0.1, average=True).on(LOSSES["tspin"]),
    "ssd": SSD(),
}
ALL = LOSSES | MORE


@pytest.mark.parametrize("name", ALL)
def test_accumulation_changes_neither_gradient_nor_metrics(name):
    """5 examples as 5 x 1, 3 + 2 and 1 x 5: one mean over the batch (trap 10)."""
    policy, loss, batch = random_policy(), ALL[name], random_triplets(5, seed=1)
    reference = reference_for(random_policy(seed=1), batch, loss) if loss.reference_roles else None
    runs = [gradients(policy, batch, loss, reference, micro_batch=size) for size in (1, 3, 5)]
    for metrics, gradient in runs[1:]:
        # transformers' RMSNorm computes in float32 whatever the model's dtype
        torch.testing.assert_close(gradient, runs[0][1], rtol=1e-4, atol=1e-6)
        assert metrics == pytest.approx(runs[0][0], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_that_of_the_mean_loss(name):
    """Against autograd through one plain forward per example."""
    policy, loss, batch = random_policy(), ALL[name], random_triplets(3, seed=2)
    reference = reference_for(random_policy(seed=1), batch, loss) if loss.reference_roles else None
    _, found = gradients(policy, batch, loss, reference, micro_batch=3)
    policy, values = random_policy(attention="plain"), []
    for x in batch:
        lengths = {role: torch.tensor([len(x.responses[role])]) for role in loss.roles}
        logps = replace(policy.logps([x], loss.roles), lengths=lengths)
        ref = None
        if loss.reference_roles:
            stored = {r: reference[x.id, x.source, r] for r in loss.reference_roles}
            by_role = {role: torch.tensor([value]).double() for role, value in stored.items()}
            ref = Logps(**by_role, lengths=lengths)
        values.append(loss(logps, ref)[0])
    torch.cat(values).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sft", "tspin_ref"])
@pytest.mark.parametrize("attention", ["auto", "plain"])
def test_a_weight_counts_a_row_that_often_however_the_batch_is_cut(name, attention):
    """Rows 0, 1, 2 with weights 3, 1, 0 in a batch of 3: the mean of 0, 0, 0, 1 times 4 / 3."""
    loss, rows = LOSSES[name], random_triplets(3, seed=2)
    policy = random_policy(attention=attention)
    reference = reference_for(random_policy(seed=1), rows, loss) if loss.reference_roles else None
    many = [rows[0], rows[0], rows[0], rows[1]]
    _, expected = gradients(policy, many, loss, reference, micro_batch=4)
    weights = {"0": 3.0, "1": 1.0, "2": 0.0}
    for size in (1, 2, 3):
        metrics, found = gradients(policy, rows, loss, reference, micro_batch=size, weights=weights)
        torch.testing.assert_close(found, expected * 4 / 3, rtol=1e-4, atol=1e-6)
        assert metrics["num_examples"] == 3


def test_the_last_short_batch_is_a_mean_too():
    """The same example alone or twice in its batch: the same gradient."""
    policy, (x,) = random_policy(), random_triplets(1)
    _, once = gradients(policy, [x], LOSSES["tspin"], None, micro_batch=4)
    _, twice = gradients(policy, [x, x], LOSSES["tspin"], None, micro_batch=4)
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["spin", "tspin_ref"])
def test_the_first_margin_against_the_stored_reference_is_exactly_zero(name, tmp_path):
    """Trap 14, in float32 through the file: same batches, same bits, loss log 2 (1 + beta)."""
    loss, policy = LOSSES[name], random_policy(dtype=torch.float32)
    triplets = random_triplets(10, seed=4)
    out = Iteration(tmp_path)
    write_scores(out.ref_scores, triplets, reference_for(policy, triplets, loss))
    reference = keyed(read_rows(out.ref_scores))
    run_training(policy, triplets, out, loss, reference)
    first = StepLog.read(out.metrics)[0]
    assert first["rewards/annotated"] == first["rewards/synthetic"] == 0.0
    assert first["advantages/current"] == 0.0
    assert first["loss"] == pytest.approx(math.log(2) * (1 + getattr(loss, "beta", 0.0)), rel=1e-6)
    second = StepLog.read(out.metrics)[1]
    assert second["advantages/current"] != 0.0


def run_training(policy, triplets, out, loss, reference, *, optim=OPTIM, compute=COMPUTE):
    with_ = recipe(loss, reference, optim=optim, compute=compute)
    train(policy, triplets, out, with_, tracker=TRACKER, steps_before=0, label="test")


def test_tspin_ref_with_beta_0_trains_as_spin(tmp_path):
    triplets = random_triplets(8, seed=6)
    weights = []
    for name, loss in {"spin": SPIN(lam=0.3), "ref": TSPINRef(alpha=0.3, beta=0.0)}.items():
        policy = random_policy(dtype=torch.float32)
        reference = reference_for(policy, triplets, loss)
        run_training(policy, triplets, Iteration(tmp_path / name), loss, reference)
        weights.append(policy.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_decay_may_be_laid_over_more_epochs_than_are_run(tmp_path):
    """Trap 17: schedule_epochs 6, epochs 2: the last learning rate is still two thirds."""
    optim = replace(OPTIM, epochs=2, schedule_epochs=6, warmup=0.0, batch_size=1, lr=[1.0, 3e-5])
    run_training(random_policy(), random_triplets(3), Iteration(tmp_path), SFT(), None, optim=optim)
    rates = [row["lr"] for row in StepLog.read(Iteration(tmp_path).metrics)]
    assert rates == pytest.approx([3e-5 * (18 - step) / 18 for step in range(6)])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_it_is_applied(what, tmp_path, monkeypatch):
    policy = random_policy()
    before = copy.deepcopy(policy.model.state_dict())
    if what == "loss":
        policy.model.model.embed_tokens.weight.data[5:] = torch.nan
        before = copy.deepcopy(policy.model.state_dict())
    else:
        weight = policy.model.model.norm.weight
        weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match="lower optim.lr .*prompts") as error:
        run_training(policy, random_triplets(4), Iteration(tmp_path), TSPIN(1.0, 0.1), None)
    assert str(error.value).endswith(", 1 more")  # three of the four
    assert not Iteration(tmp_path).checkpoint.exists()
    assert StepLog.read(Iteration(tmp_path).metrics) == []
    for key, value in policy.model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[key].nan_to_num(7.0))


def test_metrics_of_a_step_are_those_of_the_glossary(tmp_path):
    run_training(random_policy(), random_triplets(4), Iteration(tmp_path), TSPIN(1.0, 0.1), None)
    (row,) = StepLog.read(Iteration(tmp_path).metrics)
    roles = ("annotated", "synthetic", "proto")
    expected = {"loss", "grad_norm", "lr", "num_examples", "num_tokens", "seconds", "step",
                "tokens_per_second", "useful_tokens_per_second", "padding_share",
                "flop_utilisation", "iteration", "epoch", "progress"}  # fmt: skip
    expected |= {f"{kind}/{role}" for kind in ("logps", "logps_per_token", "rewards")
                 for role in roles}  # fmt: skip
    expected |= {f"{kind}/{side}" for kind in ("advantages", "weights")
                 for side in ("current", "historical")}  # fmt: skip
    cells = ("both", "reward_only", "logp_only", "neither", "tied_reward", "tied_logp")
    expected |= {f"contingency/{cell}" for cell in cells}
    assert set(row) == expected
