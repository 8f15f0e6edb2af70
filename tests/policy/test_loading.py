"""Loading is strict: what a file lacks is never drawn at random, what it holds is never dropped."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.families.architectures import FAMILIES, REFUSED, family
from support.model_folders import POINTER, configured, copied, cut, model_folder, rewritten
from support.tiny import compose, random_model

from tspin.policy import adapters, loading, policy
from tspin.policy.dtypes import MixedPrecision

HOW = MixedPrecision(torch.device("cpu"), torch.float32, torch.float32)
DOWN = "model.layers.1.mlp.down_proj.weight"
UNLIKE = "does not hold the model that its config.json describes: "


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("loading") / "model")


def read(folder):
    return loading.read_model(folder, torch.float32, HOW, None)


def refused(folder, message):
    """The folder is refused in one line that names it, and nothing is logged beside."""
    with pytest.raises(ValueError, match=message) as error:
        read(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *REFUSED])
def test_what_transformers_saves_is_read_as_it_is(name, tmp_path):
    """Tied heads, experts that are put together, buffers that are computed: no fault."""
    model = family(name, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tensors = read(tmp_path).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, tensors[key]), key


def test_scores_that_have_a_soft_cap_are_capped(tmp_path):
    """transformers' default before 5.23 leaves the cap out."""
    model, ids = family("gemma2", dtype=torch.float32), torch.arange(3, 13)[None]
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(read(tmp_path)(ids).logits, model(ids).logits)


def test_no_whole_model_passes_through_the_hosts_memory(whole, monkeypatch):
    """Eight processes would hold it eight times. Where the tensors are as transformers returns"""
    devices, load = [], loading.strictly

    def recorded(*args, **options):
        model = load(*args, **options)
        devices.extend(tensor.device.type for tensor in model.parameters())
        return model

    monkeypatch.setattr(loading, "strictly", recorded)
    monkeypatch.setattr(loading.finite, "check_weights", lambda *_: None)  # meta has no values
    elsewhere = MixedPrecision(torch.device("meta"), torch.float32, torch.float32)
    loading.read_model(whole, torch.float32, elsewhere, None)
    assert set(devices) == {"meta"}
    devices.clear()
    read(whole)
    assert set(devices) == {"cpu"}


@pytest.mark.parametrize(
    "device, placed", [("cuda", "cuda:3"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("meta", "meta")]
)
def test_threads_that_read_are_told_which_card_is_the_process_s_own(device, placed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert loading.with_index(torch.device(device)) == torch.device(placed)


FAULTS = {
    "missing": (lambda w: w.pop(DOWN), {}, f"it lacks {DOWN}$"),
    "too many": (lambda w: w.update(extra=torch.ones(2)), {}, "it has no place for extra$"),
    "shape": (
        lambda w: w.update({DOWN: w[DOWN][:, :40]}),
        {},
        rf"it has {DOWN} \[32, 40\], not \[32, 48\]$",
    ),
    "layer invented": (None, {"num_hidden_layers": 3}, r"it lacks model.layers.2.* and 6 more$"),
    "layer dropped": (None, {"num_hidden_layers": 1}, r"no place for model.layers.1.* and 6 mo"),
    "head gone": (None, {"tie_word_embeddings": False}, "it lacks lm_head.weight$"),
    "embedding gone": (lambda w: w.pop("model.embed_tokens.weight"), {}, "it lacks .*embed_tokens"),
    "wider": (None, {"intermediate_size": 64}, r"it has .*\[32, 48\], not \[32, 64\].* 3 more$"),
    "several": (lambda w: w.update(extra=w.pop(DOWN)), {}, f"lacks {DOWN}; it has no place for ex"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tensors_that_are_not_those_of_the_configuration(fault, whole, tmp_path, caplog):
    change, values, message = FAULTS[fault]
    folder = configured(copied(whole, tmp_path / "model"), **values)
    if change is not None:
        rewritten(folder / "model.safetensors", change)
    refused(folder, UNLIKE + ".*" + message)
    assert "LOAD REPORT" not in caplog.text  # transformers' table of the same


def test_an_expert_that_is_missing(tmp_path):
    """Experts are one tensor in the model and many in the file."""
    family("mixtral", dtype=torch.float32).save_pretrained(tmp_path)
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    rewritten(tmp_path / "model.safetensors", lambda w: w.pop(name))
    refused(tmp_path, UNLIKE + "model.layers.0.mlp.experts.gate_up_proj cannot be made of it")


def test_constants_that_older_versions_saved_are_no_fault(whole, tmp_path):
    folder = copied(whole, tmp_path / "llama")
    angles = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewritten(folder / "model.safetensors", lambda w: w.update({angles: torch.ones(4)}))
    read(folder)
    family("gpt2", dtype=torch.float32).save_pretrained(tmp_path / "gpt2")
    masks = {f"transformer.h.0.attn.{n}": torch.ones(1) for n in ("bias", "masked_bias")}
    rewritten(tmp_path / "gpt2" / "model.safetensors", lambda w: w.update(masks))
    read(tmp_path / "gpt2")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value, whole, tmp_path):
    folder = copied(whole, tmp_path / "model")
    rewritten(folder / "model.safetensors", lambda w: w[DOWN].view(-1)[7:8].fill_(value))
    refused(folder, f"its weights {DOWN} hold NaN or infinities")


def test_a_checkpoint_of_ours_is_read_as_strictly(whole, tmp_path):
    run = compose("compute.device=cpu")
    options = {"template": "none", "compute": run.compute, "precision": "fp32_master"}
    policy.load(whole, **options).save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "SHA256SUMS").unlink(missing_ok=True)
    rewritten(tmp_path / "checkpoint" / "model.safetensors", lambda w: w.pop(DOWN))
    with pytest.raises(ValueError, match=f"it lacks {DOWN}"):
        policy.load(tmp_path / "checkpoint", **options)
    with pytest.raises(ValueError, match=f"it lacks {DOWN}"):  # as export reads it
        policy.write(tmp_path / "checkpoint", tmp_path, torch.bfloat16)


# --- tokenizers ----------------------------------------------------------------------------------

BROKEN = {
    "gone": ({"tokenizer.json": None, "tokenizer_config.json": None}, "holds no tokenizer: copy"),
    "vocabulary gone": ({"tokenizer.json": None}, r"no tokenizer \(but tokenizer_config.json\)"),
    "pointer": ({"tokenizer.json": POINTER}, "tokenizer.json is a pointer of Git LFS"),
    "cut": ({"tokenizer.json": '{"version": "1.0", "add'}, "tokenizer.json is no JSON"),
    "another": ({"tokenizer.json": '{"a": 1}'}, r"no tokenizer that can be read \(tokenizer.json"),
    "settings": ({"tokenizer_config.json": "{"}, "tokenizer_config.json is no JSON"),
    "model": ({"tokenizer.model": POINTER}, "tokenizer.model is a pointer"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_tokenizer_that_is_missing_or_broken(fault, whole, tmp_path):
    contents, message = BROKEN[fault]
    folder = copied(whole, tmp_path / "model")
    for name, content in contents.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        policy.renderer(folder, template="none")
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


# --- adapters ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(whole, tmp_path_factory):
    pytest.importorskip("peft")
    out = tmp_path_factory.mktemp("adapters") / "checkpoint"
    options = {"template": "none", "precision": "fp32_master"}
    run = compose("lora=default", "compute.device=cpu")
    policy.load(whole, compute=run.compute, lora=run.model.lora, **options).save(out)
    (out / "SHA256SUMS").unlink(missing_ok=True)
    return out


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def test_adapters_that_are_whole_are_read_in_every_way(adapted):
    attached, merged = random_model(dtype=torch.float32), random_model(dtype=torch.float32)
    adapters.attach(attached, adapted)
    adapters.merge(merged, adapted)


ADAPTERS = {
    "missing": (lambda w: w.pop(A), r"it lacks model.layers.0.self_attn.q_proj.lora_A.weight$"),
    "too many": (
        lambda w: w.update({A.replace("0", "9"): w[A].clone()}),
        "it has no place for model.la",
    ),
    "shape": (lambda w: w.update({A: w[A][:, :20]}), "of another shape|do not fit"),
}


@pytest.mark.parametrize("way", ["resume", "attach", "merge"])
@pytest.mark.parametrize("fault", ADAPTERS)
def test_adapters_that_are_not_those_of_their_configuration(fault, way, adapted, whole, tmp_path):
    change, message = ADAPTERS[fault]
    folder = copied(adapted, tmp_path / "checkpoint")
    rewritten(folder / adapters.WEIGHTS, change)
    with pytest.raises(ValueError, match=message) as error:
        if way == "resume":
            run = compose("lora=default", "compute.device=cpu")
            policy.load(folder, template="none", compute=run.compute, precision="fp32_master",
                        lora=run.model.lora)  # fmt: skip
        else:
            getattr(adapters, way)(random_model(dtype=torch.float32), folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_adapters_in_half(adapted, tmp_path):
    folder = copied(adapted, tmp_path / "checkpoint")
    cut(folder / adapters.WEIGHTS)
    with pytest.raises(ValueError, match="adapter_model.safetensors is no whole safetensors file"):
        adapters.attach(random_model(dtype=torch.float32), folder)


# --- GGUF ----------------------------------------------------------------------------------------


def gguf_file(path, whole, *, without=()):
    """The weights of a Llama as llama.cpp names them, and a tokenizer of bytes."""
    gguf = pytest.importorskip("gguf")
    facts = json.loads((whole / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(facts["vocab_size"])
    words = [f"<0x{i:02X}>" for i in range(256)]
    words = ["<unk>", "<s>", "</s>", *words, *(f"w{i}" for i in range(294 - 259))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    places = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
              "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
              "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
              "embed_tokens": "token_embd", "model.norm": "output_norm",
              "model.layers.": "blk.", "model.": ""}  # fmt: skip
    for name, value in load_file(whole / "model.safetensors").items():
        for ours, theirs in places.items():
            name = name.replace(ours, theirs)
        if name not in without:
            writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_read_as_strictly(whole, tmp_path, monkeypatch, capfd):
    """And without a bar of the library's own."""
    pytest.importorskip("gguf")
    from tspin.policy import weights

    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    folder = weights._convert(gguf_file(tmp_path / "whole.gguf", whole))
    assert (folder / "model.safetensors").exists()
    assert capfd.readouterr().err == ""
    lacking = gguf_file(tmp_path / "lacking.gguf", whole, without=["blk.1.ffn_down.weight"])
    with pytest.raises(ValueError, match=f"lacking.gguf cannot be converted.*lacks {DOWN}"):
        weights._convert(lacking)
    cut(tmp_path / "whole.gguf")
    with pytest.raises(ValueError, match="whole.gguf cannot be converted"):
        weights._convert(tmp_path / "whole.gguf")
