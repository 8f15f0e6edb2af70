"""Anchors: what each adds, what none of them changes, and which objectives take them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import compose
from support.triplet_logps import LENGTHS, POLICY, logps

from tspin.objectives import SFT, SPACE, SPIN, SSD, TSPIN, SimPO, TSPINRef, WithoutHA
from tspin.objectives.anchored import Anchored, Anchors

REFERENCE = {"annotated": [-2.0, -41.0], "synthetic": [-4.5, -41.0], "proto": [-4.0, -44.0]}


def test_none_is_the_objective_itself():
    """So that runs without an anchor are what they were: same object, same key."""
    objective = TSPIN(1.0, 0.1)
    assert Anchors().on(objective) is objective
    assert compose().loss_at(1) == TSPIN(1.0, 0.1)


def test_nll_adds_its_share():
    plain, anchored = WithoutHA(0.5), Anchors(nll=0.1).on(WithoutHA(0.5))
    expected = plain(logps(POLICY))[0] + 0.1 * torch.tensor([3.0, 40.0]).double()
    assert anchored(logps(POLICY))[0].tolist() == pytest.approx(expected.tolist(), rel=1e-14)


def test_the_hinge_pulls_up_what_has_fallen_alone():
    """Row 1 fell from -2 to -3: 2 * 1 nat; row 2 rose by 1 nat and is left alone."""
    anchored = Anchors(hinge=2.0).on(TSPIN(0.5, 0.1))
    policy, plain = logps(POLICY, grad=True), logps(POLICY, grad=True)
    reference = logps({"annotated": REFERENCE["annotated"]})
    losses, metrics = anchored(policy, reference)
    alone, _ = TSPIN(0.5, 0.1)(plain)
    assert (losses - alone).tolist() == pytest.approx([2.0, 0.0], abs=1e-14)
    assert metrics["anchor/fall"].tolist() == [1.0, 0.0]
    losses.sum().backward(), alone.sum().backward()
    assert (policy.annotated.grad - plain.annotated.grad).tolist() == pytest.approx([-2.0, 0.0])
    assert torch.equal(policy.synthetic.grad, plain.synthetic.grad)


def test_the_hinge_asks_for_one_stored_score_a_row():
    assert Anchors(hinge=1.0).on(TSPIN(1.0, 0.1)).reference_roles == ("annotated",)
    assert Anchors(hinge=1.0).on(SPIN(0.1)).reference_roles == ("annotated", "synthetic")
    assert Anchors(nll=1.0).on(TSPIN(1.0, 0.1)).reference_roles == ()
    with_y = Anchors(hinge=1.0).on(SSD())
    assert with_y.roles == ("annotated", "synthetic") and with_y.reference_roles == ("annotated",)


def test_a_margin_above_the_cap_has_no_gradient():
    """c = [2, -2], h = [-1, 7] under a cap of 1: l(a min(c, 1)) + b l(a min(h, 1))."""
    alpha, beta = 0.5, 0.3
    anchored = Anchors(cap=1.0).on(TSPIN(alpha, beta))
    policy, plain = logps(POLICY, grad=True), logps(POLICY, grad=True)
    losses, metrics = anchored(policy)
    link = torch.nn.functional.softplus
    c = plain.annotated - plain.synthetic
    h = plain.synthetic - plain.proto
    expected = link(-alpha * c.clamp(max=1.0)) + beta * link(-alpha * h.clamp(max=1.0))
    assert losses.tolist() == pytest.approx(expected.tolist(), rel=1e-14)
    losses.sum().backward(), expected.sum().backward()
    for role in policy.present():
        torch.testing.assert_close(policy[role].grad, plain[role].grad, rtol=1e-12, atol=1e-15)
    assert metrics["advantages/current"].tolist() == [2.0, -2.0]  # as they are, not as capped
    assert metrics["advantages/historical"].tolist() == [-1.0, 7.0]
    assert metrics["weights/current"][0] == 0 and metrics["weights/historical"][1] == 0
    assert metrics["weights/current"][1] == torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))


def test_with_a_reference_the_cap_is_of_the_difference():
    """c - c_ref = [2 - 2.5, -2 - 0] = [-0.5, -2], h - h_ref = [-1 + 0.5, 7 - 3] = [-0.5, 4]."""
    anchored = Anchors(cap=1.0).on(TSPINRef(1.0, 0.5))
    losses, _ = anchored(logps(POLICY), logps(REFERENCE))
    link = torch.nn.functional.softplus
    capped = torch.tensor([[0.5, 2.0], [0.5, -1.0]], dtype=torch.float64)
    assert losses.tolist() == pytest.approx((link(capped[0]) + 0.5 * link(capped[1])).tolist())


def test_means_in_place_of_sums():
    """avg y = [-1.5, -4], avg y' = [-1, -2]: l(a (avg y - avg y')); logps stay sums."""
    anchored = Anchors(average=True).on(WithoutHA(2.0))
    policy = logps({role: POLICY[role] for role in ("annotated", "synthetic")})
    losses, metrics = anchored(policy)
    expected = torch.nn.functional.softplus(-2.0 * torch.tensor([-0.5, -2.0]).double())
    assert losses.tolist() == pytest.approx(expected.tolist(), rel=1e-14)
    assert metrics["logps/annotated"].tolist() == POLICY["annotated"]
    assert metrics["rewards/annotated"].tolist() == [-3.0, -8.0]
    assert metrics["advantages/current"].tolist() == [-0.5, -2.0]


finite = st.floats(-300, -0.1)
rows = st.lists(st.tuples(*[finite] * 4), min_size=1, max_size=5)
strength = st.none() | st.floats(0.01, 5)


@given(rows, strength, strength, strength)
def test_the_reward_stays_so_that_no_row_is_misaligned(values, nll, hinge, cap):
    """Reward alpha log pi orders y and y' as the likelihood does, whatever holds log pi(y)."""
    y, s, o, ref = (list(column) for column in zip(*values, strict=True))
    lengths = {role: [3] * len(y) for role in LENGTHS}
    policy = logps({"annotated": y, "synthetic": s, "proto": o}, lengths=lengths)
    anchored = Anchored(TSPIN(0.7, 0.1), Anchors(nll, hinge, cap))
    reference = logps({"annotated": ref}, lengths=lengths) if hinge else None
    losses, metrics = anchored(policy, reference)
    assert losses.isfinite().all()
    assert not metrics["contingency/reward_only"].any()
    off = metrics["contingency/logp_only"].bool()
    assert (metrics["contingency/tied_reward"].bool() | ~off).all()
    assert metrics["rewards/annotated"].tolist() == [0.7 * value for value in y]


@given(rows)
def test_an_anchor_that_holds_nothing_changes_no_bit(values):
    """A cap that no margin reaches, and a hinge where y has become likelier."""
    y, s, o, _ = (list(column) for column in zip(*values, strict=True))
    lengths = {role: [3] * len(y) for role in LENGTHS}
    columns = {"annotated": y, "synthetic": s, "proto": o}
    policy, plain = (logps(columns, grad=True, lengths=lengths) for _ in range(2))
    reference = logps({"annotated": [value - 1 for value in y]}, lengths=lengths)
    held, _ = Anchored(TSPIN(0.7, 0.1), Anchors(hinge=1.0, cap=1e4))(policy, reference)
    free, _ = TSPIN(0.7, 0.1)(plain)
    held.sum().backward(), free.sum().backward()
    assert torch.equal(held, free)
    assert all(torch.equal(policy[role].grad, plain[role].grad) for role in policy.present())


def test_which_do_not_take_them_say_so():
    with pytest.raises(ValueError, match="loss=space compares more than them; use anchor=hinge"):
        Anchors(cap=1.0).on(SPACE(1.0))
    with pytest.raises(ValueError, match="loss=simpo takes means over tokens by itself"):
        Anchors(average=True).on(SimPO(2.0, 0.8))
    with pytest.raises(ValueError, match="anchor.cap=10 caps the margins"):
        compose("loss=sppo", "anchor=cap")


def test_they_keep_their_place_in_the_key_and_in_iteration_0():
    anchored = Anchors(hinge=1.0).on(TSPIN(1.0, 0.1))
    assert anchored.at(0) == Anchored(WithoutHA(1.0), Anchors(hinge=1.0))
    assert anchored.key() == ("tspin", {"alpha": 1.0, "beta": 0.1, "link": "logistic",
                                        "anchor.hinge": 1.0})  # fmt: skip
    assert Anchors(hinge=1.0).on(SFT()).has_reward is False


@pytest.mark.slow
def test_the_groups_say_what_they_add():
    objectives = {name: compose(f"anchor={name}").loss_at(1) for name in
                  ("nll", "hinge", "cap", "average")}  # fmt: skip
    assert objectives["nll"].anchors == Anchors(nll=0.1)
    assert objectives["hinge"].anchors == Anchors(hinge=1.0)
    assert objectives["cap"].anchors == Anchors(cap=10.0)
    assert objectives["average"].anchors == Anchors(average=True)
    together = compose("anchor=hinge", "anchor.cap=3")
    assert together.loss_at(1).anchors == Anchors(hinge=1.0, cap=3.0)
