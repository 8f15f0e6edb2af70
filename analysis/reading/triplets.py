"""Every prompt of a run with y, y0 and the y' of every iteration, and what it gained: sorted and
searched without holding the texts.

Of the rows that are shown texts and numbers are read alone; those of all, once, where something is
sorted by them. An older run, or a copy without its prompts, has those of its readable samples.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.reading.rows import (
    NUMBERS,
    SCORED,
    Scored,
    by_role,
    found,
    matching,
    scores,
    table,
)
from tspin.objectives import ROLES
from tspin.runs.artifacts import TOKEN_LOGPS, Iteration, Responses, RunDir

# What rows are sorted by -> how a page calls it.
ORDERS = {
    "data": "as in the data",
    "gain": "largest gain of log pi(y)",
    "loss": "largest loss of log pi(y)",
    "longest": "longest y'",
    "misaligned": "misaligned first",
}
MAX_TEXT = 20_000  # characters of a text that are shown


class Triplets:
    """The prompts of a run folder."""

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder
        self._readable = {} if folder.prompts.exists() else _readable(folder)
        self._sampled = _sampled(folder)
        self._ids, self._splits = self._prompts()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, order: str = "data", *, split: str = "", search: str = "") -> list[str]:
        """Of the prompts of a split ("": all) that have the words searched in one of their texts.

        ValueError for an order that is none of ORDERS.
        """
        if order not in ORDERS:
            raise ValueError(f"order={order} is none of {', '.join(ORDERS)}")
        keep = np.full(len(self), True)
        if split:
            keep &= pc.equal(self._splits, split).to_numpy(False)
        if search:
            keep &= _is_in(self._ids, self._with_text(search))
        if order == "data":
            return self._ids.filter(pa.array(keep)).to_pylist()
        column = {"longest": "longest", "misaligned": "misaligned"}.get(order, "gain")
        frame = self.frame[keep].sort_values(column, ascending=order == "loss", kind="stable")
        return frame.index.tolist()

    def rows(self, ids: Sequence[str], *, with_tokens: bool = True) -> list[dict[str, Any]]:
        """What is shown of these prompts, in their order: JSON.

        n (place in the data, from 1), id, split, context (system message and earlier rounds),
        prompt, annotated, proto, gain, longest, misaligned; iterations: t, response, num_tokens,
        cut, scores {role: [log-likelihood, reward]} after it. A response is a text or, where the
        log-probabilities of its tokens are known and wanted, what `_tokens_of` makes of them: those
        of annotated and proto after the last iteration
        """
        if not ids:
            return []
        texts, proto = self._texts(ids), self._responses(self.folder.proto, ids)
        finished = self.folder.iterations() if with_tokens else ()
        tokens = {t: self._token_logps(t, ids) for t in finished}
        latest = {key: known for t in sorted(tokens) for key, known in tokens[t].items()}
        sampled = {t: self._responses(samples, ids) for t, samples in self._sampled.items()}
        places = np.flatnonzero(_is_in(self._ids, ids))
        own = self._ids.take(places)
        scored = {t: _some_scores(self.folder.iteration(t), own) for t in self.folder.iterations()}
        frame = self._facts(places, _some_scores(self.folder.base, own), [*scored.values()])
        rows = []
        for name in ids:
            facts, iterations = frame.loc[name], []
            for t in sorted({*sampled, *scored, *texts[name].get("synthetic", ())}):
                response = sampled.get(t, {}).get(name, {})
                text = response.get("response", texts[name].get("synthetic", {}).get(t))
                pairs = _pairs(scored.get(t, {}), frame.index.get_loc(name))
                if text is not None or pairs:
                    iterations.append({
                        "t": t, "response": tokens.get(t, {}).get((name, "synthetic"), _cut(text)),
                        "num_tokens": response.get("num_tokens"),
                        "cut": response.get("finish_reason") == "length", "scores": pairs,
                    })  # fmt: skip
            first = proto.get(name, {}).get("response", texts[name].get("proto"))
            rows.append({
                "n": int(facts["n"]), "id": name, "split": facts["split"],
                "context": _cut(texts[name].get("context")),
                "prompt": _cut(texts[name].get("prompt")),
                "annotated": latest.get((name, "annotated"), _cut(texts[name].get("annotated"))),
                "proto": latest.get((name, "proto"), _cut(first)), "gain": _number(facts["gain"]),
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
        ids |= dict.fromkeys([*self.ids(split="heldout"), *self.ids()])
        kept = {*list(ids)[:most]}
        return [name for name in self.ids() if name in kept]

    # --- numbers ---------------------------------------------------------------------------------

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per prompt, by id: split; n, place in the data, from 1; gain, log pi(y) after the
        last iteration minus after the first, in nats (held-out prompts: minus that of the initial
        policy, where it was scored); longest, tokens of its longest y'; misaligned, whether reward
        and log-likelihood rank y and y' differently after the last iteration. NaN where nothing
        was scored."""
        outs = [self.folder.iteration(t) for t in self.folder.iterations()]
        base, *scored = (scores(it.scores, self._ids) for it in (self.folder.base, *outs))
        return self._facts(np.arange(len(self)), base, scored)

    def _facts(self, places: np.ndarray, base: Scored, scored: Sequence[Scored]) -> pd.DataFrame:
        """The rows of `frame` of the prompts at these places of the data: of the initial policy's
        scores and those after every iteration."""
        unknown = np.full(len(places), np.nan, dtype=np.float32)
        gain, misaligned = unknown, unknown
        scored = [it for it in scored if it]
        if logps := [it["logp", "annotated"] for it in scored if ("logp", "annotated") in it]:
            first = base.get(("logp", "annotated"), unknown)
            gain = logps[-1] - np.where(np.isnan(first), logps[0], first)
            if len(logps) == 1:  # against itself there is nothing to say
                gain[np.isnan(first)] = np.nan
        lengths = [it.get(("num_tokens", "synthetic"), unknown) for it in scored]
        if scored and {("logp", "annotated"), ("logp", "synthetic")} <= {*scored[-1]}:
            last = scored[-1]
            above = [last[key, "annotated"] > last[key, "synthetic"] for key in ("reward", "logp")]
            known = ~np.isnan(last["reward", "annotated"])
            misaligned = np.where(known, above[0] != above[1], np.nan)
        ids, splits = (column.take(pa.array(places)) for column in (self._ids, self._splits))
        facts = {"split": splits.to_pylist(), "n": places + 1, "gain": gain}
        facts |= {"longest": np.fmax.reduce([unknown, *lengths]), "misaligned": misaligned}
        return pd.DataFrame(facts, index=pd.Index(ids.to_pylist(), dtype=object))

    def _prompts(self) -> tuple[pa.Array, pa.Array]:
        """ids and splits, in the data's order"""
        if self.folder.prompts.exists():
            prompts = table(self.folder.prompts, ("id", "split"))
            return prompts["id"].combine_chunks(), prompts["split"].combine_chunks()
        splits = [row["split"] for row in self._readable.values()]
        return pa.array(list(self._readable), pa.string()), pa.array(splits, pa.string())

    # --- texts -----------------------------------------------------------------------------------

    def _texts(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        if self._readable:
            return {name: self._readable[name] for name in ids}
        columns = ("system", "history", "prompt", "annotated")
        rows = _rows(self.folder.prompts, ids, columns)
        return {row["id"]: row | {"context": _context(row)} for row in rows}

    def _responses(self, samples: Responses, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        columns = ("response", "num_tokens", "finish_reason")
        return {row["id"]: row for part in _parts(samples) for row in _rows(part, ids, columns)}

    def _token_logps(self, t: int, ids: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
        """(id, role) -> `_tokens_of` its response after iteration t, where it was recorded."""
        path = self.folder.iteration(t).token_logps
        rows = _rows(path, ids, TOKEN_LOGPS.names[1:]) if path.exists() else []
        return {(row["id"], row["role"]): _tokens_of(row["tokens"], row["logps"]) for row in rows}

    def _with_text(self, words: str) -> set[str]:
        """Ids of the prompts that have these words in a text, capitals or not."""
        if not self.folder.prompts.exists():
            lower = words.lower()
            return {i for i, row in self._readable.items() if lower in json.dumps(row).lower()}
        files: list[tuple[Path, tuple[str, ...]]] = [(self.folder.prompts, ("prompt", "annotated"))]
        for samples in (self.folder.proto, *self._sampled.values()):
            files += [(part, ("response",)) for part in _parts(samples)]
        return {name for path, columns in files for name in matching(path, columns, words)} | (
            {words} & {*self._ids.to_pylist()}
        )


def lengths(folder: RunDir) -> dict[int, float]:
    """Mean tokens of the y' of every iteration that has them."""
    means = {}
    for t, samples in _sampled(folder).items():
        tokens = [table(part, ["num_tokens"]) for part in _parts(samples)]
        means[t] = float(pc.mean(pa.concat_tables(tokens)["num_tokens"]).as_py() or 0)
    return means


def finish_reasons(folder: RunDir) -> Counter[str]:
    """How often the samples of the last iteration ended by stop or by length."""
    sampled = _sampled(folder)
    counts = Counter[str]()
    for part in _parts(sampled[max(sampled)]) if sampled else ():
        for of_one in table(part, ["finish_reason"])["finish_reason"].value_counts().to_pylist():
            counts[of_one["values"]] += of_one["counts"]
    return counts


def _some_scores(out: Iteration, ids: pa.Array) -> Scored:
    """`scores` of a few prompts. What the file has of others is not looked at: every role is there,
    NaN where these have none."""
    if not out.scores.exists():
        return {}
    unknown = np.full(len(ids), np.nan, dtype=np.float32)
    every: Scored = {(number, role): unknown for number in NUMBERS for role in ROLES}
    rows = found(out.scores, SCORED, id=ids.to_pylist())
    return every | by_role(rows.column, ids)


def _pairs(scored: Scored, place: int) -> dict[str, list[float | None]]:
    """Role -> log-likelihood and reward of the prompt at that place."""
    numbers = {
        role: [_number(scored[key, role][place]) for key in ("logp", "reward")]
        for role in ROLES
        if ("logp", role) in scored
    }
    return {role: pair for role, pair in numbers.items() if pair != [None, None]}


def _rows(path: Path, ids: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    return found(path, ("id", *columns), id=ids).to_pylist()


def _is_in(names: pa.Array, wanted: Iterable[str]) -> np.ndarray:
    return pc.is_in(names, value_set=pa.array(wanted, pa.string())).to_numpy(False)


def _sampled(folder: RunDir) -> dict[int, Responses]:
    """The samples of every iteration that has them, of those that go on included."""
    samples = {t: folder.iteration(t).synthetic for t in (*folder.iterations(), *folder.begun())}
    return {t: of_one for t, of_one in sorted(samples.items()) if of_one.exists()}


def _parts(samples: Responses) -> list[Path]:
    return samples.parts() if samples.exists() else []


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


def _tokens_of(texts: Sequence[str], logps: Sequence[float]) -> dict[str, list[Any]]:
    """tokens, what each adds to the text, and surprise, minus their log-probability in hundredths
    of a nat. Tokens that are a part of a character go with the one that ends it."""
    tokens: list[str] = []
    surprise: list[int] = []
    waiting, length = 0.0, 0
    for text, logp in zip(texts, logps, strict=True):
        waiting -= 100 * float(logp)
        if not text:
            continue
        if length > MAX_TEXT:
            return {"tokens": [*tokens, " [cut]"], "surprise": [*surprise, 0]}
        tokens.append(text)
        surprise.append(round(waiting))
        waiting, length = 0.0, length + len(text)
    return {"tokens": tokens, "surprise": surprise}


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
