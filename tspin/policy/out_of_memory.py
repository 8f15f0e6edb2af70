"""What goes through a model at a time, where a device runs out of memory: less, and again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from tspin.tools.log import first_line

log = logging.getLogger("tspin")
Cut = TypeVar("Cut")
Result = TypeVar("Result")


def until_it_fits(
    work: Callable[[Cut], Result],
    cut: Cut,
    halved: Callable[[Cut], Cut | None],
    *,
    where: str,
    same: str,
) -> tuple[Result, Cut]:
    """work(cut), with half the cut wherever the device runs out of memory. -> (result, that cut)

    halved  None for a cut of which there is no half: then the device's error is raised
    where   what people call the work
    same    what does not depend on the cut: "the samples are the same"
    """
    while True:
        try:
            return work(cut), cut
        except torch.OutOfMemoryError as error:
            smaller = halved(cut)
            if smaller is None:
                raise
            reason = first_line(error)
        # Outside of `except`: the traceback holds on to the tensors that did not fit.
        log.warning("%s: %s; from here on %s, %s", where, reason, smaller, same)
        cut = smaller
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
