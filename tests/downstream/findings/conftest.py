"""Shards of small noisy studies, a tiny backbone, and fine-tunings of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.common.sources import SourceFactory
from vetdino.downstream.findings.config import FinetuneConfig
from vetdino.downstream.findings.finetune import finetune
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone

COUNTS = {"train": 48, "val": 16, "test": 24}


def study_of(split: str, number: int) -> Study:
    """Two or three views of noise. `square` shows in one of them, at random places; `dim` is known of few."""
    random = np.random.default_rng([number, len(split)])
    square = float(number % 3 == 0)
    views = [random.integers(0, 90, (32, 28)).astype(np.uint8) for _ in range(2 + number % 2)]
    if square:
        top, left = random.integers(2, 18, 2)
        views[random.integers(len(views))][top : top + 9, left : left + 9] += np.uint8(150)
    labels = {"square": square, "dim": float(number % 2) if number % 4 else math.nan, "never": 0.0}
    made = tuple(View(pixels, "VD") for pixels in views)
    return Study(f"{split}{number}", f"p{split}{number // 2}", made, labels, split)


def write_shards(folder: Path, counts: dict[str, int], findings=("square", "dim", "never")) -> Path:
    written = []
    for split, count in counts.items():
        with ShardWriter(folder, split) as writer:
            for number in range(count):
                writer.write(study_of(split, number))
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "squares", findings, tuple(written), {}, "c"))
    return folder


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., Path]:
    """`write_shards`, for tests that need shards of their own."""
    return write_shards


@pytest.fixture(scope="session")
def quick() -> FinetuneConfig:
    """Three epochs in this process, on a CPU."""
    return FinetuneConfig(
        epochs=3, batch=8, lr=3e-3, precision="float32", workers=0, threads=1, device="cpu", layer_decay=0.9
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), COUNTS)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)
    folder = tmp_path_factory.mktemp("backbone")
    save_backbone(folder, random_backbone(small, seed=3))
    return folder


@pytest.fixture(scope="session")
def source(folder, weights):
    return SourceFactory(folder, folder / "features").backbone("ours", weights)


@pytest.fixture(scope="session")
def learnt(source, folder, tmp_path_factory, quick):
    """(answers, out) of one whole fine-tuning."""
    out = tmp_path_factory.mktemp("learnt")
    return finetune(source, folder, replace(quick, epochs=12), out), out


@pytest.fixture(scope="session")
def short(source, folder, tmp_path_factory, quick):
    """Answers of three epochs, never stopped."""
    return finetune(source, folder, quick, tmp_path_factory.mktemp("short"))
