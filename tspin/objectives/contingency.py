"""Figure 3's contingency table: does the reward order two responses as the likelihood does?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CELLS = {  # -> (reward, log-likelihood) of the annotated response, set beside the synthetic one's
    "both": ("higher", "higher"),
    "reward_only": ("higher", "not higher"),
    "logp_only": ("not higher", "higher"),
    "neither": ("not higher", "not higher"),
}
TIES = ("tied_reward", "tied_logp")  # equal values: in the cells too, as "not higher"


def contingency(
    reward_y: Tensor, reward_s: Tensor, logp_y: Tensor, logp_s: Tensor
) -> dict[str, Tensor]:
    """The four cells of Figure 3's table as 0/1 per example, and the ties. Each (batch,).

    [reward of y above that of y' or not] x [log pi(y) above log pi(y') or not]; "above" is
    strict, so that ties fall to "not" and are counted beside the cells.
    """
    reward_up, logp_up = reward_y > reward_s, logp_y > logp_s
    return {
        "both": reward_up & logp_up,
        "reward_only": reward_up & ~logp_up,
        "logp_only": ~reward_up & logp_up,
        "neither": ~reward_up & ~logp_up,
        "tied_reward": reward_y == reward_s,
        "tied_logp": logp_y == logp_s,
    }
