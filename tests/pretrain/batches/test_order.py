"""What step t sees: a function of the seed and of t, of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data.shards import StudyIndex
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.config import CropConfig, MaskConfig
from vetdino.pretrain.batches.crops import crops_of
from vetdino.pretrain.batches.device_crops import WholeViews, crops_on
from vetdino.pretrain.batches.order import CropDataset, Order, StepSampler, loader_of

CROPS = CropConfig(global_side=32, local_side=16, locals_per_view=2)


@pytest.fixture(scope="module")
def dataset(shards) -> CropDataset:
    return CropDataset(str(shards), CROPS, MaskConfig(), 4, seed=7)


def batches(
    dataset: CropDataset, *, first: int = 0, rank: int = 0, world: int = 1, processes: int = 0
) -> list[CropBatch]:
    order = Order(len(dataset), 8, 7)
    return list(loader_of(dataset, order, first=first, steps=5, rank=rank, world=world, processes=processes))


def equal(one: CropBatch, two: CropBatch) -> bool:
    names = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")
    return one.keys == two.keys and all(torch.equal(getattr(one, name), getattr(two, name)) for name in names)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_no_study_comes_twice_in_an_epoch(studies, batch, seed):
    batch = min(studies, batch)
    order = Order(studies, batch, seed)
    for epoch in (0, 3):
        steps = range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch)
        assert {order.epoch(step) for step in steps} == {epoch}
        rows = np.concatenate([order.rows(step) for step in steps])
        assert len(rows) == len(set(rows.tolist())) == order.per_epoch * batch
        assert set(rows.tolist()) <= set(range(studies))


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = [Order(50, 50, seed).rows(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(rows) == list(range(50)) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == 4


def test_any_step_can_be_asked_for_in_any_order():
    ahead = [Order(20, 6, 0).rows(step).tolist() for step in range(9)]
    back = [Order(20, 6, 0).rows(step).tolist() for step in reversed(range(9))]
    assert ahead == back[::-1]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_shares_of_all_workers_are_the_global_batch_in_its_order(world):
    order = Order(20, 8, 0)
    shares = [list(StepSampler(order, first=1, steps=6, rank=rank, world=world)) for rank in range(world)]
    whole = list(StepSampler(order, first=1, steps=6, rank=0, world=1))
    assert [[item for share in shares for item in share[step]] for step in range(5)] == whole
    assert len(StepSampler(order, first=1, steps=6, rank=0, world=world)) == 5


def test_items_tell_how_far_the_training_is_at_the_start_of_their_epoch():
    items = list(StepSampler(Order(16, 8, 0), first=0, steps=8, rank=0, world=1))
    assert [step[0][1:] for step in items] == [(e, e * 2 / 8) for e in (0, 0, 1, 1, 2, 2, 3, 3)]


def test_a_batch_holds_the_crops_of_its_studies(dataset, shards):
    index, order = StudyIndex(shards, "train"), Order(16, 8, 7)
    for step, batch in enumerate(batches(dataset)):
        for column, row in enumerate(order.rows(step)):
            study = index.load(int(row))
            crops = crops_of(study, CROPS, seed=7, epoch=order.epoch(step))
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
    whole = CropDataset(str(shards), CROPS, MaskConfig(), 4, seed=7, whole=True)
    for shipped, cut in zip(batches(whole, processes=processes), batches(dataset), strict=True):
        assert isinstance(shipped, WholeViews)
        made = crops_on(torch.device("cpu"), shipped, CROPS)
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
        loader_of(dataset, Order(16, 17, 0), first=0, steps=1, rank=0, world=1, processes=0)
