"""Many processes do what one does: the same weights, the same rows, one error when one fails."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import processes
from support.tiny import compose, play

import main
from tspin.__main__ import main as tspin
from tspin.config.identity import history, run_name
from tspin.config.load import dump
from tspin.data.triplets import Triplet
from tspin.distributed import launcher
from tspin.distributed.world import ALONE
from tspin.runs.artifacts import Iteration, RunDir
from tspin.runs.metrics import StepLog
from tspin.tools.files import SUMS, Damaged, check_sums
from tspin.tools.parquet import read_rows

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="forks with torch loaded"),
]
CLOCK = {"seconds", "tokens_per_second", "useful_tokens_per_second", "flop_utilisation"}


@pytest.fixture(scope="module")
def server():
    here = Path(__file__).parents[1]
    paths = [str(here), str(here.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "support.processes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environment,
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def start(server):
    """Runs a case of tests/support/processes.py on `size` processes. -> their exit codes"""

    def call(size, case, folder):
        server.stdin.write(json.dumps({"size": size, "case": case, "folder": str(folder)}) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    return call


@pytest.fixture(scope="module")
def run(start):
    """The same, where none of them is to fail."""

    def call(size, case, folder):
        codes = start(size, case, folder)
        assert codes == [0] * size, "\n".join(p.read_text() for p in folder.glob("log-*.txt"))

    return call


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of every loss."""
    folder = tmp_path_factory.mktemp("alone")
    for loss in processes.LOSSES:
        processes.teach(folder / loss, loss, ALONE)
    processes.teach(folder / "float32", "tspin", ALONE, dtype=torch.float32)
    tokens = replace(processes.COMPUTE, max_tokens=40)
    processes.teach(folder / "plain", "tspin", ALONE, compute=tokens, attention="plain")
    return folder


@pytest.fixture(scope="module")
def mixed(run, tmp_path_factory):
    """The gradients that one process and two have under bfloat16 arithmetic."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("mixed-1", "mixed-2"))
    processes.mixed(ALONE, one)
    run(2, "mixed", two)
    return one, two


def weights(folder):
    return load_file(Iteration(folder).checkpoint / "model.safetensors")


def distance(one, other):
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def moved(folder):
    """How far the weights are from where they began."""
    start = processes.random_policy(dtype=torch.float64, seed=3).model.state_dict()
    there = weights(folder)
    return max(float((there[name] - start[name]).abs().max()) for name in there)


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_changes_no_weight(size, run, alone, tmp_path):
    """Batches of 4, 4 and 1 triplets, one at a time: with 1 left all ranks but one have none."""
    run(size, "losses", tmp_path)
    for kind in processes.KINDS:
        for case in (*processes.LOSSES, "plain"):
            assert distance(weights(tmp_path / kind / case), weights(alone / case)) < 1e-10
            assert moved(tmp_path / kind / case) > 1e-3
        for stage in (1, 2):  # what is whole in between
            folder = tmp_path / "fsdp2" / f"stage-{stage}"
            assert distance(weights(folder), weights(alone / "iris")) < 1e-10
        assert distance(weights(tmp_path / kind / "float32"), weights(alone / "float32")) < 1e-5
        for case in ("spin", "tspin"):
            rows = StepLog.read(Iteration(tmp_path / kind / case).metrics)
            expected = StepLog.read(Iteration(alone / case).metrics)
            assert len(rows) == len(expected) == processes.STEPS
            for row, same in zip(rows, expected, strict=True):
                assert row.keys() == same.keys()
                for key in row.keys() - CLOCK:
                    assert row[key] == pytest.approx(same[key], rel=1e-9, abs=1e-12), key


@pytest.mark.parametrize("tied", [False, True])
def test_bfloat16_moves_what_autocast_casts_and_computes_what_it_computes(mixed, tied):
    """8 triplets over 2 processes, 4 passes each, of two layers, an embedding and a head.

    Untied: 5 norms. Nothing whole: layers are gathered twice a pass, head and embedding once.
    """
    counts = {}
    for stage in (3, 2, 1):
        one, two = (torch.load(folder / f"{stage}-{tied}.pt") for folder in mixed)
        assert one["logps"].keys() == two["logps"].keys()
        for key, expected in one["logps"].items():
            assert float((two["logps"][key] - expected).abs().max()) < 1e-3
        for name, expected in one["gradients"].items():
            gradient = two["gradients"][name]
            assert gradient.dtype == torch.float32
            cosine = torch.nn.functional.cosine_similarity(
                gradient.flatten(), expected.flatten(), 0
            )
            assert cosine > 0.9999, name
            assert float(gradient.norm()) == pytest.approx(float(expected.norm()), rel=1e-3)
        assert set(one["counts"]) == {"cast"}
        counts[stage] = two["counts"]
    if tied:  # head and embedding are one float32 matrix, in a part with the last norm
        assert counts == {
            3: {"gather bfloat16": 4 * 4, "gather float32": 4 + 4, "reduce float32": 4 * 3 + 4},
            2: {"gather bfloat16": 2, "gather float32": 1 + 4, "reduce float32": 4 * 3 + 4},
            1: {"gather bfloat16": 2, "gather float32": 1 + 4, "reduce float32": 3 + 4},
        }
    else:
        assert counts == {
            3: {"gather bfloat16": 4 * 5, "gather float32": 4 + 5, "reduce float32": 4 * 4 + 5},
            2: {"gather bfloat16": 3, "gather float32": 1 + 5, "reduce float32": 4 * 4 + 5},
            1: {"gather bfloat16": 3, "gather float32": 1 + 5, "reduce float32": 4 + 5},
        }


def test_the_stage_is_the_lowest_that_fits():
    """Float32 weights under bfloat16 arithmetic, by hand: 4 tensors of 4 bytes in shards, 2 bytes
    of each matrix whole, 4 of its gradient."""
    from tspin.training.sharded import lowest_stage

    policy = processes.random_policy(dtype=torch.float32, tied=False)
    policy = replace(policy, autocast=torch.bfloat16)
    parameters = policy.model.state_dict()
    total = sum(p.numel() for p in parameters.values())
    wide = sum(p.numel() for name, p in parameters.items() if "norm" in name or "embed" in name)
    shards, weights, gradients = 4 * 4 * total / 8, 2 * total + 2 * wide, 4 * total
    assert lowest_stage(policy, 8, shards + weights + gradients) == 1
    assert lowest_stage(policy, 8, shards + weights + gradients - 1) == 2
    assert lowest_stage(policy, 8, shards + weights) == 2
    assert lowest_stage(policy, 8, shards + weights - 1) == 3


def lora_weights(folder):
    return load_file(Iteration(folder).checkpoint / "adapter_model.safetensors")


def test_adapters_are_trained_by_several_processes_as_by_one(run, tmp_path):
    """Stopped on two and resumed there: the same bits as without; on one: the same weights."""
    pytest.importorskip("peft")
    processes.teach(tmp_path / "one", "tspin_ref", ALONE, policy=processes.adapted("float64"))
    run(2, "adapters", tmp_path / "two")
    one = lora_weights(tmp_path / "one")
    assert max(float(p.abs().max()) for name, p in one.items() if "lora_B" in name) > 1e-3
    for kind in processes.KINDS:
        assert distance(one, lora_weights(tmp_path / "two" / kind)) < 1e-10
        check_sums(Iteration(tmp_path / "two" / kind).checkpoint)
    stopped = Iteration(tmp_path / "two" / "stopped")
    assert stopped.train_state.exists() and not stopped.all_train_shards()
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    run(2, "adapters_go_on", tmp_path / "two")
    sharded = lora_weights(tmp_path / "two" / "fsdp2")
    assert distance(sharded, lora_weights(stopped.path)) == 0
    processes.adapters_go_on(ALONE, tmp_path / "again")
    assert distance(one, lora_weights(tmp_path / "again" / "stopped")) < 1e-10


def test_a_frozen_base_is_divided_in_the_dtype_of_the_arithmetic(run, tmp_path):
    """Nothing but the base is gathered, and no gradient of it is there to be summed."""
    pytest.importorskip("peft")
    run(2, "adapters_narrow", tmp_path)
    base = processes.adapted("bfloat16").model
    numbers = sum(p.numel() for p in base.parameters() if not p.requires_grad)
    for stage in ("3", "1"):
        facts = [
            json.loads((tmp_path / f"facts-{stage}-{rank}.json").read_text()) for rank in (0, 1)
        ]
        assert sum(fact["numbers"] for fact in facts) == numbers
        for fact in facts:
            assert fact["base"] == ["torch.bfloat16"]
            assert set(fact["counts"]) == {"gather bfloat16"}
    assert distance(*(lora_weights(tmp_path / stage) for stage in ("3", "1"))) == 0


def test_self_play_of_adapters_in_shards_is_exported_as_of_one_process(run, tmp_path):
    pytest.importorskip("peft")
    run(2, "adapted_run", tmp_path / "two")
    play(tmp_path / "one", "spin", *processes.ADAPTED)
    logits = []
    for name in ("one", "two"):
        run_dir = RunDir(tmp_path / name / "spin")
        assert run_dir.iteration(0).done.exists()
        to = tmp_path / f"exported-{name}"
        assert tspin(["export", f"run={run_dir.path}", "iteration=0", f"to={to}"]) == 0
        logits.append(load_file(to / "model.safetensors"))
    assert distance(*logits) < 1e-5
    launch = json.loads((tmp_path / "two" / "spin" / "provenance.json").read_text())["launches"][0]
    assert launch["processes"] == {"number": 2, "parallel": "fsdp2", "zero_stage": 3}


def test_a_sharded_checkpoint_has_the_files_of_a_whole_one(run, alone, tmp_path):
    """Another time with files of 30 kB: as many as it takes, an index, and the same tensors."""
    run(2, "small_files", tmp_path)
    whole, sharded, cut = (
        Iteration(folder).checkpoint
        for folder in (alone / "sft", tmp_path / "one", tmp_path / "many")
    )
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in sharded.iterdir())
    for name in set(names) - {"model.safetensors", SUMS}:  # weights differ by rounding
        assert (whole / name).read_bytes() == (sharded / name).read_bytes(), name
    for folder in (sharded, cut):
        check_sums(folder)
    files = sorted(cut.glob("*.safetensors"))
    assert len(files) > 2 and not (cut / "model.safetensors").exists()
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert {name: path.name for path in files for name in load_file(path)} == index["weight_map"]
    tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert distance(dict(sorted(tensors.items())), load_file(sharded / "model.safetensors")) == 0


def test_a_run_goes_on_with_any_number_of_processes(run, alone, tmp_path):
    """2 steps on 2 processes, 2 on one, 2 on 4: the weights of 6 steps on one."""
    run(2, "begin", tmp_path)
    often = replace(processes.COMPUTE, save_seconds=0)
    for kind in processes.KINDS:
        out = Iteration(tmp_path / kind)
        assert bool(out.all_train_shards()) == (kind == "fsdp2")
        for shards in out.all_train_shards().values():
            assert_refused_when_changed(shards, out)
        processes.teach(out.path, "tspin", ALONE, stop_at=3, compute=often)
        assert out.train_state.exists() and not out.all_train_shards()
        assert len(StepLog.read(out.metrics)) == 4
    run(4, "go_on", tmp_path)
    for kind in processes.KINDS:
        assert distance(weights(tmp_path / kind), weights(alone / "tspin")) < 1e-10
        assert len(StepLog.read(Iteration(tmp_path / kind).metrics)) == processes.STEPS


def assert_refused_when_changed(shards, out):
    """One bit, in each of the files in turn."""
    files = sorted(path for path in shards.iterdir() if path.name != SUMS)
    assert [path.name for path in files] == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    for path in files:
        right = path.read_bytes()
        path.write_bytes(right[:-9] + bytes([right[-9] ^ 4]) + right[-8:])
        with pytest.raises(Damaged, match=re.escape(f"{shards} is damaged ('{path.name}'")):
            processes.teach(out.path, "tspin", ALONE)
        path.write_bytes(right)


def test_all_halve_what_one_has_no_room_for(run, alone, tmp_path):
    run(2, "short_of_memory", tmp_path)
    for loss in ("tspin", "iris"):
        assert distance(weights(tmp_path / loss), weights(alone / loss)) < 1e-9
    for rank in range(2):
        said = (tmp_path / f"log-{rank}.txt").read_text()
        assert said.count("no room; from here on compute.micro_batch=1") == 2


# --- sampling, scoring, evaluation ---------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_samples_scores_and_answers_are_the_same_bytes(size, run, tmp_path):
    processes.sample(ALONE, tmp_path / "1")
    run(size, "sample", tmp_path / "n")
    made = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.parquet"))
    assert len(made) == 3 + 2  # parts of samples, scores, answers
    for path in made:
        assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "n" / path).read_bytes()


def test_self_play_on_two_processes_is_self_play(run, tmp_path):
    """Samples of the initial policy to the byte; later ones follow weights equal to 1e-6."""
    run(2, "whole_run", tmp_path / "two")
    said = (tmp_path / "two" / "log-0.txt").read_text()
    folder, rows = play(tmp_path / "one", "spin", "compute.device=cpu")
    two = RunDir(tmp_path / "two" / "spin")
    for name in ("prompts.parquet", "proto/part-00000.parquet", "base/answers.parquet"):
        assert (two.path / name).read_bytes() == (folder.path / name).read_bytes()
    files = [
        {str(p.relative_to(run_dir.path)) for p in run_dir.path.rglob("*") if p.is_file()}
        for run_dir in (two, folder)
    ]
    assert files[0] == files[1]
    first = [weights(run_dir.iteration(0).path) for run_dir in (two, folder)]
    assert distance(*first) < 1e-5
    scores = [read_rows(run_dir.iteration(0).scores) for run_dir in (two, folder)]
    for row, same in zip(*scores, strict=True):
        assert row["logp"] == pytest.approx(same["logp"], abs=1e-2)
    launch_record = json.loads(two.provenance.read_text())["launches"][0]
    assert launch_record["processes"] == {"number": 2, "parallel": "fsdp2", "zero_stage": 3}
    read = [(tmp_path / "two" / f"read-{rank}").read_text().split() for rank in (0, 1)]
    assert set(read[0]) == {"model.safetensors"} and not read[1]  # one process reads it for all
    assert "Traceback" not in said and len(rows) == 3  # the initial policy, two iterations


# --- when one fails ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("fails", "OSError: rank 1 of 4: No space left on device"),
        ("killed", "OSError: rank . of 4 lost another process of this run"),
        ("refused", "ValueError: rank 0 of 4: there is no such model"),
    ],
)
def test_all_stop_when_one_fails_and_one_says_why(case, line, start, run, alone, tmp_path):
    codes = start(4, case, tmp_path)
    assert all(codes)
    said = [path.read_text() for path in sorted(tmp_path.glob("log-*.txt"))]
    assert len([text for text in said if re.search(f"^{line}", text, re.M)]) == 1, said
    for text in said:  # the others keep quiet, or find that somebody has gone
        for error in re.findall(r"^\w*Error: rank .*", text, re.M):
            assert re.match(line, error) or "lost another process" in error
    out = Iteration(tmp_path / "out")
    assert not out.checkpoint.exists() and not out.checkpoint.with_name(".checkpoint.tmp").exists()
    if case != "refused":
        run(2, "again", tmp_path)
        assert distance(weights(out.path), weights(alone / "tspin")) < 1e-10


# --- how it is started ---------------------------------------------------------------------------


def chosen(parallel, *words, **environment):
    run = compose(f"compute.parallel={parallel}", *words)
    return launcher.chosen(run.compute, run.optim, environment, quantize=run.model.quantize)


FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def test_what_is_asked_for_here_or_by_accelerate():
    assert chosen("auto") == chosen("ddp") == "ddp"
    assert chosen("fsdp2") == chosen("auto", **FSDP2) == chosen("fsdp2", **FSDP2) == "fsdp2"


@pytest.mark.parametrize(
    ("parallel", "environment", "reason"),
    [
        ("ddp", FSDP2, "compute.parallel=ddp contradicts .* fsdp2 .ACCELERATE_USE_FSDP"),
        ("auto", FSDP2 | {"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ("auto", FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ("fsdp2", {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed .* not supported; use FSDP"),
        ("ddp", {"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision=fp16 .* compute.dtype"),
    ],
)
def test_contradictions_name_both_sides(parallel, environment, reason):
    with pytest.raises(ValueError, match=reason):
        chosen(parallel, **environment)


@pytest.mark.parametrize("word", ["optim.precision=bf16_stochastic", "model.quantize=4bit"])
def test_what_needs_whole_matrices_is_not_cut_into_shards(word):
    words = word, "lora=default"
    assert chosen("ddp", *words) == "ddp"
    assert chosen("fsdp2", "lora=default") == "fsdp2"
    with pytest.raises(ValueError, match=f"{word} .* compute=ddp"):
        chosen("fsdp2", *words)


def test_the_way_of_training_is_no_part_of_a_runs_name():
    """So that a run begun on one process goes on with the same command under torchrun."""
    plain, sharded = compose(), compose("compute=fsdp2")
    assert run_name(dump(sharded), dump(plain)) == run_name(dump(plain), dump(plain))
    assert history(sharded, 1) == history(plain, 1)


def test_torchrun_starts_one_run_and_not_a_sweep(monkeypatch, caplog):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["main.py", "-m", "seed=0,1", "track=none"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 2
    assert "torchrun --nproc_per_node=4 main.py seed=0 track=none" in caplog.text


def test_micro_batches_are_dealt_so_that_all_have_as_many():
    """5 micro-batches over 2: 0 2 4 and 1 3 -, where - computes the shortest with weight 0."""
    from tspin.training.strategy import deal

    micro_batches = [[Triplet(str(i), "train", 0, [1], {})] for i in range(5)]
    worlds = [replace(ALONE, rank=rank, size=2) for rank in range(2)]
    dealt = [list(deal(micro_batches, world)) for world in worlds]
    assert [[part.number for part in mine] for mine in dealt] == [[0, 2, 4], [1, 3, None]]
    assert [part.is_last for part in dealt[0]] == [False, False, True]
    assert dealt[1][2].triplets is micro_batches[4]
