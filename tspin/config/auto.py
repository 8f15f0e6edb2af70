"""What `auto` comes to: values that a configuration leaves to the rows of its data.

A run settles them once, before anything is sampled (runs.start). No torch.
"""

from __future__ import annotations

from typing import Literal

Auto = Literal["auto"]
AUTO: Auto = "auto"
HELDOUT, ALPHA = "data.heldout", "coef.alpha"  # keys that may be auto
SETTLED = (HELDOUT, ALPHA, "loss.")  # with the coefficients that follow coef.alpha
MOST_HELDOUT = 32  # prompts
HELDOUT_EVERY = 5  # of so many conversations one is held out, where that is fewer
PAPER_ALPHA = 1.0  # set-up of the paper
PAPER_TOKENS = 256  # of its responses: assumed, its samples are cut there


def num_heldout(conversations: int) -> int:
    """data.heldout=auto: MOST_HELDOUT prompts, or a fifth of the conversations if that is fewer."""
    return min(MOST_HELDOUT, conversations // HELDOUT_EVERY)


def alpha(mean_tokens: float) -> float:
    """coef.alpha=auto: what scales a margin as the paper's alpha does at the paper's length.

    The margins c and h are differences of sums over a response's tokens. Where two responses differ
    by as much a token, c grows with their length, and alpha c is the paper's where alpha times the
    length is. To three digits, as people would type it.

    mean_tokens  of the annotated responses that are trained on, EOS included
    """
    return float(f"{PAPER_ALPHA * PAPER_TOKENS / mean_tokens:.3g}")
