"""Space on the disk for what a stage of a run writes, checked before it begins."""

from __future__ import annotations

from pathlib import Path

from tspin.config.run import Run
from tspin.distributed.world import World
from tspin.planning import disk, shapes
from tspin.runs import retention
from tspin.runs.artifacts import Iteration, RunDir
from tspin.selfplay.inputs import Inputs


class DiskSpace:
    """What the stages of one run write, against what is free."""

    def __init__(self, cfg: Run, folder: RunDir, inputs: Inputs, world: World) -> None:
        self.cfg, self.folder, self.world = cfg, folder, world
        heldout = len(inputs.heldout)
        self.sizes = disk.sizes(
            cfg,
            parameters=_num_trained(cfg, inputs.initial) or 0,  # unknown: not checked
            train=len(inputs.prompts) - heldout,
            heldout=heldout,
            others=disk.bytes_beside(inputs.initial),
        )

    def check(self, place: Path, label: str, **needed: int) -> None:
        """OSError where there is too little. needed: what it is for people -> bytes"""
        self.world.main(self._check, place, label, needed)

    def _check(self, place: Path, label: str, needed: dict[str, int]) -> None:
        least = self.cfg.selfplay.keep == "last"
        earlier = 0 if least else retention.removable(self.cfg, self.folder)
        disk.check_room(place, needed, stage=label, earlier=earlier)

    def check_training(self, out: Iteration, label: str) -> None:
        """For the iteration's checkpoint, and what is saved until it is complete."""
        sizes, saved = self.sizes, disk.bytes_in(out.train_state.parent)
        self.check(
            out.path,
            label,
            checkpoint=sizes.checkpoint,
            train_state=max(0, sizes.training - sizes.checkpoint - saved),
            metrics=sizes.metrics,
        )


def _num_trained(cfg: Run, initial: Path) -> int | None:
    """Weights that a checkpoint holds."""
    lora = cfg.model.lora
    if lora is None:
        return disk.num_parameters(initial)
    try:
        return shapes.find(cfg.model).adapters(lora)
    except ValueError:  # an architecture whose matrices are not counted
        return None
