# %% [markdown]
# # The method by hand
#
# Losses and gradients of T-SPIN (arXiv 2601.08198) on numbers that one can check. An objective
# reads log-probabilities and nothing else, so no model is needed. Run it as a script, or cell by
# cell.

# %%
import math

import torch

from tspin.objectives import SPIN, TSPIN, Logps
from tspin.objectives.contingency import contingency


def logps(y: float, synthetic: float, proto: float) -> Logps:
    """log pi of the three responses to one prompt, in nats; gradients are wanted."""
    y_, synthetic_, proto_ = (
        torch.tensor([value], dtype=torch.float64, requires_grad=True)
        for value in (y, synthetic, proto)
    )
    return Logps(annotated=y_, synthetic=synthetic_, proto=proto_)


def link(u: float) -> float:
    """-log sigmoid(u)"""
    return math.log1p(math.exp(-u))


# %% [markdown]
# ## The loss
#
# log pi(y) = -1, log pi(y') = -3, log pi(y0) = -4. So c = -1 + 3 = 2 and h = -3 + 4 = 1.

# %%
alpha, beta = 0.5, 0.1
policy = logps(-1.0, -3.0, -4.0)
losses, metrics = TSPIN(alpha=alpha, beta=beta)(policy)
by_hand = link(alpha * 2) + beta * link(alpha * 1)
print(f"loss {losses.item():.6f}, by hand {by_hand:.6f}")
assert math.isclose(losses.item(), by_hand)
assert metrics["advantages/current"].item() == 2 and metrics["advantages/historical"].item() == 1

# %% [markdown]
# ## The gradient
#
# With s = sigmoid: y is pushed up by alpha s(-alpha c), y0 down by alpha beta s(-alpha h), and y'
# gets the difference of both. The three add up to 0: what one gains the others lose.

# %%
losses.sum().backward()
current = alpha / (1 + math.exp(alpha * 2))
historical = alpha * beta / (1 + math.exp(alpha * 1))
expected = {
    "annotated": -current,
    "synthetic": current - historical,
    "proto": historical,
}
for role, value in expected.items():
    gradient = policy[role].grad.item()
    print(f"d loss / d log pi({role}): {gradient:+.6f}, by hand {value:+.6f}")
    assert math.isclose(gradient, value)

# %% [markdown]
# ## A pair that is far apart teaches nothing
#
# `weights/current` of a run is s(-alpha c), the share of the gradient that is left. With sums over
# long responses, c is in the hundreds: at alpha = 1 all is gone.

# %%
for c in (0.0, 2.0, 10.0, 100.0):
    _, metrics = TSPIN(alpha=1.0, beta=beta)(logps(-1.0, -1.0 - c, -1.0 - c))
    print(f"c = {c:5.0f}: {metrics['weights/current'].item():.2e} of the gradient is left")
assert metrics["weights/current"].item() < 1e-40

# %% [markdown]
# ## Where y' is y
#
# c = 0, whatever the policy does, so SPIN's two gradients cancel in the weights: both are of the
# same response. T-SPIN still has h, which moves the policy away from y0.

# %%
same = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
proto = torch.tensor([-3.5], dtype=torch.float64, requires_grad=True)
reference = Logps(annotated=same.detach(), synthetic=same.detach())
SPIN(lam=0.1)(Logps(annotated=same, synthetic=same), reference)[0].sum().backward()
assert same.grad.item() == 0
same.grad = None
TSPIN(alpha=alpha, beta=beta)(Logps(same, same, proto))[0].sum().backward()
print(f"SPIN: 0, T-SPIN: {same.grad.item():+.6f}")
assert same.grad.item() < 0  # a step against it makes y more likely

# %% [markdown]
# ## Reward against likelihood
#
# SPIN's reward is lambda (log pi - log pi_ref). It can prefer y while the policy says y' more
# often: a misaligned row. T-SPIN's is alpha log pi, whose order is that of the likelihoods.

# %%
policy_y, policy_s = torch.tensor([-10.0]), torch.tensor([-8.0])
reference_y, reference_s = torch.tensor([-14.0]), torch.tensor([-8.0])
for name, objective in (("SPIN", SPIN(lam=0.1)), ("T-SPIN", TSPIN(alpha=alpha, beta=beta))):
    rewards = [
        objective.reward(*pair) for pair in ((policy_y, reference_y), (policy_s, reference_s))
    ]
    cells = contingency(*rewards, policy_y, policy_s)
    misaligned = bool(cells["reward_only"] | cells["logp_only"])
    print(f"{name}: misaligned {misaligned}")
    assert misaligned == (name == "SPIN")
