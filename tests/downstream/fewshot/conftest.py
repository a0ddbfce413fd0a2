"""Small synthetic scans of two organs, in memory as if read from a prepared folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.pixel_features import PixelFeatures
from vetdino.downstream.volumes.volume import Volume

ORGANS = {1: "liver", 2: "kidneys"}


def draw_organs(seed: int = 0, organs: Sequence[int] = (1, 2)) -> Volume:
    """A gray body with a bright liver and two brighter kidneys (8 x 32 x 32), each scan a bit moved."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:8, :32, :32]
    up, left = random.uniform(-1, 1, 2)
    labels = np.zeros(z.shape, np.uint8)
    if 1 in organs:
        labels[(np.hypot(y - 12 - up, x - 11 - left) < 6) & (z > 0) & (z < 7)] = 1
    if 2 in organs:
        for side in (-6, 6):
            labels[(np.hypot(y - 23 - up, x - 16 - side - left) < 3.5) & (z > 1) & (z < 6)] = 2
    body = np.hypot(y - 16, x - 16) < 15
    image = body * (60 + 60.0 * (labels == 1) + 120 * (labels == 2)) + random.normal(0, 4, z.shape)
    return Volume(f"s{seed}", np.clip(image, 0, 255).astype(np.float32), labels, (5.0, 1.5, 1.5), "mri", None)


class OrganVolumes:
    """Scans in memory with the interface of a prepared folder."""

    def __init__(self, *scans: Volume, classes: dict[int, str] | None = None, folder: str = "held") -> None:
        self.folder = Path(folder)
        self.digest = f"digest of {folder}"
        self.classes = classes or ORGANS
        self._scans = {one.name: one for one in scans}
        self.names = tuple(self._scans)
        self.cards = {name: {"labelled": one.labels_ZHW is not None} for name, one in self._scans.items()}

    def load(self, name: str) -> Volume:
        return self._scans[name]

    def __len__(self) -> int:
        return len(self.names)


@pytest.fixture(scope="session")
def organ_scan() -> Callable[..., Volume]:
    return draw_organs


@pytest.fixture(scope="session")
def organ_volumes() -> type[OrganVolumes]:
    return OrganVolumes


@pytest.fixture(scope="session")
def pixels() -> PixelFeatures:
    return PixelFeatures(SliceConfig(grid=16))
