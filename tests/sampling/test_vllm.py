"""vLLM as the engine: what it is told, what comes back, and what happens when something is amiss.

Everything but the package `vllm` itself is ours (support/vllm_stand_in.py). The tests at the end
need the real one: TSPIN_VLLM_PYTHON=PATH names an interpreter that has it.
"""

import gc
import hashlib
import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import vllm_stand_in
from support.tiny import PROMPTS, compose, play, random_policy
from support.vllm_stand_in import REAL, STOP, real
from support.waiting import until
from transformers import AutoModelForCausalLM

from tspin.config.identity import history, sampling
from tspin.config.load import dump, load
from tspin.micro import folder
from tspin.policy import policy as model
from tspin.policy.policy import Policies
from tspin.runs.artifacts import Iteration, Responses
from tspin.sampling import vllm
from tspin.sampling.engines import engine_of
from tspin.sampling.native import Native, respond
from tspin.sampling.requests import Draws, Request, check_response, sample_seed
from tspin.stages.generate import generate
from tspin.tools.files import read_json
from tspin.tools.parquet import read_rows

EAGER = {"enforce_eager": True}  # no compilation: most of the time that a small policy takes


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """decoding.* for an interpreter with the stand-in; and how to read what it was told."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("STAND_IN_CALLS", str(calls))
    python = str(vllm_stand_in.environment(tmp_path))

    def told(kind):
        lines = map(json.loads, calls.read_text().splitlines())
        return [line[kind] for line in lines if kind in line]

    return python, told


def settings(python, **changes):
    new = {"engine": "vllm", "vllm_python": python, "max_new_tokens": 12, "batch_size": 2}
    return replace(compose().decoding, **new | changes)


def served(how, log, *, weights=None, dtype="float32", visible=()):
    weights = folder("warm") if weights is None else weights
    renderer = model.renderer(weights, template="alpaca_space")
    return vllm.VLLM(weights, renderer, dtype, vllm.devices(how, visible), log)


def sample(how, out, **options):
    """23 prompts in 3 parts of 8, 8 and 7, as the stage samples them."""
    out = Responses(out)
    asked = served(how, out.log, **options)
    generate(asked, PROMPTS, out, Draws(how, 0, 1), label="test", facts={"t": 1})
    return out


def parts(out):
    return [out.part(i).read_bytes() for i in range(3)]


# --- what it is told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}),
        ({"top_k": 7, "temperature": 0.6}, {"top_k": 7, "temperature": 0.6}),
        ({"top_p": 0.9, "min_p": 0.05}, {"top_p": 0.9, "min_p": 0.05}),
        ({"sample": False}, {"temperature": 0.0, "seed": None}),
        ({"max_new_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_sampling_parameters_are_said_in_vllms_words(stand_in, tmp_path, changes, expected):
    python, told = stand_in
    sample(settings(python, **changes), tmp_path / "out")
    for batch in told("batch"):
        for _, params in batch:
            assert {key: params[key] for key in expected} == expected
            assert params["stop_token_ids"] == [STOP]
            assert params["ignore_eos"] and not params["detokenize"]


def test_prompts_are_ids_and_every_prompt_has_its_own_seed(stand_in, tmp_path):
    python, told = stand_in
    sample(settings(python), tmp_path / "out")
    pairs = [(ids, params["seed"]) for batch in told("batch") for ids, params in batch]
    assert sorted(pairs) == sorted((ids, sample_seed(0, 1, i)) for i, ids in PROMPTS.items())
    assert all(0 <= seed < 2**63 for _, seed in pairs)


def test_the_engine_is_told_where_the_weights_are_and_what_fits(stand_in, tmp_path):
    """The longest prompt has 7 ids, and 12 may follow; nothing of the folder's own defaults."""
    python, told = stand_in
    how = settings(python, gpu_memory=0.5, vllm_args={"enforce_eager": True})
    sample(how, tmp_path / "out", dtype="bfloat16")
    (engine,) = told("engine")
    assert engine == {
        "model": str(folder("warm")), "dtype": "bfloat16", "max_model_len": 19,
        "generation_config": "vllm", "skip_tokenizer_init": True, "tensor_parallel_size": 1,
        "gpu_memory_utilization": 0.5, "enforce_eager": True,
    }  # fmt: skip


def test_how_many_responses_are_made_at_a_time_is_vllms_to_say_or_an_argument(stand_in, tmp_path):
    python, told = stand_in
    sample(settings(python, batch_size=2), tmp_path / "own")
    arguments = load(tree(engine="vllm", vllm_args={"max_num_seqs": 512})).decoding.vllm_args
    sample(settings(python, vllm_args=arguments), tmp_path / "given")
    assert ["max_num_seqs" in engine for engine in told("engine")] == [False, True]
    assert told("engine")[1]["max_num_seqs"] == 512


def test_each_process_gets_gpus_of_its_own():
    how = settings("python", data_parallel=2, tensor_parallel=2)
    assert vllm.devices(how, ["0", "1", "2", "3", "4"]) == ["0,1", "2,3"]
    assert vllm.devices(replace(how, data_parallel=1), ["3", "5", "8"]) == ["3,5"]
    assert vllm.devices(how, []) == [None, None]
    with pytest.raises(ValueError, match="wants 4 GPUs, 3 are visible"):
        vllm.devices(how, ["0", "1", "2"])


# --- what comes back -----------------------------------------------------------------------------


def test_responses_are_stored_as_they_were_sampled(stand_in, tmp_path):
    python, _ = stand_in
    out = sample(settings(python), tmp_path / "out")
    rows = out.rows()
    assert sorted(row["id"] for row in rows) == sorted(PROMPTS)
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    for row in rows:
        ids = row["response_ids"]
        assert row["num_tokens"] == len(ids) <= 12
        assert (ids[-1] == STOP) == (row["finish_reason"] == "stop") and STOP not in ids[:-1]
        assert len(ids) == 12 or row["finish_reason"] == "stop"
    assert out.facts()["engine"] == {"vllm": None} and out.facts()["t"] == 1
    assert "what libraries print is no message" in out.log.read_text()


@pytest.mark.process
def test_how_many_processes_there_are_changes_no_byte(stand_in, tmp_path):
    python, told = stand_in
    one = sample(settings(python), tmp_path / "one")
    assert len(told("engine")) == 1
    two = sample(settings(python, data_parallel=2), tmp_path / "two", visible=["4", "5", "6"])
    assert len(told("engine")) == 3 and sorted(told("devices")[1:]) == ["4", "5"]
    assert parts(one) == parts(two)


@pytest.mark.process
@pytest.mark.parametrize("end", ["raise", "kill"])
def test_a_restart_loses_one_part(stand_in, tmp_path, monkeypatch, end):
    python, told = stand_in
    how = settings(python)
    whole = sample(how, tmp_path / "whole")
    monkeypatch.setenv("STAND_IN_FATE", json.dumps({"batches": 2, "end": end}))
    reason = {"raise": "RuntimeError: No available memory", "kill": "ended by SIGKILL, as when"}[
        end
    ]
    with pytest.raises(
        ValueError, match=f"decoding.engine=vllm: .*{reason}.*engine.log.*same comm"
    ):
        sample(how, tmp_path / "broken")
    broken = Responses(tmp_path / "broken")
    assert [broken.part(i).exists() for i in range(3)] == [True, True, False]
    monkeypatch.delenv("STAND_IN_FATE")
    batches = len(told("batch"))
    sample(how, tmp_path / "broken")
    assert len(told("batch")) == batches + 1
    assert parts(whole) == parts(broken)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "not token ids"),
        ("text", "not token ids"),
        ([5, STOP, 6, 7], "goes on behind the stop id 1"),
        ([5, 6], "ended after 2 of 4 tokens, with the id 6, which is no stop id"),
        ([5] * 5, "has 5 tokens, more than"),
    ],
)
def test_what_no_policy_could_have_said_is_refused(ids, reason):
    with pytest.raises(ValueError, match=reason):
        check_response(ids, stop=[STOP], max_new_tokens=4)
    check_response([5, 6, 7, 8], stop=[STOP], max_new_tokens=4)
    check_response([5, STOP], stop=[STOP], max_new_tokens=4)


@pytest.mark.process
def test_a_run_samples_from_the_policy_of_each_moment(stand_in, tmp_path):
    """y0 and the base answers from the initial policy, y' and answers from the last checkpoint."""
    python, told = stand_in
    run, _ = play(tmp_path / "runs", "tspin", "decoding.engine=vllm",
                  f"decoding.vllm_python={python}")  # fmt: skip
    checkpoint = [run.iteration(t).checkpoint for t in (0, 1)]
    assert [engine["model"] for engine in told("engine")] == list(
        map(str, [folder("warm"), folder("warm"), checkpoint[0], checkpoint[0], checkpoint[1]])
    )
    key = run.proto.facts()["key"]["decoding"]
    assert key["engine"] == "vllm" and "vllm_python" not in key
    sampled = {row["decoding"] for row in read_rows(Iteration(run.base.path).answers)}
    assert sampled == {"greedy", "sampled"}
    assert read_json(run.iteration(1).done)["key"]


# --- adapters ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A checkpoint of adapters that do something."""
    pytest.importorskip("peft")
    cfg = compose("compute.device=cpu", "lora=default", "model.lora.rank=2")
    policy = model.load(folder("warm"), template="alpaca_space", compute=cfg.compute,
                        precision="fp32_master", lora=cfg.model.lora)  # fmt: skip
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    out = tmp_path_factory.mktemp("adapted") / "checkpoint"
    policy.save(out)
    return out


def merging(checkpoint, log, python, *words):
    """What the run's configuration makes of it; it needs no policy in memory."""
    cfg = compose("decoding.engine=vllm", f"decoding.vllm_python={python}", "lora=default",
                  "decoding.max_new_tokens=12", "decoding.batch_size=2", *words)  # fmt: skip
    return engine_of(checkpoint, Policies(lambda folder: pytest.fail("read")), cfg, log=log), cfg


@pytest.mark.process
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged_once_for_all_processes(stand_in, adapted, tmp_path, dtype):
    """As the export merges them, in the dtype of the arithmetic; gone when sampling has ended."""
    python, told = stand_in
    out = Responses(tmp_path / "out")
    engine, cfg = merging(
        adapted, out.log, python, f"compute.dtype={dtype}", "decoding.data_parallel=2"
    )
    generate(engine, PROMPTS, out, Draws(cfg.decoding, 0, 1), label="test", facts={})
    expected = tmp_path / "expected"
    expected.mkdir()
    model.write(adapted, expected, getattr(torch, dtype))
    base = hashlib.sha256((folder("warm") / "model.safetensors").read_bytes()).hexdigest()
    sha = hashlib.sha256((expected / "model.safetensors").read_bytes()).hexdigest()
    assert told("weights") == [[sha], [sha]] and sha != base
    models = {one["model"] for one in told("engine")}
    assert models == {str(out.path / vllm.MERGED)} and {one["dtype"] for one in told("engine")} == {
        dtype
    }
    assert not (out.path / vllm.MERGED).exists()
    assert out.facts()["engine"] == {"vllm": None, "adapters": "merged"}


@pytest.mark.process
def test_a_merged_model_goes_with_an_engine_that_fails(stand_in, adapted, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_FATE", json.dumps({"batches": 0, "end": "raise"}))
    engine, cfg = merging(adapted, tmp_path / "log", stand_in[0])
    left = tmp_path / vllm.MERGED / "model.safetensors"  # by a process that was killed
    left.parent.mkdir()
    left.write_bytes(b"half")
    requests = [(0, [Request([5, 6], None, 1.0)])]
    with pytest.raises(ValueError, match="No available memory"):
        list(engine.respond(requests, cfg.decoding, done=lambda n: None))
    assert not left.parent.exists()


@pytest.mark.process
def test_a_run_of_adapters_samples_from_the_merged_policy(stand_in, tmp_path):
    """The initial policy is the base itself; what follows is merged where it is sampled from."""
    pytest.importorskip("peft")
    python, told = stand_in
    run, _ = play(tmp_path / "runs", "tspin", "decoding.engine=vllm", "lora=default",
                  f"decoding.vllm_python={python}", "model.lora.rank=2")  # fmt: skip
    models = [Path(engine["model"]) for engine in told("engine")]
    assert models[:2] == [folder("warm"), folder("warm")]
    assert {path.name for path in models[2:]} == {vllm.MERGED} and len(models) == 5
    weights = [sha for (sha,) in told("weights")]
    assert weights[0] == weights[1] and weights[2] == weights[3]  # answers, then y' of the next
    assert len({*weights}) == 3
    assert not [path for path in run.path.rglob(vllm.MERGED)]


def test_a_base_of_fewer_bits_is_not_what_vllm_reads():
    with pytest.raises(ValueError, match="engine=vllm reads the base .* model.quantize=4bit"):
        compose("decoding.engine=vllm", "lora=default", "model.quantize=4bit")


# --- memory, and ends ----------------------------------------------------------------------------


def test_the_policy_here_is_gone_before_vllm_starts(stand_in, tmp_path):
    cfg = compose("decoding.engine=vllm", f"decoding.vllm_python={stand_in[0]}")
    policies = Policies(lambda folder: random_policy(scale=0.1))
    assert policies(folder("warm")).packed is not None  # the two know each other
    weights = weakref.ref(policies(folder("warm")).model)
    gc.disable()
    try:
        engine_of(folder("warm"), policies, cfg, log=tmp_path / "log")
        assert weights() is None
    finally:
        gc.enable()


@pytest.mark.process
def test_the_worker_ends_with_a_killed_parent(stand_in, tmp_path, monkeypatch):
    python, _ = stand_in
    monkeypatch.setenv("STAND_IN_FATE", json.dumps({"batches": 0, "end": "pause"}))
    run = dump(compose("decoding.engine=vllm", f"decoding.vllm_python={python}"))
    code = f"""
from pathlib import Path
from types import SimpleNamespace
from tspin.config import load as config
from tspin.sampling import requests, vllm
how = config.load({run!r}).decoding
words = SimpleNamespace(stop_ids=[1])
served = vllm.VLLM(Path("nowhere"), words, "float32", [None], Path({str(tmp_path / "log")!r}))
list(served.respond([(0, [requests.Request([5], 1, 1.0)])], how, done=lambda n: None))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    calls = Path(os.environ["STAND_IN_CALLS"])
    try:
        until(lambda: calls.stat().st_size > 0)
        worker = json.loads(calls.read_text().splitlines()[0])["pid"]
        assert alive(worker)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not alive(worker))


def alive(pid):
    """Whether it runs; a child of nobody may stay as a zombie where no init reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("/nowhere/python", "/nowhere/python does not run"),
        (None, ".* has no module vllm"),
        ("/bin/false", "/bin/false fails without a word"),
    ],
)
def test_what_is_missing_is_known_before_a_run_starts(tmp_path, python, reason):
    assert tmp_path
    with pytest.raises(
        ValueError, match=f"{reason}.*install vLLM into .*decoding.vllm_python=PATH"
    ):
        vllm.check(settings(python))


# --- configuration -------------------------------------------------------------------------------


def tree(**decoding):
    values = dump(compose())
    return values | {"decoding": values["decoding"] | decoding}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"temperature": 0.001}, "decoding.temperature=0.001 .* at least 0.01"),
        ({"vllm_args": {"dtype": "half"}}, "decoding.vllm_args.dtype is set by compute.dtype"),
        ({"data_parallel": 0}, "decoding.data_parallel=0"),
    ],
)
def test_what_vllm_would_do_otherwise_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        load(tree(engine="vllm", **changes))


def test_float64_is_none_of_vllms():
    with pytest.raises(ValueError, match="compute.dtype=float64 is none of vLLM's"):
        compose("decoding.engine=vllm", "compute.dtype=float64")


def test_what_an_engine_does_not_read_is_in_no_key():
    """Keys of samples that are there stay what they were before there was another engine."""
    assert sorted(sampling(compose())) == [
        "batch_size", "engine", "max_new_tokens", "min_p", "name", "sample", "temperature",
        "top_k", "top_p",
    ]  # fmt: skip
    usual = load(tree(engine="vllm"))
    same = load(tree(engine="vllm", data_parallel=4, gpu_memory=0.3, vllm_python="/x"))
    assert sampling(same) == sampling(usual) and history(same, 1) == history(usual, 1)
    for other in ({"tensor_parallel": 2}, {"vllm_args": {"seed": 1}}, {"temperature": 0.5}):
        assert sampling(load(tree(engine="vllm", **other))) != sampling(usual)
    assert sampling(load(tree(engine="native", tensor_parallel=2))) == sampling(compose())


# --- the real one --------------------------------------------------------------------------------


@real
def test_greedy_is_the_native_engines(tmp_path):
    """float32: equal up to a near tie, after which the two may go apart."""
    how = settings(REAL, sample=False, vllm_args=EAGER)
    theirs = {i: list(ids) for i, ids in sample(how, tmp_path / "out").ids().items()}
    compute = compose("compute.device=cpu").compute
    policy = model.load(
        folder("warm"), template="alpaca_space", compute=compute, precision="fp32_master"
    )
    ours = respond(policy, [Request(p, None, 1.0) for p in PROMPTS.values()],
                   replace(how, engine="native"))  # fmt: skip
    network = AutoModelForCausalLM.from_pretrained(folder("warm"), dtype=torch.float32)
    for (i, prompt), mine in zip(PROMPTS.items(), ours, strict=True):
        if mine != theirs[i]:
            k = next(k for k in range(12) if mine[k] != theirs[i][k])
            with torch.no_grad():
                logits = network(torch.tensor([[*prompt, *mine[:k]]])).logits[0, -1]
            assert (logits[mine[k]] - logits[theirs[i][k]]).abs() < 1e-4


@real
def test_samples_repeat_themselves_and_follow_the_policy(tmp_path):
    """Two launches, one of them restarted: equal bytes. First tokens of 2000 requests: right p."""
    how = settings(REAL, vllm_args=EAGER)
    one, two = sample(how, tmp_path / "one"), sample(how, tmp_path / "two")
    two.manifest.unlink()
    two.part(1).unlink()
    sample(how, tmp_path / "two")
    assert parts(one) == parts(two)
    assert any(row["response_ids"][-1] == STOP for row in one.rows())
    requests = [Request([5, 6], sample_seed(0, 0, f"p{i}"), 1.0) for i in range(2000)]
    how = replace(how, max_new_tokens=1, batch_size=64)
    ((_, found),) = served(how, tmp_path / "log").respond([(0, requests)], how, done=lambda n: None)
    counts = torch.bincount(torch.tensor(found).flatten(), minlength=294).double()
    with torch.no_grad():
        network = AutoModelForCausalLM.from_pretrained(folder("warm"), dtype=torch.float32)
        p = network(torch.tensor([[5, 6]])).logits[0, -1].double().softmax(-1)
    deviation = (counts - 2000 * p).abs() / (2000 * p * (1 - p)).sqrt().clamp_min(1)
    assert deviation.max() < 5


@real
def test_a_run_with_the_real_one(tmp_path):
    words = ["decoding.engine=vllm", f"decoding.vllm_python={REAL}", "selfplay.iterations=1"]
    run, rows = play(tmp_path, "tspin", *words, "+decoding.vllm_args.enforce_eager=true")
    assert [row["iteration"] for row in rows] == ["base", 0]
    assert run.proto.facts()["engine"]["vllm"]


def test_the_native_engine_stays_what_it_was(tmp_path):
    """One source of either kind leaves the same rows for the same responses."""
    policy, how = random_policy(scale=0.4), replace(compose().decoding, max_new_tokens=5)
    requests = [Request([5, 6], sample_seed(0, 1, "a"), 1.0)]
    ((key, found),) = Native(policy).respond([(3, requests)], how, done=lambda n: None)
    assert key == 3 and found == respond(policy, requests, how)
