"""model.quantize: where it is refused, what transformers is told."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from support.tiny import compose, play

from tspin import micro
from tspin.policy import quantization
from tspin.policy.policy import load

RUN = compose("compute.device=cpu")
COMPUTE = replace(RUN.compute, micro_batch=16, save_seconds=0)
here = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs: pip install -e '.[lora]'"
)


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantised_base_needs_lora_cuda_and_bitsandbytes(quantize, monkeypatch):
    words = f"model.quantize={quantize}"
    with pytest.raises(ValueError, match=f"{words} holds weights that cannot be trained.*lora="):
        compose(words)
    run = compose(words, "lora=default")
    with pytest.raises(ValueError, match=f"{words} needs a CUDA device, and this run is on the"):
        quantization.check(run.model, replace(COMPUTE, device="cpu"))
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=f"{words} needs bitsandbytes.*pip install"):
        quantization.check(run.model, replace(COMPUTE, device="cuda"))


def test_a_run_that_asks_for_it_on_a_cpu_ends_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="model.quantize=4bit needs a CUDA device"):
        play(tmp_path, "sft", "lora=default", "model.quantize=4bit", "compute.device=cpu")
    assert not (tmp_path / "sft").exists()


@here
def test_what_transformers_is_told(monkeypatch):
    """LLM.int8; NF4 with quantised scales, multiplied in the dtype of the run. A fake device."""
    import transformers

    told = {}

    def loaded(folder, **options):
        told.update(options)
        raise InterruptedError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loaded)
    lora = compose("lora=default").model.lora
    for quantize, expected in [
        ("8bit", {"load_in_8bit": True, "load_in_4bit": False}),
        ("4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                  "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}),
    ]:  # fmt: skip
        with pytest.raises(InterruptedError):
            load(micro.folder("warm"), template="none",
                 compute=replace(COMPUTE, dtype="bfloat16"), precision="fp32_master",
                 lora=lora, quantize=quantize)  # fmt: skip
        config = told["quantization_config"]
        assert {key: getattr(config, key) for key in expected} == expected
        assert told["dtype"] == torch.bfloat16
        assert told["device_map"] == {"": torch.device("cpu")}


def test_samples_of_a_quantised_base_are_its_own():
    from tspin.policy.dtypes import sampling_key

    keys = []
    for quantize in (None, "8bit", "4bit"):
        model = replace(compose("lora=default").model, quantize=quantize)
        keys.append(tuple(sampling_key(RUN.compute, "fp32_master", model)))
    assert len(set(keys)) == 3
