"""Processes for test_distributed: one that imports torch once, and forks those of each job.

Reads jobs from stdin, one JSON object a line, {"size": N, "case": NAME, "folder": FOLDER}, and
answers each with the exit codes of its N processes. A case is a function of this module; it is
called on every process with its World and the folder, where it leaves what the test looks at.
"""

import faulthandler
import json
import os
import signal
import socket
import sys
import traceback
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.distributed import TCPStore
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from support.tiny import LOSSES as OF_PAPER
from support.tiny import checkpointed, compose, play, random_policy, random_triplets
from tspin import micro
from tspin.data.triplets import epoch, micro_batches
from tspin.distributed import failure
from tspin.distributed import world as worlds
from tspin.distributed.failure import stopping_together
from tspin.distributed.world import join
from tspin.objectives import IRIS
from tspin.policy.policy import load
from tspin.policy.rates import matmul_rate
from tspin.runs.artifacts import Iteration, Responses
from tspin.sampling.native import Native
from tspin.sampling.requests import Draws
from tspin.stages import train
from tspin.stages.evaluate import Grader, evaluate
from tspin.stages.generate import generate
from tspin.stages.score import score, write_scores, write_token_logps
from tspin.tools import files
from tspin.tracking.tracker import Tracker
from tspin.training import shards, step
from tspin.training.cut import Cut
from tspin.training.parallel import strategy_of
from tspin.training.recipe import Recipe

LOSSES = OF_PAPER | {"iris": IRIS(0.5)}  # which compares with the whole batch
RUN = compose("compute.device=cpu")
OPTIM = replace(RUN.optim, lr=1e-3, batch_size=4, epochs=2, max_grad_norm=1.0)
COMPUTE = replace(RUN.compute, micro_batch=1, save_seconds=1e9)
TRACKER = Tracker([])
TRIPLETS = random_triplets(9, seed=1)  # batches of 4, 4 and 1: one process alone has the last
WEIGHTS = {triplet.id: 0.2 * i for i, triplet in enumerate(TRIPLETS)}
STEPS = 6
LONGEST = float(os.environ.get("TSPIN_LONGEST", "300"))  # seconds of a case
KINDS = ("ddp", "fsdp2")
ADAPTED = "compute.device=cpu", "lora=default", "model.lora.rank=2", "selfplay.iterations=1"


class Killed(BaseException):
    """Where a test stops a training."""


# --- cases: what every process of a job does -----------------------------------------------------


def teach(
    out, loss, world, *, dtype=torch.float64, stop_at=None, compute=COMPUTE, weights=None,
    policy=None, **options
):  # fmt: skip
    """One iteration of a small random policy, or its steps before `stop_at`. -> the policy"""
    policy = policy or random_policy(dtype=dtype, seed=3, **options)
    reference = None
    if LOSSES[loss].needs_reference:
        batches = epoch(TRIPLETS, batch_size=OPTIM.batch_size, seed=0, t=1, epoch=0)
        cut = [m for b in batches for m in micro_batches(b, LOSSES[loss].roles, size=1)]
        reference = score(policy, cut, LOSSES[loss].roles, label="reference").logps
        reference = {key: value - 0.5 * len(key[2]) for key, value in reference.items()}
    honest, steps = train.gradient_step, []

    def counted(*args, **kwargs):
        steps.append(None)
        if len(steps) == stop_at:
            raise Killed
        return honest(*args, **kwargs)

    train.gradient_step = counted
    try:
        recipe = Recipe(
            loss=LOSSES[loss], reference=reference, weights=weights, optim=OPTIM,
            compute=compute, seed=0, t=1,
        )  # fmt: skip
        train.train(
            policy, TRIPLETS, Iteration(out), recipe, tracker=TRACKER, steps_before=0,
            label="test", world=world,
        )  # fmt: skip
    except Killed:
        pass
    finally:
        train.gradient_step = honest
    return policy


TWO = ("tspin", "spin")  # without and with a reference


def two_losses(world, folder):
    """In float64."""
    for kind in KINDS:
        for loss in TWO:
            teach(folder / kind / loss, loss, replace(world, parallel=kind))


def losses(world, folder):
    """Every loss, one of them in float32 and one with weights and all that saves memory."""
    two_losses(world, folder)
    for kind in KINDS:
        here = replace(world, parallel=kind)
        for loss in (name for name in LOSSES if name not in TWO):
            teach(folder / kind / loss, loss, here)
        teach(folder / kind / "float32", "tspin", here, dtype=torch.float32)
        tokens = replace(COMPUTE, max_tokens=40)
        plain = {"compute": tokens, "weights": WEIGHTS, "attention": "plain"}
        teach(folder / kind / "plain", "tspin", here, **plain)
    for stage in (1, 2):
        whole = replace(COMPUTE, zero_stage=stage)
        teach(folder / "fsdp2" / f"stage-{stage}", "iris", here, compute=whole)


class Collectives(TorchDispatchMode):
    """Counts gathers of weights and sums of gradients by the dtype in which they move, and casts
    of whole matrices to bfloat16."""

    KINDS = {"_allgather_base_": "gather", "_reduce_scatter_base_": "reduce"}
    MATRICES = {(48, 32), (32, 48)}  # of the MLP, and the shape of nothing else here

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind = self.KINDS.get(func.overloadpacket.__name__)
        if func.namespace == "c10d" and kind is not None:
            dtype = str(args[1].dtype).removeprefix("torch.")
            self.counts[f"{kind} {dtype}"] += 1
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16:
            self.counts["cast"] += tuple(args[0].shape) in self.MATRICES
        return func(*args, **(kwargs or {}))


MIXED = [(stage, tied) for stage in (3, 2, 1) for tied in (False, True)]


def mixed(world, folder):
    """The gradient of a batch of 8 under bfloat16 arithmetic, one triplet at a time."""
    for stage, tied in MIXED:
        compute = replace(COMPUTE, zero_stage=stage, gradient_checkpointing=True)
        policy = random_policy(dtype=torch.float32, seed=3, scale=0.5, tied=tied)
        policy = replace(policy, autocast=torch.bfloat16)
        checkpointed(policy.model)
        assert policy.packed is not None
        recipe = Recipe(loss=LOSSES["tspin"], optim=OPTIM, compute=compute, seed=0, t=1)
        strategy = strategy_of(policy, compute, replace(world, parallel="fsdp2"))
        for _ in range(2):  # the second time as the first
            policy.model.zero_grad()
            with Collectives() as collectives:
                parts = step.accumulate(strategy, TRIPLETS[:8], recipe, Cut.of(compute))
        gradients = {
            name: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
            for name, p in policy.model.named_parameters()
        }
        if world.is_main:
            logps = {
                key: torch.cat([metrics[key] for _, metrics in parts])
                for key in parts[0][1]
                if key.startswith("logps_per_token/")
            }
            torch.save(
                {"gradients": gradients, "logps": logps, "counts": dict(+collectives.counts)},
                folder / f"{stage}-{tied}.pt",
            )


def adapted(dtype):
    """A policy of new adapters beside the embedded base."""
    run = compose("compute.device=cpu", f"compute.dtype={dtype}", "lora=default")
    return load(
        micro.folder("warm"), template="alpaca_space", compute=run.compute,
        precision=run.optim.precision, lora=run.model.lora,
    )  # fmt: skip


def adapters(world, folder):
    """model.lora: a base that none trains, whole in all processes or in shards."""
    for kind in KINDS:
        here = replace(world, parallel=kind)
        teach(folder / kind, "tspin_ref", here, policy=adapted("float64"))
    often = replace(COMPUTE, save_seconds=0)
    teach(folder / "stopped", "tspin_ref", here, policy=adapted("float64"), stop_at=3,
          compute=often)  # fmt: skip


def adapters_narrow(world, folder):
    """In bfloat16, with all that is whole while a step lasts and with nothing. -> counts"""
    for stage in (3, 1):
        here, compute = replace(world, parallel="fsdp2"), replace(COMPUTE, zero_stage=stage)
        policy = adapted("bfloat16")
        with Collectives() as collectives:
            teach(folder / str(stage), "spin", here, policy=policy, compute=compute)
        local = [p for p in policy.model.parameters() if isinstance(p, DTensor)]
        facts = {
            "counts": dict(+collectives.counts),
            "base": sorted({str(p.dtype) for p in local}),
            "numbers": sum(p.to_local().numel() for p in local),
        }
        (folder / f"facts-{stage}-{world.rank}.json").write_text(json.dumps(facts))


def adapters_go_on(world, folder):
    """After `adapters`, from where it was stopped."""
    teach(folder / "stopped", "tspin_ref", replace(world, parallel="fsdp2"),
          policy=adapted("float64"))  # fmt: skip


def adapted_run(world, folder):
    """Self-play of adapters from the command line's configuration."""
    play(folder, "spin", *ADAPTED, "compute.parallel=fsdp2")


def small_files(world, folder):
    here = replace(world, parallel="fsdp2")
    teach(folder / "one", "sft", here)
    shards.FILE_SIZE = 30_000
    teach(folder / "many", "sft", here)


def begin(world, folder):
    """Stopped before its third step, saved after each."""
    for kind in KINDS:
        often = replace(COMPUTE, save_seconds=0)
        teach(folder / kind, "tspin", replace(world, parallel=kind), stop_at=3, compute=often)


def go_on(world, folder):
    for kind in KINDS:
        teach(folder / kind, "tspin", replace(world, parallel=kind))


def sample(world, folder):
    """Samples, scores and answers, in several parts each."""
    policy = random_policy(dtype=torch.float32, scale=0.4)
    how = replace(RUN.decoding, max_new_tokens=8, batch_size=2)
    draws = Draws(how, seed=0, t=1)
    prompts = {f"p{i}": list(range(3, 4 + i % 7)) for i in range(19)}
    generate(
        Native(policy), prompts, Responses(folder / "samples"), draws, label="test", facts={},
        world=world,
    )  # fmt: skip
    roles = ("annotated", "synthetic", "proto")
    cut = micro_batches(TRIPLETS, roles, size=2)
    ids = {triplet.id for triplet in TRIPLETS}
    logps, tokens = score(policy, cut, roles, label="test", with_tokens=ids, world=world)
    out = Iteration(folder)
    world.main(write_scores, out.scores, TRIPLETS, logps)
    world.main(write_token_logps, out.token_logps, TRIPLETS, tokens, policy.renderer)
    grader = Grader(lambda asked, response: len(response) > 3)
    rows = [{"id": i, "prompt": i, "prompt_ids": ids} for i, ids in prompts.items()]
    evaluate(
        Native(policy), rows, out.answers, draws, grader, data=RUN.data, label="test", world=world
    )  # fmt: skip


def whole_run(world, folder):
    """Self-play from the command line's configuration, twice: the second finds it complete.

    read-RANK names the files of weights that the process read for their digests.
    """
    honest, names = files.file_digest, []

    def recorded(*paths):
        names.extend(path.name for path in paths if path.suffix == ".safetensors")
        return honest(*paths)

    files.file_digest = recorded
    for _ in range(2):
        play(folder, "spin", "compute.device=cpu", "compute.parallel=fsdp2", "curriculum=gate")
    (folder / f"read-{world.rank}").write_text("\n".join(names))


def fails(world, folder):
    """Rank 1 meets a full disk while the others wait for its gradient."""
    if world.rank == 1:
        step.deal = _raise(OSError("No space left on device"))
    with stopping_together(world):
        teach(folder / "out", "tspin", world)


def killed(world, folder):
    """The last rank is killed in the middle of a step, as by the kernel."""
    if world.rank == world.size - 1:
        step.deal = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    with stopping_together(world):
        teach(folder / "out", "tspin", world)


def again(world, folder):
    teach(folder / "out", "tspin", world)


def refused(world, folder):
    """What the main process alone finds out stops all, and is said once."""

    def look():
        raise ValueError("there is no such model")

    with stopping_together(world):
        world.main(look)


def short_of_memory(world, folder):
    """Rank 1 alone has no room for two triplets at a time, in the gradient or in the pass before
    it: all halve, and none notices else."""
    for loss, method in (("tspin", "loss_sum"), ("iris", "logps")):
        honest = getattr(train.Policy, method)

        def limited(policy, micro, *args, honest=honest):
            if len(micro) > 1:
                raise torch.OutOfMemoryError("no room\nMore")
            return honest(policy, micro, *args)

        if world.rank == 1:
            setattr(train.Policy, method, limited)
        teach(folder / loss, loss, world, compute=replace(COMPUTE, micro_batch=2))
        setattr(train.Policy, method, honest)


def _raise(error):
    def stop(*args):
        raise error

    return stop


# --- the process that forks ----------------------------------------------------------------------


def serve():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        matmul_rate(torch.device("cpu"), dtype)  # once, and not once a process
    if find_spec("peft") is not None:
        import peft  # noqa: F401
    answer = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = [os.fork() or _process(job, rank, port) for rank in range(job["size"])]
        meeting = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        del meeting
        answer.write(json.dumps(codes) + "\n")
        answer.flush()


def _process(job, rank, port):
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["size"])}
    os.environ |= {"LOCAL_WORLD_SIZE": str(job["size"]), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # they meet at the launcher, as torchrun's
    failure.LAST_WORDS = worlds.LAST_WORDS = 1.0
    faulthandler.dump_traceback_later(LONGEST, exit=True)  # a test fails, and never hangs
    code = 0
    try:
        world = join(RUN.compute, RUN.optim, quantize=None)
        globals()[job["case"]](world, folder)
        world.barrier()
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
