"""The cells of the contingency table that contingency.json counts, the paper's Figure 3.

Of a triplet (y annotated, y' synthetic): is the reward of y higher than that of y', and is its
log-likelihood?
"""

from __future__ import annotations

CELLS = {  # -> (reward, log-likelihood)
    "both": ("higher", "higher"),  # reward(y) > reward(y') and logp(y) > logp(y')
    "reward_only": ("higher", "not higher"),  # reward(y) > reward(y'), logp(y) <= logp(y')
    "logp_only": ("not higher", "higher"),  # reward(y) <= reward(y'), logp(y) > logp(y')
    "neither": ("not higher", "not higher"),  # reward(y) <= reward(y') and logp(y) <= logp(y')
}
# Rows with equal values. They are in the cells too, as "not higher".
TIES = ("tied_reward", "tied_logp")
