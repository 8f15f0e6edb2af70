"""Every prompt of a run with y, y0 and the y' of every iteration, and what it gained: sorted and
searched without holding the texts.

Numbers are read once, texts of the rows that are shown alone. An older run, or a copy without its
prompts, has those of its readable samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tspin.objectives import ROLES
from tspin.runs.artifacts import Responses, RunDir

# What rows are sorted by -> how a page calls it.
ORDERS = {
    "data": "as in the data",
    "gain": "largest gain of log p(y)",
    "loss": "largest loss of log p(y)",
    "longest": "longest y'",
    "misaligned": "misaligned first",
}
NUMBERS = ["id", "role", "logp", "num_tokens", "reward"]
MAX_TEXT = 20_000  # characters of a text that are shown


class Triplets:
    """The prompts of a run folder.

    frame  a row per prompt, by id: split; gain, log pi(y) after the last iteration minus after the
           first, in nats (held-out prompts: minus that of the initial policy, where it was scored);
           longest, tokens of its longest y'; misaligned, whether reward and log-likelihood rank y
           and y' differently after the last iteration. NaN where nothing was scored.
    """

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder
        self._readable = {} if folder.prompts.exists() else _readable(folder)
        self._sampled = _sampled(folder)
        scores = {t: _scores(folder.iteration(t).scores) for t in folder.iterations()}
        self._scores = {t: wide for t, wide in scores.items() if not wide.empty}
        self.frame = self._frame()

    def __len__(self) -> int:
        return len(self.frame)

    def ids(self, order: str = "data", *, split: str = "", search: str = "") -> list[str]:
        """Of the prompts of a split ("": all) that have the words searched in one of their texts.

        ValueError for an order that is none of ORDERS.
        """
        if order not in ORDERS:
            raise ValueError(f"order={order} is none of {', '.join(ORDERS)}")
        frame = self.frame
        if split:
            frame = frame[frame["split"] == split]
        if search:
            frame = frame[frame.index.isin(self._with_text(search))]
        if order == "misaligned":
            frame = frame.sort_values("misaligned", ascending=False, kind="stable")
        elif order != "data":
            column = "longest" if order == "longest" else "gain"
            frame = frame.sort_values(column, ascending=order == "loss", kind="stable")
        return frame.index.tolist()

    def rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """What is shown of these prompts, in their order: JSON.

        n (place in the data, from 1), id, split, context (system message and earlier rounds),
        prompt, annotated, proto, gain, longest, misaligned; iterations: t, response, num_tokens,
        cut, scores {role: [log-likelihood, reward]} after it
        """
        if not ids:
            return []
        texts, proto = self._texts(ids), self._responses(self.folder.proto, ids)
        sampled = {t: self._responses(samples, ids) for t, samples in self._sampled.items()}
        rows = []
        for name in ids:
            facts, iterations = self.frame.loc[name], []
            for t in sorted({*sampled, *self._scores, *texts[name].get("synthetic", ())}):
                response = sampled.get(t, {}).get(name, {})
                text = response.get("response", texts[name].get("synthetic", {}).get(t))
                scores = self._scores_of(t, name)
                if text is not None or scores:
                    iterations.append({
                        "t": t, "response": _cut(text), "num_tokens": response.get("num_tokens"),
                        "cut": response.get("finish_reason") == "length", "scores": scores,
                    })  # fmt: skip
            first = proto.get(name, {}).get("response", texts[name].get("proto"))
            rows.append({
                "n": int(facts["n"]), "id": name, "split": facts["split"],
                **{key: _cut(texts[name].get(key)) for key in ("context", "prompt", "annotated")},
                "proto": _cut(first), "gain": _number(facts["gain"]),
                "longest": _number(facts["longest"]),
                "misaligned": bool(facts["misaligned"] == 1), "iterations": iterations,
            })  # fmt: skip
        return rows

    def chosen(self, most: int) -> list[str]:
        """Ids of the rows to keep where there is no place for all: the ends of every order, then
        held-out prompts, then the data's order."""
        share = max(1, most // (2 * len(ORDERS)))
        ids = dict.fromkeys(
            i for order in ORDERS if order != "data" for i in self.ids(order)[:share]
        )
        ids |= dict.fromkeys([*self.ids(split="heldout"), *self.frame.index])
        kept = {*list(ids)[:most]}
        return [name for name in self.frame.index if name in kept]

    # --- numbers ---------------------------------------------------------------------------------

    def _frame(self) -> pd.DataFrame:
        if self._readable:
            ids, splits = zip(
                *((i, row["split"]) for i, row in self._readable.items()), strict=True
            )
        elif self.folder.prompts.exists():
            table = pq.read_table(self.folder.prompts, columns=["id", "split"])
            ids, splits = (table[name].to_pylist() for name in ("id", "split"))
        else:
            ids, splits = (), ()
        frame = pd.DataFrame({"split": splits, "n": range(1, len(ids) + 1)}, index=pd.Index(ids))
        scored = [self._scores[t]["logp"] for t in sorted(self._scores)]
        logps = [wide["annotated"].reindex(frame.index) for wide in scored if "annotated" in wide]
        base = _scores(self.folder.base.scores)
        start = logps[0] if logps else pd.Series(math.nan, frame.index)
        if not base.empty and "annotated" in base["logp"]:
            start = base["logp"]["annotated"].reindex(frame.index).fillna(start)
        frame["gain"] = (logps[-1] - start) if logps else math.nan
        if len(logps) == 1:  # against itself there is nothing to say
            frame.loc[start.eq(logps[0]), "gain"] = math.nan
        lengths = [w["num_tokens"] for w in self._scores.values() if "synthetic" in w["num_tokens"]]
        longest = [wide["synthetic"].reindex(frame.index) for wide in lengths]
        frame["longest"] = pd.concat(longest, axis=1).max(axis=1) if longest else math.nan
        frame["misaligned"] = math.nan
        if self._scores:
            last = self._scores[max(self._scores)]
            if {"annotated", "synthetic"} <= {*last["logp"].columns}:
                above = [
                    last[key]["annotated"] > last[key]["synthetic"] for key in ("reward", "logp")
                ]
                differs = (above[0] != above[1]).where(last["reward"]["annotated"].notna())
                frame["misaligned"] = differs.astype(float).reindex(frame.index)
        return frame

    def _scores_of(self, t: int, name: str) -> dict[str, list[float | None]]:
        wide = self._scores.get(t)
        if wide is None or name not in wide.index:
            return {}
        row = wide.loc[name]
        roles = [role for role in ROLES if ("logp", role) in row.index]
        scores = {r: [_number(row["logp", r]), _number(row["reward", r])] for r in roles}
        return {role: pair for role, pair in scores.items() if pair != [None, None]}

    # --- texts -----------------------------------------------------------------------------------

    def _texts(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        if self._readable:
            return {name: self._readable[name] for name in ids}
        known = {*pq.read_schema(self.folder.prompts).names}
        columns = ["id", *(c for c in ("system", "history", "prompt", "annotated") if c in known)]
        rows = _read(self.folder.prompts, columns, ids)
        return {row["id"]: row | {"context": _context(row)} for row in rows}

    def _responses(self, samples: Responses, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        columns = ["id", "response", "num_tokens", "finish_reason"]
        return {row["id"]: row for part in _parts(samples) for row in _read(part, columns, ids)}

    def _with_text(self, words: str) -> set[str]:
        """Ids of the prompts that have these words in a text, capitals or not."""
        if not self.folder.prompts.exists():
            lower = words.lower()
            return {i for i, row in self._readable.items() if lower in json.dumps(row).lower()}
        files: list[tuple[Path, tuple[str, ...]]] = [(self.folder.prompts, ("prompt", "annotated"))]
        for samples in (self.folder.proto, *self._sampled.values()):
            files += [(part, ("response",)) for part in _parts(samples)]
        return {name for path, columns in files for name in _matching(path, columns, words)} | (
            {words} & {*self.frame.index}
        )


def lengths(folder: RunDir) -> dict[int, float]:
    """Mean tokens of the y' of every iteration that has them."""
    means = {}
    for t, samples in _sampled(folder).items():
        tables = [pq.read_table(part, columns=["num_tokens"]) for part in _parts(samples)]
        means[t] = float(pc.mean(pa.concat_tables(tables)["num_tokens"]).as_py() or 0)
    return means


def finish_reasons(folder: RunDir) -> list[str]:
    """Why the samples of the last iteration ended: stop or length."""
    sampled = _sampled(folder)
    parts = _parts(sampled[max(sampled)]) if sampled else []
    reasons = [pq.read_table(part, columns=["finish_reason"])["finish_reason"] for part in parts]
    return [reason for column in reasons for reason in column.to_pylist()]


def _sampled(folder: RunDir) -> dict[int, Responses]:
    """The samples of every iteration that has them, of those that go on included."""
    samples = {t: folder.iteration(t).synthetic for t in (*folder.iterations(), *folder.begun())}
    return {t: of_one for t, of_one in sorted(samples.items()) if of_one.exists()}


def _parts(samples: Responses) -> list[Path]:
    return samples.parts() if samples.exists() else []


def _scores(path: Path) -> pd.DataFrame:
    """By id, columns (number, role), of the prompts with their latest y'."""
    if not path.exists():
        return pd.DataFrame()
    frame = pq.read_table(path, columns=NUMBERS).to_pandas()
    wide = frame.pivot(index="id", columns="role", values=["logp", "num_tokens", "reward"])
    return wide.astype(np.float32)


def _read(path: Path, columns: list[str], ids: Sequence[str]) -> list[dict[str, Any]]:
    keep = pc.field("id").isin(pa.array(ids, pa.string()))
    return pq.read_table(path, columns=columns, filters=keep, use_threads=False).to_pylist()


def _matching(path: Path, columns: Iterable[str], words: str) -> Iterator[str]:
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(4096, columns=["id", *columns]):
        for column in columns:
            hit = pc.match_substring(batch.column(column), words, ignore_case=True)
            yield from batch.column("id").filter(hit).to_pylist()


def _readable(folder: RunDir) -> dict[str, dict[str, Any]]:
    """id -> split, prompt, annotated, proto, and synthetic {t: text}, of samples.jsonl."""
    rows: dict[str, dict[str, Any]] = {}
    for t in folder.iterations():
        path = folder.iteration(t).samples
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for row in map(json.loads, lines):
            known = rows.setdefault(row["id"], row | {"synthetic": {}})
            if row.get("synthetic") is not None:
                known["synthetic"][t] = row["synthetic"]
    return rows


def _context(row: dict[str, Any]) -> str | None:
    rounds = [f"user: {user}\nassistant: {answer}" for user, answer in row.get("history") or ()]
    system = [f"system: {row['system']}"] if row.get("system") else []
    return "\n".join([*system, *rounds]) or None


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 3)


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]} [cut, {len(text)} characters]"
