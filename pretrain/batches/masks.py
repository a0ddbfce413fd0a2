"""Patches of a global crop that are hidden from the student: blocks, as in BEiT and iBOT."""

from __future__ import annotations

import math

import numpy as np

from .config import MaskConfig


def block_mask(side: int, config: MaskConfig, generator: np.random.Generator) -> np.ndarray:
    """Draw the hidden patches of one crop of side x side patches: (side * side,) bool.

    Blocks of at least four patches and of aspect 0.3 to 3.3 are placed until the drawn share is covered; single
    patches make up the exact count. BEiT (arXiv 2106.08254), algorithm 1; iBOT, section 3.1.
    """
    hidden = np.zeros((side, side), bool)
    if generator.random() >= config.probability:
        return hidden.ravel()
    count = round(generator.uniform(*config.ratio) * side * side)
    for _ in range(10):
        missing = count - int(hidden.sum())
        if missing < 4:
            break
        area = generator.uniform(4, max(4.0, missing))
        aspect = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
        height = min(side, max(1, round(math.sqrt(area * aspect))))
        width = min(side, max(1, round(math.sqrt(area / aspect))))
        top, left = generator.integers(side - height + 1), generator.integers(side - width + 1)
        block = hidden[top : top + height, left : left + width]
        if (~block).sum() <= missing:
            block[:] = True
    flat = hidden.ravel()
    missing = count - int(flat.sum())
    if missing > 0:
        flat[generator.choice(np.flatnonzero(~flat), missing, replace=False)] = True
    return flat
