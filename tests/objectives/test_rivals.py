"""The rivals: by hand, against a second way to write each, and what each asks for."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.triplet_logps import POLICY, logps

from tspin.objectives import (
    CPO,
    IPO,
    IRIS,
    KTO,
    NCA,
    ORPO,
    SFT,
    SPACE,
    SPIF,
    SPIN,
    SPPO,
    SSD,
    TPO,
    APOZero,
    Logps,
    RePO,
    SimPO,
    WithoutHA,
)

REFERENCE = {"annotated": [-4.0, -41.0], "synthetic": [-4.5, -41.0], "proto": [-4.0, -44.0]}


def s(x):
    return 1 / (1 + math.exp(-x))


TILTED = (math.exp(-0.25) + math.exp(1.5)) / 2  # E exp(r_y' / 2)
BY_HAND = {  # r_y = [1, 1], r_y' = [-0.5, 3]; avg y = [-1.5, -4], avg y' = [-1, -2], c = [2, -2]
    SPACE(mu=1.0): [-math.log(s(1)) - math.log(s(0.5)), -math.log(s(1)) - math.log(s(-3))],
    SPACE(mu=2.0): [
        -math.log(1 / (1 + 2 * math.exp(-1))) - 2 * math.log(1 / (1 + 0.5 * math.exp(-0.5))),
        -math.log(1 / (1 + 2 * math.exp(-1))) - 2 * math.log(1 / (1 + 0.5 * math.exp(3))),
    ],
    IPO(beta=0.5): [(1 / 2 + 0.5 / 5 - 1) ** 2, (1 / 10 - 3 / 19 - 1) ** 2],
    NCA(beta=2.0): [
        -math.log(s(2)) - 0.5 * math.log(s(-2)) - 0.5 * math.log(s(1)),
        -math.log(s(2)) - 0.5 * math.log(s(-2)) - 0.5 * math.log(s(-6)),
    ],
    APOZero(beta=2.0): [1 - s(2) + s(-1), 1 - s(2) + s(6)],
    SPIF(bound=2.0): [-0.5 - 1 + (1 + 0.25) / 4, 3 - 1 + (1 + 9) / 4],
    KTO(beta=2.0): [  # E r_y = 1, E r_y' = 1.25
        1 - s(2 * (1 - 1.25)) + 1 - s(2 * (1 + 0.5)),
        1 - s(2 * (1 - 1.25)) + 1 - s(2 * (1 - 3)),
    ],
    IRIS(order=0.5): [
        -1 + 2 * (math.exp(-0.25) / TILTED - 1 + math.log(TILTED)),
        -1 + 2 * (math.exp(1.5) / TILTED - 1 + math.log(TILTED)),
    ],
    SPPO(beta=0.25): [(1 - 2) ** 2 + (-0.5 + 2) ** 2, (1 - 2) ** 2 + (3 + 2) ** 2],
    SimPO(beta=2.0, gamma_ratio=0.8): [
        -math.log(s(2 * (-1.5 + 1 - 0.8))),
        -math.log(s(2 * (-4 + 2 - 0.8))),
    ],
    RePO(gamma=0.5): [0.5 + 0.5, 0.5 + 2],
    CPO(beta=0.5, eta=1.0): [-math.log(s(1)) + 3, -math.log(s(-1)) + 40],
    TPO(beta=0.5, eta=2.0): [3 - 2 * math.log(s(-0.5)), 40 - 2 * math.log(s(3.5))],
    ORPO(weight=0.1): [
        1.5 - 0.1 * math.log(s(math.log(math.exp(-1.5) / (1 - math.exp(-1.5)))
                               - math.log(math.exp(-1) / (1 - math.exp(-1))))),
        4 - 0.1 * math.log(s(math.log(math.exp(-4) / (1 - math.exp(-4)))
                             - math.log(math.exp(-2) / (1 - math.exp(-2))))),
    ],
    SSD(): [5, 38],
}  # fmt: skip
IDS = [f"{type(objective).__name__} {objective.key()[1]}" for objective in BY_HAND]


def inputs(objective, *, grad=False):
    """What a run gives it: its roles, and of the reference those it asks for."""
    policy = logps({role: POLICY[role] for role in objective.roles}, grad=grad)
    needed = {role: REFERENCE[role] for role in objective.reference_roles}
    return policy, logps(needed) if needed else None


@pytest.mark.parametrize(("objective", "expected"), BY_HAND.items(), ids=IDS)
def test_by_hand(objective, expected):
    losses, _ = objective(*inputs(objective))
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def log_s(x):
    return -torch.log1p(torch.exp(-x))


def space(p, r, o):
    def log_s_mu(x, mu):
        return -torch.log(1 + mu * torch.exp(-x))

    return -log_s_mu(r["y"], o.mu) - o.mu * log_s_mu(-r["s"], 1 / o.mu)


SECOND_WAY = {  # of each formula, from the sums p, the ratios r, the means m and q of both
    SPACE: lambda p, r, m, q, o: space(p, r, o),
    IPO: lambda p, r, m, q, o: (
        (q["y"] - q["s"]) ** 2 - (q["y"] - q["s"]) / o.beta + 0.25 / o.beta**2
    ),
    NCA: lambda p, r, m, q, o: (
        -log_s(o.beta * r["y"]) - (log_s(-o.beta * r["y"]) + log_s(-o.beta * r["s"])) / 2
    ),
    APOZero: lambda p, r, m, q, o: (
        1 - torch.exp(log_s(o.beta * r["y"])) + torch.exp(log_s(o.beta * r["s"]))
    ),
    SPIF: lambda p, r, m, q, o: (
        ((r["y"] - o.bound) ** 2 + (r["s"] + o.bound) ** 2) / (2 * o.bound) - o.bound
    ),
    KTO: lambda p, r, m, q, o: (
        2
        - torch.exp(log_s(o.beta * (r["y"] - r["s"].detach().mean().relu())))
        - torch.exp(log_s(o.beta * (r["y"].detach().mean().relu() - r["s"])))
    ),
    SPPO: lambda p, r, m, q, o: (
        r["y"] ** 2 + r["s"] ** 2 - (r["y"] - r["s"]) / o.beta + 0.5 / o.beta**2
    ),
    SimPO: lambda p, r, m, q, o: -log_s(o.beta * (m["y"] - m["s"]) - o.gamma_ratio * o.beta),
    RePO: lambda p, r, m, q, o: torch.maximum(m["y"] * 0, o.gamma - m["y"] + m["s"]),
    CPO: lambda p, r, m, q, o: -log_s(o.beta * (p["y"] - p["s"])) - o.eta * p["y"],
    TPO: lambda p, r, m, q, o: -o.eta * log_s(o.beta * (p["s"] - p["o"])) - p["y"],
    ORPO: lambda p, r, m, q, o: (
        -m["y"]
        - o.weight
        * log_s(
            torch.log(m["y"].exp() / (1 - m["y"].exp()))
            - torch.log(m["s"].exp() / (1 - m["s"].exp()))
        )
    ),
    SSD: lambda p, r, m, q, o: -p["s"],
}


@pytest.mark.parametrize("objective", [it for it in BY_HAND if not isinstance(it, IRIS)], ids=str)
def test_the_gradient_is_that_of_the_formula_written_a_second_way(objective):
    ours, theirs = inputs(objective, grad=True)[0], inputs(objective, grad=True)[0]
    reference = inputs(objective)[1]
    losses, _ = objective(ours, reference)
    losses.sum().backward()
    names = {"annotated": "y", "synthetic": "s", "proto": "o"}
    p = {names[role]: theirs[role] for role in theirs.present()}
    m = {names[role]: theirs[role] / theirs.lengths[role] for role in theirs.present()}
    r, q = {}, {}
    if reference is not None:
        r = {names[role]: theirs[role] - reference[role] for role in theirs.present()}
        q = {names[role]: r[names[role]] / theirs.lengths[role] for role in theirs.present()}
    expected = SECOND_WAY[type(objective)](p, r, m, q, objective)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-12)
    expected.sum().backward()
    for role in ours.present():
        torch.testing.assert_close(ours[role].grad, theirs[role].grad, rtol=1e-10, atol=1e-12)


def risks(y, s, order):
    """IRIS' two risks, written for a whole batch."""
    of_synthetic = (order * s).exp().mean().log() / order
    if order == 1:
        return of_synthetic - y.mean()
    return of_synthetic - ((order - 1) * y).exp().mean().log() / (order - 1)


@pytest.mark.parametrize("order", [0.3, 1.0, 2.0])
def test_the_mean_of_iris_and_its_gradient_are_those_of_the_risks(order):
    """Though the statistics of the batch are constants."""
    ours, theirs = inputs(IRIS(order), grad=True)[0], inputs(IRIS(order), grad=True)[0]
    reference = inputs(IRIS(order))[1]
    loss = IRIS(order)(ours, reference)[0].mean()
    roles = ("annotated", "synthetic")
    expected = risks(*(theirs[role] - reference[role] for role in roles), order)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward(), expected.backward()
    for role in roles:
        torch.testing.assert_close(ours[role].grad, theirs[role].grad, rtol=1e-10, atol=1e-14)


def test_iris_changes_nothing_where_the_policy_is_the_data():
    """Three responses of probability p under data and policy, all of each: no gradient by the
    policy's logits, whatever the order."""
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    rows = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    for order in (0.5, 1.0, 2.0):
        logits = p.log().requires_grad_()
        drawn = logits.log_softmax(0)[rows]
        held = Logps(annotated=p.log()[rows], synthetic=p.log()[rows])
        IRIS(order)(Logps(annotated=drawn, synthetic=drawn), held)[0].mean().backward()
        torch.testing.assert_close(logits.grad, torch.zeros_like(p), rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [KTO(0.5), IRIS(0.5), IRIS(2.0)], ids=str)
def test_a_part_of_a_batch_with_its_statistics_is_a_part_of_its_losses(objective):
    policy, reference = inputs(objective)
    whole = objective(policy, reference)[0]
    statistics = objective.statistics(policy, reference)
    for row in (0, 1):
        part, against = (
            logps({role: [of[role][row].item()] for role in objective.roles},
                  lengths={role: [1] for role in objective.roles})
            for of in (policy, reference)
        )  # fmt: skip
        alone = objective(part, against)[0]
        assert objective(replace(part, statistics=statistics), against)[0] == whole[row]
        assert alone != whole[row]


@pytest.mark.parametrize("objective", BY_HAND, ids=IDS)
def test_each_asks_for_what_it_reads(objective):
    """More roles, and a reference nobody asked for, change nothing."""
    policy, reference = inputs(objective)
    more = objective(logps(POLICY), logps(REFERENCE))[0]
    assert torch.equal(objective(policy, reference)[0], more)
    assert objective.needs_reference == bool(objective.reference_roles)


@pytest.mark.parametrize("objective", BY_HAND, ids=IDS)
def test_metrics_are_of_whole_responses_and_rewards_in_their_own_unit(objective):
    policy, reference = inputs(objective)
    _, metrics = objective(policy, reference)
    for role in objective.roles:
        assert torch.equal(metrics[f"logps/{role}"], policy[role])
        if not objective.has_reward:
            continue
        unit = policy.lengths[role] if objective.per_token else 1
        against = None if reference is None else reference[role] / unit
        reward = objective.reward(policy[role] / unit, against)
        assert torch.equal(metrics[f"rewards/{role}"], reward)
    assert not any(value.requires_grad for value in metrics.values())


def test_those_on_sums_without_a_reference_are_never_misaligned():
    """Their reward is log pi(z) times a number; means over tokens can disagree with it."""
    for objective in (CPO(0.5, 1.0), TPO(0.5, 1.0)):
        _, metrics = objective(*inputs(objective))
        assert not metrics["contingency/reward_only"].any()
        assert not metrics["contingency/logp_only"].any()
    longer = {"annotated": [2, 40], "synthetic": [5, 19]}
    policy = logps({role: POLICY[role] for role in longer}, lengths=longer)
    _, metrics = SimPO(2.0, 0.8)(policy)  # y: -40 / 40 a token, y': -38 / 19
    assert metrics["contingency/reward_only"].tolist() == [0, 1]


numbers = st.floats(-50, -0.5)
rows = st.lists(st.tuples(*[numbers] * 4), min_size=1, max_size=4)


@given(rows, st.floats(0.01, 2))
def test_relations_between_objectives(values, scale):
    """CPO without its NLL is w/o H-A; NCA is half of SPACE and a pull of r_y towards 0."""
    y, s_, ry, rs = (list(column) for column in zip(*values, strict=True))
    lengths = {"annotated": [3] * len(y), "synthetic": [4] * len(y)}
    policy = logps({"annotated": y, "synthetic": s_}, lengths=lengths)
    reference = logps({"annotated": ry, "synthetic": rs}, lengths=lengths)
    plain = WithoutHA(scale)(policy)[0]
    torch.testing.assert_close(CPO(scale, 0.0)(policy)[0], plain, rtol=1e-12, atol=1e-12)
    r_y = policy.annotated - reference.annotated
    pull = -torch.nn.functional.logsigmoid(r_y) - torch.nn.functional.logsigmoid(-r_y)
    half = 0.5 * SPACE(1.0)(policy, reference)[0] + 0.5 * pull
    torch.testing.assert_close(NCA(1.0)(policy, reference)[0], half, rtol=1e-9, atol=1e-9)


@given(rows, st.floats(0.1, 10))
def test_spif_is_a_share_of_sppo(values, bound):
    """beta SPPO - bound at beta = 1 / (2 bound)."""
    y, s_, ry, rs = (list(column) for column in zip(*values, strict=True))
    lengths = {"annotated": [3] * len(y), "synthetic": [4] * len(y)}
    policy = logps({"annotated": y, "synthetic": s_}, lengths=lengths)
    reference = logps({"annotated": ry, "synthetic": rs}, lengths=lengths)
    beta = 1 / (2 * bound)
    expected = beta * SPPO(beta)(policy, reference)[0] - bound
    torch.testing.assert_close(SPIF(bound)(policy, reference)[0], expected, rtol=1e-9, atol=1e-9)


@given(st.lists(numbers, min_size=1, max_size=4))
def test_kto_without_a_gain_is_apo_zero(values):
    """Both means at most 0: so is z."""
    lengths = {"annotated": [3] * len(values), "synthetic": [4] * len(values)}
    policy = logps({"annotated": values, "synthetic": values}, lengths=lengths)
    reference = logps({role: [0.0] * len(values) for role in lengths}, lengths=lengths)
    expected = APOZero(0.3)(policy, reference)[0]
    torch.testing.assert_close(KTO(0.3)(policy, reference)[0], expected, rtol=1e-12, atol=0)


def test_repo_is_simpo_with_a_large_beta():
    """softplus(beta x) / beta tends to max(0, x); the distance is at most log 2 / beta."""
    policy = logps({role: POLICY[role] for role in ("annotated", "synthetic")})
    beta = 1e4
    simpo = SimPO(beta, 0.5)(policy)[0] / beta
    torch.testing.assert_close(simpo, RePO(0.5)(policy)[0], rtol=0, atol=math.log(2) / beta)


def test_at_iteration_0_tpo_is_sft():
    assert TPO(0.01, 1.0).at(0) == SFT() == TPO(0.01, 0.0).at(3)
    assert TPO(0.01, 1.0).at(1) == TPO(0.01, 1.0)


def test_dpo_is_spin_by_another_name():
    from support.tiny import compose

    dpo, spin = compose("loss=dpo"), compose("loss=spin")
    assert dpo == spin and isinstance(dpo.loss_at(0), SPIN)


@pytest.mark.parametrize("objective", BY_HAND, ids=IDS)
def test_they_stay_finite_in_float32_at_hundreds_of_nats(objective):
    """Raw sums of long responses: log s(-700) is -700, not -inf, and so is its gradient."""
    far = {"annotated": [-900.0], "synthetic": [-200.0], "proto": [-900.0]}
    policy = Logps(
        **{role: torch.tensor(far[role], requires_grad=True) for role in objective.roles},
        lengths={role: torch.tensor([3]) for role in objective.roles},
    )
    near = {role: torch.tensor([-100.0]) for role in objective.reference_roles}
    lengths = {role: torch.tensor([3]) for role in near}
    losses, _ = objective(policy, Logps(**near, lengths=lengths) if near else None)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert all(policy[role].grad.isfinite().all() for role in policy.present())


def test_a_certain_response_has_finite_odds():
    lengths = {"annotated": [3], "synthetic": [4]}
    policy = logps({"annotated": [0.0], "synthetic": [-2.0]}, grad=True, lengths=lengths)
    losses, _ = ORPO(0.1)(policy)
    losses.sum().backward()
    assert losses.isfinite().all() and policy.annotated.grad.isfinite().all()
