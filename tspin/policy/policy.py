"""The policy: loaded from a folder, computing, saved to a folder.

A policy is saved as a plain transformers folder, in the dtype in which it is held: float32, or
bfloat16 under optim.precision=bf16_stochastic. Under model.lora the folder holds adapters, and
names the model that they belong to.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tspin.config.run import Attention, ComputeConfig, LoraConfig, Precision, Quantize
from tspin.data.templates import Rendering
from tspin.data.tokens import Renderer
from tspin.data.triplets import Triplet, collate
from tspin.logprobs.fused_head import LossFunction
from tspin.logprobs.packed import Packed, packed
from tspin.logprobs.packing import Layout
from tspin.logprobs.padded import response_logps
from tspin.objectives import Logps, Role
from tspin.policy import adapters, dtypes, kernels, products, rates
from tspin.policy.dtypes import MixedPrecision
from tspin.policy.inference import narrow
from tspin.policy.loading import read_config, read_model, read_tokenizer
from tspin.tools.files import atomic, check_sums, write_sums
from tspin.tools.log import once

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Policy:
    """A language model, how its text becomes ids, and how it computes."""

    model: PreTrainedModel
    renderer: Renderer
    device: torch.device
    autocast: torch.dtype | None  # None: compute in the dtype of the weights
    attention: Attention  # how micro-batches are laid out
    dropout: bool = False  # in training, of what goes into adapters
    liger: bool = False  # some of its layers' kernels are Liger's
    compiled: kernels.Compiled | None = None  # None: no layer is
    library: products.Library = products.Library()

    @property
    def products(self) -> torch.dtype:
        """The dtype in which matrices are multiplied."""
        return self.autocast or self.model.dtype

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    @contextlib.contextmanager
    def to_sample(self, rows: int, tokens: int) -> Iterator[None]:
        """`arithmetic` for passes of one token a row, of so many rows and tokens each at most."""
        packs = self.library.packs and products.packing_pays(rows, tokens)
        packed = products.packed(self.model, self.products)
        with self.arithmetic(), packed if packs else contextlib.nullcontext():
            yield

    @cached_property
    def packed(self) -> Packed | None:
        """The packed path; None where the plain one is chosen, or under `auto` has to do.

        Raises ValueError for a layout that was asked for and that the architecture cannot do.
        """
        if self.attention == "plain":
            return None
        product = products.times_transposed if self.library.onednn else None
        path = packed(self.model, self.autocast, self.arithmetic, product)
        if isinstance(path, Packed):
            return path
        name = type(self.model).__name__
        if self.attention != "auto":
            raise ValueError(
                f"compute.attention={self.attention} does not work with {name}: {path}; use "
                "compute.attention=auto or plain"
            )
        once(f"{name} is computed in padded rows (compute.attention=plain): {path}")
        return None

    @property
    def kernels(self) -> list[str]:
        """What has computed its scores and losses so far: attention, and layers if not as usual."""
        if self.packed is None:
            names = {str(self.model.config._attn_implementation)}
        else:
            names = set(self.packed.kernels)
        names |= {"liger"} if self.liger else set()
        names |= {"onednn"} if self.library.onednn else set()
        return sorted(names | {*(self.compiled.facts if self.compiled is not None else [])})

    def layout(self, triplets: Sequence[Triplet], roles: Sequence[Role]) -> Layout | None:
        """How these triplets are laid out, a function of their lengths; None: padded rows."""
        if self.packed is None:
            return None
        if self.attention == "shared" or self.attention == "separate":
            return self.attention
        return self.packed.cheaper(triplets, roles)

    def logps(self, triplets: Sequence[Triplet], roles: tuple[Role, ...]) -> Logps:
        """log pi(z | x) of the triplets' responses in one forward pass, by role, as scores.

        Packed they have no gradient: `loss_sum` is the way to one.
        """
        layout = self.layout(triplets, roles)
        if self.packed is not None and layout is not None:
            return self.packed.logps(triplets, roles, layout)
        return _summed(self._rows(triplets, roles)[0], roles)

    def token_logps(
        self, triplets: Sequence[Triplet], roles: tuple[Role, ...]
    ) -> tuple[Logps, Sequence[Tensor]]:
        """The same, and of the tokens of each response, by triplet, then role."""
        layout = self.layout(triplets, roles)
        if self.packed is not None and layout is not None:
            return self.packed.token_logps(triplets, roles, layout)
        rows, left_out = self._rows(triplets, roles)
        tokens = []
        for i, triplet in enumerate(triplets):
            start = len(triplet.prompt_ids) - left_out
            for number, role in enumerate(roles):
                row = rows[number * len(triplets) + i]
                tokens.append(row[start : start + len(triplet.responses[role])])
        return _summed(rows, roles), tokens

    def _rows(self, triplets: Sequence[Triplet], roles: tuple[Role, ...]) -> tuple[Tensor, int]:
        """`response_logps` of all responses, role by role, and how many columns it leaves out."""
        batch = collate(triplets, roles, pad_id=self.renderer.pad_id).to(self.device)
        with self.arithmetic():
            rows = response_logps(
                self.model, batch.input_ids, batch.attention_mask, batch.response_mask
            )
        return rows, batch.input_ids.shape[1] - rows.shape[1]

    def loss_sum(
        self, triplets: Sequence[Triplet], roles: tuple[Role, ...], loss_function: LossFunction
    ) -> Tensor:
        """The sum of the triplets' losses, ready for backward(). -> ()

        The way there is described in tspin.logprobs.
        """
        layout = self.layout(triplets, roles)
        if self.packed is not None and layout is not None:
            return self.packed.loss_sum(triplets, roles, layout, loss_function)
        return loss_function(triplets, self.logps(triplets, roles)).sum()

    def save(self, folder: Path) -> None:
        """A plain transformers folder: loads in transformers, vLLM, lm-eval."""
        with atomic(folder) as temporary:
            self.model.save_pretrained(temporary)
            self.renderer.tokenizer.save_pretrained(temporary)
            write_sums(temporary)


def _summed(rows: Tensor, roles: tuple[Role, ...]) -> Logps:
    """log pi of whole responses by role, each (batch,), of their tokens' role by role."""
    logps = rows.sum(1).chunk(len(roles))
    return Logps().with_values(dict(zip(roles, logps, strict=True)))


def load(
    folder: Path,
    *,
    template: Rendering | str,
    compute: ComputeConfig,
    precision: Precision,
    lora: LoraConfig | None = None,
    quantize: Quantize | None = None,
    seed: int = 0,
) -> Policy:
    """The policy in `folder`, in evaluation mode, without dropout.

    lora  adapters are trained: those in `folder`, or new ones beside the model in it. Without it
          adapters in `folder` become part of the weights
    seed  of new adapters
    """
    from transformers import GenerationConfig

    how = dtypes.resolve(compute, precision)
    adapted = adapters.is_adapter(folder)
    base = adapters.base_of(folder)
    # What is not trained needs no more than the products are made in.
    model = read_model(base, how.weights if lora is None else how.products, how, quantize)
    if hint := rates.faster(how, model.num_parameters()):
        once(hint)
    liger = compute.kernels == "liger"
    kernels.use_liger(model) if liger else kernels.use_torch(model)
    if lora is not None:
        adapters.add(model, lora, base=base, dtype=how.weights)
        adapters.resume(model, lora, folder) if adapted else adapters.begin(model, seed)
    elif adapted:
        model = adapters.merge(model, folder)
    text = renderer(folder, template=template)
    model.generation_config = GenerationConfig(
        eos_token_id=text.stop_ids,
        pad_token_id=text.pad_id,
        bos_token_id=text.tokenizer.bos_token_id,
    )
    if compute.gradient_checkpointing:
        checkpoint(model)
    library = products.use(compute, how, model)
    model.eval()  # train() alone turns training mode on, for checkpointing
    dropout = lora is not None and lora.dropout > 0
    compiled = kernels.Compiled() if compute.compile else None
    policy = Policy(
        model, text, how.device, how.autocast, compute.attention, dropout, liger, compiled, library
    )
    _ = policy.packed  # an architecture that cannot do what was asked for is known now
    if lora is not None:
        adapters.compute_in(model, how.autocast)
    if compiled is not None:
        kernels.compile_layers(model, compiled)
    return policy


def load_to_infer(
    folder: Path, *, template: Rendering | str, compute: ComputeConfig, precision: Precision
) -> Policy:
    """The policy in `folder` of a run that may have been trained elsewhere, to sample and to score
    from: in the memory that this takes, its layers as they are. What makes training fast may not
    be here.
    """
    same = products.resolve(compute)  # auto depends on compile
    plain = replace(compute, compile=False, kernels="torch", products=same)
    policy = load(folder, template=template, compute=plain, precision=precision)
    narrow(policy.model, policy.autocast)
    return policy


def checkpoint(model: PreTrainedModel) -> None:
    """Turns gradient checkpointing on, whose name changes during transformers 5; it acts in
    training mode alone."""
    old = "gradient_checkpointing_enable"
    enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, old)
    enable({"use_reentrant": False})


def renderer(folder: Path, *, template: Rendering | str) -> Renderer:
    """The renderer of the policy in `folder`, without its weights."""
    return Renderer(read_tokenizer(folder), template, stop_ids=_stop_ids(adapters.base_of(folder)))


def _stop_ids(folder: Path) -> list[int]:
    """The ids at which the model in `folder` ends a text, as generate takes them."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").exists():
        ids = GenerationConfig.from_pretrained(folder).eos_token_id
    else:
        ids = getattr(read_config(folder), "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def in_parts(
    folder: Path, how: MixedPrecision, quantize: Quantize | None
) -> PreTrainedModel | None:
    """The policy in `folder` where it is more than weights to load: adapters, a quantised base."""
    adapted = adapters.is_adapter(folder)
    if not adapted and quantize is None:
        return None
    model = read_model(adapters.base_of(folder), how.products, how, quantize)
    if adapted:
        adapters.attach(model, folder)
    return model.eval()


def write(folder: Path, out: Path, dtype: torch.dtype | None) -> None:
    """The whole model in `folder` into the folder `out`: config and weights, no tokenizer.

    dtype  of the weights written; None: as they are, and float32 for merged adapters, whose sum is
           formed in float32. A base that was quantised in training is the one that was not: what
           was meant, not bit for bit what was trained
    """
    adapted = adapters.is_adapter(folder)
    if dtype is None and not adapted:
        for file in (folder / "config.json", *folder.glob("model*")):
            shutil.copyfile(file, out / file.name)
        return
    dtype = dtype or torch.float32
    held = torch.promote_types(dtype, torch.float32) if adapted else dtype
    how = MixedPrecision(torch.device("cpu"), held, held)
    model = read_model(adapters.base_of(folder), held, how, None)
    if adapted:
        model = adapters.merge(model, folder).to(dtype)
    model.save_pretrained(out)


class Policies:
    """Loads policies by folder and keeps the last one: stages that follow share it.

    Called it gives a policy that can be trained, `to_infer` one that may be narrow, and is not to
    be trained: after it, the next call reads the weights anew.

    check  raises ValueError for a folder that is damaged. Of several processes one reads it for
           all, so that they load together
    """

    def __init__(
        self, read: Callable[[Path], Policy], check: Callable[[Path], None] = check_sums
    ) -> None:
        self._read, self.check = read, check
        self._folder: Path | None = None
        self._policy: Policy | None = None
        self._narrow = False

    def __call__(self, folder: Path) -> Policy:
        if self._narrow:
            self.forget()
        return self._get(folder)

    def to_infer(self, folder: Path) -> Policy:
        """To sample and to score from: the same numbers, in less memory."""
        policy = self._get(folder)
        self._narrow |= narrow(policy.model, policy.autocast)
        return policy

    def forget(self) -> None:
        """The policy in memory no longer is what any folder holds, or its memory is needed."""
        self._policy, self._narrow = None, False
        gc.collect()  # a policy and its packed path know each other, modules and their hooks too
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # else another process could not have it

    def hold(self, policy: Policy, folder: Path) -> None:
        """`policy` has been saved to `folder` and need not be loaded from there."""
        self._policy, self._folder, self._narrow = policy, folder, False

    def _get(self, folder: Path) -> Policy:
        if self._policy is None or self._folder != folder:
            self._policy, self._narrow = None, False  # never two in memory
            self.check(folder)
            self._policy, self._folder = self._read(folder), folder
        return self._policy
