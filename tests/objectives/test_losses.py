"""The objectives: by hand, against autograd and an independent reference, and their laws."""

import math
import subprocess
import sys
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from tspin.objectives import (
    LINKS,
    SFT,
    SPIN,
    TSPIN,
    LinkName,
    Logps,
    Objective,
    TSPINRef,
    WithoutHA,
    contingency,
    mean_metrics,
)

LOG2 = math.log(2)


def t(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def logps(annotated, synthetic=None, proto=None, *, grad=False):
    sides = (annotated, synthetic, proto)
    return Logps(*(None if side is None else t(*side, grad=grad) for side in sides))


POLICY = ([-3.0, -40.0], [-5.0, -38.0], [-4.0, -45.0])
REFERENCE = ([-4.0, -41.0], [-4.5, -41.0], [-4.0, -44.0])


def softplus(x):
    """log(1 + exp(x)): -log sigmoid(-x), written without torch."""
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def test_links_are_those_a_coefficient_may_name():
    assert set(LINKS) == set(get_args(LinkName))


def test_sft_is_the_negative_sum():
    losses, metrics = SFT()(logps([-3.0, -40.0]))
    assert losses.tolist() == [3.0, 40.0]
    assert metrics["logps/annotated"].tolist() == [-3.0, -40.0]
    with pytest.raises(ValueError, match="no reward"):
        SFT().reward(t(-1.0), None)


def test_tspin_by_hand():
    """c = [2, -2], h = [-1, 7]; with alpha 0.5, beta 0.1:
    -log sigmoid(1) + 0.1 * -log sigmoid(-0.5), and -log sigmoid(-1) + 0.1 * -log sigmoid(3.5)."""
    losses, metrics = TSPIN(alpha=0.5, beta=0.1)(logps(*POLICY), None)
    expected = [softplus(-1) + 0.1 * softplus(0.5), softplus(1) + 0.1 * softplus(-3.5)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-14)
    assert metrics["advantages/current"].tolist() == [2.0, -2.0]
    assert metrics["advantages/historical"].tolist() == [-1.0, 7.0]
    assert metrics["rewards/annotated"].tolist() == [-1.5, -20.0]
    assert metrics["rewards/proto"].tolist() == [-2.0, -22.5]


def test_spin_by_hand():
    """c - c_ref = [2 - 0.5, -2 - 0] = [1.5, -2]; lam 0.1 -> -log sigmoid(0.15), (-0.2)."""
    losses, metrics = SPIN(lam=0.1)(logps(*POLICY[:2]), logps(*REFERENCE[:2]))
    assert losses.tolist() == pytest.approx([softplus(-0.15), softplus(0.2)], rel=1e-14)
    assert metrics["rewards/annotated"].tolist() == pytest.approx([0.1, 0.1])
    assert metrics["rewards/synthetic"].tolist() == pytest.approx([-0.05, 0.3])


def test_tspin_ref_by_hand():
    """c - c_ref = [1.5, -2], h - h_ref = [-1 + 0.5, 7 - 3] = [-0.5, 4]; alpha 1, beta 0.1."""
    losses, _ = TSPINRef(alpha=1.0, beta=0.1)(logps(*POLICY), logps(*REFERENCE))
    expected = [softplus(-1.5) + 0.1 * softplus(0.5), softplus(2) + 0.1 * softplus(-4)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-14)


def test_without_ha_by_hand():
    losses, _ = WithoutHA(alpha=0.5)(logps(*POLICY[:2]), None)
    assert losses.tolist() == pytest.approx([softplus(-1), softplus(1)], rel=1e-14)


def test_exponential_link_by_hand():
    losses, _ = WithoutHA(alpha=0.5, link="exponential")(logps(*POLICY[:2]), None)
    assert losses.tolist() == pytest.approx([math.exp(-1), math.exp(1)], rel=1e-14)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("alpha, beta", [(1.0, 0.1), (0.3, 1.0)])
def test_gradient_of_tspin_is_theorem_1(link, alpha, beta):
    """alpha [l'(alpha u) (dy - dy') + beta l'(alpha v) (dy' - dy0)], l'(x) = -sigmoid(-x).

    The paper's eq. (15) prints l'(x) = -sigmoid(x): that is refuted here by autograd.
    """
    policy = logps(*POLICY, grad=True)
    TSPIN(alpha=alpha, beta=beta, link=link)(policy, None)[0].sum().backward()
    slope = {"logistic": lambda x: -torch.sigmoid(-x), "exponential": lambda x: -torch.exp(-x)}
    with torch.no_grad():
        u = slope[link](alpha * (policy.annotated - policy.synthetic))
        v = slope[link](alpha * (policy.synthetic - policy.proto))
    torch.testing.assert_close(policy.annotated.grad, alpha * u, rtol=1e-12, atol=0)
    torch.testing.assert_close(policy.synthetic.grad, alpha * (beta * v - u), rtol=1e-12, atol=0)
    torch.testing.assert_close(policy.proto.grad, -alpha * beta * v, rtol=1e-12, atol=0)


def test_spin_equals_dpo():
    """SPIN is DPO with chosen = annotated, rejected = synthetic, beta = lam: value and gradient."""
    lam = 0.3
    ours, theirs = logps(*POLICY[:2], grad=True), logps(*POLICY[:2], grad=True)
    ref = logps(*REFERENCE[:2])
    value = SPIN(lam=lam)(ours, ref)[0]
    ratios = (theirs.annotated - theirs.synthetic) - (ref.annotated - ref.synthetic)
    dpo = -logsigmoid(lam * ratios)
    assert torch.equal(value, dpo)
    value.sum().backward()
    dpo.sum().backward()
    assert torch.equal(ours.annotated.grad, theirs.annotated.grad)
    assert torch.equal(ours.synthetic.grad, theirs.synthetic.grad)


finite = st.floats(-300, 0)
rows = st.lists(st.tuples(*[finite] * 6), min_size=1, max_size=5)


@given(rows, st.floats(0.01, 5))
def test_tspin_ref_with_beta_0_equals_spin(values, scale):
    columns = list(zip(*values, strict=True))
    policy, reference = logps(*columns[:3]), logps(*columns[3:])
    spin = SPIN(lam=scale)(policy, reference)[0]
    assert torch.equal(TSPINRef(alpha=scale, beta=0.0)(policy, reference)[0], spin)


@given(rows, st.floats(0.01, 5))
def test_tspin_with_beta_0_equals_without_ha_and_ignores_proto(values, alpha):
    columns = list(zip(*values, strict=True))
    without = WithoutHA(alpha=alpha)(logps(*columns[:2]), None)[0]
    assert torch.equal(TSPIN(alpha=alpha, beta=0.0)(logps(*columns[:2]), None)[0], without)
    assert torch.equal(TSPIN(alpha=alpha, beta=0.0)(logps(*columns[:3]), None)[0], without)


@given(rows)
def test_each_loss_ignores_what_it_does_not_use(values):
    """A proto response or a reference that a loss does not ask for changes nothing."""
    columns = list(zip(*values, strict=True))
    policy, reference = logps(*columns[:3]), logps(*columns[3:])
    for loss in (SFT(), SPIN(lam=0.1), TSPIN(1.0, 0.1), TSPINRef(1.0, 0.1), WithoutHA(1.0)):
        needed = Logps(**{role: policy[role] for role in loss.roles})
        ref = Logps(**{role: reference[role] for role in loss.roles})
        ref = ref if loss.needs_reference else None
        assert torch.equal(loss(policy, reference)[0], loss(needed, ref)[0])


@pytest.mark.parametrize("loss", [SPIN(lam=0.1), TSPINRef(1.0, 0.1), TSPINRef(1.0, 0.0)])
def test_the_margin_against_itself_is_zero(loss):
    """Before the first update policy = reference: log 2, and (1 + beta) log 2 for T-SPIN_ref."""
    policy = logps(*POLICY)
    expected = LOG2 * (1 + getattr(loss, "beta", 0.0))
    assert loss(policy, policy)[0].tolist() == pytest.approx([expected] * 2, rel=1e-15)


def test_no_historical_signal_when_synthetic_is_proto():
    """h = log pi(y') - log pi(y0) = -3 - (-3) = 0, and its gradient cancels in y'."""
    _, metrics = TSPIN(1.0, 0.1)(Logps(t(-1.0), t(-3.0), t(-3.0)), None)
    assert metrics["advantages/historical"].item() == 0
    synthetic = t(-3.0, grad=True)
    loss, _ = TSPIN(1.0, 0.1)(Logps(t(-1.0), synthetic, synthetic), None)
    (gradient,) = torch.autograd.grad(loss.sum(), synthetic)
    alone, _ = TSPIN(1.0, 0.0)(Logps(t(-1.0), synthetic), None)
    (current_only,) = torch.autograd.grad(alone.sum(), synthetic)
    assert gradient.item() == pytest.approx(current_only.item(), rel=1e-14)


def test_spin_learns_nothing_from_identical_responses_and_tspin_still_does():
    """y' = y: SPIN is a constant of theta; T-SPIN's h-term keeps a gradient towards y' over y0.

    With one parameter w that is log pi(y) = log pi(y') = w and log pi(y0) = 0:
    d/dw [l(0) + beta l(alpha w)] = -alpha beta sigmoid(-alpha w) = -0.05 at w = 0.
    """
    w = t(0.0, grad=True)
    shared = w * 1.0
    spin, _ = SPIN(lam=0.1)(Logps(shared, shared), logps([-1.0], [-1.0]))
    (gradient,) = torch.autograd.grad(spin.sum(), w, retain_graph=True)
    assert gradient.item() == 0 and spin.item() == pytest.approx(LOG2)
    tspin, _ = TSPIN(alpha=1.0, beta=0.1)(Logps(shared, shared, t(0.0)), None)
    (gradient,) = torch.autograd.grad(tspin.sum(), w)
    assert gradient.item() == pytest.approx(-0.05)


def test_raw_sums_of_hundreds_of_nats_stay_finite_in_float32():
    """Trap 6: alpha = 1 on raw sums; log(sigmoid(-700)) would be -inf, logsigmoid is -700."""
    policy = Logps(torch.tensor([-900.0]), torch.tensor([-200.0]), torch.tensor([-900.0]))
    losses, _ = TSPIN(1.0, 0.1)(policy, None)
    assert losses.item() == pytest.approx(700.0, rel=1e-6)


def test_roles_follow_beta():
    assert TSPIN(1.0, 0.0).roles == ("annotated", "synthetic") == WithoutHA(1.0).roles
    assert TSPIN(1.0, 0.1).roles == ("annotated", "synthetic", "proto") == TSPINRef(1, 0.1).roles
    assert SFT().roles == ("annotated",)
    needs = [x.needs_reference for x in (SFT(), SPIN(0.1), TSPIN(1, 1), TSPINRef(1, 1))]
    assert needs == [False, True, False, True]


def test_contingency_counts_every_row_once_and_names_ties():
    cells = contingency(t(1, 1, 0, 0, 1), t(0, 0, 1, 1, 1), t(1, 0, 1, 0, 2), t(0, 1, 0, 1, 2))
    four = [cells[c].int().tolist() for c in ("both", "reward_only", "logp_only", "neither")]
    assert four == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert (
        cells["tied_reward"].int().tolist() == [0, 0, 0, 0, 1] == cells["tied_logp"].int().tolist()
    )


@given(rows, st.floats(0.01, 5))
def test_tspin_never_disagrees_with_the_likelihood(values, alpha):
    """Reward alpha log pi orders responses as log pi does: two of Figure 3's cells are empty."""
    columns = list(zip(*values, strict=True))
    _, metrics = TSPIN(alpha, 0.1)(logps(*columns[:3]), None)
    assert metrics["contingency/reward_only"].sum() == 0
    # alpha * log pi can round two different log-probabilities to the same reward.
    off = metrics["contingency/logp_only"].bool()
    assert (metrics["contingency/tied_reward"].bool() | ~off).all()


def test_means_weigh_examples_not_micro_batches():
    """(1 + 2 + 3) / 3 = 2, however the three are cut."""
    assert mean_metrics([{"x": t(1.0)}, {"x": t(2.0, 3.0)}]) == {"x": 2.0}


# --- what an objective is at iteration t ---------------------------------------------------------


@given(rows, st.floats(0.01, 5), st.floats(0, 5), st.sampled_from(sorted(LINKS)))
def test_at_iteration_0_tspin_is_without_ha_and_its_ref_is_spin(values, alpha, beta, link):
    """y' is y0 there, so h = 0 whatever beta is. Losses and gradients are the same bits."""
    columns = list(zip(*values, strict=True))
    reference = logps(*columns[3:5])
    for whole, plain in (
        (TSPIN(alpha, beta, link), WithoutHA(alpha, link)),
        (TSPINRef(alpha, beta, link), SPIN(alpha, link)),
    ):
        assert whole.at(0) == plain == plain.at(0) and whole.at(1) == (whole if beta else plain)
        ours, theirs = (logps(*columns[:2], grad=True) for _ in range(2))
        ref = reference if plain.needs_reference else None
        mine, other = whole.at(0)(ours, ref)[0], plain(theirs, ref)[0]
        mine.sum().backward(), other.sum().backward()
        assert torch.equal(mine, other)
        assert torch.equal(ours.annotated.grad, theirs.annotated.grad)
        assert torch.equal(ours.synthetic.grad, theirs.synthetic.grad)


def test_the_rest_are_the_same_in_every_iteration():
    for objective in (SFT(), SPIN(0.1), WithoutHA(1.0)):
        assert objective.at(0) is objective.at(3) is objective
    assert isinstance(TSPIN(1.0, 0.1), Objective)


def test_objectives_are_built_without_torch():
    """The plan of a sweep asks them for roles, coefficients and references, and answers at once."""
    code = """
import sys
from tspin.objectives import SFT, SPIN, TSPIN, TSPINRef, WithoutHA
for made in (SFT(), SPIN(0.1), TSPIN(1.0, 0.1), TSPINRef(1.0, 0.1), WithoutHA(1.0)):
    for t in (0, 1):
        assert made.at(t).roles and made.at(t).key() and made.needs_reference in (True, False)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
