"""Runs that compare: of one model, data and split, with the same settings that differ from the
default, such as one learning rate for all objectives."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.reading.methods import Run, Setting
from analysis.reading.runs import Runs


@dataclass(frozen=True)
class Regime:
    """A setting, and the variant of their objectives that its runs share."""

    runs: Runs  # of the setting, all variants
    setting: Setting
    variant: str = ""  # "lr=0.0003"; "" where every objective is as configured by default
    overrides: tuple[str, ...] = ()  # the same as words of a command line

    def __str__(self) -> str:
        return f"{self.setting}, {self.variant}" if self.variant else str(self.setting)

    @property
    def slug(self) -> str:
        return f"{self.setting.slug}-{self.variant.replace(' ', '-')}".rstrip("-")

    @property
    def members(self) -> Runs:
        return self.runs.where(lambda run: variant(run) == self.variant)

    def side(self, loss: str) -> list[Run]:
        return [run for run in self.members if run.loss == loss]


def regimes(runs: Runs) -> list[Regime]:
    """Every setting by default; on test prompts also every variant that several objectives share,
    but for the number of pairs. On validation prompts variants are there to choose from."""
    result = []
    for setting in runs.settings():
        part = runs.of(setting)
        result.append(Regime(part, setting))
        variants = part.where(lambda run: not run.differs_only_in("data.size"))
        for name, members in sorted(variants.grouped(variant).items()):
            if setting.split == "test" and len({run.loss for run in members}) > 1:
                words = [f"{key}={value}" for key, value in members[0].variant.items()]
                overrides = tuple(word.replace(" ", "") for word in words)
                result.append(Regime(part, setting, name, overrides))
    return result


def variant(run: Run) -> str:
    """What its label says beside the objective."""
    return run.label.removeprefix(str(run.values["loss.label"])).strip()
