"""All contestants make the batches that a pretraining has of the same files; nothing here is timed."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.loader.__main__ import CONTESTANTS, many_shards, measure, picture, row_of, table, write_data
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.device_crops import PlannedBatch
from vetdino.pretrain.config import PretrainConfig

pytestmark = [
    pytest.mark.slow,
    # webdataset leaves the tar that it reads open until it is collected.
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]

CONFIG = PretrainConfig(crops=CropConfig(global_side=32, local_side=16, locals_per_view=2), batch=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    write_data(folder, 12, 3, 96, 20_000, 0)
    return folder


def crops_of(batch: CropBatch) -> dict[str, torch.Tensor]:
    return {key: batch.globals_GB1SS[:, place] for place, key in enumerate(batch.keys)}


def test_all_contestants_cut_the_same_crops_of_an_epoch(data):
    config = PretrainConfig(
        crops=CONFIG.crops,
        batch=12,
        backbone=CONFIG.backbone.__class__(name="vit_tiny_patch16_224", side=32, patch=8),
    )
    first = {name: crops_of(next(make(data, config, "cpu"))) for name, make in CONTESTANTS.items()}
    assert len(first["ours"]) == 12
    for name, crops in first.items():
        assert crops.keys() == first["ours"].keys(), name
        assert all(torch.equal(crops[key], first["ours"][key]) for key in crops), name
    planned = [next(make(data, config, "device")) for make in CONTESTANTS.values()]
    assert all(isinstance(batch, PlannedBatch) for batch in planned)


def test_a_row_is_the_ratio_within_rounds():
    row = row_of("cpu", "folder", [10.0, 20.0, 40.0], [20.0, 40.0, 80.0])
    assert (row["ratio"], row["low"], row["high"]) == (2.0, 2.0, 2.0)
    assert row["studies_per_cpu_second"] == 20


def test_the_table_has_a_line_for_each_contestant_of_each_cut(data):
    args = argparse.Namespace(recipe="small", cuts=["device", "cpu"], batch=4, rounds=2, steps=1)
    rows = measure(args, data)
    assert [(row["cut"], row["contestant"]) for row in rows] == [
        (cut, name) for cut in args.cuts for name in CONTESTANTS
    ]
    assert table(rows).count("\n") == 6


def test_a_picture_of_512_px_is_as_large_as_a_radiographs():
    import cv2

    encoded = cv2.imencode(".jpg", picture(np.random.default_rng(0), 512), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    assert 35_000 < len(encoded) < 60_000


def test_a_loader_reads_more_shards_of_two_folders_than_it_may_open_files(tmp_path):
    use = many_shards(argparse.Namespace(many=260, limit=128), tmp_path)
    assert (use["studies"], use["shards"], use["limit"]) == (260, 260, 128)
    assert use["open_files"] < 128
    assert use["last_mb"] - use["first_mb"] < 32
