"""A small synthetic scan with two organs, for the tests of episodes and superpixels."""

from __future__ import annotations

import numpy as np

from vetdino.downstream.volumes.volume import Volume


def scan(seed: int = 0, labelled: bool = True) -> Volume:
    """A speckled body on black; organ 1 in slices 1 and 2, organ 2 in slices 2 and 3, of six."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :64, :64]
    labels = np.zeros(z.shape, np.uint8)
    labels[(np.hypot(y - 24, x - 24) < 9) & (z > 0) & (z < 3)] = 1
    labels[(np.hypot(y - 42, x - 40) < 6) & (z > 1) & (z < 4)] = 2
    body = np.hypot(y - 32, x - 32) < 26
    image = body * (70 + 60.0 * (labels == 1) + 110 * (labels == 2) + random.normal(0, 10, z.shape))
    image = np.clip(image.round(), 0, 255).astype(np.float32)
    return Volume(f"s{seed}", image, labels if labelled else None, (5.0, 1.5, 1.5), "mri", None)
