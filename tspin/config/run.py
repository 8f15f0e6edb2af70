"""The typed configuration of a run. DictConfig stops at main.py; this is what the rest sees.

Every field is set in conf/; there is no second default here. `load` checks names, types and
choices (pydantic) and the rules between fields, and names the key in every error.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from tspin.config import rules
from tspin.tools.files import digest, flatten

if TYPE_CHECKING:
    from tspin.objectives.losses import Loss

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=64)]  # in paths
Place = Annotated[str, Field(min_length=1)]
Keyless = Annotated[str, AfterValidator(lambda url: _keyless(url))]  # in files and records
Decay = Annotated[float, Field(ge=0, lt=1)]
Schedule = float | list[float]  # one value, or one per iteration; the last repeats
LossName = Literal["sft", "spin", "tspin", "tspin_ref", "wo_ha"]
LinkName = Literal["logistic", "exponential"]  # losses.LINKS, unread here: it needs torch
Attention = Literal["auto", "shared", "separate", "plain"]
Precision = Literal["fp32_master", "bf16_stochastic", "fp32"]
OptimState = Literal["float32", "8bit"]
Quantize = Literal["8bit", "4bit"]
DType = Literal["auto", "float32", "bfloat16", "float64"]
Parallel = Literal["auto", "ddp", "fsdp2", "deepspeed_zero3"]
TemplateName = Literal["alpaca", "alpaca_space", "chat", "none"]

IDENTITY_FREE = (
    "track.wandb",
    "track.project",
    "track.entity",
    "track.group",
    "track.tags",
    "evals.",
    "compute.parallel",
    "compute.save_seconds",
    "compute.grace_seconds",
    "compute.threads",
    "decoding.vllm_python",
    "decoding.data_parallel",
    "decoding.tensor_parallel",
    "decoding.gpu_memory",
    "decoding.url",
    "selfplay.share",
    "selfplay.keep",
    "sync.",
    "runs_dir",
)
"""Keys or sections that a relaunch may set otherwise: none changes what is trained (threads,
parallel and tensor_parallel: its last bits; url: where a policy is served). A benchmark is of a
policy, not of its training, and its file says how it was made."""

# Of `decoding`: what other programs read, and of that what decides the samples.
DECIDES = {"vllm": ("tensor_parallel", "vllm_args"), "openai": ("url", "url_model")}
NOT_DECIDING = ("vllm_python", "data_parallel", "gpu_memory")

ADDED: dict[str, Any] = {"model.lora": None, "model.quantize": None, "optim.state": "float32"}
"""Keys that came after the first runs, each at the value where a run is what it was without it:
folders and keys of iterations from before stay good."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)  # the product of the two matrices is scaled by alpha / rank
    dropout: float = Field(ge=0, lt=1)  # of what goes into the adapters, in training alone
    targets: Literal["all"] | list[Place]  # all: every linear layer but the head


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    name: Name
    path: Place  # folder, GGUF file, or hub id
    package: str | None  # Python package that carries the model as GGUF, used when installed
    revision: str | None
    template: TemplateName
    max_length: int = Field(ge=2)  # tokens of prompt and response
    max_prompt_length: int | None = Field(ge=1)  # None: max_length - decoding.max_new_tokens
    lora: LoraConfig | None  # None: all weights are trained
    quantize: Quantize | None  # of the base under lora; None: not


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    name: LossName
    label: str  # as the tables print it
    link: LinkName


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CoefConfig:
    alpha: Schedule
    beta: Schedule
    lam: Schedule = Field(alias="lambda")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    name: Name
    path: Place  # file, folder, hub id, "micro" or "micro_open"
    split: str
    revision: str | None
    size: int | None = Field(ge=1)
    heldout: int = Field(ge=0)
    seed: int
    skip_bad_rows: bool
    mix_last_two: bool
    eval_split: Literal["validation", "test"]
    eval_draws: int = Field(ge=1)  # samples of each held-out prompt
    eval_cool: float | None = Field(gt=0)  # temperature of one more sample, where one can check


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    name: Literal["rmsprop", "adamw"]
    lr: Schedule
    schedule: Literal["linear", "cosine", "constant"]
    warmup: float = Field(ge=0, lt=1)  # share of the scheduled steps
    epochs: int = Field(ge=1)
    schedule_epochs: int | None = Field(ge=1)  # None: epochs
    batch_size: int = Field(ge=1)  # examples per optimiser step
    max_grad_norm: float | None = Field(gt=0)  # None: no clipping
    precision: Precision  # of the weights that are trained, their gradients and state
    state: OptimState
    weight_decay: float = Field(ge=0)
    eps: float = Field(gt=0)
    rms_alpha: Decay
    momentum: Decay
    betas: tuple[Decay, Decay]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecodingConfig:
    name: Name
    sample: bool  # False: greedy
    temperature: float = Field(gt=0)
    top_k: int | None = Field(ge=1)
    top_p: float | None = Field(gt=0, le=1)
    min_p: float | None = Field(ge=0, le=1)
    max_new_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # responses in the making at a time
    engine: Literal["native", "transformers", "vllm", "openai"]  # native where it can
    vllm_python: Place | None  # interpreter that has vLLM; None: this one
    data_parallel: int = Field(ge=1)  # processes of vLLM, each with GPUs of its own
    tensor_parallel: int = Field(ge=1)  # GPUs of each of them
    gpu_memory: float = Field(gt=0, le=1)  # share of a GPU that vLLM takes
    vllm_args: dict[str, Any]  # further arguments of vLLM's engine, by its names
    url: Annotated[Keyless, Field(pattern=r"^https?://[^\s#]+$")] | None  # .../v1
    url_model: Place | None  # what the policy is called there; CHECKPOINT: its folder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComputeConfig:
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: DType  # of the arithmetic
    attention: Attention  # plain: padded rows; else one stream, prompts shared or not
    micro_batch: int = Field(ge=1)  # triplets per forward and backward pass
    score_batch: int = Field(ge=1)  # triplets per forward pass of held-out scoring
    max_tokens: int | None = Field(ge=1)  # of a pass, in place of the two above; None: they hold
    gradient_checkpointing: bool
    parallel: Parallel  # of several processes, as a launcher started them
    threads: int | None = Field(ge=1)
    save_seconds: float = Field(ge=0)  # between two saves of the training state; 0: every step
    grace_seconds: float = Field(ge=0)  # from a signal to stop to the end of a step or part


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvalTask:
    shots: int | None = Field(ge=0)  # few-shot examples; None: what the task itself says
    metric: str | None  # its number in the average, METRIC,FILTER; None: not part of one


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvalsConfig:
    name: Name
    tasks: dict[str, EvalTask]  # of lm-eval, or of tasks_dir: a task or a group of tasks
    data_root: str | None  # folder that mirrors the hub: OWNER/DATASET/...; None: hub or cache
    tasks_dir: str | None  # folder of task files of one's own; without `tasks`, all of them
    template: Literal["none", "run"]  # around a prompt: nothing, or the run's own model.template
    limit: int | None = Field(ge=1)  # documents per task, the first ones; None: all
    batch_size: int = Field(ge=1)
    max_length: int | None = Field(ge=2)  # tokens; None: the model's own limit


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackConfig:
    wandb: Literal["online", "offline", "none"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    diagnostics: bool  # sft too: sample and score what its loss does not need
    num_samples: int = Field(ge=0)  # rows of samples.jsonl


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SyncConfig:
    url: Keyless | None  # s3://BUCKET/PREFIX, gs://..., a folder; None: no copy
    checkpoints: Literal["all", "last", "none"]
    train_state: bool  # of an iteration that is not done, too
    seconds: float = Field(gt=0)  # between two looks at what is new


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelfPlayConfig:
    iterations: int = Field(ge=1)
    start_from: str | None  # an iteration folder of another run
    share: bool  # link an iteration that another run of runs_dir has made already
    keep: Literal["all", "last", "best", "evaluated"]  # checkpoints; the last one always stays


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Run:
    name: str
    runs_dir: Place
    seed: int = Field(ge=0, lt=2**32)
    model: ModelConfig
    loss: LossConfig
    coef: CoefConfig
    data: DataConfig
    optim: OptimConfig
    decoding: DecodingConfig
    compute: ComputeConfig
    evals: EvalsConfig
    track: TrackConfig
    selfplay: SelfPlayConfig
    sync: SyncConfig

    @property
    def folder(self) -> Path:
        return Path(self.runs_dir).expanduser() / self.name

    @property
    def tags(self) -> list[str]:
        """Words to find the run by in the tracker."""
        return [self.model.name, self.loss.label, self.data.name, *self.track.tags]

    @property
    def sampling_name(self) -> str:
        """How folders of samples that runs share are called, before their key."""
        return f"{self.model.name}-{self.data.name}-{self.decoding.name}-s{self.seed}"

    @property
    def group(self) -> str:
        """What runs that differ by seed alone have in common, for the tracker."""
        return self.track.group or self.name.replace(f"-s{self.seed}", "")

    @property
    def max_prompt_length(self) -> int:
        """Tokens of a prompt: its end is kept, so that max_new_tokens always fit behind it."""
        limit = self.model.max_length - self.decoding.max_new_tokens
        return self.model.max_prompt_length or limit

    @property
    def dtype(self) -> DType:
        """What compute.dtype comes to under optim.precision."""
        return arithmetic_dtype(self.compute, self.optim.precision)

    @property
    def sampling(self) -> dict[str, Any]:
        """What of `decoding` decides the samples, as part of the key of what is made from them.

        What the engine does not read is left out. How many GPUs share a policy decides its last
        bits; vLLM promises nothing there, so such samples are not shared. What an endpoint serves
        only its owner knows: another address may be another policy.
        """
        everything = dump(self)["decoding"]
        unread = {key for keys in DECIDES.values() for key in keys} | {*NOT_DECIDING}
        unread -= {*(DECIDES[self.decoding.engine] if self.outside else ())}
        return {key: value for key, value in everything.items() if key not in unread}

    @property
    def outside(self) -> bool:
        """Whether responses are sampled by another program, from the weights in a folder."""
        return self.decoding.engine in ("vllm", "openai")

    @property
    def samples(self) -> bool:
        """Whether responses are sampled at all: the loss compares them, or diagnostics do."""
        return self.track.diagnostics or len(self.loss_at(1).roles) > 1

    def objective(self, t: int) -> tuple[LossName, dict[str, Any]]:
        """The name and the coefficients of iteration t's objective, in their plainest form.

        At iteration 0 the synthetic response IS the proto-synthetic one, h is exactly 0 and its
        term has no gradient: beta is 0 there whatever the schedule says from iteration 1 on.
        Without its historical term T-SPIN is w/o H-A, and T-SPIN_ref is SPIN with lambda = alpha.
        """
        coef, link = self.coef, self.loss.link
        beta = at(coef.beta, t) if t > 0 else 0.0
        alpha: dict[str, Any] = {"alpha": at(coef.alpha, t), "link": link}
        match self.loss.name:
            case "tspin" if beta == 0:
                return "wo_ha", alpha
            case "tspin_ref" if beta == 0:
                return "spin", {"lam": alpha["alpha"], "link": link}
            case "tspin" | "tspin_ref":
                return self.loss.name, alpha | {"beta": beta}
            case "wo_ha":
                return "wo_ha", alpha
            case "spin":
                return "spin", {"lam": at(coef.lam, t), "link": link}
            case "sft":
                return "sft", {}

    def loss_at(self, t: int) -> Loss:
        """The objective of iteration t, ready to be called."""
        from tspin.objectives import losses  # torch: not needed to check a configuration

        build: dict[LossName, Callable[..., Loss]] = {
            "sft": losses.SFT,
            "spin": losses.SPIN,
            "tspin": losses.TSPIN,
            "tspin_ref": losses.TSPINRef,
            "wo_ha": losses.WithoutHA,
        }
        name, coefficients = self.objective(t)
        return build[name](**coefficients)

    def history(self, t: int) -> list[dict[str, Any]]:
        """What decides iterations 0..t, beside the initial weights and the pairs themselves.

        Runs that began alike and have equal histories leave the same iteration, bit for bit: so
        tspin and wo_ha at iteration 0, or two values of a beta that is 0 there.
        """
        said_below = ("name", "loss.", "coef.", "optim.lr", "selfplay.iterations")
        common = {
            key: value
            for key, value in flatten(dump(self)).items()
            if not key.startswith((*said_below, *IDENTITY_FREE))
            and not (key in ADDED and value == ADDED[key])
        }
        return [
            common | {"objective": list(self.objective(k)), "optim.lr": at(self.optim.lr, k)}
            for k in range(t + 1)
        ]

    @model_validator(mode="after")
    def _rules_between_fields(self) -> Run:
        if (problem := next(rules.problems(self), None)) is not None:
            raise ValueError(problem)
        return self


def at(schedule: Schedule, t: int) -> float:
    """The value for iteration t; beyond the end of a list its last value repeats."""
    return schedule[min(t, len(schedule) - 1)] if isinstance(schedule, list) else schedule


def arithmetic_dtype(compute: ComputeConfig, precision: Precision) -> DType:
    """compute.dtype, but where the precision of the weights decides that of the arithmetic too."""
    match precision:
        case "fp32":
            return "float32"
        case "bf16_stochastic":
            return "bfloat16"
        case "fp32_master":
            return compute.dtype


def _keyless(url: str) -> str:
    """ValueError, which does not repeat it, for an address with a password or a key in it."""
    if re.search(r"://[^/]*@", url) or ("://" in url and "?" in url):
        raise ValueError(
            "no password or key in an address, since it stands in every record of a "
            "run; they go into the environment"
        )
    return url


_RUN = TypeAdapter(Run)
# pydantic names the branch of a union it tried
_UNION_TAGS = ("float", "list[float]", "literal['all']", "list[constrained-str]")


def load(tree: dict[str, Any]) -> Run:
    """A resolved tree of plain values -> Run. ValueError names each key and what it may be."""
    for key, value in flatten(tree).items():
        if value == "None":  # what a sweep agent or a Python habit writes, and a valid string
            raise ValueError(f"{key}=None is the word None; write {key}=null for no value")
    try:
        return _RUN.validate_python(tree)
    except ValidationError as error:
        found: dict[str, list[str]] = {}
        for e in error.errors():
            key = ".".join(str(part) for part in e["loc"] if part not in _UNION_TAGS)
            found.setdefault(key, []).append(_explain(key, e))
        raise ValueError("; ".join(" or ".join(reasons) for reasons in found.values())) from None


def dump(run: Run) -> dict[str, Any]:
    """The inverse of load: plain values, by the names a user types."""
    return _RUN.dump_python(run, mode="json", by_alias=True)


def run_name(tree: dict[str, Any], default: dict[str, Any]) -> str:
    """MODEL-LOSS-DATA-sSEED and what else changes numbers, e.g. "micro-tspin-micro-s0-alpha=0.3".

    tree     plain values of the run, as dump gives them
    default  the same with nothing chosen but model, loss, data and seed
    """
    usual, left_out = flatten(default), ("name", "seed", *IDENTITY_FREE)
    values = {k: v for k, v in flatten(tree).items() if not k.startswith(left_out)}
    last = Counter(key.rsplit(".", 1)[-1] for key in (*values, "seed"))
    differs = []
    for key, value in sorted(values.items()):
        if value != usual.get(key):
            word = key.rsplit(".", 1)[-1]
            differs.append(f"{word if last[word] == 1 else key}={_short(value)}")
    # A long list makes an unreadable name; a digest of it is still a function of the values.
    if len("-".join(differs)) > 80:
        differs = [digest(differs)[:8]]
    names = [tree[group]["name"] for group in ("model", "loss", "data")]
    return "-".join([*names, f"s{tree['seed']}", *differs])


def unknown(what: str, word: str, choices: Iterable[str]) -> str:
    """One sentence for a misspelt word: what it is, the nearest match, the choices."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word, choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {what}{hint} (choices: {', '.join(choices)})"


def _short(value: Any) -> str:
    """A word for a file name; no two values of a key have the same."""
    if isinstance(value, list) and len(value) > 1:
        return ",".join(map(str, value))
    text = str(value)
    if not isinstance(value, str | list) or re.fullmatch(r"[A-Za-z0-9_.]{1,24}", text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", text.rsplit("/", 1)[-1]).strip("_")
    return f"{readable[:16]}.{digest(value)[:8]}"


def _explain(key: str, error: ErrorDetails) -> str:
    match error["type"]:
        case "unexpected_keyword_argument":
            schema = _RUN.json_schema()
            fields = schema["properties"]
            *sections, word = key.split(".")
            for section in sections:
                fields = schema["$defs"][fields[section]["$ref"].rsplit("/", 1)[-1]]["properties"]
            return unknown(f"key {key}", word, fields)
        case "missing":
            return f"{key} is not set"
        case "value_error" if not key:
            return error["msg"].removeprefix("Value error, ")
        case "value_error":
            return f"{key}: {error['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{key}={error['input']!r}: {error['msg']}"
