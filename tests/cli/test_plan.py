"""The plan against what can be counted: parameters, peaks of processes, the docs' table."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny import compose
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from tspin.__main__ import main as tspin
from tspin.cli import plan
from tspin.logprobs import attention, fused_head
from tspin.planning import shapes
from tspin.planning.hours import Machine, decode, forward, stages
from tspin.planning.memory import CHUNK, dtypes, longest, memory
from tspin.policy import adapters

ROOT = Path(__file__).resolve().parents[2]
ZEPHYR = compose("model=zephyr", "compute=cuda")
SHAPE = shapes.KNOWN[ZEPHYR.model.path]
SMALL = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip

# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "llama", "tie_word_embeddings": True},
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
        {"model_type": "mistral", "head_dim": 32},
        {"model_type": "qwen2", "tie_word_embeddings": False},
        {"model_type": "qwen3", "head_dim": 24},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_parameters_are_those_of_the_model(options):
    kind, others = options["model_type"], {k: v for k, v in options.items() if k != "model_type"}
    config = AutoConfig.for_model(kind, **SMALL, **others)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shapes.of(config.to_dict(), "a test")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    lora = compose("lora=default").model.lora
    for targets in ("all", ["q_proj", "down_proj"]):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        adapted = replace(lora, targets=targets)
        adapters.add(model, adapted, base=Path("x"), dtype=torch.float32)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert shape.adapters(adapted) == trained


def test_known_models_have_the_sizes_they_are_known_by():
    """7,241,732,096 is what the hub says of Mistral-7B, 134,515,008 of SmolLM2-135M."""
    sizes = {name.split("/")[1]: shape.parameters for name, shape in shapes.KNOWN.items()}
    assert sizes["Mistral-7B-v0.1"] == sizes["zephyr-7b-sft-full"] == 7_241_732_096
    assert sizes["SmolLM2-135M-Instruct"] == 134_515_008
    assert sizes["SmolLM2-360M-Instruct"] == 361_821_120
    assert sizes["SmolLM2-1.7B-Instruct"] == 1_711_376_384


def test_shapes_are_found_in_folders_and_refused_by_name(tmp_path):
    assert shapes.find(compose().model).parameters == 456_320
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    custom = replace(compose().model, path=str(tmp_path))
    assert shapes.find(custom).layers == 3
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ValueError, match="config.json is a mamba; sizes are known of llama"):
        shapes.find(custom)
    with pytest.raises(ValueError, match="model.path=no/where is no folder.*SmolLM2-1.7B"):
        shapes.find(replace(custom, path="no/where"))


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peaks_are_those_of_processes():
    """Two steps of four small models, each in a process of its own: within 25%."""
    environment = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "support.peaks"], capture_output=True, text=True,
        env=os.environ | environment | {"PYTHONPATH": path}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    assert len(found) == 4
    for name, (measured, computed) in found.items():
        assert 0.75 < computed / measured < 1.25, (name, measured, computed)


def of(*words, **options):
    run = compose("model=zephyr", "compute=cuda", *words)
    return memory(SHAPE, run, device="cuda", **options)


def test_weights_gradients_and_state_are_those_of_the_docs():
    """docs/method.md: 87 GB in float32, 58 in bfloat16; AdamW keeps two numbers a weight."""
    number = SHAPE.parameters
    for words, bytes_ in [((), (4, 4, 4)), (("optim.precision=bf16_stochastic",), (2, 2, 4)),
                          (("optim=adamw",), (4, 4, 8))]:  # fmt: skip
        m = of(*words)
        assert (m.weights, m.gradients, m.state) == tuple(number * b for b in bytes_)


def test_under_lora_the_base_is_held_as_it_is_multiplied():
    m, run = of("lora=default"), compose("model=zephyr", "lora=default")
    trained = SHAPE.adapters(run.model.lora)
    assert trained == 41_943_040
    assert m.weights == 2 * SHAPE.parameters + 4 * trained
    assert m.gradients == m.state == 4 * trained
    four = of("lora=default", "model.quantize=4bit")
    saved = m.weights - four.weights
    assert saved == pytest.approx(SHAPE.linear * (2 - 0.5 - 0.016), rel=1e-3)
    assert dtypes(run, "cuda") == ("bfloat16", "bfloat16")
    assert dtypes(run, "cpu") == ("float32", "float32")


def test_shards_divide_and_copies_do_not():
    one, ddp, fsdp = of(), of(gpus=8), of(gpus=8, sharding="fsdp2")
    assert (ddp.weights, ddp.state, ddp.gradients) == (one.weights, one.state, 2 * one.gradients)
    for part in ("weights", "gradients", "state"):
        assert getattr(fsdp, part) == getattr(one, part) / 8
    assert fsdp.gathered > 0 == one.gathered
    assert fsdp.activations == ddp.activations == one.activations


def test_the_longest_triplet():
    """2048 tokens, 256 of them new: a prompt of 1792, y of 256, y' and y0 of 256 each."""
    one = replace(ZEPHYR, compute=replace(ZEPHYR.compute, max_tokens=None))
    assert longest(one) == (1792 + 3 * 256, 2047 + 2 * 256)
    by_tokens = replace(ZEPHYR, compute=replace(ZEPHYR.compute, max_tokens=6000))
    assert longest(by_tokens)[0] == 2 * (1792 + 3 * 256)


def test_a_chunk_of_logits_is_the_one_there_is():
    """Said twice so that neither has to import the other."""
    assert CHUNK == fused_head.CHUNK
    assert attention.NAME  # the packed path is what the activations are of


# --- hours, disk, tables -------------------------------------------------------------------------


def test_arithmetic_and_launches_by_hand():
    shape, machine = replace(SHAPE, layers=2), Machine(flops=1e12, traffic=1e12, layer=1e-3)
    number, rows, length = shape.parameters, 3, 100
    expected = rows * length * (2 * number + 4 * 2 * 4096 * length) / 1e12
    assert forward(shape, machine, rows, length) == pytest.approx(expected)
    assert forward(shape, machine, 1, 0, passes=3) == pytest.approx(6e-3)  # launches alone
    step = max(2e-3, 2 * number * 4 / 1e12)
    batches = 3 * (forward(shape, machine, 4, 10) + 7 * step)
    assert decode(shape, machine, 9, 10, 7, 4) == pytest.approx(batches)


def test_a_pass_of_many_triplets_casts_the_weights_once():
    """By hand, "short": rows of 27 + 281 tokens, three of a triplet: 8192 tokens are 8 triplets."""
    run = ZEPHYR
    triplet = compose("model=zephyr", "compute=cuda", "compute.max_tokens=null")
    casts = Machine(flops=1e30, traffic=1e12, layer=0.0)  # they alone take time
    seconds, before = (stages(r, 1, SHAPE, casts, "short", y0=False)[2] for r in (run, triplet))
    assert 8 * 3 * 308 <= run.compute.max_tokens < 9 * 3 * 308
    assert before / seconds == pytest.approx(8)
    assert before == pytest.approx(2 * 50_000 * 5 * 6 * SHAPE.parameters / 1e12)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["zephyr", "mistral"])
def test_the_paper_s_models_fit_the_cards_that_the_docs_name(model):
    """One GPU of 141 GB, eight of 80 (docs/many-gpus.md), and neither without checkpointing."""

    def peak(*words, **options):
        m = memory(
            SHAPE, compose(f"model={model}", "compute=auto", *words), device="cuda", **options
        )
        return max(m.training, m.sampling) / plan.GB

    without = "compute.gradient_checkpointing=false"
    assert peak() < 141 < peak(without)
    shards = {"gpus": 8, "sharding": "fsdp2"}
    assert peak(**shards) < 80 < peak(without, **shards) < 141
    assert compose(f"model={model}").compute.max_tokens == 8192


def test_frozen_weights_take_a_third_of_the_backward_pass_less():
    """Checkpointed: forward, again, and two of backward; or one."""
    run, small = ZEPHYR, Machine(flops=1e10, traffic=1e30)
    lora = compose("model=zephyr", "compute=cuda", "lora=default")
    full, adapted = (stages(r, 1, SHAPE, small, "short", y0=False)[2] for r in (run, lora))
    assert adapted / full == pytest.approx(3 / 4, rel=1e-3)


def test_what_is_trained_is_what_a_checkpoint_holds():
    lora = compose("model=zephyr", "lora=default")
    assert SHAPE.trained(ZEPHYR.model.lora) == SHAPE.parameters
    assert SHAPE.trained(lora.model.lora) == 41_943_040


LONG = ["model.max_length=2048", "decoding.max_new_tokens=256", "decoding.batch_size=16",
        "compute.max_tokens=null"]  # fmt: skip
OWN = ["model=custom", "model.template=chat", "data=ultrachat", "compute=cuda",
       "compute.micro_batch=1", *LONG]  # fmt: skip
MODELS = {  # of the table of docs/memory.md: a name, and the overrides that choose it
    "SmolLM2-135M": ["model=smollm2", "data=ultrachat", "compute=cuda", *LONG],
    "SmolLM2-360M": [*OWN, "model.path=HuggingFaceTB/SmolLM2-360M-Instruct"],
    "SmolLM2-1.7B": [*OWN, "model.path=HuggingFaceTB/SmolLM2-1.7B-Instruct"],
    "Zephyr-7B, Mistral-7B": ["model=zephyr", "compute=cuda", *LONG],
}


@pytest.mark.slow
def test_the_table_of_a_24_gb_card_is_what_memory_says():
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line[:3] in ("| S", "| Z")
    ]
    assert len(rows) == 5 * len(MODELS)
    for model, how, *cells in rows:
        overrides = [] if how == "default" else how.strip("`").split()
        run = compose(*MODELS[model], *overrides)
        m = memory(shapes.find(run.model), run, device="cuda")
        peak = max(m.training, m.sampling, m.scoring)
        numbers = m.weights, m.gradients + m.state, m.training, m.sampling, peak
        fits = "yes" if peak <= 24 * plan.GB else "no"
        assert cells == [*(f"{number / plan.GB:.1f}" for number in numbers), fits]


def test_adamw_of_a_7b_is_said_not_to_fit_and_what_does(capsys):
    """146 GB: 4 numbers of 4 bytes a weight, and their square roots."""
    words = ["model=zephyr", "compute=cuda", "optim=adamw"]
    assert tspin(["plan", *words, "--gpus", "1", "8", "--card", "h100", "h200"]) == 0
    h100, h200 = capsys.readouterr().out.split("\nOne ")[1:3]
    for text in (h100, h200):
        assert "does not fit: 1 process; 8 ddp (1 process: 146 GB in training)" in text
        assert "lora=default (" in text and "compute=fsdp2 on 8 processes (" in text
    assert "optim.precision=bf16_stochastic" not in h100  # 95 GB
    assert "what fits: optim.precision=bf16_stochastic (95 GB in training)" in h200
    assert tspin(["plan", *words, "--gpus", "1", "--card", "rtx4090"]) == 0
    text = capsys.readouterr().out
    assert "One RTX 4090 (24 GB): nothing of this fits" in text
    assert "what takes less: optim.precision=bf16_stochastic (95 GB" in text


def test_the_least_times_of_a_card(capsys):
    """64 triplets of 56e12 operations, checkpointed, at 700e12 a second: 5.2 s."""
    words = ["model=zephyr", "compute=cuda", "--card", "h200"]
    assert tspin(["plan", *words, "--lengths", "200", "330", "230"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"H200 +200\+330\+230\+230 \(given\) +5.1\d +12,2\d\d +arithmetic", text)
    assert "H200 700 TFLOP/s (measured, 0.71 of nominal), 4.8 TB/s (nominal)" in text
    assert tspin(["plan", *words, "--flops", "350e12", "--lengths", "200", "330", "230"]) == 0
    assert re.search(r"\(given\) +10.3 ", capsys.readouterr().out)
    assert tspin(["plan", *words, "--lengths", "200"]) == 1
    assert "--lengths 200: give the tokens of a prompt and of a response" in capsys.readouterr().err
    assert tspin(["plan", "model=zephyr", "--card", "h300"]) == 1
    assert "h300" in capsys.readouterr().err


def test_the_least_times_of_this_cpu_are_at_its_measured_rate(capsys):
    assert tspin(["plan", "model=micro", "compute=cpu"]) == 0
    text = capsys.readouterr().out
    assert "this CPU" in text and "TFLOP/s (measured here), traffic free" in text
    assert "One H100" not in text


def test_the_command(capsys):
    assert tspin(["plan", "model=zephyr", "compute=cuda", "--gpus", "1", "4"]) == 0
    text = capsys.readouterr().out
    assert "7.242e9 weights in float32, products in bfloat16; 7,241,732,096 of them are" in text
    assert "4 fsdp2" in text and "peak in training" in text and "29 GB a checkpoint" in text
    assert tspin(["plan", "model=zephyr", "lora=default"]) == 0
    assert "fsdp2" in capsys.readouterr().out
    assert tspin(["plan", "model=zephyr", "optim.precision=bf16_stochastic"]) == 0
    assert "fsdp2" not in capsys.readouterr().out  # see launcher.whole
    assert tspin(["plan", "model=zephir"]) == 1
    assert "did you mean zephyr" in capsys.readouterr().err
    assert tspin(["plan", "model=zephyr", "--gpus", "0"]) == 1
    assert tspin(["plan", "--gpus", "x"]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    assert tspin(["plna"]) == 2
    assert "did you mean plan" in capsys.readouterr().err
