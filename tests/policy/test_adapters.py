"""model.lora: what is trained, what a checkpoint holds, what the next iteration goes on from."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import compose, interrupted, play, random_triplets

from tspin import micro
from tspin.config.identity import history
from tspin.config.load import dump
from tspin.config.older import ADDED
from tspin.data.templates import Conversation
from tspin.data.triplets import micro_batches
from tspin.objectives import SFT, SPIN, TSPIN, TSPINRef, WithoutHA
from tspin.policy import adapters, dtypes
from tspin.policy import policy as model
from tspin.policy.dtypes import sampling_key
from tspin.policy.policy import load
from tspin.policy.weights import check_reachable, weight_digest
from tspin.runs.artifacts import Iteration, RunDir
from tspin.runs.metrics import StepLog
from tspin.sampling import decode
from tspin.sampling.native import Request, respond
from tspin.stages.score import score
from tspin.stages.train import train
from tspin.tools.files import read_json, write_json
from tspin.tools.parquet import read_rows
from tspin.tracking.tracker import Tracker
from tspin.training import throughput
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step
from tspin.training.strategy import Strategy

pytest.importorskip("peft")

WORDS = "lora=default", "model.lora.rank=4", "compute.device=cpu"
RUN = compose(*WORDS)
LORA = RUN.model.lora
EXACT = replace(RUN.compute, dtype="float64", micro_batch=2, save_seconds=0)
OPTIM = replace(RUN.optim, lr=1e-2, batch_size=4, epochs=1, max_grad_norm=None)
ROLES = ("annotated", "synthetic", "proto")
WARM = micro.folder("warm")
TRIPLETS = random_triplets(4)


def adapted(folder=WARM, *, compute=EXACT, lora=LORA, seed=0, disturbed=False, **options):
    """A policy with adapters; disturbed: they do something."""
    precision = options.pop("precision", "fp32_master")
    policy = load(folder, template="alpaca_space", compute=replace(compute, **options),
                  precision=precision, lora=lora, seed=seed)  # fmt: skip
    if disturbed:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, p in policy.model.named_parameters():
                if "lora_B" in name:
                    p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return policy


def whole(folder=WARM, **compute):
    return load(folder, template="alpaca_space", compute=replace(EXACT, **compute),
                precision="fp32_master")  # fmt: skip


def stacked(policy, triplets=TRIPLETS):
    logps = policy.logps(triplets, ROLES)
    return torch.stack([logps[role] for role in ROLES]).detach()


def teach(policy, out, *, loss=None, reference=None, triplets=TRIPLETS):
    with Tracker([]) as tracker:
        recipe = Recipe(
            loss=loss or SFT(), reference=reference, optim=OPTIM, compute=EXACT, seed=0, t=1
        )
        train(
            policy, triplets, Iteration(out), recipe, tracker=tracker, steps_before=0, label="test"
        )


# --- the policy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["auto", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_first_it_is_the_base_bit_for_bit(attention, dtype):
    """The initial policy: y0, and the key of the samples, are the base's own in float32."""
    how = {"attention": attention, "dtype": dtype}
    policy = adapted(**how)
    if dtype == "float32":
        assert torch.equal(stacked(policy), stacked(whole(**how)))
        plain = replace(RUN.model, lora=None)
        keys = [sampling_key(RUN.compute, "fp32_master", m) for m in (RUN.model, plain)]
        assert keys[0] == keys[1]
    else:  # a frozen base needs no more than the products: it is bfloat16, adapters are float32
        assert policy.model.dtype == torch.bfloat16 and policy.autocast == torch.bfloat16
        without = whole(**how)
        torch.testing.assert_close(stacked(policy), stacked(without), rtol=0.03, atol=0.5)
    of = {p.dtype for p in policy.model.parameters() if p.requires_grad}
    assert of == {torch.float32}
    assert (policy.packed is None) == (attention == "plain")


def test_only_adapters_are_trained_and_their_beginning_is_a_function_of_the_seed():
    first, again, other = (adapted(seed=seed).model for seed in (0, 0, 1))
    names = [name for name, p in first.named_parameters() if p.requires_grad]
    # 7 matrices a layer, two of adapters for each
    assert len(names) == 14 * first.config.num_hidden_layers
    assert all("lora_A" in name or "lora_B" in name for name in names)
    a, b, c = (dict(m.named_parameters())[names[0]] for m in (first, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert all(not p.any() for name, p in first.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("attention", ["plain", "shared", "separate"])
def test_it_computes_w_plus_the_scaled_product(attention):
    """alpha / rank = 32 / 4: the adapted layer's own weights by hand, in float64."""
    policy, by_hand = adapted(attention=attention, disturbed=True), whole(attention="plain")
    parts = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, weight in by_hand.model.named_parameters():
            layer = name.removesuffix(".weight")
            if f"{layer}.lora_A.default.weight" in parts:
                a, b = (parts[f"{layer}.lora_{x}.default.weight"] for x in "AB")
                weight += 8 * b @ a
    found, expected = stacked(policy), stacked(by_hand)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (found - stacked(whole())).abs().max() > 0.1  # they do something


LOSSES = SFT(), SPIN(0.1), TSPIN(0.3, 0.1), TSPINRef(0.3, 0.1), WithoutHA(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_every_loss_moves_adapters_and_nothing_else(loss, tmp_path):
    """The reference is what was stored before the first update: the first margin is 0."""
    policy = adapted(disturbed=True)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    cut = micro_batches(TRIPLETS, loss.roles, size=EXACT.micro_batch)
    reference = score(policy, cut, loss.roles, label="").logps if loss.needs_reference else None
    teach(policy, tmp_path, loss=loss, reference=reference)
    for name, p in policy.model.named_parameters():
        assert torch.equal(p, before[name]) == (not p.requires_grad), name
    if loss.needs_reference:
        assert StepLog.read(Iteration(tmp_path).metrics)[0]["advantages/current"] == 0.0


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        policy = adapted(disturbed=True, gradient_checkpointing=checkpointing)
        policy.model.train(checkpointing)
        policy.loss_sum(TRIPLETS, ("annotated",), lambda _, logps: SFT()(logps)[0]).backward()
        gradients.append([p.grad for p in policy.model.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-10, atol=1e-12)


def test_the_native_engine_samples_from_the_adapted_policy():
    policy = adapted(disturbed=True)
    assert decode.refusal(policy.model, 32) is None
    requests = [Request(t.prompt_ids, None, 1.0) for t in TRIPLETS]
    how = replace(RUN.decoding, sample=False, max_new_tokens=6)
    native = respond(policy, requests, how)
    assert native == respond(policy, requests, replace(how, engine="transformers"))
    assert native != respond(whole(), requests, how)


@pytest.mark.parametrize("precision", ["bf16_stochastic", "fp32"])
def test_adapters_have_the_precision_of_what_is_trained(precision):
    policy = adapted(precision=precision, dtype="auto")
    held = {p.dtype for p in policy.model.parameters()}
    assert held == {{"bf16_stochastic": torch.bfloat16, "fp32": torch.float32}[precision]}
    optim = replace(OPTIM, precision=precision)
    optimizer = build_optimizer(policy, optim)
    optimizer.param_groups[0] |= {"lr": 1e-3, "seed": 0}
    recipe = Recipe(loss=SFT(), optim=optim, compute=EXACT, seed=0, t=1)
    found, _ = gradient_step(Strategy(policy), optimizer, TRIPLETS, recipe, Cut.of(EXACT), where="")
    assert found["grad_norm"] > 0
    assert any(p.any() for n, p in policy.model.named_parameters() if "lora_B" in n)


def test_a_weight_that_is_not_trained_costs_one_product_less():
    """Of a forward pass of 2 a weight the backward pass takes 4, or 2."""
    model = adapted().model
    frozen, trained = (replace(throughput._work(m), queries=0) for m in (model, whole().model))
    layers, head = trained.layers // 6, trained.head // 6  # weights
    added = sum(p.numel() for p in model.parameters() if p.requires_grad)  # A and B
    one, roles = TRIPLETS[:1], ("annotated",)
    tokens = len(one[0].prompt_ids) + len(one[0].responses["annotated"])
    answer = len(one[0].responses["annotated"])
    expected = 4 * (layers * tokens + head * answer) + 6 * added * tokens
    assert frozen.flops(one, roles) == expected


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["lm_head"], "lm_head, the head of LlamaForCausalLM, which stays"),
        (["q_proj", "embed_tokens"], "embed_tokens, the embedding of"),
        (["c_attn"], r"targets=\['c_attn'\].*linear layers of LlamaForCausalLM: down_proj, gate"),
    ],
)
def test_targets_that_cannot_be_adapted_are_named(targets, words):
    with pytest.raises(ValueError, match=words):
        adapted(lora=replace(LORA, targets=targets))


def test_adapters_of_another_shape_do_not_go_on(tmp_path):
    adapted().save(tmp_path / "a")
    for change, words in [({"rank": 8}, "rank=4, and this run 8"),
                          ({"alpha": 1.0}, "alpha=32.0, and this run 1.0"),
                          ({"targets": ["q_proj"]}, "model.lora.targets=")]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            adapted(tmp_path / "a", lora=replace(LORA, **change))


def test_a_base_that_is_gone_is_named_with_the_way_out(tmp_path):
    adapted().save(tmp_path / "a")
    file = tmp_path / "a" / adapters.CONFIG
    write_json(file, read_json(file) | {"base_model_name_or_path": "/no/such/base"})
    with pytest.raises(ValueError, match="adapters of /no/such/base, which is not here.*write"):
        weight_digest(tmp_path / "a")


def test_an_adapter_folder_is_no_base_of_new_adapters(tmp_path):
    adapted().save(tmp_path / "a")
    with pytest.raises(ValueError, match="holds adapters, and new ones would have no base"):
        check_reachable(replace(RUN.model, path=str(tmp_path / "a")))


def test_without_peft_it_is_one_line(monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs peft.*pip install"):
        check_reachable(RUN.model)


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_checkpoint_holds_adapters_alone_and_loses_nothing(tmp_path):
    policy = adapted(dtype="auto", disturbed=True)
    policy.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / adapters.WEIGHTS)
    assert all("lora_A" in name or "lora_B" in name for name in stored)
    assert not (tmp_path / "a" / "model.safetensors").exists()
    assert adapters.base_of(tmp_path / "a") == WARM
    again = adapted(tmp_path / "a", dtype="auto", seed=7)
    pairs = zip(policy.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.renderer.prompt_ids(Conversation("x")) == policy.renderer.prompt_ids(
        Conversation("x")
    )


@pytest.mark.slow
def test_every_reader_takes_it(tmp_path):
    """Continued, merged in memory, merged on disk, and as lm-eval is given it: one policy."""
    policy = adapted(disturbed=True)
    expected = stacked(policy)
    policy.save(tmp_path / "a")
    (tmp_path / "m").mkdir()
    model.write(tmp_path / "a", tmp_path / "m", None)
    policy.renderer.tokenizer.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert not adapters.is_adapter(tmp_path / "m")
    parts = model.in_parts(tmp_path / "a", dtypes.resolve(EXACT, "fp32_master"), None)
    readers = {
        "continued": (adapted(tmp_path / "a"), 1e-12),
        "in memory": (whole(tmp_path / "a"), 1e-10),
        "on disk": (whole(tmp_path / "m"), 1e-4),  # float32
        "in parts": (replace(whole(attention="plain"), model=parts), 1e-10),
    }
    for name, (reader, bound) in readers.items():
        difference = (stacked(reader) - expected).abs().max().item()
        assert difference < bound, name


def test_the_digest_is_of_adapters_scale_and_base(tmp_path):
    policy = adapted(disturbed=True)
    for name in "ab":
        policy.save(tmp_path / name)
    assert weight_digest(tmp_path / "a") == weight_digest(tmp_path / "b")
    file = tmp_path / "b" / adapters.CONFIG
    told = read_json(file)
    write_json(file, told | {"lora_alpha": 1})
    scaled = weight_digest(tmp_path / "b")
    write_json(file, told | {"base_model_name_or_path": str(micro.folder("base"))})
    assert len({weight_digest(tmp_path / "a"), scaled, weight_digest(tmp_path / "b")}) == 3


def test_a_hub_base_is_named_by_its_id_and_revision(tmp_path):
    cached = tmp_path / "models--owner--name" / "snapshots" / ("0123456789" * 4)
    assert adapters._name(cached) == ("owner/name", "0123456789" * 4)
    assert adapters._name(tmp_path) == (str(tmp_path), None)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(dropout, tmp_path):
    """With dropout too: it is drawn anew in each step, from the step's own seed."""
    triplets, lora = random_triplets(16), replace(LORA, dropout=dropout)
    teach(adapted(lora=lora), tmp_path / "whole", triplets=triplets)
    with interrupted(2):
        teach(adapted(lora=lora), tmp_path / "cut", triplets=triplets)
    stored = load_file(Iteration(tmp_path / "cut").train_state)
    assert all("lora_" in name for name in stored if name.startswith("model/"))
    teach(adapted(lora=lora), tmp_path / "cut", triplets=triplets)
    files = [Iteration(tmp_path / x).checkpoint / adapters.WEIGHTS for x in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    if dropout:
        without = adapted()
        teach(without, tmp_path / "without", triplets=triplets)
        other = Iteration(tmp_path / "without").checkpoint / adapters.WEIGHTS
        assert other.read_bytes() != files[0].read_bytes()


# --- a run ---------------------------------------------------------------------------------------


@pytest.mark.runs
def test_a_run_goes_on_from_its_last_adapters(tmp_path):
    """y0 are those of a run that trains all weights; theta_1 is what iteration 0 ended with."""
    small = "data.size=8", "data.heldout=4", "optim.batch_size=4", "compute.device=cpu"
    whole_run, _ = play(tmp_path, "spin", *small, "selfplay.iterations=1", name="whole")
    run, rows = play(tmp_path, "spin", *small, *WORDS, "optim.lr=1e-3")
    assert run.proto.ids() == whole_run.proto.ids()
    assert len(list((tmp_path / "proto").iterdir())) == 1  # made once
    for t in (0, 1):
        out = run.iteration(t)
        assert adapters.base_of(out.checkpoint) == WARM
        assert StepLog.read(out.metrics)[0]["advantages/current"] == 0.0
    compute = compose(*WORDS).compute
    start = adapted(run.iteration(0).checkpoint, compute=compute)
    assert any(p.any() for n, p in start.model.named_parameters() if "lora_B" in n)
    before = {(r["id"], r["role"]): r["logp"] for r in read_rows(run.iteration(1).ref_scores)}
    after = {(r["id"], r["role"]): r["logp"] for r in read_rows(run.iteration(0).scores)}
    shared = [key for key in before if key[1] == "annotated"]
    assert shared
    for key in shared:
        assert before[key] == pytest.approx(after[key], abs=1e-4)
    digests = [read_json(run.iteration(t).done)["weights"] for t in (0, 1)]
    assert digests[0] != digests[1]
    # as a beginning: of adapters, and of a run that trains all weights
    for name, words in (("on", WORDS), ("merged", ())):
        there = f"selfplay.start_from={run.iteration(0).path}"
        started, _ = play(tmp_path, "spin", *small, *words, there, name=name)
        first = {
            (r["id"], r["role"]): r["logp"] for r in read_rows(started.iteration(1).ref_scores)
        }
        for key in shared:
            assert first[key] == pytest.approx(before[key], abs=1e-4)


def test_keys_of_a_run_without_it_are_what_they_were(tmp_path):
    """config.yaml of an older version lacks them; the keys of iterations never had them."""
    plain = compose("track.report=true", "track.num_token_logps=0")
    assert not any(key in ADDED for facts in history(plain, 1) for key in facts)
    assert "model.lora.rank" in history(RUN, 0)[0]
    old, folder = dump(plain), RunDir(tmp_path)
    for key, value in ADDED.items():
        section, _, name = key.partition(".")
        assert old[section].pop(name) == value
    old["loss"] = {"name": "tspin", "label": "T-SPIN", "link": "logistic"}
    folder.claim(old, free=())
    folder.claim(dump(plain), free=())
    with pytest.raises(ValueError, match="model.lora.rank .there 'absent', here 4"):
        folder.claim(dump(RUN), free=("compute.",))
