"""What the policy in this process does where its logits are no numbers."""

from dataclasses import replace

import pytest
import torch
from support.tiny import compose, random_policy, random_triplets

from tspin.policy import finite
from tspin.sampling.native import Request, respond
from tspin.stages.score import score


@pytest.fixture(scope="module", params=["nan", "inf"])
def policy(request):
    """Finite weights that overflow: to infinity in the logits, or to NaN before them."""
    policy = random_policy(dtype=torch.float32)
    with torch.no_grad():
        if request.param == "inf":
            policy.model.model.norm.weight.fill_(3e38)
        else:
            policy.model.model.layers[0].mlp.down_proj.weight.fill_(3e38)
    return policy


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("seed", [None, 1])
def test_no_token_is_taken_from_logits_that_are_no_numbers(engine, seed, policy):
    how = replace(compose().decoding, max_new_tokens=3, engine=engine)
    with pytest.raises(finite.NotFinite, match="logits that it samples from are not finite"):
        respond(policy, [Request([5, 6], seed, 1.0), Request([7], seed, 1.0)], how)


@pytest.mark.parametrize("attention", ["plain", "auto"])
def test_no_score_is_one_that_is_no_number(attention, policy):
    batches, roles = [random_triplets(2)], ("annotated", "synthetic")
    with pytest.raises(finite.NotFinite, match="log-probabilities of annotated responses are not"):
        score(replace(policy, attention=attention), batches, roles, label="test")


def test_a_logit_of_minus_infinity_is_a_token_that_is_never_taken():
    policy = random_policy(dtype=torch.float32)
    head = policy.model.get_output_embeddings()
    masked = torch.arange(294) > 9
    head.register_forward_hook(lambda *args: args[2].masked_fill(masked, -torch.inf))
    how = replace(compose().decoding, max_new_tokens=20)
    (response,) = respond(policy, [Request([5, 6], 1, 1.0)], how)
    assert max(response) <= 9
