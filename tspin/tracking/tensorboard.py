"""A run in TensorBoard: event files in the run's folder; the only importer of its writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tspin.tracking.view import Histogram, Identity, Picture, Rows, Told

ALERTS = "alerts/"  # before a kind, in the name of a text
TEXT = "/text_summary"  # what the writer puts behind the name of a text


class TensorBoard:
    """The Backend that is TensorBoard. A later launch writes a further event file beside."""

    label = "TensorBoard"

    def __init__(self, identity: Identity, *, folder: Path) -> None:
        self._identity, self._folder = identity, folder
        self._writer: Any = None
        self._num_alerts = 0

    def start(self) -> str:
        from torch.utils.tensorboard import SummaryWriter

        launches = len(list(self._folder.glob("events.*")))
        self._writer = SummaryWriter(str(self._folder))
        facts: dict[str, Any] = {"name": self._identity.name, "objective": self._identity.job_type}
        facts |= {"tags": list(self._identity.tags), **self._identity.config}
        self._writer.add_text("config", _code(yaml.safe_dump(facts, sort_keys=False)), launches)
        return f"tensorboard --logdir {self._folder}"

    def told(self) -> Told:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        # The last of each is enough.
        readers = {
            name: getattr(EventAccumulator, name)
            for name in ("Scalars", "Histograms", "Images", "Tensors")
        }
        events = EventAccumulator(str(self._folder), dict.fromkeys(map(str.lower, readers), 1))
        tags = events.Reload().Tags()
        steps = {
            tag.removesuffix(TEXT): read(events, tag)[-1].step
            for name, read in readers.items()
            for tag in tags[name.lower()]
        }
        alerts = {key.removeprefix(ALERTS) for key in steps if key.startswith(ALERTS)}
        return Told(steps, frozenset(alerts))

    def log(self, axis: str, step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            match value:
                case Histogram():
                    self._histogram(key, step, value)
                case Rows():
                    self._writer.add_text(key, _markdown(value), step)
                case Picture():
                    self._writer.add_image(key, value.pixels, step, dataformats="HWC")
                case str():
                    self._writer.add_text(key, _code(value), step)
                case _:
                    self._writer.add_scalar(key, value, step)
        self._writer.flush()  # what a kill may not take

    def alert(self, kind: str, text: str) -> None:
        self._writer.add_text(f"{ALERTS}{kind}", text, self._num_alerts)
        self._num_alerts += 1

    def finish(self, exit_code: int) -> None:
        if self._writer is not None:
            self._writer.close()

    def _histogram(self, key: str, step: int, value: Histogram) -> None:
        middles = (value.edges[:-1] + value.edges[1:]) / 2
        self._writer.add_histogram_raw(
            key,
            min=value.edges[0],
            max=value.edges[-1],
            num=value.counts.sum(),
            sum=(value.counts * middles).sum(),
            sum_squares=(value.counts * middles**2).sum(),
            bucket_limits=value.edges[1:].tolist(),
            bucket_counts=value.counts.tolist(),
            global_step=step,
        )


def _code(text: str) -> str:
    """As it is, under TensorBoard's Markdown."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _markdown(table: Rows) -> str:
    """A table in Markdown; texts of models stay in their cells."""
    lines = [table.columns, ["---"] * len(table.columns), *table.cells]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
