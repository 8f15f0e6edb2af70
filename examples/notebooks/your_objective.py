# %% [markdown]
# # Your objective
#
# An objective is a frozen dataclass on log-probabilities: its fields are its coefficients, `roles`
# what it reads. Here: both advantages of T-SPIN under a hinge, which leaves alone what is far
# enough apart.

# %%
from dataclasses import dataclass
from typing import ClassVar

import torch

from tspin.objectives import TSPIN, Logps, Objective, Positive, current_advantage
from tspin.objectives.advantages import historical_advantage
from tspin.objectives.metrics import reward_metrics


@dataclass(frozen=True)
class Hinge(Objective):
    """max(0, 1 - alpha c) + beta max(0, 1 - alpha h); reward alpha log pi, reference-free."""

    alpha: Positive
    beta: Positive
    roles: ClassVar = ("annotated", "synthetic", "proto")

    def reward(self, logp, ref_logp):
        return self.alpha * logp

    def __call__(self, policy, reference=None):
        current, historical = current_advantage(policy), historical_advantage(policy)
        losses = (1 - self.alpha * current).relu() + self.beta * (
            1 - self.alpha * historical
        ).relu()
        metrics = reward_metrics(self, policy, None)
        metrics["advantages/current"] = current.detach()
        metrics["advantages/historical"] = historical.detach()
        return losses, metrics


# %% [markdown]
# ## By hand
#
# c = -1 + 3 = 2 and h = -3 + 4 = 1, so at alpha = 0.2 the loss is (1 - 0.4) + 0.5 (1 - 0.2) = 1.

# %%
triplet = Logps(torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([-4.0]))
losses, metrics = Hinge(alpha=0.2, beta=0.5)(triplet)
print(f"loss {losses.item():.4f}")
torch.testing.assert_close(losses, torch.tensor([1.0]))

# %% [markdown]
# ## What it does to a policy
#
# The smallest policy there is: a distribution over four responses, y, y', y0 and all others. Plain
# gradient descent on its logits shows where an objective leads.


# %%
def descend(objective: Objective, steps: int = 200, rate: float = 0.5) -> torch.Tensor:
    """Probabilities of (y, y', y0, others) after each step, from (0.1, 0.4, 0.4, 0.1)."""
    logits = torch.tensor([0.1, 0.4, 0.4, 0.1]).log().requires_grad_()
    path = []
    for _ in range(steps):
        y, synthetic, proto, _ = logits.log_softmax(0).split(1)
        losses, _ = objective(Logps(y, synthetic, proto))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        with torch.no_grad():
            logits -= rate * gradient
        path.append(logits.detach().softmax(0))
    return torch.stack(path)


for objective in (TSPIN(alpha=1.0, beta=0.1), Hinge(alpha=1.0, beta=0.1)):
    path = descend(objective)
    last = ", ".join(f"{value:.3f}" for value in path[-1].tolist())
    print(f"{type(objective).__name__}: y, y', y0, others = {last}")
    assert path[-1, 0] > path[0, 0]  # y has become more likely
still = descend(Hinge(alpha=1.0, beta=0.1))
assert torch.equal(still[-1], still[-2])  # the hinge has come to rest, T-SPIN never does

# %% [markdown]
# ## A run with it
#
# Put the class into `hinge.py` in a folder of your own, and beside it `my_conf/loss/hinge.yaml`:
#
#     _target_: hinge.Hinge
#     name: hinge
#     label: Hinge
#     alpha: ${coef.alpha}
#     beta: 0.1
#
# In that folder, `python PATH/TO/main.py --config-dir my_conf loss=hinge experiment=quick` trains
# with it, and `-m loss=hinge,tspin seed=0,1,2` compares. CONTRIBUTING.md makes it a part of tspin.
