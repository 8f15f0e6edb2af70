"""Where something for others goes: a folder of this disk, or a repository of the hub.

`to=FOLDER` must not be there yet; `to=hub:OWNER/NAME` is written to a temporary folder and pushed
with the login that huggingface_hub finds (HF_TOKEN or `hf auth login`), private unless
private=false. `to=hub` names the repository itself, among those of the login.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tspin.tools.files import atomic

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hub"
LONGEST = 96  # characters that the hub takes for a name


@dataclass
class Place:
    """folder  to be filled; where  what is at `to` in the end, in words"""

    folder: Path
    where: str


def check(to: str) -> None:
    """ValueError, before anything is made, for a place that cannot be."""
    if _on_hub(to):
        if to != HUB and not re.fullmatch(r"[\w.-]+/[\w.-]+", to.removeprefix(f"{HUB}:")):
            raise ValueError(f"to={to}: write to={HUB}:OWNER/NAME")
    elif not to:
        raise ValueError(f"to= is empty; write to=FOLDER or to={HUB}:OWNER/NAME")
    elif Path(to).expanduser().exists():
        raise ValueError(f"to={to} is there already; name a new folder, or remove it")


@contextmanager
def opened(
    to: str, kind: Literal["model", "dataset"], *, name: str, private: bool
) -> Iterator[Place]:
    """A folder to fill, which is put in its place when all went well.

    name  of the repository that to=hub makes
    """
    check(to)
    if not _on_hub(to):
        with atomic(Path(to).expanduser()) as temporary:
            temporary.mkdir()
            yield Place(temporary, to)
        return
    wanted = to.removeprefix(f"{HUB}:") if to != HUB else for_hub(name)
    with _hub(wanted) as api:
        api.whoami()  # before the work, not behind it
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), to)
        yield place
        with _hub(wanted) as api:
            repository = api.create_repo(wanted, repo_type=kind, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository.repo_id, repo_type=kind, folder_path=folder)
        place.where = str(repository)


def _on_hub(to: str) -> bool:
    return to == HUB or to.startswith(f"{HUB}:")


def for_hub(name: str) -> str:
    """A name as the hub allows: ASCII, single - and ., and none of them at an end.

    One that is too long loses its beginning, since what tells iterations apart is at the end.
    """
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name)
    return re.sub(r"\.+", ".", plain)[-LONGEST:].strip("-.")


@contextmanager
def _hub(name: str) -> Iterator[HfApi]:
    """The hub's client; its errors are one line. name: OWNER/NAME, or NAME among the login's own"""
    from huggingface_hub import HfApi

    try:
        yield HfApi()
    except Exception as error:  # the HTTP client, and with it its errors, changes by version
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"to={HUB}:{name}: the hub did not take it ({reason}); log in with `hf auth login`, or "
            "write to=FOLDER and upload that"
        ) from None
