"""Table 5: one prompt's responses side by side, with their log-probabilities and rewards."""

from __future__ import annotations

import pandas as pd

from analysis.figures import style
from analysis.figures.pieces import Column, Piece, Table, of_settings
from analysis.reading import missing
from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs

NAMES = ("table5",)
LOSSES = ("spin", "tspin")
DATA = "data"  # the label of the annotated response
COLUMNS = (
    Column("label", "method"), Column("what", "response"), Column("response", "text"),
    Column("logp", "log-likelihood (nats)", 2), Column("reward", "reward (nats)", 2),
)  # fmt: skip


def build(runs: Runs, name: str = "table5", *, prompt: str | None = None) -> list[Piece]:
    """prompt: an id, or words of the prompt; None: the first held-out one that all runs show.

    y' of iteration t is a sample of the policy before it; the last row is a greedy answer of the
    last policy. Log-likelihood and reward are those after iteration t. The paper's texts are not
    ours to copy.
    """
    return of_settings(runs, name, lambda part, at, named: [_table(part, at, named, prompt)])


def _table(runs: Runs, setting: Setting, name: str, prompt: str | None) -> Table:
    members = runs.where(lambda run: run.is_main and run.loss in LOSSES).by_label()
    chosen = [min(members[label], key=lambda run: run.seed) for label in style.in_order(members)]
    lines = missing.objectives(runs.where(lambda run: run in chosen), LOSSES, "table1", setting)
    shown = [{row["id"]: row for row in runs.samples(run, 0)} for run in chosen]
    common = [i for i in (shown[0] if shown else {}) if all(i in rows for rows in shown)]
    if prompt is not None:
        common = [i for i in common if i == prompt or prompt in shown[0][i]["prompt"]]
    rows: list[dict[str, object]] = []
    caption = f"Responses side by side, {setting}"
    if common:
        first = shown[0][common[0]]
        caption += f": {first['prompt']!r} ({first['split']})"
        rows.append({"label": DATA, "what": "annotated y", "response": first["annotated"]})
        for run in chosen:
            rows += _of_run(runs, run, common[0])
    else:
        which = "" if prompt is None else f" that is, or has, {prompt!r}"
        labels = ", ".join(run.label for run in chosen)
        lines.append(f"no prompt{which} in the samples of all of: {labels}")
    frame = pd.DataFrame(rows, columns=[column.key for column in COLUMNS])
    return Table(name, f"{caption}.", COLUMNS, frame, "label", lines)


def _of_run(runs: Runs, run: Run, prompt: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    done = run.folder.iterations()
    for t in done:
        sample = next((row for row in runs.samples(run, t) if row["id"] == prompt), None)
        if sample and "synthetic" in sample:
            scores = runs.scores(run, t)
            scores = scores[(scores["id"] == prompt) & (scores["role"] == "synthetic")]
            what = "proto-synthetic y0" if t == 0 else f"synthetic y', iteration {t}"
            row = {"label": run.label, "what": what, "response": sample["synthetic"]}
            numbers = scores[["logp", "reward"]].to_dict("records")
            rows.append(row | numbers[0] if numbers else row)
    if done:
        answers = runs.answers(run, done[-1])
        greedy = answers[(answers["id"] == prompt) & (answers["decoding"] == "greedy")]
        what = f"greedy, after iteration {done[-1]}"
        rows += [{"label": run.label, "what": what, "response": x} for x in greedy["response"][:1]]
    return rows
