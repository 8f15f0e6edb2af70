"""What `export` and `pairs` begin with: options, the run and the iteration, the place to fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tspin.cli.options import BOOLEAN, KeyParser
from tspin.cli.stored_run import StoredRun, add_run
from tspin.config.run import Run
from tspin.data.tokens import Renderer
from tspin.export import destination
from tspin.runs.artifacts import Iteration, RunDir


@dataclass(frozen=True)
class Source:
    """An iteration of a run, for others."""

    cfg: Run
    folder: RunDir
    out: Iteration

    @property
    def title(self) -> str:
        """What the iteration is called where others see it."""
        return f"{self.folder.path.absolute().name}-iter{self.out.t}"

    def weights(self, iteration: str | None = None) -> Path:
        """The checkpoint, or that of another iteration ("last")."""
        run = StoredRun(self.cfg, self.folder)
        return run.weights(self.out if iteration is None else run.iteration(iteration))

    def renderer(self, weights: Path) -> Renderer:
        """The tokenizer beside the weights, with the run's template."""
        from tspin.policy import policy

        return policy.renderer(weights, template=self.cfg.model.template)


def add_options(parser: KeyParser) -> None:
    """run=, iteration=, to= and private=."""
    add_run(parser)
    parser.option("iteration", "best (by held-out prompts), last, or a number", default="last")
    hub = destination.HUB
    parser.option("to", f"FOLDER, which must not be there yet, {hub}:OWNER/NAME or {hub}")
    parser.option(
        "private", "of a new repository on the hub: true or false", default="true", choices=BOOLEAN
    )


@contextmanager
def opened(
    options: Mapping[str, str], kind: Literal["model", "dataset"]
) -> Iterator[tuple[Source, destination.Place]]:
    """The source, and the place to fill, which is put where to= says when all went well."""
    destination.check(options["to"])
    run = StoredRun.open(options["run"])
    source = Source(run.cfg, run.folder, run.iteration(options["iteration"]))
    private = options["private"] == "true"
    with destination.opened(options["to"], kind, name=source.title, private=private) as place:
        yield source, place
