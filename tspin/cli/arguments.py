"""Overrides of the command line: what people type, made into what Hydra reads. No Hydra here.

An override is GROUP=OPTION or KEY=VALUE. A line of overrides is a grid: commas are alternatives.
Sweep files (sweeps/NAME.yaml) hold such lines; the union of their grids is the sweep.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tspin.config.load import keys
from tspin.runs.point import key
from tspin.tools.spelling import unknown

Overrides = list[str]
FIELDS = {"title": str, "points": list, "include": list}  # of a sweep file
SINGLE = ("name", "runs_dir", "seed")  # keys of a run beside its sections
# Mappings whose keys are a library's, or names of columns.
ARGUMENTS = ("decoding.vllm_args", "model.template_args", "data.columns")
OPEN = ("evals.tasks", *ARGUMENTS)  # or the user's
PLACES = {"data": "file", "model": "custom"}  # group -> option whose path is what was typed
SECTIONS = ("coef", "optim", "data", "model", "selfplay", "decoding")  # meant first, of one name

SYNONYMS = {  # of transformers and TRL, and usual abbreviations -> what it is called here
    **dict.fromkeys(("model_name_or_path", "model_name", "base_model"), "model"),
    **dict.fromkeys(("dataset", "dataset_name", "train_file"), "data"),
    **dict.fromkeys(("loss_type", "method", "objective"), "loss"),
    **dict.fromkeys(("learning_rate", "learning"), "optim.lr"),
    **dict.fromkeys(("num_train_epochs", "num_epochs"), "optim.epochs"),
    **dict.fromkeys(("per_device_train_batch_size", "train_batch_size"), "optim.batch_size"),
    **dict.fromkeys(("warmup_ratio", "warmup_steps"), "optim.warmup"),
    **dict.fromkeys(("lr_scheduler_type", "scheduler"), "optim.schedule"),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), "optim.betas"),
    **dict.fromkeys(("adam_epsilon", "epsilon"), "optim.eps"),
    **dict.fromkeys(("optimizer", "optimiser"), "optim"),
    "wd": "optim.weight_decay",
    "gradient_accumulation_steps": "compute.micro_batch",
    "per_device_eval_batch_size": "compute.score_batch",
    "attn_implementation": "compute.attention",
    **dict.fromkeys(("bf16", "fp16", "torch_dtype"), "compute.dtype"),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "seq_len"), "model.max_length"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "model.quantize"),
    **dict.fromkeys(("peft", "use_peft"), "lora"),
    **dict.fromkeys(("r", "lora_r"), "model.lora.rank"),
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    **dict.fromkeys(("target_modules", "lora_target_modules"), "model.lora.targets"),
    **dict.fromkeys(("max_completion_length", "max_gen_len"), "decoding.max_new_tokens"),
    "do_sample": "decoding.sample",
    **dict.fromkeys(("n_iter", "num_iter", "num_iterations", "iters"), "selfplay.iterations"),
    **dict.fromkeys(("max_train_samples", "train_size", "num_train"), "data.size"),
    **dict.fromkeys(("test_size", "eval_size", "num_heldout"), "data.heldout"),
    "lam": "coef.lambda",
    "output_dir": "runs_dir",
    "run_name": "name",
    "report_to": "track",
    "random_seed": "seed",
}


def check(overrides: Iterable[str]) -> None:
    """ValueError for what is no override, or takes something away."""
    for override in overrides:
        if override.startswith("~"):
            hint = "KEY=null is for what may be empty"
            raise ValueError(f"{override}: nothing can be left out; {hint}")
        if "=" not in override:
            raise ValueError(f"{override} is neither GROUP=OPTION nor KEY=VALUE; see --help")


def is_group(override: str, conf: Path) -> bool:
    """Whether it chooses an option of conf/ (Hydra's own settings aside)."""
    name, value = key(override), override.split("=", 1)[1]
    return not name.startswith("hydra") and (conf / name).is_dir() and not value.startswith("{")


def is_value(override: str) -> bool:
    """Whether Hydra sets it last, in the tree that options (and its own settings) have made."""
    name = key(override)
    dotted = "." in name and "/" not in name and "@" not in name
    return name in SINGLE or (dotted and not name.startswith("hydra"))


def options(group: str, conf: Path) -> list[str]:
    """Names of the options of a group, an alias in a folder (w/o-H-A) included."""
    folder = conf / group
    return [str(f.relative_to(folder).with_suffix("")) for f in folder.rglob("*.yaml")]


# --- sweeps --------------------------------------------------------------------------------------


def sweep(overrides: Sequence[str], folder: Path) -> tuple[str | None, list[Overrides]]:
    """The name behind sweep=NAME, and the lines that it and the other overrides make.

    Overrides that are typed replace the file's for the same key, and add to every line of it; a
    typed loss=NAMES chooses among its objectives (_choose). Without sweep=NAME the one line is what
    was typed.
    """
    chosen = [override.split("=", 1)[1] for override in overrides if key(override) == "sweep"]
    typed = [override for override in overrides if key(override) != "sweep"]
    if not chosen:
        return None, [typed]
    if len(chosen) > 1:
        raise ValueError(f"sweep={chosen[0]} and sweep={chosen[1]}: one sweep at a time")
    lines, own = read_sweep(chosen[0], folder), {key(override) for override in typed}
    losses = [override for override in typed if key(override) == "loss"]
    if len(losses) == 1:
        lines = _choose(lines, _values(losses[0]))
        typed.remove(losses[0])
        own.remove("loss")
    kept = [[o for o in line if key(o) not in own] for line in lines]
    return Path(chosen[0]).stem, [[*line, *typed] for line in kept]


def _choose(lines: Sequence[Overrides], names: Sequence[str]) -> list[Overrides]:
    """The lines of a sweep with these objectives alone: each keeps what it says to its own.

    Names that no line has join the lines that compare objectives; where none does, the first.

    Example: sft,spin,space of (loss=sft size=200k), (loss=spin,tspin size=50k) are
    (loss=sft size=200k), (loss=spin,space size=50k).
    """
    of_lines = [[n for o in line if key(o) == "loss" for n in _values(o)] for line in lines]
    known = {name for own in of_lines for name in own}
    others = [name for name in names if name not in known]
    compares = [len(own) > 1 for own in of_lines]
    chosen = []
    for i, (line, own) in enumerate(zip(lines, of_lines, strict=True)):
        joined = others if compares[i] or not any(compares) and i == 0 else []
        kept = [name for name in names if name in own or name in joined or not own]
        if kept:
            rest = [override for override in line if key(override) != "loss"]
            chosen.append([f"loss={','.join(kept)}", *rest])
    return chosen


def _values(override: str) -> list[str]:
    return override.split("=", 1)[1].split(",")


def sweep_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_sweep(name: str, folder: Path) -> list[Overrides]:
    """The lines of sweeps/NAME.yaml, or of a file of one's own (NAME.yaml).

    ValueError, naming the file, for what is no sweep.
    """
    file = Path(name).expanduser() if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(f"{unknown(f'sweep {name}', name, sweep_names(folder))}, or a FILE.yaml")
    return _lines(file, (), folder)


def _lines(file: Path, including: tuple[Path, ...], folder: Path) -> list[Overrides]:
    if file in including:
        raise ValueError(f"{file} includes itself")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no sweep: it needs {', '.join(FIELDS)}")
    for name, value in content.items():
        if name not in FIELDS:
            raise ValueError(f"{file}: {unknown(f'key {name}', str(name), FIELDS)}")
        if not isinstance(value, FIELDS[name]):
            raise ValueError(f"{file}: {name} has to be a {FIELDS[name].__name__}")
    included, points = content.get("include", []), content.get("points", [])
    if not included and not points:
        raise ValueError(f"{file} has neither points nor include")
    lines = []
    for name in included:
        path = folder / f"{name}.yaml"
        if not path.is_file():
            names = sweep_names(folder)
            raise ValueError(f"{file}: {unknown(f'sweep {name}', str(name), names)}")
        lines += _lines(path, (*including, file), folder)
    for line in points:
        if not isinstance(line, str):
            raise ValueError(f"{file}: {line!r} is no line of overrides: - GROUP=OPTION KEY=VALUE")
        try:
            overrides = shlex.split(line)
            check(overrides)
        except ValueError as error:
            raise ValueError(f"{file}: {line!r}: {error}") from None
        if any(key(override) == "sweep" for override in overrides):
            raise ValueError(f"{file}: {line!r}: other sweeps stand under include")
        lines.append(overrides)
    return lines


# --- benchmarks by name --------------------------------------------------------------------------


def tasks(overrides: Iterable[str], conf: Path) -> Overrides:
    """evals=gsm8k,hellaswag, names of lm-eval, as overrides that Hydra reads; others unchanged.

    ValueError for what is nearly an option, and for options among tasks. Which tasks there are
    only lm-eval knows (tspin.stages.benchmark).
    """
    known = options("evals", conf)
    translated: Overrides = []
    for override in overrides:
        names = override.split("=", 1)[1].strip("[]").split(",")
        if key(override) != "evals" or not all(names) or all(name in known for name in names):
            translated.append(override)
            continue
        for name in names:
            if name in known:
                raise ValueError(f"{override}: {name} is an option; give either options or tasks")
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            # leaderboard and its like are groups of lm-eval's own
            if name in ("null", "None") or (near and not near[0].startswith(f"{name}_")):
                raise ValueError(unknown(f"option evals={name}", name, [*known, "TASK,TASK"]))
        translated.append("evals=tasks")
        translated += [f"++evals.tasks.{name}={{shots:null,metric:null}}" for name in names]
    return translated


# --- files and folders by themselves -------------------------------------------------------------


def places(overrides: Iterable[str], confs: Sequence[Path]) -> Overrides:
    """data=FILE as data=file data.path=FILE, model=FOLDER or OWNER/NAME likewise; others unchanged.

    confs  folders of options: an option of that name is meant before a file
    """
    translated: Overrides = []
    for override in overrides:
        group, value = key(override), override.split("=", 1)[1]
        names = value.split(",")
        known = {option for conf in confs for option in options(group, conf)}
        if group in PLACES and not known & {*names} and all(map(_is_place, names)):
            translated += [f"{group}={PLACES[group]}", f"{group}.path={value}"]
        else:
            translated.append(override)
    return translated


def _is_place(name: str) -> bool:
    """Whether it is the name of a file, of a folder or of the hub, there or not."""
    path = Path(name).expanduser()
    return bool(name) and name[0] not in "[{" and ("/" in name or bool(path.suffix) or
                                                   path.exists())  # fmt: skip


# --- what is misspelt ----------------------------------------------------------------------------


def explain(
    overrides: Sequence[str], message: str, conf: Path, compose: Callable[[Overrides], Any]
) -> str:
    """Hydra's complaint about `overrides`, with the choices where a key or option is misspelt.

    compose  the tree that options alone make, interpolations as they are written
    """
    groups = [override for override in overrides if is_group(override, conf)]
    for override in groups:
        group, option = override.lstrip("+").split("=", 1)
        if override.startswith("+"):
            return f"{override}: every group is there already; write {group}={option}"
        known = options(group, conf)
        for name in option.strip("[]").split(","):
            refused = f"'{group}/{name}'" in message or "override must be a string" in message
            if refused and name not in known:
                return unknown(f"option {group}={name}", name, known)
    tree = compose([o for o in overrides if o in groups or key(o).startswith("hydra")])
    for override in overrides:
        name = key(override)
        if name.startswith(("hydra", *OPEN)) or override in groups:
            continue
        node: Any = tree
        path = name.split(".")
        for i, part in enumerate(path):
            if isinstance(node, list):
                break
            if not isinstance(node, dict):
                return f"unknown key {name}: {'.'.join(path[:i])} is a single value"
            if part not in node:
                choices = {*map(str, node)}
                meant = _meant(part, conf, section=path[0])
                if meant is not None and path[0] != "loss":  # whose keys are those of its class
                    return f"unknown key {'.'.join(path[: i + 1])}; did you mean {meant}?"
                if i == 0:  # groups that leave no key, and sweep, may be typed, too
                    choices |= {f.name for f in conf.iterdir() if f.is_dir()} - {"hydra"}
                    choices.add("sweep")
                return unknown(f"key {'.'.join(path[: i + 1])}", part, choices)
            node = node[part]
    return message


def _meant(word: str, conf: Path, *, section: str) -> str | None:
    """The key that ends in this word, that of this section first; what SYNONYMS says; or GROUP=WORD
    where it is an option. None for neither."""
    word = word.replace("-", "_")
    order = {name: number for number, name in enumerate(SECTIONS)} | {section: -1}
    endings = [name for name in keys() if name.rsplit(".", 1)[-1] == word]
    groups = [path.name for path in conf.iterdir() if (path / f"{word}.yaml").is_file()]
    if endings:
        return min(endings, key=lambda name: order.get(name.split(".")[0], len(order)))
    if word in SYNONYMS:
        return SYNONYMS[word]
    return f"{section if section in groups else min(groups)}={word}" if groups else None
