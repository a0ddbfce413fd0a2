"""Batches depend on the step's number alone, never on workers, processes or where a training begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data.index import StudyIndex
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.config import CropConfig, MaskConfig
from vetdino.pretrain.batches.crops import study_crops
from vetdino.pretrain.batches.device_crops import PlannedBatch, crops_on_device
from vetdino.pretrain.batches.loader import CropDataset, crop_loader
from vetdino.pretrain.batches.order import StepSampler, StudyOrder

CROPS = CropConfig(global_side=32, local_side=16, locals_per_view=2)


@pytest.fixture(scope="module")
def dataset(shards) -> CropDataset:
    return CropDataset(str(shards), CROPS, MaskConfig(), 4, seed=7)


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
    afresh = CropDataset(str(shards), CROPS, MaskConfig(), 4, seed=7)
    assert all(map(equal, whole[3:], batches(afresh, first=3)))
    for rank in (0, 1):
        for share, batch in zip(batches(dataset, rank=rank, world=2), whole, strict=True):
            cut = slice(4 * rank, 4 * rank + 4)
            assert share.keys == batch.keys[cut]
            assert torch.equal(share.hidden_TBN, batch.hidden_TBN[:, cut])
            assert torch.equal(share.locals_LB1SS, batch.locals_LB1SS[:, cut])


@pytest.mark.parametrize("processes", [0, 2])
def test_loaders_may_ship_whole_views_that_become_the_same_crops(dataset, shards, processes):
    whole = CropDataset(str(shards), CROPS, MaskConfig(), 4, seed=7, planned_only=True)
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
