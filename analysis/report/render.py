"""Drawings as PDF, PNG and SVG. The same drawing gives the same bytes.

Rendering is most of a report's time, so many drawings are rendered in processes side by side.
"""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import matplotlib as mpl
from tqdm import tqdm

from analysis.figures import style
from analysis.figures.pieces import Drawing, Piece

SAVED = ("pdf", "png")
SHOWN = "svg"
MANY = 8  # drawings that are worth starting processes for
MAX_PROCESSES = 8
# Dates and versions are left out.
METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
Images = dict[str, bytes]  # by format


def images(pieces: Sequence[Piece], formats: Sequence[str] = SAVED) -> dict[str, Images]:
    """Of those that are drawings: by name, then by format."""
    drawings = [piece for piece in pieces if isinstance(piece, Drawing)]
    render = partial(_images, formats=tuple(formats))
    processes = min(os.cpu_count() or 1, MAX_PROCESSES)
    bar = partial(tqdm, desc="rendering", total=len(drawings), disable=None, leave=False)
    if len(drawings) < MANY or processes == 1:
        rendered = list(bar(map(render, drawings)))
    else:
        context = multiprocessing.get_context("spawn")  # a fork would copy the readers' threads
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            rendered = list(bar(pool.map(render, drawings)))
    return {drawing.name: files for drawing, files in zip(drawings, rendered, strict=True)}


def _images(drawing: Drawing, formats: Sequence[str]) -> Images:
    files = {}
    if engine := drawing.figure.get_layout_engine():  # laid out once, rather than at every save
        engine.execute(drawing.figure)
        drawing.figure.set_layout_engine("none")
    # The text of an SVG as outlines, so that it looks alike everywhere.
    with style.applied(), mpl.rc_context({"svg.hashsalt": drawing.name, "svg.fonttype": "path"}):
        for ending in formats:
            file = io.BytesIO()
            drawing.figure.savefig(file, format=ending, metadata=METADATA[ending])
            files[ending] = file.getvalue()
    return files
