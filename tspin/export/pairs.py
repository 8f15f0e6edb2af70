"""`python -m tspin pairs`: what an iteration was trained on, as a data set for others.

Two configurations in the hub's layout: `preference` has TRL's columns prompt, chosen (annotated y)
and rejected (synthetic y'), conversational where the run's template is the tokenizer's own and
plain text in the run's form elsewhere; `triplets` has y, y' and y0 as text and as ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tspin.cli.options import KeyParser
from tspin.config.run import Run
from tspin.data import annotated, shift
from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.export import opening
from tspin.export.opening import Source
from tspin.runs.artifacts import HISTORY, RunDir
from tspin.tools.files import read_json, write_text
from tspin.tools.parquet import each_row, write_rows

IDS = pa.list_(pa.int32())
TRIPLETS = pa.schema(
    [("id", pa.string()), ("system", pa.string()), ("history", HISTORY), ("prompt", pa.string())]
    + [(role, pa.string()) for role in ("annotated", "synthetic", "proto")]
    + [(f"{part}_ids", IDS) for part in ("prompt", "annotated", "synthetic", "proto")]
)
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

CARD = """---
configs:
- config_name: preference
  default: true
  data_files:
{preference}
- config_name: triplets
  data_files:
{triplets}
tags:
- preference
- t-spin
---

# {title}

Prompts of {data} (digest `{digest}`) with responses: annotated, and sampled by {model} at iteration
{t} of {label} (synthetic) and by the initial policy (proto-synthetic). Seed {seed}, temperature
{temperature}. {count} triplets.

`preference` has prompt, chosen (annotated) and rejected (synthetic), {form}.
`triplets` has all three responses, as text without white space around it and as the ids that were
trained on. A response that was cut at its length limit has no EOS id; text cannot say that, and TRL
will add one.

The licence is that of the data and of the model that sampled.
"""


def parser() -> KeyParser:
    options = KeyParser(
        "pairs",
        about="Writes the prompts of a run with annotated, synthetic and proto-synthetic "
        "responses, for\nTRL (preference: prompt, chosen, rejected) and as triplets, in parquet "
        "files that `datasets` loads:\n"
        'load_dataset(FOLDER, "preference") and load_dataset(FOLDER, "triplets").',
        examples="  python -m tspin pairs run=runs/NAME iteration=1 to=FOLDER\n"
        "  python -m tspin pairs run=runs/NAME to=hub:OWNER/NAME",
    )
    opening.add_options(options)
    return options


def main(arguments: Sequence[str]) -> None:
    with opening.opened(parser().read(arguments), "dataset") as (source, folder):
        pairs(source, folder)


def pairs(source: Source, target: Path) -> None:
    """Fills the folder `target` with the pairs and triplets."""
    cfg, folder, out = source.cfg, source.folder, source.out
    if not (out.synthetic.exists() and folder.proto.exists()):
        raise ValueError(
            f"iteration {out.t} of {folder.path} has no samples: {cfg.loss.label} needs none "
            "(track.diagnostics=true samples anyway)"
        )
    # The tokenizer of the last iteration, whose weights always stay.
    renderer = source.renderer(source.weights(source.iteration("last")))
    chat = cfg.model.template == "chat"
    shape = MESSAGES if chat else pa.string()
    preference = pa.schema([(name, shape) for name in ("prompt", "chosen", "rejected")])
    joined = Joined(source, renderer)
    count = Counter(row["split"] for row in joined.prompts())
    for split in count:
        two = (_messages(r) if chat else _plain(r, renderer) for r in joined.rows(split))
        write_rows(target / _file("preference", split), two, preference)
        write_rows(target / _file("triplets", split), joined.rows(split), TRIPLETS)
    write_text(target / "README.md", _card(source, list(count), count.total()))


class Joined:
    """Rows of the schema TRIPLETS, in the order of the run; the samples alone are in memory."""

    def __init__(self, source: Source, renderer: Renderer) -> None:
        folder = source.folder
        proto = folder.proto_of(source.cfg.data.shift.proto(source.out.t))
        self.source, self.renderer = source, renderer
        self.systems = {} if _has_texts(folder) else _systems(source.cfg, folder, renderer)
        self.samples = {
            role: {row["id"]: row for row in samples.each("id", "response", "response_ids")}
            for role, samples in (("synthetic", source.out.synthetic), ("proto", proto))
        }

    def prompts(self) -> Iterator[dict[str, Any]]:
        """Those that the iteration was played with."""
        cfg, file = self.source.cfg, self.source.folder.prompts
        if (span := cfg.data.shift.at(self.source.out.t)) is None:
            yield from each_row(file)
        else:
            yield from shift.present([*each_row(file)], span, cfg.seed)

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        for prompt in self.prompts():
            if prompt["split"] != split:
                continue
            name, ids = prompt["id"], prompt["annotated_ids"]
            whole = ids[-1] == self.renderer.eos_id
            row = {
                "id": name,
                "system": prompt.get("system", self.systems.get(name)),
                "history": prompt.get("history"),
                "prompt": prompt["prompt"],
                "annotated": prompt["annotated"].strip() if whole else self.renderer.text(ids),
                "prompt_ids": prompt["prompt_ids"],
                "annotated_ids": ids,
            }
            for role, by_id in self.samples.items():
                row[role] = by_id[name]["response"]
                row[f"{role}_ids"] = by_id[name]["response_ids"]
            yield row


def _has_texts(folder: RunDir) -> bool:
    """Whether the run keeps all texts of its prompts; version 0.1.0 kept no system message."""
    first = next(each_row(folder.prompts), {})
    return "system" in first


def _systems(cfg: Run, folder: RunDir, renderer: Renderer) -> dict[str, str | None]:
    """The system messages by prompt id of a run that keeps them as ids alone, from its source."""

    def is_of(row: dict[str, Any], system: str | None) -> bool:
        """Whether its ids are those of its text; version 0.1.0 kept the end of a long one."""
        kept = list(row["prompt_ids"])
        whole = renderer.prompt_ids(Conversation(row["prompt"], system))
        if len(kept) >= len(whole):
            return kept == whole
        end = kept[len(renderer.encoder.prefix) :]
        return end == whole[len(whole) - len(end) :]

    prompts = each_row(folder.prompts, "id", "prompt", "prompt_ids")
    odd = [row for row in prompts if not is_of(row, None)]
    if not odd:
        return {}
    data = annotated.load(cfg.data)
    systems = {pair.id: pair.system for pair in (*data.train, *data.heldout)}
    for row in odd:
        if row["id"] not in systems or not is_of(row, systems[row["id"]]):
            raise ValueError(
                f"prompt {row['id']} has a system message, which is read from data.path="
                f"{cfg.data.path} again, and that is not what the run read; put it back"
            )
    return {row["id"]: systems[row["id"]] for row in odd}


def _plain(row: dict[str, Any], renderer: Renderer) -> dict[str, str]:
    """Text in the run's form: prompt and response one behind the other are what was encoded."""
    return {
        "prompt": renderer.prompt_text(_conversation(row)),
        "chosen": renderer.form.lead + row["annotated"],
        "rejected": renderer.form.lead + row["synthetic"],
    }


def _messages(row: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    return {
        "prompt": _conversation(row).messages(),
        "chosen": [{"role": "assistant", "content": row["annotated"]}],
        "rejected": [{"role": "assistant", "content": row["synthetic"]}],
    }


def _conversation(row: dict[str, Any]) -> Conversation:
    history = tuple((user, assistant) for user, assistant in row["history"] or ())
    return Conversation(row["prompt"], row["system"], history)


def _file(config: str, split: str) -> Path:
    return Path(config) / f"{split}-00000-of-00001.parquet"


def _card(source: Source, splits: Sequence[str], count: int) -> str:
    cfg = source.cfg
    files = {
        config: "\n".join(f"  - split: {s}\n    path: {_file(config, s)}" for s in splits)
        for config in ("preference", "triplets")
    }
    chat = cfg.model.template == "chat"
    return CARD.format(
        **files,
        title=source.title,
        data=cfg.data.name,
        digest=read_json(source.folder.data)["digest"],
        model=cfg.model.name,
        t=source.out.t,
        label=cfg.loss.label,
        seed=cfg.seed,
        temperature=cfg.decoding.temperature if cfg.decoding.sample else "0 (greedy)",
        count=count,
        form="as messages" if chat else f"as text in the form `{cfg.model.template}`",
    )
