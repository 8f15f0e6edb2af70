"""The run and the iteration that a verb is about, by the words people have for them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tspin.config.run import Run
from tspin.data.templates import Rendering
from tspin.runs import retention
from tspin.runs.artifacts import Iteration, RunDir, day_of, no_run
from tspin.runs.point import stored

RUN = "the folder of a run: runs/NAME"  # as verbs' help has it


@dataclass(frozen=True)
class StoredRun:
    """The configuration and the folder of a run."""

    cfg: Run
    folder: RunDir

    @staticmethod
    def open(path: str) -> StoredRun:
        """The run in a folder; ValueError where there is none of this version."""
        folder = RunDir(Path(path).expanduser())
        point = stored(RunDir(folder.path.absolute()))
        if not folder.config.exists():
            raise no_run(folder.path)
        if point is None:
            raise ValueError(
                f"run={path} is no run of this version (its config.yaml is of another name or "
                "version); python -m tspin status"
            )
        return StoredRun(point.run, folder)

    @property
    def name(self) -> str:
        return self.folder.path.absolute().name

    @property
    def rendering(self) -> Rendering:
        """How its prompts were rendered, on the day on which they were."""
        return Rendering.of(self.cfg, day_of(self.folder))

    def iteration(self, name: str) -> Iteration:
        """The finished iteration that iteration=NAME means: best, last or a number."""
        path = self.folder.path
        done = [self.folder.iteration(t) for t in self.folder.iterations()]
        if not done:
            raise ValueError(f"{path} has no finished iteration yet; python -m tspin status")
        if name == "last":
            return done[-1]
        if name == "best":
            best = retention.best(done)
            if best is None:
                raise ValueError(
                    f"iteration=best: {path} has no held-out prompts to say which is best; "
                    "use iteration=last or a number"
                )
            return self.folder.iteration(best[0])
        by_number = {str(out.t): out for out in done}
        if name not in by_number:
            raise ValueError(
                f"iteration={name} is none of {path}'s; use best, last or one of "
                f"{', '.join(by_number)}"
            )
        return by_number[name]

    def kept(self) -> list[Iteration]:
        """The finished iterations whose checkpoints are there."""
        outs = [self.folder.iteration(t) for t in self.folder.iterations()]
        return [out for out in outs if out.checkpoint.is_dir() and not out.removed.exists()]

    def weights(self, out: Iteration) -> Path:
        """The checkpoint of an iteration; ValueError where it is gone, with those that are not."""
        numbers = [str(other.t) for other in self.kept()]
        hint = f"weights are there of iteration {', '.join(numbers)}" if numbers else "none are"
        try:
            weights = out.weights()
        except ValueError as error:
            raise ValueError(f"{error} ({hint})") from None
        if not weights.is_dir():
            raise ValueError(
                f"{weights} is not on this disk ({hint}); sync.checkpoints says what a copy holds"
            )
        return weights
