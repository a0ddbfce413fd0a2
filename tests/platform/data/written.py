"""Generated studies and folders of shards for the tests."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index_file import save_index
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View


def a_study(number: int, views: int = 2, split: str = "train") -> Study:
    """A study with pictures of noise; each pair of numbers is one patient."""
    random = np.random.default_rng(number)
    return Study(
        key=f"{number:024x}",
        patient=f"{number // 2:024x}",
        views=tuple(
            View(
                random.integers(0, 256, (24, 32), np.uint8),
                projection=("VD", "LLAT")[place % 2],
                spacing=(0.2, 0.3),
                facts={"voi": "window"},
            )
            for place in range(views)
        ),
        labels={"effusion": 1.0, "mass": math.nan},
        split=split,
    )


def written(folder: Path, count: int, config: ShardConfig | None = None) -> Manifest:
    """A folder with `count` studies of 1, 2, 3, 1, 2, ... views in the train split."""
    with ShardWriter(folder, "train", config) as writer:
        for number in range(count):
            writer.write(a_study(number, views=1 + number % 3))
    manifest = Manifest(VERSION, "test", ("effusion", "mass"), tuple(writer.shards), {"files": count}, "c0")
    save_manifest(folder, manifest)
    save_index(folder, manifest, writer.rows)
    return manifest


def written_in_splits(folder: Path) -> Manifest:
    """A folder of ten studies, several shards a split; the manifest lists test, train, val."""
    shards, rows = [], []
    for split, numbers in (("train", range(5)), ("val", range(5, 7)), ("test", range(7, 10))):
        with ShardWriter(folder, split, ShardConfig(max_bytes=4000)) as writer:
            for number in numbers:
                writer.write(a_study(number, 1 + number % 3, split))
        shards += writer.shards
        rows += writer.rows
    listed = tuple(sorted(shards, key=lambda shard: shard.split))
    manifest = Manifest(VERSION, "test", ("mass", "effusion"), listed, {}, "c0")
    save_manifest(folder, manifest)
    save_index(folder, manifest, rows)
    return manifest
