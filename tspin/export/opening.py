"""What `export` and `pairs` begin with: options, the run and the iteration, the place to fill.

`to=FOLDER` must not be there yet; `to=hub:OWNER/NAME` is written to a temporary folder and pushed
with the login that huggingface_hub finds (HF_TOKEN or `hf auth login`), private unless
private=false.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tspin.cli.options import BOOLEAN, KeyParser
from tspin.cli.stored_run import RUN, StoredRun
from tspin.data.tokens import Renderer
from tspin.runs.artifacts import Iteration
from tspin.tools.files import atomic
from tspin.tools.log import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hub:"


@dataclass(frozen=True)
class Source(StoredRun):
    """An iteration of a run, for others."""

    out: Iteration

    @property
    def title(self) -> str:
        """What the iteration is called where others see it."""
        return f"{self.folder.path.absolute().name}-iter{self.out.t}"

    def renderer(self, weights: Path) -> Renderer:
        """The tokenizer beside the weights, with the run's template."""
        from tspin.policy import policy

        return policy.renderer(weights, template=self.rendering)


def add_options(parser: KeyParser) -> None:
    """run=, iteration=, to= and private=."""
    parser.option("run", RUN)
    parser.option("iteration", "best (by held-out prompts), last, or a number", default="last")
    parser.option("to", f"FOLDER, which must not be there yet, or {HUB}OWNER/NAME")
    parser.option(
        "private", "of a new repository on the hub: true or false", default="true", choices=BOOLEAN
    )


@contextmanager
def opened(
    options: Mapping[str, str], kind: Literal["model", "dataset"]
) -> Iterator[tuple[Source, Path]]:
    """The source, and a folder to fill, which is put where to= says when all went well."""
    to = options["to"]
    name = to.removeprefix(HUB)
    on_hub = name != to
    if on_hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"to={to}: write to={HUB}OWNER/NAME")
    if to in ("", "hub"):
        raise ValueError(f"to={to}: write to=FOLDER or to={HUB}OWNER/NAME")
    if not on_hub and Path(to).expanduser().exists():
        raise ValueError(f"to={to} is there already; name a new folder, or remove it")
    run = StoredRun.open(options["run"])
    source = Source(run.cfg, run.folder, run.iteration(options["iteration"]))
    if not on_hub:
        with atomic(Path(to).expanduser()) as folder:
            folder.mkdir()
            yield source, folder
    else:
        with _hub(name) as api:
            api.whoami()  # before the work, not behind it
        with tempfile.TemporaryDirectory() as temporary:
            yield source, Path(temporary)
            with _hub(name) as api:
                private = options["private"] == "true"
                to = str(api.create_repo(name, repo_type=kind, private=private, exist_ok=True))
                api.upload_folder(repo_id=name, repo_type=kind, folder_path=temporary)
    sys.stdout.write(f"iteration {source.out.t} of {source.folder.path} -> {to}\n")


@contextmanager
def _hub(name: str) -> Iterator[HfApi]:
    """The hub's client; its errors are one line. name: OWNER/NAME"""
    from huggingface_hub import HfApi

    try:
        yield HfApi()
    except Exception as error:  # the HTTP client, and with it its errors, changes by version
        raise ValueError(
            f"to={HUB}{name}: the hub did not take it ({first_line(error)}); log in with "
            "`hf auth login`, or write to=FOLDER and upload that"
        ) from None
