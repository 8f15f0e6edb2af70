"""What the policies of a built-in task do on prompts they never saw: the tables of their cards."""

from __future__ import annotations

import statistics
from pathlib import Path

from transformers import AutoTokenizer

from tspin.micro import POLICIES, open_task, task
from tspin.micro.training import digest, encode, load, mean_logp, respond, share_right

TASKS = {"micro": task, "micro_open": open_task}
NUM_VALIDATION = 320
NUM_SAMPLES = 8  # of each prompt, with a seed each
MAX_NEW_TOKENS = 24  # the longest answer, three words of six letters and a dot, is 21 and EOS

HEAD = """\
| policy | split | n | T = 1 | greedy | T = 0.7 | distinct of 8 | log p |
|---|---|---|---|---|---|---|---|"""
DIGESTS_HEAD = """
| policy | sha256 of model.safetensors |
|---|---|"""


def tables(folder: Path, task_name: str, *, num_eval: int, seed: int) -> str:
    """Markdown: what each policy in a folder does on each split, then digests of their weights."""
    policies = POLICIES[task_name]
    num_prompts = {"validation": min(num_eval, NUM_VALIDATION), "test": num_eval}
    rows = [
        measure(folder / policy, task_name, split, n, seed=seed)
        for policy in policies
        for split, n in num_prompts.items()
    ]
    digests = [f"| {policy} | `{digest(folder / policy)}` |" for policy in policies]
    return "\n".join([HEAD, *rows, DIGESTS_HEAD, *digests])


def measure(folder: Path, task_name: str, split: str, n: int, *, seed: int) -> str:
    """A row of HEAD: the policy in a folder on the first n pairs of a split.

    Percent of the prompts answered right, with EOS: at temperature 1 (mean +- standard deviation
    over sampling seeds), greedily, and at temperature 0.7. Then how many different right answers
    are among the samples of a prompt at temperature 1, and the log-likelihood of the reference
    answer in nats.
    seed  chooses the prompts; samples are drawn with the seeds 0, 1, ... in any case
    """
    tok, model, module = AutoTokenizer.from_pretrained(folder), load(folder), TASKS[task_name]
    pairs = module.pairs(split, n, seed)
    prompts = [prompt for prompt, _ in pairs]
    right: dict[float | None, list[float]] = {None: [], 0.7: [], 1.0: []}
    distinct: set[tuple[str, str]] = set()
    for temperature, shares in right.items():
        for sampling in range(NUM_SAMPLES if temperature else 1):
            how = {"max_new_tokens": MAX_NEW_TOKENS, "seed": sampling}
            responses = respond(model, tok, prompts, temperature=temperature, **how)
            shares.append(share_right(module.check, prompts, responses))
            for prompt, response in zip(prompts, responses, strict=True):
                answer = module.canonical(prompt, response.text) if response.finished else None
                if temperature == 1.0 and answer is not None:
                    distinct.add((prompt, answer))
    return (
        f"| {folder.name} | {split} | {n} | {_percent(right[1.0])} | {100 * right[None][0]:.1f} "
        f"| {_percent(right[0.7])} | {len(distinct) / len(set(prompts)):.2f} "
        f"| {mean_logp(model, encode(tok, pairs)):.2f} |"
    )


def _percent(shares: list[float]) -> str:
    """Mean over sampling seeds and their standard deviation."""
    return f"{100 * statistics.mean(shares):.1f} +- {100 * statistics.stdev(shares):.1f}"
