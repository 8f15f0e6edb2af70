"""Training, sampling and scoring with a 7B, without a card and without its memory.

    python -m benchmarks.simulation [--device cuda] [--only WORD] [--out NAME]

Our own code runs on tensors that have shapes and dtypes and hold nothing (FakeTensorMode), at the
size of Mistral-7B. Counted are the bytes alive at most, the kernels that attend with their dtypes,
and the operations of a layer; the bytes are held against `tspin plan`. Times and numbers are no
part of it. On "cpu" the code is made to take the card's way (`as_on_a_card`). On "cuda" torch has
to be built with CUDA; no card is needed, but no layer goes backward: autograd would ask the driver.

--out  NAME.md and NAME.json are written; without it the table is printed alone
Exit status 1 where a peak differs from the plan by more than a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import torch
from torch._subclasses import FakeTensorMode

from benchmarks.common import row
from benchmarks.live import Live
from tspin.cli.command import check
from tspin.config.run import Run
from tspin.data.triplets import Triplet
from tspin.logprobs import attention, fused_head
from tspin.logprobs.packed import Packed
from tspin.objectives import ROLES, Logps
from tspin.planning import shapes
from tspin.planning.memory import Memory, memory
from tspin.policy.inference import narrow
from tspin.policy.policy import Policy, checkpoint
from tspin.sampling import decode
from tspin.tools.files import write_text
from tspin.training.optimizer import build_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 0.1  # of the plan, against what was alive
GB = 1e9
DTYPE = torch.bfloat16  # of the products
SETTINGS = ("model=mistral", "compute=cuda", "decoding.batch_size=64")
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Simulated:
    """What was counted of one kind of work.

    settings    overrides of main.py
    planned     bytes, as `tspin plan` has them; without the device's context
    peak        bytes alive at most
    operations  dispatched in a forward pass of one layer
    attention   calls of the whole work by kernel and dtype
    """

    name: str
    settings: str
    planned: float
    peak: float
    operations: int
    attention: dict[str, int]
    seconds: float

    @property
    def fits_plan(self) -> bool:
        return abs(self.planned / self.peak - 1) <= TOLERANCE


@dataclass(frozen=True)
class Work:
    """One kind of work: of which run, how it is done, and which bytes of the plan it should take.

    do      (run, model, device) does it
    peak    of the plan
    trains  all weights are float32; else matrices are held as they are multiplied
    """

    name: str
    words: tuple[str, ...]
    do: Callable[[Run, PreTrainedModel, Device], None]
    peak: Callable[[Memory], float]
    trains: bool = False

    def run(self, device: Device, *, layers: int | None = None) -> Simulated:
        """layers: of a smaller model, each like a 7B's; None: all of them"""
        run = check([*SETTINGS, *self.words]).points[0].run
        shape = shapes.KNOWN[run.model.path]
        shape = replace(shape, layers=layers or shape.layers)
        plan = memory(shape, run, device="cuda")
        started = time.monotonic()
        with as_on_a_card(device), FakeTensorMode(), Live() as live:
            model = _model(shape, device)
            if not self.trains:
                narrow(model, DTYPE)
            counts = live.operations_of(model.base_model.layers[1])
            live.peak = live.now
            self.do(run, model, device)
        return Simulated(
            name=self.name,
            settings=" ".join([*SETTINGS, *self.words]),
            planned=self.peak(plan),
            peak=live.peak,
            operations=counts[0],
            attention=dict(live.attention),
            seconds=time.monotonic() - started,
        )


@contextlib.contextmanager
def as_on_a_card(device: Device) -> Iterator[None]:
    """The code takes the way it takes on a card: its kernel of attention, its chunks of logits."""
    with contextlib.ExitStack() as stack:

        def put(what: str, value: object) -> None:
            stack.enter_context(mock.patch(what, value))

        if device == "cpu":
            put("tspin.logprobs.attention.FLASH_DEVICES", ("cuda", "cpu"))
            stack.enter_context(
                mock.patch.dict(fused_head.CHUNK, {"cpu": fused_head.CHUNK["cuda"]})
            )
        else:  # autocast, the choice of a kernel and autograd would ask the driver
            put("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
            put("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
            put("torch.nn.functional.scaled_dot_product_attention", _attend)
            put("torch.autograd.grad", lambda value, inputs: (torch.ones_like(inputs),))
        yield


def train(run: Run, model: PreTrainedModel, device: Device) -> None:
    """An update, then a pass that adds to its gradients, as all but a step's first do.

    Of the longest triplets there can be. On "cuda" the gradient stops at the hidden states.
    """
    policy, path = _policy(model, device)
    if run.compute.gradient_checkpointing:
        checkpoint(model)
    model.train()
    optimizer = build_optimizer(policy, run.optim)
    for group in optimizer.param_groups:
        group["foreach"] = True  # what torch chooses on a card: all weights together
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    objective = run.loss_at(1)

    def losses(_: Sequence[Triplet], logps: Logps) -> torch.Tensor:
        return objective(logps)[0]

    loss = path.loss_sum(_longest(run), objective.roles, "shared", losses)
    if device == "cpu":
        loss.backward()


@torch.no_grad()
def sample(run: Run, model: PreTrainedModel, device: Device) -> None:
    """64 slots: keys and values, two passes that read prompts of 1792 tokens, the last step."""
    cut, prompt = decode.Cut.of(run.decoding, torch.device("cuda")), _ids(run.max_prompt_length)
    columns = len(prompt) + run.decoding.max_new_tokens - 1
    policy, _ = _policy(model, device)
    assert cut.tokens is not None
    with policy.arithmetic():
        table = decode._Table(model, slots=cut.slots, columns=columns)
        rows = 2 * (cut.tokens // len(prompt))
        decode._read(table, [[i] for i in range(rows)], [prompt] * rows, start=0, tokens=cut.tokens)
        table.step([5] * cut.slots, [columns - 1] * cut.slots)


@torch.no_grad()
def score(run: Run, model: PreTrainedModel, device: Device) -> None:
    """One forward pass over the triplets of compute.score_batch, and their log-probs."""
    _, path = _policy(model, device)
    path.logps(_longest(run, run.compute.score_batch), ROLES, "shared")


def _training(m: Memory) -> float:
    return m.training - m.context


def _sampling(m: Memory) -> float:
    return m.inferring + m.cache + m.sampled


def _scoring(m: Memory) -> float:
    return m.inferring + m.scored


ONE = "compute.max_tokens=null"  # one triplet at a time
WHOLE = "compute.gradient_checkpointing=false"
ALL = (
    Work("training, checkpointed", (), train, _training, trains=True),
    Work("training, not checkpointed", (WHOLE,), train, _training, trains=True),
    Work("sampling, 64 slots", (), sample, _sampling),
    Work("scoring, 16 triplets", (ONE, "compute.score_batch=16"), score, _scoring),
)


def table(results: Sequence[Simulated]) -> str:
    """Markdown."""
    heads = ("work", "planned, GB", "alive, GB", "plan / alive", "operations a layer", "attention")
    lines = [row(heads), row("---" for _ in heads)]
    for r in results:
        calls = ", ".join(f"{number} x {name}" for name, number in r.attention.items())
        peaks = f"{r.planned / GB:.1f}", f"{r.peak / GB:.1f}", f"{r.planned / r.peak:.2f}"
        lines.append(row([r.name, *peaks, r.operations, calls]))
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and torch.version.cuda is None:
        raise SystemExit(f"torch {torch.__version__} is built without CUDA: make gpu-simulate")
    works = [work for work in ALL if options.only in work.name]
    if not works:
        raise SystemExit(f"--only {options.only}: no work on {options.device} has it in its name")
    results = []
    for work in works:
        results.append(work.run(options.device))
        sys.stdout.write(f"{work.name}: {results[-1].seconds:.0f} s\n")
    sys.stdout.write(table(results))
    if options.out is not None:
        title = f"Simulated on {options.device}, torch {torch.__version__}\n\n"
        write_text(Path(f"{options.out}.md"), title + table(results))
        text = json.dumps(
            {"torch": torch.__version__, "results": [*map(asdict, results)]}, indent=1
        )
        write_text(Path(f"{options.out}.json"), text + "\n")
    return int(not all(r.fits_plan for r in results))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Scaled dot-product attention by the kernel that a card has; torch asks the card which.

    Under autocast, of its dtype.
    """
    query, key, value = (attention._in_autocast(x) for x in (query, key, value))
    if enable_gqa and attn_mask is not None:
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
    mask = torch.zeros_like(attn_mask, dtype=query.dtype).expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, False, dropout_p, is_causal, scale=scale
    )[0]


def _model(shape: shapes.Shape, device: Device) -> PreTrainedModel:
    """Mistral-7B, or one of fewer layers, in float32."""
    from transformers import AutoModelForCausalLM, MistralConfig

    # The default of the configuration is of Mistral-7B's shape.
    config = MistralConfig(sliding_window=None, num_hidden_layers=shape.layers)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config).eval()
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    return model


def _policy(model: PreTrainedModel, device: Device) -> tuple[Policy, Packed]:
    """Its packed path is not checked on two triplets, which would need numbers."""
    nothing: Any = None
    policy = Policy(model, nothing, torch.device(device), DTYPE, "shared")
    reason = attention.install(model)
    assert reason is None, reason
    return policy, Packed(model, fused_head.head(model, DTYPE), policy.arithmetic)


def _longest(run: Run, count: int | None = None) -> list[Triplet]:
    """As many as are computed at a time. count: where they are not cut by tokens"""
    prompt, response = run.max_prompt_length, run.decoding.max_new_tokens
    roles = run.loss_at(1).roles
    tokens = run.compute.max_tokens
    if tokens is not None:
        count = max(1, tokens // (prompt + len(roles) * response))
    responses = {role: _ids(response) for role in roles}
    return [
        Triplet(str(i), "train", 1, _ids(prompt), responses)
        for i in range(count or run.compute.micro_batch)
    ]


def _ids(length: int) -> list[int]:
    return [5] * length


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.simulation", allow_abbrev=False)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", default=None)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
