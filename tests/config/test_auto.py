"""What auto comes to, by hand, and where there is nothing for it to come to."""

import pytest
from support.tiny import compose

from tspin.config import auto


@pytest.mark.parametrize(("prompts", "heldout"), [(4, 0), (5, 1), (12, 2), (159, 31), (1000, 32)])
def test_a_fifth_of_the_prompts_at_most_32(prompts, heldout):
    assert auto.num_heldout(prompts) == heldout


@pytest.mark.parametrize(("tokens", "alpha"), [(256, 1.0), (512, 0.5), (5, 51.2), (300.1, 0.853)])
def test_alpha_times_the_length_is_the_papers(tokens, alpha):
    """1 x 256 = 0.5 x 512, to three digits."""
    assert auto.alpha(tokens) == alpha


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("loss=sft", "coef.alpha=auto: SFT has no coef.alpha; leave it out"),
        ("loss=spin", "coef.alpha=auto: SPIN has no coef.alpha; leave it out"),
        ("loss=wo_ha loss.alpha=2", "w/o H-A has no coef.alpha but a loss.alpha of its own;"),
        ("anchor=average", "coef.alpha=auto is for sums .* with anchor.average=true compares mean"),
        ("coef.alpha=[auto,1]", "coef.alpha.0='auto' must be a number"),
        ("coef.alpha=1 loss.alpha=auto", "loss.alpha='auto' must be a number"),
    ],
)
def test_auto_is_refused_where_nothing_follows_the_length(words, reason):
    with pytest.raises(ValueError, match=reason):
        compose("coef.alpha=auto", *words.split())


def test_before_it_is_settled_an_objective_says_what_it_compares():
    run = compose("coef.alpha=auto", "loss=tspin_ref")
    assert run.unsettled == ["coef.alpha"]
    assert run.loss_at(1).roles == ("annotated", "synthetic", "proto")
    assert run.loss_at(0).key() == ("spin", {"lam": "auto", "link": "logistic"})
