"""A policy to sample and to score from: less memory, the same bits."""

from dataclasses import replace

import pytest
import torch
from support.families.architectures import FAMILIES, family
from support.tiny import compose, random_policy, random_triplets

from tspin.objectives import ROLES
from tspin.policy.inference import narrow
from tspin.policy.policy import Policies
from tspin.sampling.native import respond
from tspin.sampling.requests import Request

pytestmark = pytest.mark.slow

BFLOAT16 = torch.bfloat16


def mixed_policy():
    return replace(random_policy(dtype=torch.float32), autocast=BFLOAT16)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_same_bits(name):
    model = family(name, dtype=torch.float32)
    ids = (torch.arange(3, 43) * 7 % 97).view(4, 10)
    logits = []
    for narrowed in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=BFLOAT16):
            logits.append(model(ids).logits)
        if not narrowed:
            assert narrow(model, BFLOAT16) == (name != "gpt2")  # it has no nn.Linear but its head
    assert torch.equal(*logits)


def test_what_is_no_linear_layer_stays_wide():
    """The head too, where it is the embedding."""
    for tied in (True, False):
        model = family("llama" if tied else "llama-untied-bias", dtype=torch.float32)
        assert narrow(model, BFLOAT16) and not narrow(model, BFLOAT16)
        wide = {n for n, p in model.named_parameters() if p.dtype == torch.float32}
        assert all("norm" in name or "embed" in name for name in wide)
        assert model.lm_head.weight.dtype == (torch.float32 if tied else BFLOAT16)


def test_samples_and_scores_are_the_same_bits():
    policy, triplets = mixed_policy(), random_triplets(5)
    requests = [Request([5 + i, *range(9, 9 + i)], i, 1.0) for i in range(7)]
    how = replace(compose().decoding, max_new_tokens=8, batch_size=3)
    results = []
    for _ in range(2):
        logps = policy.logps(triplets, ROLES)
        results.append((respond(policy, requests, how), [logps[r].tolist() for r in ROLES]))
        narrow(policy.model, policy.autocast)
    assert results[0] == results[1]


def test_a_policy_that_is_narrow_is_read_anew_to_be_trained(tmp_path):
    read = []
    policies = Policies(lambda folder: read.append(folder) or mixed_policy())
    trained = policies(tmp_path)
    assert policies.to_infer(tmp_path) is policies.to_infer(tmp_path) is trained
    again = policies(tmp_path)
    assert again is not trained and policies(tmp_path) is again
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    assert len(read) == 2


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
def test_a_policy_that_is_multiplied_as_it_is_held_is_the_one_that_is_trained(dtype, tmp_path):
    policies = Policies(lambda folder: random_policy(dtype=dtype))
    trained = policies(tmp_path)
    assert policies.to_infer(tmp_path) is policies(tmp_path) is trained
    assert {p.dtype for p in trained.model.parameters()} == {dtype}


@pytest.mark.parametrize("policy", [mixed_policy(), random_policy()], ids=["mixed", "float64"])
def test_the_last_gradient_is_let_go(policy, tmp_path):
    policies = Policies(lambda folder: policy)
    parameters = list(policies(tmp_path).model.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    policies.to_infer(tmp_path)
    assert all(parameter.grad is None for parameter in parameters)
