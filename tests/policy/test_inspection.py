"""What is said of a model before its weights are read."""

from dataclasses import replace

import pytest
import torch
import transformers
from support.families.architectures import FAMILIES, REFUSED, family
from support.model_folders import configured, copied, model_folder
from support.tiny import compose, micro_tokenizer

from tspin.policy import adapters, inspection, policy, quantization

RUN = compose("compute.device=cpu")
SIZE = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2}  # fmt: skip
GPT = {"vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32,
       "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("inspection") / "model")


def check(folder, *, lora=None, **values):
    values = {"path": str(folder), "max_length": 32, "template": "none", "lora": lora} | values
    inspection.check(folder, replace(RUN.model, **values), RUN.compute)


def built(kind, config=None, **values):
    return getattr(transformers, kind)(config or getattr(transformers, kind).config_class(**values))


# --- what it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, *REFUSED])
def test_causal_models_of_any_family_pass(name, tmp_path, caplog):
    model = family(name, dtype=torch.float32)
    model.resize_token_embeddings(300)  # Qwen2 brings an id of its own
    check(model_folder(tmp_path, model))
    assert not [record for record in caplog.records if record.name == "tspin"]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("BertForMaskedLM", SIZE, r"an encoder \(BertForMaskedLM\)"),
        ("BertModel", SIZE, "an encoder"),
        ("RobertaForMaskedLM", SIZE, "an encoder"),
        (
            "T5ForConditionalGeneration",
            {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1,
             "num_heads": 2},
            "an encoder-decoder",
        ),
        ("LlamaForSequenceClassification", SIZE, "a model with another head"),
        ("LlamaForTokenClassification", SIZE, "a model with another head"),
    ],
)  # fmt: skip
def test_what_does_not_continue_text_is_named(kind, values, message, tmp_path):
    folder = model_folder(tmp_path, built(kind, **values))
    with pytest.raises(ValueError, match=f"model.path={tmp_path} is {message}.*ForCausalLM"):
        check(folder)


def test_a_model_of_images_too_is_named(tmp_path):
    config = transformers.Gemma3Config(
        text_config={**SIZE, "head_dim": 8, "num_key_value_heads": 1},
        vision_config={**SIZE, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    config.architectures = ["Gemma3ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a model of more than text .Gemma3ForConditionalGenerat"):
        check(tmp_path)


def test_decoders_with_the_layers_of_an_encoder_pass(tmp_path):
    check(model_folder(tmp_path / "bert", built("BertLMHeadModel", **SIZE, is_decoder=True)))
    bare = built("LlamaModel", **SIZE, tie_word_embeddings=True)  # whose head is its embedding
    check(model_folder(tmp_path / "llama", bare))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "theirs"}, "config.json is of no model that transformers knows"),
        ({"num_attention_heads": 5}, "config.json .*attention heads"),
        ({"hidden_size": "x"}, "config.json .*hidden_size"),
    ],
)
def test_a_configuration_that_makes_no_model_is_one_line(values, message, whole, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        check(configured(copied(whole, tmp_path / "model"), **values))
    assert "\n" not in str(error.value)


# --- quantised -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"bits": 4}, "of a kind not named"),
    ],
)
def test_a_quantised_base_is_refused_by_its_method(facts, method, whole, tmp_path):
    """Of bitsandbytes' own kind adapters can be trained, on a CUDA device."""
    folder = configured(copied(whole, tmp_path / "model"), quantization_config=facts)
    lora = compose("lora=default").model.lora
    with pytest.raises(ValueError, match=rf"\(quantised: {method}\) holds weights that cannot be"):
        check(folder)
    where = "needs a CUDA device" if method == "bitsandbytes" else "holds weights that cannot be"
    with pytest.raises(ValueError, match=f"{method}.*{where}.*take the model that was not quanti"):
        check(folder, lora=lora)


def test_where_there_is_a_device_bitsandbytes_own_kind_passes_under_lora(
    whole, tmp_path, monkeypatch
):
    facts = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    folder = configured(copied(whole, tmp_path / "model"), quantization_config=facts)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: object())
    model = replace(RUN.model, path="x", lora=compose("lora=default").model.lora)
    compute = replace(RUN.compute, device="cuda")
    quantization.check_base(folder, model, compute)
    with pytest.raises(ValueError, match="needs no model.quantize=4bit; leave it out"):
        quantization.check_base(folder, replace(model, quantize="4bit"), compute)


# --- positions -----------------------------------------------------------------------------------

OPT = {"vocab_size": 300, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16,
       "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
       "pad_token_id": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("GPT2LMHeadModel", GPT),
        ("GPTBigCodeForCausalLM", GPT),
        ("GPTJForCausalLM", {**GPT, "rotary_dim": 8}),  # rotary, from a table
        ("OPTForCausalLM", OPT),  # its table has two rows more
        ("RobertaForCausalLM", {**SIZE, "is_decoder": True, "max_position_embeddings": 34}),
    ],
)
def test_positions_that_are_a_table_end(kind, values, tmp_path):
    folder = model_folder(tmp_path, built(kind, **values))
    check(folder, max_length=32)
    with pytest.raises(ValueError, match="max_length=33 is more than the 32 positions.*=32 or les"):
        check(folder, max_length=33)
    with torch.no_grad():  # and so it is
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert model(torch.full((1, 32), 5)).logits.shape == (1, 32, 300)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, 33), 5))


def test_beyond_what_a_rotary_model_was_trained_with_it_warns_once(whole, tmp_path, caplog):
    folder = configured(copied(whole, tmp_path / "model"), max_position_embeddings=64)
    for length in (64, 65, 65):
        check(folder, max_length=length)
    (record,) = [record for record in caplog.records if record.name == "tspin"]
    assert record.levelname == "WARNING"
    assert f"max_length=65 is more than the 64 positions that {folder}" in record.getMessage()


# --- ids -----------------------------------------------------------------------------------------


def with_tokenizer(whole, path, change):
    """The model of 294 rows beside a tokenizer of as many ids, changed."""
    folder, tokenizer = copied(whole, path), micro_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.add_tokens(["Paris"]),
        lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "Paris"}),
        lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "Paris"}),
    ],
)
def test_ids_without_a_row_are_named(change, whole, tmp_path):
    folder = with_tokenizer(whole, tmp_path / "model", change)
    with pytest.raises(ValueError, match=r"294 embeddings do not reach: 294 \('Paris'\); take"):
        check(folder)


def test_rows_without_an_id_and_control_tokens_that_nothing_writes_are_no_fault(whole, tmp_path):
    """Embeddings are padded; a text-only Gemma 3 has the token of images behind its last row."""
    padded = built("LlamaForCausalLM", **{**SIZE, "vocab_size": 320})
    check(model_folder(tmp_path / "padded", padded))
    image = {"additional_special_tokens": ["<image>"]}
    check(with_tokenizer(whole, tmp_path / "image", lambda t: t.add_special_tokens(image)))


# --- adapters ------------------------------------------------------------------------------------


def test_adapters_are_inspected_with_their_base(whole, tmp_path):
    pytest.importorskip("peft")
    base, out = copied(whole, tmp_path / "base"), tmp_path / "adapters"
    run = compose("lora=default", "compute.device=cpu")
    policy.load(base, template="none", compute=run.compute, precision="fp32_master",
                lora=run.model.lora).save(out)  # fmt: skip
    check(out)
    (out / adapters.WEIGHTS).write_bytes(b"{}")
    with pytest.raises(ValueError, match="adapter_model.safetensors is no whole"):
        check(out)
    (base / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=str(base)):
        inspection.check(base, replace(RUN.model, path=str(base)), RUN.compute)
