"""optim.precision: what each keeps in which dtype, and that 5e-7 moves every weight of each."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import compose, interrupted, play, random_policy, random_triplets

from tspin import micro
from tspin.config.run import arithmetic_dtype
from tspin.data.triplets import micro_batches
from tspin.objectives import SFT, SPIN, TSPIN
from tspin.policy import dtypes
from tspin.policy.dtypes import sampling_key
from tspin.policy.policy import load
from tspin.runs.artifacts import Iteration
from tspin.runs.metrics import StepLog
from tspin.stages.score import score
from tspin.stages.train import train
from tspin.tools.parquet import read_rows
from tspin.tracking.tracker import Tracker
from tspin.training.cut import Cut
from tspin.training.optimizer import build_optimizer
from tspin.training.recipe import Recipe
from tspin.training.step import gradient_step
from tspin.training.stochastic_rounding import NOISE, StochasticRounding, stochastic_round
from tspin.training.strategy import Strategy
from tspin.training.train_state import load_state, save_state

RUN = compose("compute.device=cpu")
OPTIM = replace(RUN.optim, lr=1e-3, batch_size=4, epochs=1, max_grad_norm=None)
COMPUTE = replace(RUN.compute, micro_batch=2, save_seconds=0)
MODES = ("fp32_master", "bf16_stochastic", "fp32")
BF16 = "bf16_stochastic"


def policy_for(precision, **options):
    """A small policy as `load` would hold it under this precision."""
    dtype = dtypes.resolve(RUN.compute, precision).weights
    return random_policy(dtype=dtype, **options)


def recipe(precision, *, loss=None, reference=None, **optim):
    optim = replace(OPTIM, precision=precision, **optim)
    return Recipe(
        loss=loss or SFT(), reference=reference, optim=optim, compute=COMPUTE, seed=0, t=1
    )


def teach(policy, triplets, out, precision, **options):
    with Tracker([]) as tracker:
        train(
            policy, triplets, Iteration(out), recipe(precision, **options), tracker=tracker,
            steps_before=0, label="test",
        )  # fmt: skip


# --- the rounding --------------------------------------------------------------------------------

NUMBERS = [1.0, -1.0, 0.02, -0.3, 1.9999999, 3.14159, 1e-7, -2.5e-20, 1e-39, 6.1e30]


@pytest.mark.parametrize("number", NUMBERS)
def test_over_all_noise_the_mean_is_the_number_itself(number):
    """Not about: the sum over the 65536 possible noises is 65536 x, and x lies between the two."""
    x = torch.full((NOISE,), number, dtype=torch.float32)
    rounded = stochastic_round(x, torch.arange(NOISE, dtype=torch.int32))
    exact = x[0].double()
    assert rounded.double().mean() == exact
    low, high = rounded.double().min(), rounded.double().max()
    assert low <= exact <= high and len(rounded.unique()) <= 2
    nearest = exact.to(torch.bfloat16).double()
    assert nearest in (low, high)


def test_a_bfloat16_number_stays_what_it_is():
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite()]
    for noise in (0, 1, NOISE - 1):
        rounded = stochastic_round(every.float(), torch.full(every.shape, noise).int())
        assert torch.equal(rounded, every)


def optimizer_of(weight, precision, *, lr, seed=0, name="rmsprop"):
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight = weight
    policy = type("Policy", (), {"model": network})
    optimizer = build_optimizer(policy, replace(OPTIM, precision=precision, name=name))
    optimizer.param_groups[0] |= {"lr": lr, "seed": seed}
    return optimizer


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
@pytest.mark.parametrize("precision", MODES)
def test_at_5e7_the_weights_move_by_what_the_optimiser_asks(precision, name):
    """Neighbours of 0.02 are 1.2e-4 apart. The first steps: 5e-6 (RMSprop, / sqrt 0.01), 5e-7."""
    asked = {"rmsprop": 5e-6, "adamw": 5e-7}[name]
    start = torch.tensor(0.02).bfloat16().item()
    dtype = dtypes.resolve(RUN.compute, precision).weights
    weight = torch.nn.Parameter(torch.full((2**20,), start, dtype=dtype))
    optimizer = optimizer_of(weight, precision, lr=5e-7, name=name)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    moved = start - weight.detach().double()
    # Each weight moves by 0 or 1.2e-4: over 2^20 of them the mean is right to 1.5% (one sigma).
    assert moved.mean().item() == pytest.approx(asked, rel=0.06 if precision == BF16 else 3e-3)
    if precision == BF16:
        assert set(moved.unique().tolist()) == {0.0, 2.0**-13}


def test_plain_bfloat16_would_not_move():
    weight = torch.nn.Parameter(torch.full((64,), 0.02, dtype=torch.bfloat16))
    optimizer = optimizer_of(weight, "fp32_master", lr=5e-7)
    weight.grad, before = torch.ones_like(weight), weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)


def test_the_noise_is_a_function_of_the_seed_and_of_the_weights_number():
    def stepped(seed, number):
        weights = [torch.nn.Parameter(torch.full((999,), 0.02).bfloat16()) for _ in range(2)]
        optimizer = StochasticRounding(weights, lambda copies: torch.optim.SGD(copies, lr=5e-5))
        optimizer.param_groups[0]["seed"] = seed
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        torch.rand(seed + 1)  # others may draw what they like
        optimizer.step()
        return weights[number].detach()

    assert torch.equal(stepped(0, 0), stepped(0, 0))
    assert not torch.equal(stepped(0, 0), stepped(0, 1))
    assert not torch.equal(stepped(0, 0), stepped(1, 0))


# --- training ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_as_float32_does_where_rounding_to_the_nearest_learns_little(tmp_path):
    """Steps of 5e-5 on weights of 0.3, whose bfloat16 neighbours are 1e-3 to 2e-3 apart."""
    last = {}
    for name, weights, precision in [
        ("fp32", "fp32", "fp32"),
        ("stochastic", BF16, BF16),
        ("nearest", BF16, "fp32_master"),  # torch's optimiser on bfloat16 weights
    ]:
        out = tmp_path / name
        teach(
            policy_for(weights), random_triplets(4), out, precision,
            lr=5e-5, epochs=60, warmup=0.1, schedule="constant",
        )  # fmt: skip
        losses = [row["loss"] for row in StepLog.read(Iteration(out).metrics)]
        last[name] = (losses[0] - losses[-1]) / losses[0]
    assert last["fp32"] > 0.3
    assert last["stochastic"] == pytest.approx(last["fp32"], rel=0.1)
    assert last["nearest"] < 0.3 * last["fp32"]


def test_the_first_margin_against_the_stored_reference_is_exactly_zero(tmp_path):
    loss, policy, triplets = SPIN(lam=0.1), policy_for(BF16), random_triplets(4)
    assert policy.packed is not None  # bfloat16 weights take the packed path too
    cut = micro_batches(triplets, loss.roles, size=COMPUTE.micro_batch)
    reference = score(policy, cut, loss.roles, label="reference").logps
    teach(policy, triplets, tmp_path, BF16, loss=loss, reference=reference)
    first = StepLog.read(Iteration(tmp_path).metrics)[0]
    assert first["advantages/current"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(name, tmp_path):
    triplets, options = random_triplets(16), {"loss": TSPIN(0.3, 0.1), "name": name}
    teach(policy_for(BF16), triplets, tmp_path / "whole", BF16, **options)
    with interrupted(2):
        teach(policy_for(BF16), triplets, tmp_path / "cut", BF16, **options)
    teach(policy_for(BF16, seed=9), triplets, tmp_path / "cut", BF16, **options)
    weights = [Iteration(tmp_path / x).checkpoint / "model.safetensors" for x in ("whole", "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
@pytest.mark.parametrize(
    ("precision", "weights", "states"),
    [("fp32_master", 4, 4), ("bf16_stochastic", 2, 4), ("fp32", 4, 4)],
)
def test_bytes_of_a_weight(precision, weights, states, name, tmp_path):
    """The table of docs/method.md: weight, gradient and each state of the optimiser."""
    policy = policy_for(precision)
    optim = replace(OPTIM, precision=precision, name=name)
    optimizer = build_optimizer(policy, optim)
    optimizer.param_groups[0] |= {"lr": 1e-3, "seed": 0}
    gradient_step(
        Strategy(policy), optimizer, random_triplets(2), recipe(precision, name=name),
        Cut.of(COMPUTE), where="",
    )  # fmt: skip
    parameters = list(policy.model.parameters())
    assert {p.element_size() for p in parameters} == {p.grad.element_size() for p in parameters}
    assert parameters[0].element_size() == weights
    kept = optimizer.state_dict()["state"]
    held = [x for state in kept.values() for x in state.values() if x.ndim]
    assert {x.element_size() for x in held} == {states}
    num = sum(p.numel() for p in parameters)
    assert sum(x.numel() for x in held) == num * {"rmsprop": 1, "adamw": 2}[name]
    # nor does it become another dtype on the way through a saved state
    save_state(tmp_path / "state.safetensors", policy, optimizer, 1)
    again = build_optimizer(policy, optim)
    load_state(tmp_path / "state.safetensors", policy, again)
    for number, state in again.state_dict()["state"].items():
        for key, value in state.items():
            assert value.dtype == kept[number][key].dtype and torch.equal(value, kept[number][key])


# --- a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32_master", torch.float32), ("bf16_stochastic", torch.bfloat16), ("fp32", torch.float32)],
)
def test_a_checkpoint_has_the_dtype_of_the_weights_and_loses_nothing(precision, dtype, tmp_path):
    compute = replace(RUN.compute, device="cpu")
    policy = load(micro.folder("warm"), template="none", compute=compute, precision=precision)
    assert policy.model.dtype == dtype
    policy.save(tmp_path / "checkpoint")
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert {x.dtype for x in stored.values()} == {dtype}
    again = load(tmp_path / "checkpoint", template="none", compute=compute, precision=precision)
    pairs = zip(policy.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.runs
def test_a_run_in_bfloat16_is_one_like_another(tmp_path):
    """Every stage, the reference among them; the same command again has the same bits."""
    folders = [
        play(tmp_path / x, "spin", f"optim.precision={BF16}", "compute.device=cpu")[0] for x in "ab"
    ]
    for t in (0, 1):
        files = [f.iteration(t).checkpoint / "model.safetensors" for f in folders]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert StepLog.read(folders[0].iteration(t).metrics)[0]["advantages/current"] == 0.0
    scores = read_rows(folders[0].iteration(1).scores)
    assert scores == read_rows(folders[1].iteration(1).scores)


@pytest.mark.parametrize(
    ("precision", "asked", "weights", "products"),
    [
        ("fp32_master", "auto", "float32", "float32"),
        ("fp32_master", "bfloat16", "float32", "bfloat16"),
        ("fp32_master", "float64", "float64", "float64"),
        ("fp32", "auto", "float32", "float32"),
        ("bf16_stochastic", "auto", "bfloat16", "bfloat16"),
    ],
)
def test_dtypes_on_a_cpu(precision, asked, weights, products):
    found = dtypes.resolve(replace(RUN.compute, device="cpu", dtype=asked), precision)
    assert (found.weights, found.products) == (getattr(torch, weights), getattr(torch, products))
    assert found.autocast == (None if weights == products else torch.bfloat16)


def test_on_cuda_float32_is_float32_and_the_default_computes_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    compute = replace(RUN.compute, device="cuda", dtype="auto")
    found = {mode: dtypes.resolve(compute, mode) for mode in MODES}
    assert found["fp32"].products == found["fp32"].weights == torch.float32
    assert (found["fp32_master"].weights, found["fp32_master"].autocast) == (
        torch.float32, torch.bfloat16,
    )  # fmt: skip
    keys = [sampling_key(compute, mode, RUN.model) for mode in MODES]
    assert keys[0] == ["cuda", "torch.bfloat16"]  # as it always was
    assert keys[0] != keys[1] != keys[2] != keys[0]  # other samples: another folder of y0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "dtype", "fits"),
    [
        ("fp32", "float32", True),
        ("fp32", "bfloat16", False),
        ("bf16_stochastic", "bfloat16", True),
        ("bf16_stochastic", "float32", False),
        ("bf16_stochastic", "float64", False),
        ("fp32_master", "float64", True),
    ],
)
def test_a_dtype_that_contradicts_the_precision_is_refused(precision, dtype, fits):
    words = f"optim.precision={precision}", f"compute.dtype={dtype}"
    if fits:
        run = compose(*words)
        assert run.dtype == dtype == arithmetic_dtype(run.compute, precision)
        return
    with pytest.raises(ValueError, match=f"compute.dtype={dtype} contradicts {words[0]}.*=auto"):
        compose(*words)
