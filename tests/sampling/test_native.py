"""What the policy in this process does where its logits are no numbers, or memory runs out."""

from dataclasses import replace

import pytest
import torch
from support.tiny import compose, random_policy, random_triplets
from support.waits import Waits

from tspin.objectives import ROLES
from tspin.policy import finite
from tspin.sampling import decode
from tspin.sampling.native import Native, _Choice, respond
from tspin.sampling.requests import Request, sample_seed
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


# --- out of memory -------------------------------------------------------------------------------

PROMPTS = [[5 + i % 80, *range(7, 7 + 5 * i % 13)] for i in range(17)] + [[9], [9, 9], [9]]
REQUESTS = [
    Request(prompt, None if i % 5 == 4 else sample_seed(0, 1, str(i)), 1.0)
    for i, prompt in enumerate(PROMPTS)
]


class Device:
    """Memory for `tokens` ids in a forward pass; less of it from the pass number `later` on."""

    def __init__(self, policy, tokens, later=0):
        self.tokens, self.later, self.passes = tokens, later, []
        policy.model.base_model.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, module, args, options):
        self.passes.append(options["input_ids"].numel())
        if len(self.passes) > self.later and self.passes[-1] > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore of it")


@pytest.fixture(scope="module")
def one_by_one():
    """In float64: the response to each request, alone on a device with memory enough."""
    how = replace(compose().decoding, max_new_tokens=12, batch_size=1)
    policy = random_policy(scale=0.4)
    return [respond(policy, [request], how)[0] for request in REQUESTS]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize(("tokens", "size"), [(100, 5), (30, 2), (13, 1)])
def test_where_memory_runs_out_half_the_rows_are_sampled(
    engine, tokens, size, one_by_one, caplog, monkeypatch
):
    """Twenty rows, read together; the longest prompt has 13 tokens. 20, 10, 5, 2, 1 rows."""
    monkeypatch.setitem(decode.PASS_TOKENS, "cpu", 10**6)
    policy = random_policy(scale=0.4)
    device, ended = Device(policy, tokens), []
    how = replace(compose().decoding, max_new_tokens=12, batch_size=64, engine=engine)
    assert respond(policy, REQUESTS, how, done=ended.append) == one_by_one
    assert sum(ended) == len(REQUESTS)
    assert caplog.messages[-1] == (
        "sampling: CUDA out of memory. Tried to allocate 1 GiB.; from here on "
        f"decoding.batch_size={size}, the samples are the same"
    )
    assert max(device.passes[-10:]) <= tokens


def test_what_has_ended_before_memory_runs_out_is_kept(caplog):
    """Memory for 4 rows from the 20th pass on: of 8 rows some have ended, and are counted once."""
    policy, requests = random_policy(scale=0.4), [Request([5 + i, 6], i, 1.0) for i in range(16)]
    how = replace(compose().decoding, max_new_tokens=12, batch_size=8)
    alone = [respond(policy, [request], how)[0] for request in requests]
    ended = []
    Device(policy, 4, later=20)
    assert respond(policy, requests, how, done=ended.append) == alone
    assert [message.split("; ")[1] for message in caplog.messages] == [
        "from here on decoding.batch_size=4, the samples are the same"
    ]
    assert sum(ended) == len(requests) and sum(ended[:12]) > 0


def test_a_request_that_does_not_fit_alone_is_an_error():
    policy = random_policy()
    device = Device(policy, 0)
    with pytest.raises(torch.OutOfMemoryError, match="1 GiB"):
        respond(policy, REQUESTS, compose().decoding)
    assert device.passes[-1] == max(map(len, PROMPTS)) - 1


def test_what_fits_is_found_once(caplog):
    """The second batch of requests begins with the rows that the first ended with."""
    policy = random_policy(scale=0.4)
    Device(policy, 30)
    how = replace(compose().decoding, max_new_tokens=3, batch_size=16)
    list(Native(policy).respond([(0, REQUESTS), (1, REQUESTS)], how, done=lambda _: None))
    sizes = [message.split("batch_size=")[1].split(",")[0] for message in caplog.messages]
    assert sizes == ["8", "4", "2"]


@pytest.mark.parametrize("tokens", [1, 24, 40, None])
def test_prompts_are_read_by_tokens(tokens, one_by_one):
    """A longer prompt alone; the samples are the same."""
    policy = random_policy(scale=0.4)
    device = Device(policy, 10**9)
    responses = decode.decode(
        policy.model,
        [request.prompt for request in REQUESTS],
        _Choice(REQUESTS, replace(compose().decoding, max_new_tokens=12), policy.device),
        max_new_tokens=12,
        stop=policy.renderer.stop_ids,
        cut=decode.Cut(len(REQUESTS), tokens),
    )
    assert responses == one_by_one
    longest = max(map(len, PROMPTS)) - 1
    limit = len(REQUESTS) * longest if tokens is None else max(tokens, len(REQUESTS), longest)
    assert max(device.passes) <= limit


def test_keys_are_kept_in_the_dtype_of_the_arithmetic():
    kinds = []
    for dtype, autocast in [(torch.float64, None), (torch.float32, torch.bfloat16)]:
        policy = replace(random_policy(dtype=dtype), autocast=autocast)
        with policy.arithmetic(), torch.no_grad():
            table = decode._Table(policy.model, slots=2, columns=4)
            table.read([[5, 6], [7]], [0, 1], start=0)
            table.step([8, 9], [2, 1])
        kinds.append({x.dtype for layer in table.layers for x in (layer.keys, layer.values)})
    assert kinds == [{torch.float64}, {torch.bfloat16}]


# --- waiting for the device ----------------------------------------------------------------------


@pytest.mark.parametrize("sample", [False, True])
def test_a_sampling_step_waits_once(sample):
    """For its tokens; and transformers once, to see whether a mask hides anything."""
    policy, how = random_policy(dtype=torch.float32), replace(compose().decoding, batch_size=4)
    requests = [Request([5, 6, 7 + i], i if sample else None, 1.0) for i in range(4)]
    counts = []
    for steps in (3, 8):
        how = replace(how, max_new_tokens=steps)
        with Waits() as waits:
            responses = respond(policy, requests, how)
        assert {len(response) for response in responses} == {steps}
        counts.append(waits.calls)
    assert counts[1] - counts[0] == {"tolist": 5, "__bool__": 5}


def test_a_pass_of_scoring_waits_once():
    policy, triplets = random_policy(dtype=torch.float32), random_triplets(4)
    assert policy.packed is not None
    with Waits() as waits:
        scores = score(policy, [triplets[:2], triplets[2:]], ROLES, label="test")
    assert len(scores.logps) == 12
    assert waits.calls["cpu"] == 2


def test_the_row_whose_logits_are_not_finite_is_named():
    """The second prompt's, at the token after two that were good."""
    policy = random_policy(dtype=torch.float32)

    def overflow(module, args, logits):
        calls.append(None)
        row = torch.arange(len(logits))[:, None, None] == 1
        return torch.where(row, torch.inf, logits) if len(calls) == 3 else logits

    calls = []
    policy.model.get_output_embeddings().register_forward_hook(overflow)
    how = replace(compose().decoding, max_new_tokens=5)
    with pytest.raises(finite.NotFinite, match="token 2 of the response to prompt 1 .*inf"):
        respond(policy, [Request([5, 6], 1, 1.0), Request([7, 8], 2, 1.0)], how)
