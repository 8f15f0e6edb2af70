"""What a run leaves behind: the name, schema and completeness of every file. No torch.

A file that exists is complete (tspin.tools.files): progress is read from the directory, never from
counters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from tspin.config import auto, older
from tspin.config.identity import without_copies
from tspin.config.run import SHARED
from tspin.tools.files import (
    damaged,
    digest,
    flatten,
    owner,
    read_json,
    remove,
    sums,
    whole,
    write_json,
    write_text,
)
from tspin.tools.parquet import each_row, read_rows
from tspin.tools.spelling import nearest
from tspin.tools.spill import Spill

# Folders of an iteration. The files of a checkpoint have transformers' names: config.json,
# model.safetensors (SAFE_WEIGHTS_NAME; above 5 GB parts and an index of them), the tokenizer's;
# or peft's, where adapters are trained (policy.adapters); tools.files.SUMS stands beside them.
CHECKPOINT, TRAIN_STATE = "checkpoint", "train_state"
TRACKERS = ("wandb", "tensorboard", "mlflow", "trackio")  # their folders in a run
MIRROR = "mirror.json"  # what a copy of a run folder holds

HISTORY = pa.list_(pa.list_(pa.string()))
PROMPTS = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),  # train | heldout
        ("system", pa.string()),  # null without one; this column and the next came after 0.1.0
        ("history", HISTORY),  # earlier rounds [user, assistant], or null
        ("prompt", pa.string()),
        ("annotated", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),  # what every stage conditions on
        ("annotated_ids", pa.list_(pa.int32())),  # EOS included unless truncated
    ]
)
TIMED_PROMPTS = PROMPTS.append(pa.field("part", pa.int32()))  # of data that shift
RESPONSES = pa.schema(
    [
        ("id", pa.string()),
        ("response", pa.string()),  # for people; the ids are what is scored
        ("response_ids", pa.list_(pa.int32())),  # as sampled, EOS only where the model stopped
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),  # stop | length
    ]
)
CHOICES = pa.schema(
    [
        ("id", pa.string()),  # of a training prompt
        ("chosen", pa.bool_()),  # whether it gets a new y' and a step
        ("source", pa.int32()),  # iteration whose policy sampled its y'
        ("value", pa.float64()),  # what it was chosen by, or null where nothing was known
        ("idle", pa.int32()),  # iterations in a row that it was trained in and left without signal
    ]
)
SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("source", pa.int32()),  # iteration whose synthetic set the triplet was joined with
        ("role", pa.string()),
        ("logp", pa.float64()),  # nats, summed over the response
        ("num_tokens", pa.int32()),
        ("ref_logp", pa.float64()),  # under the policy at the start of the iteration, or null
        ("reward", pa.float64()),  # as the objective defines it, or null
    ]
)
TOKEN_LOGPS = pa.schema(
    [
        ("id", pa.string()),
        ("role", pa.string()),
        ("tokens", pa.list_(pa.string())),  # the text that each adds, special tokens included
        ("logps", pa.list_(pa.float16())),  # nats, after the update
    ]
)
TOKEN_LOGPS_PER_GROUP = 256  # rows of a group: as long as responses are, and read a few at a time
ANSWERS = pa.schema(
    [
        *RESPONSES,
        ("decoding", pa.string()),  # greedy | sampled | cool (at a lower temperature)
        ("draw", pa.int32()),  # which of the samples of its prompt
        ("correct", pa.bool_()),  # null where no program can tell
        ("canonical", pa.string()),  # a right answer, spelled alike for all that say the same
    ]
)
VERDICTS = pa.schema(  # answers to prompts of several instructions each
    [
        *ANSWERS,
        ("kind", pa.string()),  # of the prompt: known | combination | family
        ("families", pa.list_(pa.string())),  # of its instructions, in their order
        ("strict", pa.list_(pa.bool_())),  # which of them the answer follows
        ("loose", pa.list_(pa.bool_())),  # the same without its first or last line, or its stars
    ]
)


class _Entry:
    """A file or folder inside an artifact's folder, as an attribute of the artifact."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, artifact: Responses | Iteration | RunDir, kind: type) -> Path:
        return artifact.path / self.name


@dataclass(frozen=True)
class Responses:
    """A folder of responses, one to each prompt: part-*.parquet, then manifest.json, written last.

    Those that were sampled in an earlier iteration and stay are in kept.parquet.
    """

    path: Path
    manifest = _Entry("manifest.json")
    kept = _Entry("kept.parquet")  # of earlier iterations, where a curriculum sampled some alone
    log = _Entry("engine.log")  # of an engine in a process of its own

    def part(self, index: int) -> Path:
        return self.path / f"part-{index:05d}.parquet"

    def exists(self) -> bool:
        return self.manifest.exists()

    def facts(self) -> dict[str, Any]:
        """The manifest: what the samples were made from, and counts."""
        return read_json(self.manifest)

    def rows(self) -> list[dict[str, Any]]:
        return [row for part in self.parts() for row in read_rows(part)]

    def each(self, *columns: str) -> Iterator[dict[str, Any]]:
        """The same one by one, see parquet.each_row."""
        return (row for part in self.parts() for row in each_row(part, *columns))

    def ids(self) -> dict[str, Sequence[int]]:
        """Prompt id -> sampled token ids, of many rows in a temporary file (tools.spill)."""
        spill = Spill()
        rows = self.each("id", "response_ids")
        return {row["id"]: spill.keep(row["response_ids"]) for row in rows}

    def parts(self) -> list[Path]:
        """The files with its rows, of a set that is there."""
        with whole(self.manifest):
            sampled = [self.part(i) for i in range(self.facts()["num_parts"])]
        return [*sampled, self.kept] if self.kept.exists() else sampled


@dataclass(frozen=True)
class Iteration:
    """The files of iteration t."""

    path: Path
    choices = _Entry("choices.parquet")  # of a curriculum
    ref_scores = _Entry("ref_scores.parquet")
    metrics = _Entry("metrics.jsonl")
    train_state = _Entry(f"{TRAIN_STATE}/state.safetensors")
    checkpoint = _Entry(CHECKPOINT)
    removed = _Entry("weights_removed.json")  # why the checkpoint is no longer there (keep)
    scores = _Entry("scores.parquet")
    token_logps = _Entry("token_logps.parquet")  # of some prompts; no stage reads it
    contingency = _Entry("contingency.json")
    samples = _Entry("samples.jsonl")
    answers = _Entry("answers.parquet")
    answers_log = _Entry("answers.log")  # of an engine in a process of its own
    benchmarks = _Entry("benchmarks")  # a folder: one file per task, and the harness's log
    benchmarks_log = _Entry("benchmarks/log.txt")
    evaluation = _Entry("eval.json")
    stages = _Entry("stages.json")  # seconds of each finished stage; becomes part of done.json
    done = _Entry("done.json")

    @property
    def t(self) -> int:
        return int(self.path.resolve().name.removeprefix("iter_"))

    @property
    def now(self) -> int:
        """The part of data that shift which is the current one for its policy; theta_0's is 0."""
        return self.t if self.path.name.startswith("iter_") else 0

    @property
    def synthetic(self) -> Responses:
        return Responses(self.path / "synthetic")

    def benchmark(self, task: str, key: str) -> Path:
        """Results of one task. key: digest of what decides them beside the weights."""
        return self.benchmarks / f"{task}-{key[:8]}.json"

    def train_shards(self, next_step: int) -> Path:
        """A folder: train_state, written by several processes that each hold a part of it."""
        return self.train_state.parent / f"shards-{next_step:08d}"

    def all_train_shards(self) -> dict[int, Path]:
        """By their next step."""
        folders = sorted(self.train_state.parent.glob("shards-*"))
        return {int(path.name.removeprefix("shards-")): path for path in folders}

    def weights(self) -> Path:
        """The checkpoint, to be loaded. ValueError where it was removed (keep)."""
        if self.removed.exists():
            raise ValueError(
                f"the weights of {self.path} were removed by selfplay.keep="
                f"{read_json(self.removed)['keep']}; run it again with selfplay.keep=all and a "
                "name of its own (name=...), or remove that iteration's folder to train it again"
            )
        if not self.checkpoint.exists():
            raise ValueError(
                f"{self.checkpoint} is gone, and is needed to go on; put it back, or remove "
                f"{self.done.name} beside it and give the same command again: it is trained anew"
            )
        return self.checkpoint

    def digests(self) -> dict[str, str]:
        """File -> sha256 of what stays as it is and carries no digest itself, for done.json."""
        return sums(path for path in (self.metrics, self.samples) if path.exists())

    def check(self) -> None:
        """ValueError where a file is not the one that done.json tells of (if it does)."""
        with whole(self.done):
            files = dict(read_json(self.done).get("files", {}))
        for name, sha256 in self.digests().items():
            if files.get(name, sha256) != sha256:
                raise damaged(self.path / name, "it is not the file that done.json tells of")

    def clear_train_state(self) -> None:
        """Removes what only an unfinished training needs."""
        remove(self.train_state.parent)


@dataclass(frozen=True)
class RunDir:
    """One run's folder, runs/<name>."""

    path: Path
    config = _Entry("config.yaml")
    provenance = _Entry("provenance.json")
    prompts = _Entry("prompts.parquet")
    settled = _Entry("settled.json")  # what auto came to in config.yaml, and from what
    data = _Entry("data.json")  # digest of the data, counts of rows skipped, dropped and cut
    initial = _Entry("initial.json")  # digests of the initial weights and of the prompts
    mirror = _Entry(f".{MIRROR}")  # what is known of the folder's copy elsewhere
    tracking = _Entry("tracking.json")  # id of the run in the tracker, kept over restarts
    heartbeat = _Entry("heartbeat.json")  # a sign of life of its process, no part of the run

    errors = _Entry("errors.log")  # tracebacks of what stopped it, no part of the run

    @property
    def proto(self) -> Responses:
        """Proto-synthetic responses, linked from the folder that runs share."""
        return Responses(self.path / "proto")

    def proto_of(self, t: int) -> Responses:
        """The y0 that were sampled at the start of iteration t: at 0 `proto`, else its y'."""
        return self.proto if t == 0 else self.iteration(t).synthetic

    @property
    def base(self) -> Iteration:
        """Evaluation of the initial policy, linked from the folder that runs share."""
        return Iteration(self.path / "base")

    def iteration(self, t: int) -> Iteration:
        return Iteration(self.path / f"iter_{t}")

    def tracker(self, name: str) -> Path:
        """What one of TRACKERS keeps of the run: a view, no part of it."""
        assert name in TRACKERS, name
        return self.path / name

    def iterations(self) -> list[int]:
        """Indices of the iterations that are complete."""
        return sorted(Iteration(done.parent).t for done in self.path.glob("iter_*/done.json"))

    def begun(self) -> list[int]:
        """Indices of the iterations that have a folder and are not complete."""
        iterations = [Iteration(path) for path in self.path.glob("iter_*")]
        return sorted(out.t for out in iterations if not out.done.exists())

    def claim(self, config: dict[str, Any], *, free: Sequence[str], grows: str = "") -> None:
        """Writes config.yaml once; refuses a folder that holds another configuration.

        A value that is auto there may have a number here: config.yaml then says that, too.

        free   dotted keys (or prefixes, "track.") that may differ: they change no number
        grows  dotted key of a number that may be larger than it was; config.yaml then says so
        """
        if not self.config.exists():
            write_text(self.config, yaml.safe_dump(config, sort_keys=False))
            return
        with whole(self.config):
            try:
                tree = yaml.safe_load(self.config.read_text(encoding="utf-8"))
                old = without_copies(flatten(older.current(tree)))
            except (yaml.YAMLError, AttributeError) as error:
                raise ValueError(str(error)) from None
        new = without_copies(flatten(config))
        more = bool(grows) and old.get(grows, math.inf) < new[grows]
        settled = {
            key: new[key]
            for key, value in old.items()
            if key.startswith(auto.SETTLED) and value == auto.AUTO != new.get(key, value)
        }
        free = (*free, *settled, *([grows] if more else []))
        differs = [
            f"{key} (there {old.get(key, 'absent')!r}, here {new.get(key, 'absent')!r})"
            for key in sorted(old.keys() | new.keys())
            if old.get(key, "absent") != new.get(key, "absent") and not key.startswith(tuple(free))
        ]
        if differs:
            raise ValueError(
                f"{self.path} holds a run with another configuration: {'; '.join(differs)}. "
                "Give this one a name of its own (name=...), or remove the folder"
            )
        changed = settled | ({grows: new[grows]} if more else {})
        for name, value in changed.items():
            section, key = name.split(".")
            tree[section][key] = value
        if settled:
            tree["loss"] = config["loss"]  # with copies of what is settled
        if changed:
            write_text(self.config, yaml.safe_dump(tree, sort_keys=False))


def shared_folder(runs_dir: str, kind: str, name: str, key: dict[str, Any]) -> Path:
    """Where runs share what their key alone decides. kind: one of SHARED."""
    assert kind in SHARED
    return Path(runs_dir).expanduser() / kind / f"{name}-{digest(key)[:8]}"


def day_of(folder: RunDir) -> str | None:
    """ISO date that the prompts of a run hold, where their template writes one."""
    return read_json(folder.data).get("day") if folder.data.exists() else None


def settled_day(runs_dir: str) -> str:
    """ISO date that prompts in runs_dir hold, where their template writes today's.

    That of the first run which needs one: runs that are compared, and a run that goes on tomorrow,
    have the same prompts.
    """
    file = Path(runs_dir).expanduser() / "day.json"
    with owner(sharing_lock(runs_dir, "day"), wait=True):
        if not file.exists():
            write_json(file, {"day": date.today().isoformat()})
    return str(read_json(file)["day"])


def sharing_lock(runs_dir: str, key: str) -> Path:
    """A folder to hold while making, or looking for, the iteration with this key."""
    return Path(runs_dir).expanduser() / ".locks" / key[:16]


def run_dirs(folder: Path) -> list[RunDir]:
    """The runs in `folder`, by name."""
    return [RunDir(config.parent) for config in sorted(folder.glob("*/config.yaml"))]


def no_run(folder: Path) -> ValueError:
    """Of a folder without a run: the nearest of those beside it, and in runs/, or where to look."""
    what = "it has no config.yaml" if folder.is_dir() else "it is not there"
    places = [folder.parent, *([Path("runs")] if folder == Path(folder.name) else [])]
    names = {run.path.name: run.path for place in places for run in run_dirs(place)}
    near = nearest(folder.name, names)
    if near is not None:
        way_out = f"did you mean {names[near]}?"
    elif names:
        way_out = f"python -m tspin ls {next(iter(names.values())).parent} lists those that are"
    else:
        way_out = f"there are no runs in {' or '.join(map(str, places))}"
    return ValueError(f"{folder} is no run that can be read: {what}; {way_out}")
