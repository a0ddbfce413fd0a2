"""Small synthetic scans with a liver and two kidneys, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.volumes.volume import Volume

CLASSES = {1: "liver", 2: "right kidney", 3: "left kidney"}


def kidney_scan(seed: int = 0, organs: Sequence[int] = (1, 2, 3), labeled: bool = True) -> Volume:
    """A gray body with a bright liver and two brighter kidneys, the left one smaller; each scan a bit moved."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :32, :32]
    up, left = random.uniform(-1, 1, 2)
    labels = np.zeros(z.shape, np.uint8)
    for number, row, column, radius in ((1, 12, 10, 5.5), (2, 24, 10, 3.5), (3, 24, 22, 2.5)):
        if number in organs:
            labels[(np.hypot(y - row - up, x - column - left) < radius) & (z > 0) & (z < 5)] = number
    body = np.hypot(y - 16, x - 16) < 15
    image = body * (60 + 50.0 * (labels == 1) + 120 * (labels > 1)) + random.normal(0, 4, z.shape)
    image = np.clip(image, 0, 255).astype(np.float32)
    return Volume(f"s{seed}", image, labels if labeled else None, (5.0, 1.5, 1.5), "mri", None)


class InMemoryScans:
    """Scans in memory with the interface of a prepared folder."""

    folder = "in memory"
    classes = CLASSES

    def __init__(self, *scans: Volume) -> None:
        self._scans = {scan.name: scan for scan in scans}
        self.names = tuple(self._scans)
        self.cards = {name: {"labelled": scan.labels_ZHW is not None} for name, scan in self._scans.items()}

    def load(self, name: str) -> Volume:
        return self._scans[name]


@pytest.fixture(scope="session")
def scan() -> Callable[..., Volume]:
    return kidney_scan


@pytest.fixture(scope="session")
def scans() -> type[InMemoryScans]:
    return InMemoryScans


@pytest.fixture(scope="session")
def small() -> dict[str, object]:
    """Settings of a quick audit."""
    return {"folds": 2, "resamples": 10, "slices": SliceConfig(grid=8)}
