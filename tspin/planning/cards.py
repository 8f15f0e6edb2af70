"""What cards can do at most: memory, matrix products, traffic to memory."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Of one device.

    memory   bytes, by its name
    flops    operations a second of bfloat16 products: measured, or all of the data sheet's number
    traffic  bytes a second to and from its memory: all of the data sheet's number
    source   of flops; traffic is nominal
    """

    name: str
    memory: float
    flops: float
    traffic: float
    source: str


# Nominal: vendors' data sheets, dense bfloat16 summed in float32. H100 and H200 have 989 TFLOP/s by
# theirs; large products were measured at 670 to 700, and the upper end is taken. A number that is
# nominal puts the floor lower than a real card can go.
_MEASURED = "measured, 0.71 of nominal"
CARDS = {
    "h200": Card("H200", 141e9, 700e12, 4.8e12, _MEASURED),
    "h100": Card("H100 SXM", 80e9, 700e12, 3.35e12, _MEASURED),
    "a100-80": Card("A100 80 GB SXM", 80e9, 312e12, 2.039e12, "nominal"),
    "a100-40": Card("A100 40 GB SXM", 40e9, 312e12, 1.555e12, "nominal"),
    "l40s": Card("L40S", 48e9, 362e12, 0.864e12, "nominal"),
    "rtx4090": Card("RTX 4090", 24e9, 165e12, 1.008e12, "nominal"),
}


def this_cpu(flops: float) -> Card:
    """flops: measured. Traffic is not, and caches change it: it bounds nothing."""
    return Card("this CPU", math.inf, flops, math.inf, "measured here")
