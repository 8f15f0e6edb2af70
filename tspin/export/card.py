"""README.md of an exported policy: method, configuration, data, results, how to use it.

Everything comes from the files of the run; nothing of the machine it ran on is in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tspin.config import identity
from tspin.config.load import dump
from tspin.config.run import Run
from tspin.data import files
from tspin.export.opening import Source
from tspin.runs.artifacts import Iteration, RunDir
from tspin.tools.files import read_json
from tspin.tracking.report import HELDOUT_COLUMNS

PAPER = "[arXiv 2601.08198](https://arxiv.org/abs/2601.08198)"
SECTIONS = ("seed", "model", "loss", "coef", "data", "optim")
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"

TEXT = """
# {title}

{model} after iteration {t} of {label}, fine-tuned by self-play as in {paper}:
at every iteration a policy learns to prefer annotated responses y to samples y' of its own and,
where the objective has a historical term, these to samples y0 of the initial policy. The objective
of this iteration (c is log pi(y) - log pi(y'), h is log pi(y') - log pi(y0){link}):

    {objective}

## Use

{messages}

    from transformers import pipeline
    pipe = pipeline("text-generation", "FOLDER")
    pipe([{{"role": "user", "content": "..."}}], max_new_tokens={max_new_tokens})

    vllm serve FOLDER
    lm_eval --model hf --tasks gsm8k {evaluation}
    python convert_hf_to_gguf.py FOLDER --outfile model.gguf    # of llama.cpp

llama.cpp knows many architectures and tokenizers, not all. Sampling defaults
(`generation_config.json`) are those of the run, which sampled at most {max_new_tokens} tokens.

## Results

{results}

## How it was made

{facts}

The configuration, as `python main.py` resolves it (folders of the machine left out):

```yaml
{config}```

The licence is that of the model and the data it was made from.
"""


def write(source: Source, target: Path, *, use: str, evaluation: str) -> None:
    """README.md in `target`.

    use         how prompts go in
    evaluation  what lm-eval's command line takes for that
    """
    from huggingface_hub import ModelCard, ModelCardData

    cfg, folder, out = source.cfg, source.folder, source.out
    results = _results(out)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["t-spin", "self-play", cfg.loss.label],
        base_model=cfg.model.path if _on_hub(cfg.model.path) else None,
        datasets=[cfg.data.path] if _on_hub(cfg.data.path) else None,
        model_name=source.title,
        eval_results=_index(cfg, results) or None,
    )
    objective = cfg.loss_at(out.t)
    _, coefficients = objective.key()
    text = TEXT.format(
        title=source.title,
        model=cfg.model.name,
        t=out.t,
        label=cfg.loss.label,
        paper=PAPER,
        link=f", l the {link} link" if (link := coefficients.get("link")) else "",
        objective=(type(objective).__doc__ or "").split("\n")[0].partition(":")[0],
        messages=use,
        evaluation=evaluation,
        max_new_tokens=cfg.decoding.max_new_tokens,
        results=_table(results, _results(folder.base)),
        facts=_facts(cfg, folder, out),
        config=yaml.safe_dump(configuration(cfg), sort_keys=False),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(target / "README.md")


def configuration(cfg: Run) -> dict[str, Any]:
    """What of the configuration decides the numbers; of paths on this machine the last part."""
    tree = {key: value for key, value in dump(cfg).items() if key in SECTIONS}
    for section in ("model", "data"):
        path = tree[section]["path"]
        if not _on_hub(path):
            tree[section]["path"] = Path(path).name
    return tree | {"decoding": {k: v for k, v in identity.sampling(cfg).items() if k != "url"}}


def _results(out: Iteration) -> dict[str, dict[str, Any]]:
    """Metric -> value, stderr: held-out ones first, then benchmarks as "TASK METRIC"."""
    if not out.evaluation.exists():
        return {}
    facts = read_json(out.evaluation)
    heldout = facts.get("heldout", {})
    results = {
        f"held-out {metric}": heldout[metric]
        for metric in HELDOUT_COLUMNS.values()
        if metric in heldout
    }
    for task, result in facts.get("benchmarks", {}).items():
        results |= {f"{task} {metric}": value for metric, value in result["metrics"].items()}
    return results


def _index(cfg: Run, results: Mapping[str, dict[str, Any]]) -> list[Any]:
    """The hub's model-index."""
    from huggingface_hub import EvalResult

    entries = []
    for name, estimate in results.items():
        dataset, _, metric = name.partition(" ")
        title = dataset
        if dataset == "held-out":
            dataset = cfg.data.path if _on_hub(cfg.data.path) else cfg.data.name
            title = f"{cfg.data.name}, held-out prompts"
        entries.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=dataset,
                dataset_name=title,
                metric_type=metric.partition(",")[0],
                metric_name=metric,
                metric_value=estimate["value"],
            )
        )
    return entries


def _table(results: Mapping[str, dict[str, Any]], base: Mapping[str, dict[str, Any]]) -> str:
    if not results:
        return "None: no prompts were held out and no benchmark was run."
    lines = ["| | initial policy | this policy |", "|---|---|---|"]
    for name, estimate in results.items():
        before = _text(base[name]) if name in base else "-"
        lines.append(f"| {name} | {before} | {_text(estimate)} |")
    return "\n".join(lines)


def _text(estimate: Mapping[str, Any]) -> str:
    value, stderr = estimate["value"], estimate["stderr"]
    return f"{value:.4g}" if stderr is None else f"{value:.4g} +- {stderr:.2g}"


def _facts(cfg: Run, folder: RunDir, out: Iteration) -> str:
    data, initial, done = (read_json(p) for p in (folder.data, folder.initial, out.done))
    launch = read_json(folder.provenance)["launches"][-1]
    versions = ", ".join(f"{k} {launch['versions'][k]}" for k in ("tspin", "torch", "transformers"))
    revision = (launch["git"] or {"revision": "unknown"})["revision"]
    return f"""\
- data: {cfg.data.name}, {data["num_train"]} pairs to train on, {data["num_heldout"]} held out; \
digest `{data["digest"]}`
- initial weights: `{initial["weights"]}`
- these weights, as the run left them: `{done["weights"]}`
- iterations: {out.t + 1}, counted from 0; seed {cfg.seed}
- {versions}; source revision {revision}"""


def _on_hub(path: str) -> bool:
    """Whether it is OWNER/NAME and nothing of this disk."""
    named = re.fullmatch(HUB_ID, path) is not None
    return named and files.suffix(Path(path)) not in files.READERS and not Path(path).exists()
