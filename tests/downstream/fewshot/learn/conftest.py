"""Small synthetic scans in memory, a quick training configuration, and one finished training shared by a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.fewshot.learn.config import EpisodeConfig, TrainConfig
from vetdino.downstream.fewshot.learn.training import train
from vetdino.downstream.fewshot.method.config import PrototypeConfig, SliceConfig
from vetdino.downstream.volumes.volume import Volume

QUICK = TrainConfig(
    slices=SliceConfig(grid=8),
    episodes=EpisodeConfig(min_size=40, shift=2.0),
    prototypes=PrototypeConfig(training_window=2),
    groups=("liver",),
    folds=2,
    steps=7,
    record_every=3,
    lr=0.01,
    device="cpu",
)


def liver_scan(number: int) -> Volume:
    """A speckled body on black, a liver in slices 1 to 3 of five."""
    random = np.random.default_rng(number)
    z, y, x = np.mgrid[:5, :64, :64]
    labels = ((np.hypot(y - 26, x - 24) < 9) & (z > 0) & (z < 4)).astype(np.uint8)
    image = (np.hypot(y - 32, x - 32) < 26) * (80 + 70.0 * labels + random.normal(0, 12, z.shape))
    image = np.clip(image.round(), 0, 255).astype(np.float32)
    return Volume(str(number), image, labels, (5.0, 1.5, 1.5), "mri", None)


class InMemoryVolumes:
    """Scans in memory with the interface of a prepared folder; scan 9 has no labels."""

    folder = Path("held")
    digest = "d" * 64

    def __init__(self, count: int = 4, classes: dict[int, str] | None = None) -> None:
        self.classes = classes or {1: "liver"}
        self.names = (*map(str, range(count)), "9")
        self.cards = {name: {"labelled": name != "9"} for name in self.names}

    def load(self, name: str) -> Volume:
        volume = liver_scan(int(name))
        return volume if self.cards[name]["labelled"] else replace(volume, labels_ZHW=None)

    def __len__(self) -> int:
        return len(self.names)


@pytest.fixture(autouse=True)
def without_tracking(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")


@pytest.fixture(scope="session")
def volumes_class() -> type[InMemoryVolumes]:
    return InMemoryVolumes


@pytest.fixture(scope="session")
def quick() -> TrainConfig:
    return QUICK


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory) -> Path:
    """Folder of a training that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
        return train(InMemoryVolumes(), tiny, QUICK, tmp_path_factory.mktemp("finished") / "out")
