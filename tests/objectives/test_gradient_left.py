"""What is left of a row's gradient: T-SPIN's by its formula, and laws that hold for any objective.

Responses are told apart by numbers; in a row, equal ones are one text.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.triplet_logps import LENGTHS, logps

from tspin.config.objective import built_in
from tspin.objectives import SPIN, TSPIN, Logps, RePO, TSPINRef, WithoutHA
from tspin.objectives.anchored import Anchors
from tspin.objectives.gradient_left import gradient_left

ROLES = ("annotated", "synthetic", "proto")
DIFFERENT = (0, 1, 2)
nats = st.floats(-30, 0)


def left(objective, policy, reference=None, *, texts=DIFFERENT):
    """policy, reference: log pi of y, y', y0"""
    made = [
        None if of is None else Logps(*(torch.tensor([x], dtype=torch.float64) for x in of))
        for of in (policy, reference)
    ]
    numbers = {role: torch.tensor([i]) for role, i in zip(ROLES, texts, strict=True)}
    return gradient_left(objective, *made, numbers).item()


def s(x):
    return torch.sigmoid(torch.tensor(x, dtype=torch.float64)).item()


@settings(max_examples=40)
@given(nats, nats, nats, st.floats(0.1, 3), st.floats(0.1, 2))
def test_of_tspin(y, y1, y0, alpha, beta):
    c, h = y - y1, y1 - y0
    expected = 2 * (s(-alpha * c) + beta * s(-alpha * h)) / (1 + beta)
    assert left(TSPIN(alpha, beta), (y, y1, y0)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    reference = (-1.0, -4.0, -2.0)  # its c is 3, its h is -2
    c, h = c - 3, h + 2
    expected = 2 * (s(-alpha * c) + beta * s(-alpha * h)) / (1 + beta)
    found = left(TSPINRef(alpha, beta), (y, y1, y0), reference)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_by_hand():
    """c = log 3: sigmoid(-c) = 1/4, half of the 1/2 that it is at c = 0; exp(-c) = 1/3 of 1."""
    log3 = torch.tensor(3.0).log().item()
    assert left(WithoutHA(1.0), (0.0, -log3, -9.0)) == pytest.approx(0.5)
    assert left(WithoutHA(1.0, "exponential"), (0.0, -log3, -9.0)) == pytest.approx(1 / 3)
    assert left(SPIN(1.0), (-1.0, -2.0, -9.0), (-1.0, log3 - 2.0, -9.0)) == pytest.approx(0.5)


@pytest.mark.parametrize("policy", [(-1.0, -4.0, -2.0), (-7.0, -3.0, -3.5)])
def test_a_margin_between_equal_texts_has_none(policy):
    """Of T-SPIN with beta = 1, each of two halves."""
    (y, y1, y0), loss = policy, TSPIN(1.0, 1.0)
    assert left(loss, policy, texts=(0, 0, 2)) == pytest.approx(s(y0 - y1))
    assert left(loss, policy, texts=(0, 1, 1)) == pytest.approx(s(y1 - y))
    assert left(loss, policy, texts=(0, 0, 0)) == 0
    # y0 is y, so that h = -c: d/dc of l(c) + l(-c)
    expected = abs(s(y - y1) - s(y1 - y))
    assert left(loss, (y, y1, y), texts=(0, 1, 0)) == pytest.approx(expected)


def test_a_margin_that_is_enough_has_none():
    far, near = (
        Logps(*(torch.tensor([x]) for x in of), lengths=dict.fromkeys(ROLES, torch.tensor([2])))
        for of in ((-1.0, -9.0, -9.0), (-1.0, -1.5, -9.0))
    )
    numbers = {role: torch.tensor([i]) for role, i in zip(ROLES, DIFFERENT, strict=True)}
    assert gradient_left(RePO(gamma=0.5), far, None, numbers).item() == 0
    assert gradient_left(RePO(gamma=0.5), near, None, numbers).item() == 1


@pytest.mark.parametrize("anchors", [Anchors(), Anchors(hinge=1.0), Anchors(nll=0.1)], ids=str)
@pytest.mark.parametrize("kind", built_in(), ids=lambda kind: kind.name)
def test_it_is_1_where_the_responses_are_equally_likely(kind, anchors):
    """Equal sums; equal means over tokens where the objective takes those."""
    loss = anchors.on(kind(**{name: 0.5 for name in kind.coefficients() if name != "link"}))
    units = LENGTHS if loss.per_token else {role: [1, 1] for role in ROLES}
    policy = logps({role: [-0.7 * units[role][0], -1.3 * units[role][1]] for role in ROLES})
    reference = policy if loss.reference_roles else None
    numbers = {role: torch.tensor([i, i]) for i, role in enumerate(ROLES)}
    found = gradient_left(loss, policy, reference, numbers)
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64))
