"""What step t sees: a function of the seed and of t, of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vetdino.pretrain.batches.order import StepSampler, StudyOrder


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_no_study_comes_twice_in_an_epoch(studies, batch, seed):
    batch = min(studies, batch)
    order = StudyOrder(studies, batch, seed)
    for epoch in (0, 3):
        steps = range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch)
        assert {order.epoch(step) for step in steps} == {epoch}
        rows = np.concatenate([order.rows(step) for step in steps])
        assert len(rows) == len(set(rows.tolist())) == order.per_epoch * batch
        assert set(rows.tolist()) <= set(range(studies))


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = [StudyOrder(50, 50, seed).rows(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(rows) == list(range(50)) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == 4


def test_any_step_can_be_asked_for_in_any_order():
    ahead = [StudyOrder(20, 6, 0).rows(step).tolist() for step in range(9)]
    back = [StudyOrder(20, 6, 0).rows(step).tolist() for step in reversed(range(9))]
    assert ahead == back[::-1]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_shares_of_all_workers_are_the_global_batch_in_its_order(world):
    order = StudyOrder(20, 8, 0)
    shares = [list(StepSampler(order, first=1, steps=6, rank=rank, world=world)) for rank in range(world)]
    whole = list(StepSampler(order, first=1, steps=6, rank=0, world=1))
    assert [[item for share in shares for item in share[step]] for step in range(5)] == whole
    assert len(StepSampler(order, first=1, steps=6, rank=0, world=world)) == 5


def test_items_tell_how_far_the_training_is_at_the_start_of_their_epoch():
    items = list(StepSampler(StudyOrder(16, 8, 0), first=0, steps=8, rank=0, world=1))
    assert [step[0][1:] for step in items] == [(e, e * 2 / 8) for e in (0, 0, 1, 1, 2, 2, 3, 3)]
