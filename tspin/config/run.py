"""The typed configuration of a run. DictConfig stops at main.py; this is what the rest sees.

Every field is set in conf/; there is no second default here. Fields say what they may be; the rules
between them are in rules.py, and load.py makes a Run of plain values.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_serializer, model_validator
from pydantic.dataclasses import dataclass

from tspin.config import auto
from tspin.config.auto import AUTO, Auto
from tspin.config.objective import TARGET, objective_class
from tspin.config.schedules import Schedule, at
from tspin.config.shift import ShiftConfig
from tspin.config.strict import STRICT
from tspin.objectives import Objective
from tspin.objectives.anchored import Anchors

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$", max_length=64)]  # in paths
Arguments = Annotated[dict[str, Any], AfterValidator(lambda values: _as_json(values))]
PLACE = "place"  # note of what names a file or a folder, or where one is fetched from
Place = Annotated[str, Field(min_length=1), PLACE]
Keyless = Annotated[Place, AfterValidator(lambda url: _keyless(url))]  # in files and records
Decay = Annotated[float, Field(ge=0, lt=1)]
Attention = Literal["auto", "shared", "separate", "plain"]
Precision = Literal["fp32_master", "bf16_stochastic", "fp32"]
Quantize = Literal["8bit", "4bit"]
DType = Literal["auto", "float32", "bfloat16", "float64"]
Products = Literal["auto", "torch", "onednn"]
Parallel = Literal["auto", "ddp", "fsdp2"]
ZeroStage = Literal[1, 2, 3]
TemplateName = Literal["alpaca", "alpaca_space", "chat", "none"]

SHARED = ("proto", "base")  # folders of runs_dir that are no runs


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
    template_args: Arguments  # of a chat template, e.g. {enable_thinking: false}
    max_length: int = Field(ge=2)  # tokens of prompt and response
    max_prompt_length: int | None = Field(ge=1)  # None: max_length - decoding.max_new_tokens
    lora: LoraConfig | None  # None: all weights are trained
    quantize: Quantize | None  # of the base under lora; None: not


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """The class of an objective and its coefficients, which stand beside the other keys."""

    name: Name
    label: str  # as the tables print it
    target: str = Field(alias="_target_")  # MODULE.CLASS
    coefficients: dict[str, Any]  # by field of the class; each one value, or one per iteration

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        keys = {"name", "label", TARGET} & values.keys()
        rest = {key: value for key, value in values.items() if key not in keys}
        return {key: values[key] for key in keys} | {"coefficients": rest}

    @model_serializer
    def _spread(self) -> dict[str, Any]:
        return {"name": self.name, "label": self.label, TARGET: self.target, **self.coefficients}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CoefConfig:
    alpha: Schedule | Auto  # auto: by the length of the annotated responses
    beta: Schedule
    lam: Schedule = Field(alias="lambda")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnchorConfig:
    """What holds log pi(y), beside any loss: tspin.objectives.anchored. None: it is not there."""

    nll: float | None = Field(gt=0)  # weight of -log pi(y)
    hinge: float | None = Field(gt=0)  # weight of what log pi(y) has lost since the iteration began
    cap: float | None = Field(gt=0)  # nats up to which the margins c and h count
    average: bool  # means over a response's tokens in place of sums


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CurriculumConfig:
    """Which training prompts of an iteration get a new y' and a step: tspin.data.curriculum. None:
    not read by that way of choosing."""

    prompts: Literal["all", "gate", "skip", "band", "random"]
    share: float | None = Field(gt=0, lt=1)  # of the training prompts that are chosen
    least: float | None = Field(gt=0)  # share of a row's gradient below which it has no signal
    explore: float | None = Field(gt=0, lt=1)  # chance after one iteration without signal
    floor: float | None = Field(gt=0, le=1)  # chance that always stays
    drop: Literal["hardest", "tails"] | None  # by log pi(y) a token

    def num_chosen(self, number: int) -> int | None:
        """Of so many training prompts; None where no share says it."""
        return None if self.share is None else max(1, round(self.share * number))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    name: Name
    path: Place  # file, folder, hub id, or a built-in task: annotated.BUILT_IN
    split: str
    revision: str | None
    size: int | None = Field(ge=1)
    heldout: Annotated[int, Field(ge=0)] | Auto  # auto: by how many conversations there are
    seed: int
    columns: dict[str, str]  # of a row, as it is read -> as the source calls it
    skip_bad_rows: bool
    rounds: Literal["first", "last", "all"]  # of a conversation: which answers are annotated
    system: Literal["error", "merge", "drop"]  # where a chat template takes no system message
    mix_last_two: bool
    shift: ShiftConfig  # rows that have a time
    eval_split: Literal["validation", "test"]
    eval_draws: int = Field(ge=1)  # samples of each held-out prompt
    eval_temperature: float | None = Field(gt=0)  # of them; None: decoding.temperature
    eval_cool: float | None = Field(gt=0)  # temperature of one more sample, where one can check

    @property
    def most_heldout(self) -> int:
        """Prompts that are held out, or may be: before the rows are read."""
        return auto.MOST_HELDOUT if self.heldout == AUTO else self.heldout


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    name: Literal["rmsprop", "adamw"]
    lr: Schedule
    schedule: Literal["linear", "cosine", "constant"]
    warmup: float = Field(ge=0, lt=1)  # share of the scheduled steps
    warmup_from: Literal["zero", "step"]  # of its first step: 0, or one step's share of the peak
    epochs: int = Field(ge=1)
    schedule_epochs: int | None = Field(ge=1)  # None: epochs
    batch_size: int = Field(ge=1)  # examples per optimiser step
    max_grad_norm: float | None = Field(gt=0)  # None: no clipping
    precision: Precision  # of the weights that are trained, their gradients and state
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
    engine: Literal["native", "transformers", "vllm"]  # native where it can
    vllm_python: Place | None  # interpreter that has vLLM; None: this one
    data_parallel: int = Field(ge=1)  # processes of vLLM, each with GPUs of its own
    tensor_parallel: int = Field(ge=1)  # GPUs of each of them
    gpu_memory: float = Field(gt=0, le=1)  # share of a GPU that vLLM takes
    vllm_args: Arguments  # further arguments of vLLM's engine, by its names


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ComputeConfig:
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: DType  # of the arithmetic
    attention: Attention  # plain: padded rows; else one stream, prompts shared or not
    micro_batch: int = Field(ge=1)  # triplets per forward and backward pass
    score_batch: int = Field(ge=1)  # triplets per forward pass of held-out scoring
    max_tokens: int | None = Field(ge=1)  # of a pass, in place of the two above; None: they hold
    gradient_checkpointing: bool
    compile: bool  # each decoder layer, by torch.compile, to train and to score
    kernels: Literal["torch", "liger"]  # of norms, rotary embeddings and SwiGLU
    products: Products  # what multiplies the float32 matrices of large layers on a CPU
    deterministic: bool  # on CUDA operations that repeat, or none
    parallel: Parallel  # of several processes, as a launcher started them
    zero_stage: ZeroStage | Literal["auto"]  # of fsdp2: what is whole while a step lasts
    threads: int | None = Field(ge=1)
    overlap: bool  # on a CPU: scores and evaluation by a second process, beside the next iteration
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
    data_root: Place | None  # folder that mirrors the hub: OWNER/DATASET/...; None: hub or cache
    tasks_dir: Place | None  # folder of task files of one's own; without `tasks`, all of them
    template: Literal["none", "run"]  # around a prompt: nothing, or the run's own model.template
    limit: int | None = Field(ge=1)  # documents per task, the first ones; None: all
    batch_size: int = Field(ge=1)
    max_length: int | None = Field(ge=2)  # tokens; None: the model's own limit


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackConfig:
    wandb: Literal["online", "offline", "none"]
    tensorboard: bool
    mlflow: bool
    trackio: bool
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    diagnostics: bool  # sft too: sample and score what its loss does not need
    num_samples: int = Field(ge=0)  # rows of samples.jsonl
    num_token_logps: int = Field(ge=0)  # prompts of token_logps.parquet
    report: bool  # report.html in the run's folder, at its end


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SyncConfig:
    url: Keyless | None  # s3://BUCKET/PREFIX, gs://..., a folder; None: no copy
    checkpoints: Literal["all", "last", "none"]
    train_state: bool  # of an iteration that is not done, too


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelfPlayConfig:
    iterations: int = Field(ge=1)
    start_from: Place | None  # an iteration folder of another run
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
    anchor: AnchorConfig
    curriculum: CurriculumConfig
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
    def prompt_limit(self) -> tuple[str, int]:
        """The key that longer prompts need a larger value of, and its value: that of the whole row
        where it leaves prompts no more than they may have."""
        if self.max_prompt_length < self.model.max_length - self.decoding.max_new_tokens:
            return "model.max_prompt_length", self.max_prompt_length
        return "model.max_length", self.model.max_length

    @property
    def dtype(self) -> DType:
        """What compute.dtype comes to under optim.precision."""
        return arithmetic_dtype(self.compute, self.optim.precision)

    @property
    def samples(self) -> bool:
        """Whether responses are sampled at all: the loss compares them, or diagnostics do."""
        return self.track.diagnostics or self._loss(1).at(1).roles != ("annotated",)

    def is_proto(self, t: int) -> bool:
        """Whether y' of iteration t is y0: at iteration 0, and where data.shift.renew says so."""
        return self.data.shift.proto(t) == t

    @property
    def unsettled(self) -> list[str]:
        """The keys that are auto still."""
        values = {auto.HELDOUT: self.data.heldout, auto.ALPHA: self.coef.alpha}
        return [key for key, value in values.items() if value == AUTO]

    def loss_at(self, t: int) -> Objective:
        """The objective of iteration t in its plainest form, ready to be called once its
        coefficients are settled; before, it says what it compares and needs.

        Where y' is y0 it is that of iteration 0: h is 0.
        """
        return self._loss(t).at(0 if self.is_proto(t) else t)

    def _loss(self, t: int) -> Objective:
        """With the coefficients of iteration t, and its anchor."""
        coefficients = {name: at(value, t) for name, value in self.loss.coefficients.items()}
        objective = objective_class(self.loss.target)(**coefficients)
        anchor = self.anchor
        return Anchors(anchor.nll, anchor.hinge, anchor.cap, anchor.average).on(objective)

    def cannot_overlap(self, *, processes: int, device: str) -> str | None:
        """Why compute.overlap has no second process; None: it has, where it is asked for.

        device  the kind that was chosen: cpu, cuda
        """
        if processes > 1:
            return "several processes share all stages"
        if device != "cpu":
            return "two processes would share one device's memory, and its time"
        if self.decoding.engine == "vllm":
            return "decoding.engine=vllm has processes of its own"
        return None

    def curriculum_at(self, t: int) -> CurriculumConfig | None:
        """How the prompts of iteration t are chosen; None where all are: so it is at iteration 0,
        where y' is y0 and nothing was scored before."""
        return None if t == 0 or self.curriculum.prompts == "all" else self.curriculum


def arithmetic_dtype(compute: ComputeConfig, precision: Precision) -> DType:
    """compute.dtype, but where the precision of the weights decides that of the arithmetic too."""
    match precision:
        case "fp32":
            return "float32"
        case "bf16_stochastic":
            return "bfloat16"
        case "fp32_master":
            return compute.dtype


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a library, which are kept in files of the run."""
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        raise ValueError("its keys are text, its values what JSON can hold") from None
    return dict(json.loads(text))


def _keyless(url: str) -> str:
    """ValueError, which does not repeat it, for an address with a password or a key in it."""
    if re.search(r"://[^/]*@", url) or ("://" in url and "?" in url):
        raise ValueError(
            "no password or key in an address, since it stands in every record of a "
            "run; they go into the environment"
        )
    return url
