"""The files of a transformers folder: are they there, whole, and what they say they are? No torch.

Nothing here loads a weight: of safetensors the headers are read, of the rest JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tspin.tools import hub
from tspin.tools.log import first_line

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS = b"version https://git-lfs"  # how a pointer begins that stands for a file of Git LFS
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")  # as configurations call it
AGAIN = "copy or download it again"
# How names of a tokenizer's files begin: of those that hold its vocabulary, and of all.
VOCABULARIES = ("tokenizer.", "vocab", "spiece", "sentencepiece", "tekken")
_TOKENIZER = (
    *VOCABULARIES,
    *("tokenizer_config", "merges", "special_tokens", "added_tokens", "chat_template"),
)
_PARTS = ("*.safetensors", "*.gguf", "tokenizer.json", "tokenizer.model")
_DATA = ("*.jsonl", "*.parquet", "*.arrow", "dataset_info.json", "dataset_dict.json")


def is_hub_id(path: str) -> bool:
    """Whether it is spelt as OWNER/NAME, which a folder on this disk may be, too."""
    return path.count("/") == 1 and not path.startswith(("/", ".", "~"))


def no_such(path: str) -> str:
    """What is said of a path that is neither there nor spelt as a hub id."""
    return f"model.path={path}: no such folder, and not a hub id OWNER/NAME"


def has_part(folder: Path) -> bool:
    """Whether a folder holds a model or a part of one, going by the names of its files."""
    return any(True for pattern in _PARTS for _ in folder.glob(pattern))


def check(folder: Path) -> None:
    """ValueError, in one line with the file and the cause, where a model's files are not whole."""
    config(folder)
    check_tensors(weight_files(folder))


def config(folder: Path) -> dict[str, Any]:
    """config.json. ValueError where the folder is none of a model."""
    if not folder.is_dir():
        raise ValueError(f"model.path={folder} is a file and no .gguf; give a model's folder")
    if not (folder / CONFIG).exists():
        raise ValueError(f"model.path={folder} holds no {CONFIG}{_instead(folder)}")
    facts = _json(folder / CONFIG)
    if not isinstance(facts, dict):
        raise ValueError(
            f"{folder / CONFIG} is {type(facts).__name__}, not a model's configuration"
        )
    return facts


def own_length(path: str, revision: str | None) -> int | None:
    """The positions that the model at model.path was made for; None where nothing says so.

    What is wrong with the model is not said here but where it is to be loaded.
    """
    folder = Path(path).expanduser()
    facts: Any = None
    if folder.is_dir():
        with suppress(ValueError, OSError):
            facts = config(folder)
    elif not folder.exists() and path.count("/") == 1:
        facts = hub.model_config(path, revision)
    lengths = [facts.get(key) for key in LENGTHS] if isinstance(facts, dict) else []
    return min((n for n in lengths if isinstance(n, int) and n >= 2), default=None)


def tokenizer_files(folder: Path) -> list[Path]:
    """Those that are there. ValueError for a pointer of Git LFS, or for JSON that is cut short."""
    paths = sorted(path for path in folder.iterdir() if path.name.startswith(_TOKENIZER))
    for path in paths:
        if path.suffix == ".json":
            _json(path)
        elif path.is_file():
            _refuse_pointer(path)
    return paths


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights are read from. ValueError where one is missing."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        raise ValueError(no_weights(folder))
    table = _json(folder / INDEX)
    if not isinstance(table, dict) or not isinstance(table.get("weight_map"), dict):
        raise ValueError(f"{folder / INDEX} has no weight_map; {AGAIN}")
    names = sorted({Path(str(name)).name for name in table["weight_map"].values()})
    if missing := [name for name in names if not (folder / name).exists()]:
        raise ValueError(f"{folder} lacks {listed(missing)}, which {INDEX} names; {AGAIN}")
    return [folder / name for name in names]


def no_weights(folder: Path) -> str:
    """The message for a folder without weights of the one kind that is read."""
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if shards:
        return f"{folder} holds {listed(shards)}, but neither {WEIGHTS} nor {INDEX}; {AGAIN}"
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    beside = f" (but {listed(pickles)})" if pickles else ""
    return (
        f"model.path={folder} holds no *.safetensors, the one kind of weights that is read"
        f"{beside}; of a model you trust: from_pretrained(FOLDER).save_pretrained(NEW) in "
        "transformers"
    )


def check_tensors(files: Iterable[Path]) -> None:
    """ValueError for a file of safetensors that is a pointer, cut short or something else."""
    from safetensors import safe_open

    for path in files:
        _refuse_pointer(path)
        try:
            with safe_open(path, "np"):  # its header, held against its size
                pass
        except Exception as error:  # of an own type, SafetensorError
            raise ValueError(
                f"{path} is no whole safetensors file ({first_line(error)}); {AGAIN}"
            ) from None


def check_gguf(path: Path) -> None:
    """ValueError for a .gguf file that is a pointer or something else."""
    _refuse_pointer(path)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} does not begin as a GGUF file; {AGAIN}")


def listed(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _json(path: Path) -> Any:
    _refuse_pointer(path)
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({first_line(error)}); {AGAIN}") from None


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise ValueError(
                f"{path} is a pointer of Git LFS and not the file itself; fetch it: git lfs pull"
            )


def _instead(folder: Path) -> str:
    """What a folder without a config.json seems to be."""
    if any(True for pattern in _DATA for _ in folder.glob(pattern)):
        return " and looks like data, which is for data.path"
    below: Iterator[Path] = folder.glob(f"*/{CONFIG}")
    inside = next((path.parent for path in sorted(below)), None)
    hint = f"; model.path={inside} does" if inside else ""
    return f": it is no model's folder{hint}"
