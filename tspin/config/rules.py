"""The rules between the fields of a run: what cannot be together, why, and the way out.

What a single field may be is said where it is declared (run.py, and by an objective's class).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tspin.config import objective
from tspin.config.auto import ALPHA, AUTO
from tspin.config.run import SHARED, Run
from tspin.config.schedules import values
from tspin.config.shift import WAYS
from tspin.objectives import ROLES
from tspin.objectives.objective import ABOVE_0, AT_LEAST_0

OURS_OF_VLLM = {  # arguments of its engine -> what sets them
    "model": "model.path",
    "dtype": "compute.dtype",
    "max_model_len": "decoding.max_new_tokens",
    "tensor_parallel_size": "decoding.tensor_parallel",
    "data_parallel_size": "decoding.data_parallel",
    "gpu_memory_utilization": "decoding.gpu_memory",
}
SECRETS_OF_VLLM = {"hf_token", "api_key"}  # arguments of its engine that no file should hold
OF_CURRICULUM: dict[str, tuple[str, ...]] = {  # what a way of choosing prompts reads
    "all": (),
    "gate": ("share", "least"),  # one of them
    "skip": ("least", "explore", "floor"),
    "band": ("share", "drop"),
    "random": ("share",),
}
EMBEDDED = ("micro", "micro_open")  # models that come with tspin, and tasks of that name
BUILT_IN = (*EMBEDDED, "micro_drift", "verifiable")  # data that does
COLDEST = 0.01  # temperature: vLLM takes what is below for this


def problems(run: Run) -> Iterator[str]:
    """A sentence for each rule that is broken."""
    yield from _lengths(run)
    yield from _task(run)
    yield from _schedules(run)
    yield from _objective(run)
    yield from _scaled(run)
    yield from _history(run)
    yield from _shift(run)
    yield from _curriculum(run)
    yield from _training(run)
    yield from _vllm(run)
    yield from _name(run)


def unread(run: Run) -> Iterator[tuple[str, str]]:
    """(key, sentence) of each list that has more values than there are iterations to take them."""
    schedules = {
        "coef.alpha": run.coef.alpha,
        "coef.beta": run.coef.beta,
        "coef.lambda": run.coef.lam,
        "optim.lr": run.optim.lr,
    } | {f"loss.{name}": value for name, value in run.loss.coefficients.items()}
    count = run.selfplay.iterations
    for key, schedule in schedules.items():
        if isinstance(schedule, list) and len(schedule) > count:
            yield (
                key,
                f"{key} has {len(schedule)} values for selfplay.iterations={count}: "
                f"{', '.join(map(str, schedule[count:]))} will not be used",
            )


def doubtful(run: Run) -> Iterator[str]:
    """A sentence for what may be together, and is seldom meant."""
    if _is_embedded(run) and run.data.path not in BUILT_IN:
        yield (
            f"model={run.model.name} knows the language of its own tasks alone, and little of "
            f"data.path={run.data.path}: use model=smollm2 or another pretrained model"
        )


def _is_embedded(run: Run) -> bool:
    return run.model.path.partition(":")[0] in EMBEDDED


def _lengths(run: Run) -> Iterator[str]:
    limit = run.model.max_length - run.decoding.max_new_tokens
    if not 1 <= run.max_prompt_length <= limit:
        yield (
            f"model.max_prompt_length={run.max_prompt_length} + decoding.max_new_tokens="
            f"{run.decoding.max_new_tokens} must fit into model.max_length="
            f"{run.model.max_length}, with at least one prompt token"
        )


def _task(run: Run) -> Iterator[str]:
    """The embedded policies know the language of their own tasks alone."""
    task = run.model.path.partition(":")[0]
    if run.data.path == "verifiable" and _is_embedded(run):
        yield (
            f"data=verifiable is in English, of which model={run.model.name} knows nothing: use "
            f"data={task}, or model=smollm2 or another pretrained model"
        )


def _schedules(run: Run) -> Iterator[str]:
    schedules = [
        ("coef.alpha", run.coef.alpha, ABOVE_0),
        ("coef.beta", run.coef.beta, AT_LEAST_0),
        ("coef.lambda", run.coef.lam, ABOVE_0),
        ("optim.lr", run.optim.lr, ABOVE_0),
    ]
    for name, (_, ranges) in objective.coefficients(run.loss.target).items():
        value = run.loss.coefficients[name]
        schedules += [(_key(run, name), value, allowed) for allowed in ranges]
    for key, schedule, allowed in schedules:
        if schedule == AUTO:
            continue
        if not values(schedule) or not all(map(allowed.holds, values(schedule))):
            yield f"{key}={schedule} must be {allowed.words}, one value or one per iteration"
    if (run.optim.schedule_epochs or run.optim.epochs) < run.optim.epochs:
        yield (
            f"optim.schedule_epochs={run.optim.schedule_epochs} is below optim.epochs="
            f"{run.optim.epochs}: the learning rate would be 0 for the rest"
        )


def _key(run: Run, name: str) -> str:
    """What sets a coefficient of the loss."""
    coef = {"alpha": run.coef.alpha, "beta": run.coef.beta, "lambda": run.coef.lam}
    return objective.key_of(name, run.loss.coefficients[name], coef)


def _objective(run: Run) -> Iterator[str]:
    """What only building it shows, in every iteration."""
    for t in range(run.selfplay.iterations):
        try:
            roles = run.loss_at(t).roles
        except (ValueError, TypeError) as error:
            yield f"{run.loss.target} at iteration {t}: {' '.join(str(error).split())}"
            return
        if not roles or not {*roles} <= {*ROLES}:
            yield f"{run.loss.target} has roles={roles!r}: they must be some of {', '.join(ROLES)}"
            return


def _scaled(run: Run) -> Iterator[str]:
    """Whether there is something that coef.alpha=auto can scale by the length of responses."""
    if run.coef.alpha != AUTO:
        return
    if AUTO not in run.loss.coefficients.values():
        own = " but a loss.alpha of its own" if "alpha" in run.loss.coefficients else ""
        yield f"{ALPHA}={AUTO}: {run.loss.label} has no {ALPHA}{own}; leave it out"
    if any(run.loss_at(t).per_token for t in range(run.selfplay.iterations)):
        yield (
            f"{ALPHA}={AUTO} is for sums over a response's tokens, and {run.loss.label} with "
            f"anchor.average={str(run.anchor.average).lower()} compares means; give it a number"
        )


def _history(run: Run) -> Iterator[str]:
    """A weight of the historical term that changes begins with 0, whichever key sets it."""
    betas = {"coef.beta": run.coef.beta}
    own = run.loss.coefficients.get("beta")
    iterations = range(run.selfplay.iterations)
    if isinstance(own, list) and any("proto" in run.loss_at(t).roles for t in iterations):
        betas[_key(run, "beta")] = own
    for key, beta in betas.items():
        if isinstance(beta, list) and len(beta) > 1 and beta[0]:
            yield (
                f"{key}={beta} must begin with 0: at iteration 0 the synthetic "
                "response is the proto-synthetic one and the historical term has no gradient"
            )


def _shift(run: Run) -> Iterator[str]:
    shift, count = run.data.shift, run.selfplay.iterations
    if not shift.timed:
        for name, rest in WAYS.items():
            if (value := getattr(shift, name)) != rest:
                yield (
                    f"data.shift.{name}={value} needs rows that have a time: "
                    "data.shift.column=NAME, or data.shift.parts=N for N parts of the data in order"
                )
        return
    if shift.parts is not None and count > shift.parts:
        yield (
            f"selfplay.iterations={count} are more than data.shift.parts={shift.parts}, of which "
            "each iteration takes one more; use as many parts, or fewer iterations"
        )
    if shift.replay and shift.window is None:
        yield (
            f"data.shift.replay={shift.replay} is of the rows before a window, and there is none: "
            "data.shift.window=N"
        )
    if run.data.mix_last_two:
        yield (
            "data.mix_last_two=true trains on the rows of the last iteration again, which "
            "data.shift decides; use data.shift.window and data.shift.replay"
        )


def _curriculum(run: Run) -> Iterator[str]:
    how, loss = run.curriculum, run.loss_at(1)
    name = loss.key()[0]
    given = {key: value for key, value in vars(how).items() if key != "prompts"}
    read = OF_CURRICULUM[how.prompts]
    for key, value in given.items():
        if value is not None and key not in read:
            yield (
                f"curriculum.{key}={value} is not read where curriculum.prompts={how.prompts}; "
                "leave it out, or choose the curriculum by its name (curriculum=NAME)"
            )
        if value is None and key in read and how.prompts != "gate":
            yield f"curriculum.{key} is not set, which curriculum={how.prompts} reads"
    if how.prompts == "gate" and (how.share is None) == (how.least is None):
        yield (
            f"curriculum=gate takes one of curriculum.share={how.share} and curriculum.least="
            f"{how.least}; set the other to null"
        )
    if how.prompts == "all":
        return
    if "synthetic" not in loss.roles:
        yield (
            f"curriculum={how.prompts} chooses which prompts get a new y', and loss={name} "
            "compares none; use curriculum=none"
        )
    if how.prompts in ("gate", "skip") and not loss.has_reward:
        yield (
            f"curriculum={how.prompts} goes by what is left of a row's gradient, which loss={name} "
            "never loses; use curriculum=band, random or none"
        )
    if run.data.mix_last_two:
        yield (
            f"curriculum={how.prompts} with data.mix_last_two=true would train on the prompts "
            "again that it leaves out; use one of them"
        )
    if run.data.shift.timed:
        yield (
            f"curriculum={how.prompts} with data.shift would choose among rows that come and go; "
            "use one of them"
        )


def _training(run: Run) -> Iterator[str]:
    model, optim = run.model, run.optim
    if run.compute.dtype not in ("auto", run.dtype):
        yield (
            f"compute.dtype={run.compute.dtype} contradicts optim.precision={optim.precision}, "
            f"whose arithmetic is {run.dtype}; use compute.dtype=auto"
        )
    if model.quantize is not None and model.lora is None:
        yield (
            f"model.quantize={model.quantize} holds weights that cannot be trained: add "
            "lora=default, or leave it out"
        )
    if model.lora is not None and model.lora.targets == []:
        yield "model.lora.targets=[] adapts nothing; use all or names of layers"
    if run.selfplay.keep == "best" and run.data.heldout == 0:
        yield "selfplay.keep=best needs held-out prompts to say which is best: data.heldout=N"


def _vllm(run: Run) -> Iterator[str]:
    how = run.decoding
    if how.engine != "vllm":
        return
    if run.dtype == "float64":
        yield (
            "compute.dtype=float64 is none of vLLM's; use compute.dtype=float32 or "
            "decoding.engine=native"
        )
    temperatures = {
        "decoding.temperature": how.temperature,
        "data.eval_temperature": run.data.eval_temperature,
        "data.eval_cool": run.data.eval_cool,
    }
    for key, value in temperatures.items():
        if value is not None and value < COLDEST:
            yield (
                f"{key}={value} must be at least {COLDEST}: vLLM takes what is colder for that; "
                "use decoding.sample=false, or decoding.engine=native"
            )
    for key in OURS_OF_VLLM.keys() & how.vllm_args.keys():
        yield f"decoding.vllm_args.{key} is set by {OURS_OF_VLLM[key]}"
    for key in how.vllm_args.keys() & SECRETS_OF_VLLM:
        yield f"decoding.vllm_args.{key} would stand in config.yaml; use the environment"
    if run.model.quantize is not None:
        yield (
            f"decoding.engine=vllm reads the base as it is stored, and model.quantize="
            f"{run.model.quantize} computes with fewer bits of it; use decoding.engine=native"
        )


def _name(run: Run) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@-]{,249}", run.name):
        yield (
            f"name={run.name!r} must be one folder name: at most 250 letters, digits and "
            ". , = + @ - _, the first a letter, a digit or _"
        )
    if run.name in (*SHARED, "multirun"):
        yield f"name={run.name} is the name of a folder that runs share"
