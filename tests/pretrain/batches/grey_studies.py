"""Studies of plain grey views and small crops, for the tests of crops."""

from __future__ import annotations

import numpy as np

from vetdino.platform.data.study import Study, View
from vetdino.pretrain.batches.config import CropConfig

SMALL = CropConfig(global_side=32, local_side=16, locals_per_view=3)


def study_of(*values: int, key: str = "ab12") -> Study:
    """Views of one grey each, so that a crop tells which view it came from."""
    projections = ("VD", "LLAT", "RLAT", "DV")
    views = tuple(View(np.full((80, 60), v, np.uint8), p) for v, p in zip(values, projections, strict=False))
    return Study(key, "p1", views)


PLAIN = CropConfig(
    global_side=32,
    local_side=16,
    locals_per_view=3,
    brightness=0,
    contrast=0,
    gamma=0,
    noise=0,
    blur=0,
    rotation=0,
)
