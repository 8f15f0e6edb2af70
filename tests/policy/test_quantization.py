"""optim.state=8bit learns as float32 does and resumes; where model.quantize is refused."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from support.tiny import compose, play, random_policy, random_triplets

from tspin import micro
from tspin.objectives.losses import SFT
from tspin.policy import quantization
from tspin.policy.policy import load
from tspin.runs.artifacts import Iteration
from tspin.runs.metrics import StepLog
from tspin.stages import train
from tspin.stages.train import build_optimizer, load_state, save_state
from tspin.tracking.wandb import Identity, Tracker

RUN = compose("compute.device=cpu")
OPTIM = replace(RUN.optim, batch_size=16, max_grad_norm=None)
COMPUTE = replace(RUN.compute, micro_batch=16, save_seconds=0)
NOBODY = Identity(project="x", entity=None, name="x", group="x", job_type="x", tags=(), config={})
here = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs: pip install -e '.[lora]'"
)


def teach(policy, triplets, out, **optim):
    with Tracker(NOBODY, mode="none", folder=out, run_id="x") as tracker:
        train.train(
            policy, triplets, Iteration(out), loss=SFT(), reference=None,
            optim=replace(OPTIM, **optim), compute=COMPUTE, tracker=tracker,
            seed=0, t=1, steps_before=0, label="test",
        )  # fmt: skip
    return [row["loss"] for row in StepLog.read(Iteration(out).metrics)]


# --- state in 8 bits -----------------------------------------------------------------------------

OPTIMS = {"rmsprop": {"lr": 3e-5}, "adamw": {"lr": 1e-4}}


@pytest.mark.slow
@here
@pytest.mark.parametrize("precision", ["fp32_master", "bf16_stochastic"])
@pytest.mark.parametrize("name", OPTIMS)
def test_it_learns_as_float32_state_does(name, precision, tmp_path):
    """The embedded model on 16 random triplets, 30 steps: the loss falls by the same to 5%.

    bfloat16 weights with 8-bit state are held to float32 throughout. At lr = 0 nothing would fall.
    """
    last = {}
    for state, weights in (("float32", "fp32_master"), ("8bit", precision)):
        policy = load(micro.folder("warm"), template="none", compute=COMPUTE, precision=weights)
        losses = teach(
            policy, random_triplets(16), tmp_path / state, name=name, state=state,
            precision=weights, epochs=30, schedule="constant", **OPTIMS[name],
        )  # fmt: skip
        last[state] = (losses[0] - losses[-1]) / losses[0]
    assert last["float32"] > 0.2
    assert last["8bit"] == pytest.approx(last["float32"], rel=0.05)


@here
@pytest.mark.parametrize("name", OPTIMS)
def test_a_saved_state_goes_on_with_the_same_bits(name, tmp_path):
    """And is of a byte a number and one float32 a block of 256; small matrices keep float32."""

    def stepped(policy, optimizer, number):
        optimizer.param_groups[0] |= {"lr": 1e-3, "seed": number}
        batch = random_triplets(4, seed=number)
        train.gradient_step(policy, optimizer, batch, SFT(), None, OPTIM, COMPUTE, where="")

    optim = replace(OPTIM, name=name, state="8bit")
    policy, again = (random_policy(dtype=torch.float32) for _ in range(2))
    optimizer = build_optimizer(policy, optim)
    for number in range(3):
        stepped(policy, optimizer, number)
        if number == 1:
            save_state(tmp_path / "state", policy, optimizer, 2)
    resumed = build_optimizer(again, optim)
    assert load_state(tmp_path / "state", again, resumed) == 2
    stepped(again, resumed, 2)
    pairs = zip(policy.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    large = next(p for p in policy.model.parameters() if p.numel() == 294 * 32)
    state = optimizer.state[large]
    assert state["state1"].dtype == torch.uint8 and state["state1"].numel() == large.numel()
    assert state["absmax1"].numel() == -(-large.numel() // 256)
    small = next(p for p in policy.model.parameters() if p.numel() == 32)
    assert optimizer.state[small]["state1"].dtype == torch.float32


@pytest.mark.runs
@here
def test_a_run_with_8_bit_state_resumes(tmp_path, monkeypatch):
    """Interrupted before its second step and started again: the metrics of a whole run."""
    words = ("optim.state=8bit", "compute.device=cpu", "compute.save_seconds=0", "data.size=16",
             "data.heldout=4", "selfplay.iterations=1")  # fmt: skip
    whole, _ = play(tmp_path / "a", "sft", *words)
    step, steps = train.gradient_step, []

    def interrupted(*args, **kwargs):
        if steps:
            raise KeyboardInterrupt
        steps.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(train, "gradient_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "b", "sft", *words)
    monkeypatch.setattr(train, "gradient_step", step)
    cut, _ = play(tmp_path / "b", "sft", *words)
    losses = [[r["loss"] for r in StepLog.read(run.iteration(0).metrics)] for run in (whole, cut)]
    assert len(losses[0]) == 2 and losses[0] == losses[1]


@here
def test_float64_has_no_8_bit_state():
    with pytest.raises(ValueError, match="optim.state=8bit is not there for float64"):
        build_optimizer(random_policy(dtype=torch.float64), replace(OPTIM, state="8bit"))


def test_momentum_of_rmsprop_is_refused():
    """bitsandbytes takes the argument and does not use it."""
    with pytest.raises(ValueError, match="optim.state=8bit knows no momentum of rmsprop"):
        compose("optim.state=8bit", "optim.momentum=0.9")
    assert compose("optim=adamw", "optim.state=8bit", "optim.momentum=0.9").optim.state == "8bit"


# --- a base in 8 or 4 bits -----------------------------------------------------------------------


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantised_base_needs_lora_cuda_and_bitsandbytes(quantize, monkeypatch):
    words = f"model.quantize={quantize}"
    with pytest.raises(ValueError, match=f"{words} holds weights that cannot be trained.*lora="):
        compose(words)
    run = compose(words, "lora=default")
    with pytest.raises(ValueError, match=f"{words} needs a CUDA device, and this run is on the"):
        quantization.check(run.model, run.optim, cuda=False)
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"{words} needs bitsandbytes.*pip install"):
        quantization.check(run.model, run.optim, cuda=True)
    with pytest.raises(ValueError, match="optim.state=8bit needs bitsandbytes"):
        eight = replace(RUN.optim, state="8bit")
        quantization.check(replace(run.model, quantize=None), eight, cuda=False)


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
