"""Table 5: one prompt's responses side by side, with their log-probabilities and rewards."""

from __future__ import annotations

import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Column, Piece, Table
from analysis.reading import missing
from analysis.reading.runs import Run, Runs, Setting

NAMES = ("table5",)
LOSSES = ("spin", "tspin")
COLUMNS = (
    Column("label", "method"),
    Column("what", "response"),
    Column("response", "text"),
    Column("logp", "log-likelihood (nats)", 2),
    Column("reward", "reward (nats)", 2),
)


def build(
    runs: Runs, name: str = "table5", *, with_paper: bool = False, prompt: str | None = None
) -> list[Piece]:
    """prompt: an id, or words of the prompt; None: the first held-out one that all runs show.

    y' of iteration t is a sample of the policy before it; the last row is a greedy answer of the
    last policy. Log-likelihood and reward are those after iteration t. with_paper adds nothing:
    the paper's texts are not ours to copy.
    """
    settings = runs.settings()
    return [
        _of_setting(runs.of(setting), setting,
                    name if len(settings) == 1 else f"{name}-{setting.slug}", prompt)
        for setting in settings
    ]  # fmt: skip


def _of_setting(runs: Runs, setting: Setting, name: str, prompt: str | None) -> Table:
    chosen = _one_seed(runs)
    lines = missing.objectives(chosen, LOSSES, "table1", setting)
    shown = [{row["id"]: row for row in chosen.samples(run, 0)} for run in chosen]
    common = [i for i in (shown[0] if shown else {}) if all(i in rows for rows in shown)]
    if prompt is not None:
        common = [i for i in common if i == prompt or prompt in shown[0][i]["prompt"]]
    rows: list[dict[str, object]] = []
    caption = f"Responses side by side, {setting}"
    if common:
        first = shown[0][common[0]]
        caption += f": {first['prompt']!r} ({first['split']})"
        rows.append({"label": "data", "what": "annotated y", "response": first["annotated"]})
        for run in chosen:
            rows += _of_run(chosen, run, common[0])
    else:
        asked = "" if prompt is None else f" that is, or has, {prompt!r}"
        lines.append(f"no prompt{asked} in the samples of all of: {', '.join(chosen.labels())}")
    frame = pd.DataFrame(rows, columns=[column.key for column in COLUMNS])
    return Table(name, f"{caption}.", COLUMNS, frame, "label", tuple(lines))


def _one_seed(runs: Runs) -> Runs:
    """The run with the lowest seed of every method that samples, in the usual order."""
    first: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.is_main and run.loss in LOSSES:
            first.setdefault(run.label, run)
    return runs.where(lambda run: first.get(run.label) is run).sorted_by(style.in_order)


def _of_run(runs: Runs, run: Run, prompt: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    done = run.folder.iterations()
    for t in done:
        sample = next((row for row in runs.samples(run, t) if row["id"] == prompt), None)
        if sample and "synthetic" in sample:
            scored = runs.scores(run, t)
            scored = scored[(scored["id"] == prompt) & (scored["role"] == "synthetic")]
            numbers = scored[["logp", "reward"]].to_dict("records")[:1]
            what = "proto-synthetic y0" if t == 0 else f"synthetic y', iteration {t}"
            row = {"label": run.label, "what": what, "response": sample["synthetic"]}
            rows.append(row | (dict(numbers[0]) if numbers else {}))
    if done:
        answers = runs.answers(run, done[-1])
        greedy = answers[(answers["id"] == prompt) & (answers["decoding"] == "greedy")]
        rows += [
            {"label": run.label, "what": f"greedy, after iteration {done[-1]}", "response": text}
            for text in greedy["response"][:1]
        ]
    return rows
