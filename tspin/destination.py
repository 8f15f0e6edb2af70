"""Where something for others goes: a folder of this disk, or a repository of the hub.

`to=FOLDER` must not be there yet; `to=hub:OWNER/NAME` is written to a temporary folder and pushed
with the login that huggingface_hub finds (HF_TOKEN or `hf auth login`), private unless told
otherwise.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tspin.files import atomic

HUB = "hub:"
TO = (None, "FOLDER, which must not be there yet, or hub:OWNER/NAME")
PRIVATE = ("true", "of a new repository on the hub: true or false")


def check(to: str) -> None:
    """ValueError, before anything is made, for a place that cannot be."""
    if to.startswith(HUB):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", to.removeprefix(HUB)):
            raise ValueError(f"to={to}: write to={HUB}OWNER/NAME")
    elif not to:
        raise ValueError(f"to= is empty; write to=FOLDER or to={HUB}OWNER/NAME")
    elif Path(to).expanduser().exists():
        raise ValueError(f"to={to} is there already; name a new folder, or remove it")


@contextmanager
def opened(to: str, kind: Literal["model", "dataset"], *, private: bool) -> Iterator[Path]:
    """A folder to fill, which is put in its place when all went well."""
    check(to)
    if not to.startswith(HUB):
        with atomic(Path(to).expanduser()) as temporary:
            temporary.mkdir()
            yield temporary
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        _push(Path(folder), to.removeprefix(HUB), kind, private=private)


def _push(folder: Path, name: str, kind: str, *, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type=kind, folder_path=folder)
    except Exception as error:  # the HTTP client, and with it its errors, changes by version
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"to={HUB}{name}: the hub did not take it ({reason}); log in with `hf auth login`, or "
            "write to=FOLDER and upload that"
        ) from None
