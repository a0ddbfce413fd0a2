"""Batches depend on the step's number alone, never on workers, processes or where a training begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data import index as index_module
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.manifest import load_manifest, open_shard
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.config import CropConfig, MaskConfig
from vetdino.pretrain.batches.crops import study_crops
from vetdino.pretrain.batches.device_crops import PlannedBatch, crops_on_device
from vetdino.pretrain.batches.loader import CropDataset, crop_loader
from vetdino.pretrain.batches.order import StepSampler, StudyOrder

CROPS = CropConfig(global_side=32, local_side=16, locals_per_view=2)


@pytest.fixture(scope="module")
def dataset(shards) -> CropDataset:
    return CropDataset([str(shards)], CROPS, MaskConfig(), 4, seed=7)


def batches(
    dataset: CropDataset, *, first: int = 0, rank: int = 0, world: int = 1, processes: int = 0
) -> list[CropBatch]:
    order = StudyOrder(len(dataset), 8, 7)
    sampler = StepSampler(order, first=first, steps=5, rank=rank, world=world)
    return list(crop_loader(dataset, sampler, processes))


def equal(one: CropBatch, two: CropBatch) -> bool:
    names = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")
    return one.keys == two.keys and all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)


def test_a_batch_holds_the_crops_of_its_studies(dataset, shards):
    index, order = StudyIndex(shards, "train"), StudyOrder(16, 8, 7)
    for step, batch in enumerate(batches(dataset)):
        for column, row in enumerate(order.rows(step)):
            study = index.load(int(row))
            crops = study_crops(study, CROPS, seed=7, epoch=order.epoch(step))
            assert batch.keys[column] == study.key
            found = batch.globals_GB1SS[:, column, 0].numpy()
            assert np.array_equal(found, crops.globals_VGSS.reshape(found.shape))


def test_workers_processes_and_a_later_start_change_nothing(dataset, shards):
    whole = batches(dataset)
    forked = batches(dataset, processes=2)
    assert all(map(equal, whole, forked))
    afresh = CropDataset([str(shards)], CROPS, MaskConfig(), 4, seed=7)
    assert all(map(equal, whole[3:], batches(afresh, first=3)))
    for rank in (0, 1):
        for share, batch in zip(batches(dataset, rank=rank, world=2), whole, strict=True):
            cut = slice(4 * rank, 4 * rank + 4)
            assert share.keys == batch.keys[cut]
            assert torch.equal(share.hidden_TBN, batch.hidden_TBN[:, cut])
            assert torch.equal(share.locals_LB1SS, batch.locals_LB1SS[:, cut])


@pytest.mark.parametrize("processes", [0, 2])
def test_loaders_may_ship_whole_views_that_become_the_same_crops(dataset, shards, processes):
    whole = CropDataset([str(shards)], CROPS, MaskConfig(), 4, seed=7, planned_only=True)
    for shipped, cut in zip(batches(whole, processes=processes), batches(dataset), strict=True):
        assert isinstance(shipped, PlannedBatch)
        made = crops_on_device(torch.device("cpu"), shipped, CROPS)
        assert made.keys == cut.keys
        assert torch.equal(made.hidden_TBN, cut.hidden_TBN)
        assert (made.globals_GB1SS.float() - cut.globals_GB1SS.float()).abs().mean() < 0.6
        assert (made.locals_LB1SS.float() - cut.locals_LB1SS.float()).abs().mean() < 0.6


def test_studies_of_one_view_are_no_pairs(dataset):
    singles = {"train04", "train09", "train14"}
    for batch in batches(dataset):
        assert batch.pairs == len(set(batch.keys) - singles)


def test_fewer_studies_than_a_batch_are_refused(dataset):
    with pytest.raises(ConfigError, match="batch 17 is more than the 16 training studies; lower it"):
        crop_loader(dataset, StepSampler(StudyOrder(16, 17, 0), first=0, steps=1, rank=0, world=1), 0)


class CountedShards:
    """Stands for `open_shard`: notes which shard is opened, and each read as (shard, first byte, bytes)."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.reads: list[tuple[str, int, int]] = []

    def __call__(self, files, path: str) -> CountedFile:
        self.opened.append(path)
        return CountedFile(open_shard(files, path), path, self.reads)


class CountedFile:
    def __init__(self, file, path: str, reads: list[tuple[str, int, int]]) -> None:
        self.file, self.path, self.reads = file, path, reads
        self.seek, self.close = file.seek, file.close

    def read(self, size: int) -> bytes:
        self.reads.append((self.path, self.file.tell(), size))
        return self.file.read(size)


def most_at_once(paths: list[str]) -> int:
    """Most shards of a sequence of reads that were begun and not finished."""
    return max(
        sum(path in paths[: place + 1] and path in paths[place:] for path in set(paths))
        for place in range(len(paths))
    )


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_worker_reads_a_window_of_shards_at_a_time_in_each_of_its_lanes(world, small_shards, monkeypatch):
    shards = load_manifest(small_shards).of("train")
    assert len(shards) > 5
    order = StudyOrder(16, 4, 7, tuple(shard.studies for shard in shards), window=2, lanes=4)
    reads = []
    for rank in range(world):
        dataset = CropDataset([str(small_shards)], CROPS, MaskConfig(), 4, seed=7)
        sampler = StepSampler(order, first=0, steps=order.per_epoch, rank=rank, world=world)
        counted = CountedShards()
        with monkeypatch.context() as patch:
            patch.setattr(index_module, "open_shard", counted)
            list(crop_loader(dataset, sampler, 0))
        lanes = 4 // world
        for lane in range(lanes):
            paths = [path for path, _, _ in counted.reads[lane::lanes]]
            assert most_at_once(paths) <= order.window
        assert len(counted.opened) == len(set(counted.opened))
        reads += counted.reads
    assert len(reads) == len(set(reads)) == 16
    in_shards = sum(shard.bytes - 1024 for shard in shards)  # a tar ends with two empty blocks
    assert sum(size for _, _, size in reads) == in_shards


def test_the_permutation_reads_from_all_shards_at_once(small_shards):
    """So that the test above can fail."""
    rows = np.concatenate([StudyOrder(16, 4, 7).rows(step) for step in range(4)])
    shards = [shard.studies for shard in load_manifest(small_shards).of("train")]
    assert most_at_once([str(number) for number in np.repeat(np.arange(len(shards)), shards)[rows]]) > 4


def test_the_manifest_counts_the_studies_of_each_shard_as_the_index_has_them(small_shards):
    shards, index = load_manifest(small_shards).of("train"), StudyIndex(small_shards, "train")
    shard_of_row = [shard.path for shard in shards for _ in range(shard.studies)]
    assert shard_of_row == index.rows["shard"].to_pylist()


def test_lanes_of_any_workers_processes_and_a_later_start_have_the_batches_of_one(small_shards):
    dataset = CropDataset([str(small_shards)], CROPS, MaskConfig(), 4, seed=7)
    shards = tuple(shard.studies for shard in load_manifest(small_shards).of("train"))
    order = StudyOrder(16, 8, 7, shards, window=2, lanes=4)

    def lane_batches(rank: int = 0, world: int = 1, first: int = 0, processes: int = 0) -> list[CropBatch]:
        sampler = StepSampler(order, first=first, steps=5, rank=rank, world=world)
        return list(crop_loader(dataset, sampler, processes))

    whole = lane_batches()
    assert all(map(equal, whole, lane_batches(processes=2)))
    assert all(map(equal, whole[3:], lane_batches(first=3)))
    assert {batch.keys for batch in whole} != {batch.keys for batch in batches(dataset)}
    for world in (2, 4):
        for shares in zip(*(lane_batches(rank, world) for rank in range(world)), whole, strict=True):
            *parts, batch = shares
            assert sum((part.keys for part in parts), ()) == batch.keys
            assert torch.equal(torch.cat([part.locals_LB1SS for part in parts], 1), batch.locals_LB1SS)
            assert torch.equal(torch.cat([part.hidden_TBN for part in parts], 1), batch.hidden_TBN)
