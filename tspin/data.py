"""Annotated pairs (x, y) from wherever a user keeps them, and their train and held-out parts.

A source is a .jsonl, .json or .parquet file, a folder of `datasets`, a hub id, or the built-in
task "micro". Text is taken as it is: nothing is stripped, normalised or tokenized here, and the
join with sampled responses to triplets belongs to the stages.
"""

import hashlib
import json
import os
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets
    import pyarrow

    from tspin.config import DataConfig

MICRO = "micro"  # data.path of the built-in task; a folder of that name is spelled ./micro
SUFFIXES = (".jsonl", ".json", ".parquet")
SOURCES = f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file or a datasets folder"
SCHEMAS = (
    "messages, conversations, prompt + response, prompt + completion, "
    "or instruction (+ input) + output"
)
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

MICRO_EVAL_SEED = 0  # every run is judged on the same prompts: seeds compare paired
HUB_SECONDS = 5.0  # an unreachable hub should be known now, not after the client's retries
ROWS_PER_BATCH = 1024  # rows held as Python objects at a time
NUM_REASONS = 5  # bad rows described in full; the others are only counted


@dataclass(frozen=True)
class Pair:
    """A prompt x and its annotated response y, with the system message before them if any.

    id: 16 hex digits of the content, so it names the same pair in every file and subset; repeats
        of a row carry their occurrence, "-1", "-2".
    """

    id: str
    prompt: str
    annotated: str
    system: str | None = None


@dataclass(frozen=True)
class Source:
    """What one source held: its pairs in file order, and the bad rows that were left out.

    reasons: the first few bad rows, "file, line 3: why"; digest: sha256 of the ids in file order.
    """

    pairs: list[Pair]
    num_skipped: int
    reasons: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and is judged on; no prompt text is in both.

    digest: sha256 of the ids of train and heldout, in order.
    """

    train: list[Pair]
    heldout: list[Pair]
    num_skipped: int
    reasons: tuple[str, ...]
    digest: str


class BadRow(ValueError):
    """Why one row cannot be used; `read_pairs` adds the file and the line."""


def load(data: "DataConfig") -> Dataset:
    """The train and held-out pairs that the `data` section of a run asks for."""
    num_skipped = 0
    reasons: tuple[str, ...] = ()
    if data.path == MICRO:
        train, heldout = micro_pairs(
            size=data.size, heldout=data.heldout, seed=data.seed, eval_split=data.eval_split
        )
    else:
        source = read_pairs(
            data.path,
            split=data.split,
            revision=data.revision,
            skip_bad_rows=data.skip_bad_rows,
        )
        train, heldout = split_pairs(
            source.pairs, size=data.size, heldout=data.heldout, seed=data.seed
        )
        num_skipped, reasons = source.num_skipped, source.reasons
    digest = _digest([pair.id for pair in train], [pair.id for pair in heldout])
    return Dataset(train, heldout, num_skipped, reasons, digest)


def check_reachable(path: str, *, revision: str | None = None) -> None:
    """Raise ValueError if the source is not there: to be asked before anything heavy is loaded.

    A local file or folder must be readable; a hub dataset must answer within HUB_SECONDS or be in
    the local cache. With HF_HUB_OFFLINE or HF_DATASETS_OFFLINE only the cache counts.
    """
    if path == MICRO:
        return
    local = _local(path)
    if local is None:
        _reach_hub(path, revision=revision)
    elif not os.access(local, os.R_OK | (os.X_OK if local.is_dir() else 0)):
        raise ValueError(f"data.path={path} may not be read by this user; change its permissions")


def read_pairs(
    path: str,
    *,
    split: str = "train",
    revision: str | None = None,
    skip_bad_rows: bool = False,
) -> Source:
    """Every pair of a file, a `datasets` folder or a hub dataset "owner/name", in file order.

    What exists on this machine is local; `split` chooses among the splits of a folder or a hub
    dataset, `revision` is of the hub. A pair is the first user turn of a row and the assistant
    turn directly after it; an empty system message is none. A row without such a pair raises
    ValueError, or with skip_bad_rows is left out and counted.
    """
    texts: list[tuple[str | None, str, str]] = []
    num_skipped = 0
    reasons: list[str] = []
    for place, row in _rows(path, split=split, revision=revision):
        try:
            texts.append(_texts(row))
        except BadRow as bad:
            reason = f"{path}, {place}: {bad}"
            if not skip_bad_rows:
                raise ValueError(
                    f"{reason}; repair the row, or leave such rows out with data.skip_bad_rows=true"
                ) from None
            num_skipped += 1
            if len(reasons) < NUM_REASONS:
                reasons.append(reason)
    if not texts:
        detail = f": {num_skipped} skipped, the first one {reasons[0]}" if reasons else ""
        raise ValueError(f"data.path={path} has no usable row{detail}; a row has {SCHEMAS}")
    pairs = _identified(texts)
    return Source(pairs, num_skipped, tuple(reasons), _digest([pair.id for pair in pairs]))


def split_pairs(
    pairs: Sequence[Pair], *, size: int | None, heldout: int, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """`size` pairs to train on (None = all that are left) and `heldout` to judge on.

    Both are drawn by a hash of the seed and the content: the row order of the file does not
    matter, and with the same seed and heldout a larger train set begins with every smaller one.
    Held out are prompt TEXTS, one pair each; other pairs with such a text are in neither part.
    """
    prompts = sorted(
        {pair.prompt for pair in pairs}, key=lambda text: _digest(seed, "heldout", text)
    )
    if heldout > len(prompts):
        raise ValueError(
            f"data.heldout={heldout} exceeds the {len(prompts)} distinct prompts of "
            f"{len(pairs)} pairs; use a smaller one"
        )
    held = set(prompts[:heldout])
    judged: dict[str, Pair] = {}  # prompt text -> its first pair
    train: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: _digest(seed, "train", pair.id)):
        if pair.prompt in held:
            judged.setdefault(pair.prompt, pair)
        else:
            train.append(pair)
    if not train or (size is not None and size > len(train)):
        raise ValueError(
            f"data.size={'null' if size is None else size}, but {len(train)} pairs are left to train "
            f"on ({len(pairs)} pairs, without those of the data.heldout={heldout} prompts); "
            f"use size=all or a smaller data.heldout"
        )
    return train[:size], [judged[text] for text in prompts[:heldout]]


def micro_pairs(
    *, size: int | None, heldout: int, seed: int, eval_split: str
) -> tuple[list[Pair], list[Pair]]:
    """Train and held-out pairs of the built-in task, whose splits share no prompt.

    The seed chooses the train pairs, nested in size. The held-out ones are the first of
    eval_split ("validation" or "test") under a fixed seed, the same for every run.
    """
    from tspin.micro import task

    def first(split: str, num: int | None, seed: int, option: str) -> list[Pair]:
        available = task.num_available(split)
        num = available if num is None else num
        if num > available:
            raise ValueError(
                f"{option}={num} exceeds the {available} pairs of the micro split {split!r}; "
                f"use a smaller one"
            )
        rows = task.pairs(split, num, seed=seed)
        return _identified((None, prompt, answer) for prompt, answer in rows)

    return (
        first("train", size, seed, "data.size"),
        first(eval_split, heldout, MICRO_EVAL_SEED, "data.heldout"),
    )


# Identity


def _identified(texts: Iterable[tuple[str | None, str, str]]) -> list[Pair]:
    """(system, prompt, annotated) -> pairs with ids that are unique in this list."""
    seen: Counter[str] = Counter()
    pairs = []
    for system, prompt, annotated in texts:
        content = _digest(system, prompt, annotated)[:16]
        repeat = f"-{seen[content]}" if seen[content] else ""
        seen[content] += 1
        pairs.append(Pair(content + repeat, prompt, annotated, system))
    return pairs


def _digest(*parts: object) -> str:
    """sha256, in hex, of the parts as one JSON list; the same on every machine and day."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


# Rows to texts


def _texts(row: object) -> tuple[str | None, str, str]:
    """(system, prompt, annotated) of a row in any of SCHEMAS, or BadRow.

    Columns that are null count as absent: a table that mixes schemas is filled up with nulls.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        raise BadRow(f"it is not an object but {_type(row)}")
    row = {name: value for name, value in row.items() if value is not None}
    if "messages" in row or "conversations" in row:  # before prompt: ultrachat has both
        name = "messages" if "messages" in row else "conversations"
        system, prompt, annotated = _first_round(row[name], name)
    elif "prompt" in row and ("response" in row or "completion" in row):
        name = "response" if "response" in row else "completion"
        if isinstance(row["prompt"], list) and isinstance(row[name], list):
            system, prompt, annotated = _first_round(row["prompt"] + row[name], f"prompt + {name}")
        else:
            system, prompt = None, _text(row["prompt"], "prompt")
            annotated = _text(row[name], name)
    elif "instruction" in row and "output" in row:
        system, prompt = None, _text(row["instruction"], "instruction")
        if extra := _optional_text(row.get("input"), "input"):
            prompt = f"{prompt}\n\n{extra}"
        annotated = _text(row["output"], "output")
    else:
        raise BadRow(f"unknown schema with columns {reprlib.repr(sorted(row))}; it needs {SCHEMAS}")
    return system or _optional_text(row.get("system"), "system"), prompt, annotated


def _first_round(turns: object, name: str) -> tuple[str | None, str, str]:
    """(system, prompt, annotated): the first user turn and the assistant turn directly after it.

    Only turns up to there are read: later ones may be of any kind. An assistant turn before the
    first user turn (a greeting, or a conversation cut out of a longer one) is passed over.
    """
    if not isinstance(turns, list):
        raise BadRow(f"{name} is not a list of turns but {_type(turns)}")
    systems, prompt = [], None
    for number, turn in enumerate(turns, start=1):
        place = f"turn {number} of {name}"
        role, content = _turn(turn, place)
        if prompt is None and role == "system":
            systems.append(_optional_text(content, place))
        elif prompt is None and role == "user":
            prompt = _text(content, f"{place} (user)")
        elif prompt is not None and role != "assistant":
            raise BadRow(f"no assistant turn directly after the first user turn of {name}")
        elif prompt is not None:
            annotated = _text(content, f"{place} (assistant)")
            return "\n\n".join(filter(None, systems)) or None, prompt, annotated
    raise BadRow(f"{name} has no {'user' if prompt is None else 'assistant'} turn")


def _turn(turn: object, place: str) -> tuple[str, object]:
    """(role, content) of {"role", "content"} or of ShareGPT's {"from", "value"}."""
    if not isinstance(turn, Mapping):
        raise BadRow(f"{place} is not an object but {_type(turn)}")
    role, content = ("from", "value") if "from" in turn else ("role", "content")
    named = turn.get(role)
    if not isinstance(named, str) or named not in ROLES:
        raise BadRow(f"{place} has {role}={reprlib.repr(named)}, which is none of {sorted(ROLES)}")
    return ROLES[named], turn.get(content)


def _text(value: object, name: str) -> str:
    text = _optional_text(value, name)
    if text is None:
        raise BadRow(f"{name} is empty")
    return text


def _optional_text(value: object, name: str) -> str | None:
    """The text unchanged; None where there is none: null, empty or only white space."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRow(f"{name} is not a string but {_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} is not valid Unicode: invalid UTF-8 or half a surrogate") from None
    return value if value.strip() else None


def _type(value: object) -> str:
    return "null" if value is None else type(value).__name__


# Sources to rows


def _rows(path: str, *, split: str, revision: str | None) -> Iterator[tuple[str, object]]:
    """(place, row) of a source, places counting from 1; a row that cannot be read is a BadRow."""
    local = _local(path)
    if local is None:
        return _dataset_rows(_hub_dataset(path, split=split, revision=revision))
    if local.is_dir():
        return _dataset_rows(_folder_dataset(local, split=split))
    match local.suffix.lower():
        case ".jsonl":
            return _jsonl_rows(local)
        case ".json":
            return _json_rows(local)
        case _:
            return _parquet_rows(local)


def _local(path: str) -> Path | None:
    """The path as a readable kind of file or folder, None for a hub id, ValueError for neither."""
    if not path:
        raise ValueError(f"data.path is not set; use {SOURCES}, or a hub id owner/name")
    local = Path(os.path.expanduser(path))
    if os.path.isdir(local):
        return local
    if os.path.exists(local):
        if local.suffix.lower() not in SUFFIXES:
            raise ValueError(f"data.path={path} is a kind of file that is not read; use {SOURCES}")
        return local
    is_hub_id = re.fullmatch(r"[^/.~\s][^/\s]*/[^/\s]+", path)
    if is_hub_id and local.suffix.lower() not in SUFFIXES:
        return None
    raise ValueError(f"data.path={path}: no such file; use {SOURCES}, or a hub id owner/name")


def _jsonl_rows(path: Path) -> Iterator[tuple[str, object]]:
    with path.open("rb") as lines:  # bytes: str lines would also end at U+2028 inside a text
        for number, line in enumerate(lines, start=1):
            if line := line.strip():
                yield f"line {number}", _parse_json(line)


def _json_rows(path: Path) -> Iterator[tuple[str, object]]:
    rows = _parse_json(path.read_bytes())
    if isinstance(rows, BadRow):
        raise ValueError(f"{path}: {rows}; if each line is a row of its own, name it .jsonl")
    if isinstance(rows, Mapping):
        rows = rows.get("data")
    if not isinstance(rows, list):
        raise ValueError(f'{path}: neither a list of rows nor {{"data": [rows]}}; use {SOURCES}')
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _parse_json(data: bytes) -> object:
    """The value of a JSON text, or BadRow."""
    # A byte that is not UTF-8 becomes half a surrogate, which `_optional_text` refuses in its row
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return BadRow(f"broken JSON ({error.msg} at {line}column {error.colno})")
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits, 5000 open brackets
        return BadRow(f"JSON out of bounds ({error})")


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
                for row in _batch_rows(batch):
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}, after row {number}: unreadable parquet: {error}") from error


def _batch_rows(batch: "pyarrow.RecordBatch") -> list[object]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [BadRow(f"invalid UTF-8 ({error.reason})")]
    return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]


def _dataset_rows(dataset: "datasets.Dataset") -> Iterator[tuple[str, object]]:
    # Through `datasets` and not its Arrow table, which may hold encoded columns
    for start in range(0, len(dataset), ROWS_PER_BATCH):
        stop = min(start + ROWS_PER_BATCH, len(dataset))
        try:
            columns = dataset[start:stop]
            rows: list[object] = [
                dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
        except UnicodeDecodeError:
            rows = [_dataset_row(dataset, index) for index in range(start, stop)]
        yield from ((f"row {start + i}", row) for i, row in enumerate(rows, start=1))


def _dataset_row(dataset: "datasets.Dataset", index: int) -> object:
    try:
        return dataset[index]
    except UnicodeDecodeError as error:
        return BadRow(f"invalid UTF-8 ({error.reason})")


# `datasets` folders and the hub


def _folder_dataset(path: Path, *, split: str) -> "datasets.Dataset":
    """A folder written by save_to_disk, or one of data files; a lone Dataset has no splits."""
    import datasets

    try:
        if (path / "dataset_dict.json").exists():
            splits = datasets.load_from_disk(str(path))
            if split not in splits:
                raise ValueError(f"no split {split!r}, only {sorted(splits)}")
            return splits[split]
        if (path / "state.json").exists():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path), split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"data.path={path} with data.split={split}: {_cause(error)}; use another data.split, "
            f"or one of its files as data.path to see which row is at fault"
        ) from error


def _hub_dataset(path: str, *, split: str, revision: str | None) -> "datasets.Dataset":
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    prepared = _reach_hub(path, revision=revision)
    try:
        if prepared is None:
            return datasets.load_dataset(path, split=split, revision=revision)
        # load_dataset would ask the hub five more times, and then take any cached revision
        config_name, version, commit = prepared.parts[-3:]
        cache = Cache(
            repo_id=path,
            dataset_name=path.split("/")[1],
            config_name=config_name,
            version=version,
            hash=commit,
        )
        return cache.as_dataset(split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"hub dataset data.path={path} with data.split={split}, data.revision={revision}: "
            f"{_cause(error)}; use another data.split, or data.path=FILE, {SOURCES}"
        ) from error


def _reach_hub(path: str, *, revision: str | None) -> Path | None:
    """None if the hub answers, else the folder of the local cache, else ValueError."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import RevisionNotFoundError

    if datasets.config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE:
        why = "offline mode is on"
    else:
        try:
            huggingface_hub.HfApi().dataset_info(path, revision=revision, timeout=HUB_SECONDS)
            return None
        except RevisionNotFoundError:
            raise ValueError(
                f"hub dataset data.path={path} has no data.revision={revision}; use a commit, tag "
                f"or branch of it"
            ) from None
        except Exception as error:  # the HTTP client, and with it its errors, changes by version
            why = _cause(error)
    prepared = _prepared(path, revision=revision)
    if prepared is None:
        raise ValueError(
            f"data.path={path} is no local file, and as a hub dataset it is neither in reach "
            f"({why}) nor in the local cache; use data.path=FILE, {SOURCES}"
        )
    return prepared


def _prepared(path: str, *, revision: str | None) -> Path | None:
    """The newest folder config/version/commit in which `datasets` keeps this hub dataset.

    A revision that is a commit must be that one; a tag or branch cannot be told without the hub.
    """
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, name = path.split("/")
    root = Path(datasets.config.HF_DATASETS_CACHE, f"{owner}___{camelcase_to_snakecase(name)}")
    commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision or "") else "*"
    folders = [
        file.parent
        for file in root.glob(f"*/*/{commit}/dataset_info.json")
        # A folder with another name than its configuration holds only a part: some data_files
        if json.loads(file.read_bytes()).get("config_name") == file.parts[-4]
        and not file.parent.name.endswith(".incomplete")
    ]
    if len({folder.parent.parent for folder in folders}) > 1:  # as `datasets` chooses by the hub
        folders = [folder for folder in folders if folder.parts[-3] == "default"]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _cause(error: BaseException) -> str:
    """One line of the first error of a chain: `datasets` wraps the telling one in general ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}".removesuffix(": ")
