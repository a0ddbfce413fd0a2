"""What step t sees: a function of the seed and of t, of nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.pretrain.batches.order import MixedOrder, StepSampler, StudyOrder, _passes

PERMUTATION = [[9, 2, 6, 0], [1, 3, 5, 4], [3, 8, 9, 0], [1, 5, 7, 2]]
"""Rows of the first steps with 10 studies, batch 4, seed 0, as they always were."""

LANES = [[1, 2, 3, 6], [0, 11, 5, 4], [10, 9, 8, 7], [10, 5, 7, 2]]
"""The same of 4 shards of 3 studies, window 2, 2 lanes."""

FOUR = [
    [20, 8, 6, 12, 9, 1, 2, 18],
    [4, 14, 13, 5, 16, 9, 0, 11],
    [7, 10, 11, 4, 3, 22, 17, 2],
]
"""Rows of the first steps of a mix of four archives: the phases of three levels count."""


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


def test_the_permutation_is_the_one_on_record():
    order = StudyOrder(10, 4, 0)
    assert [order.rows(step).tolist() for step in range(4)] == PERMUTATION
    assert [StudyOrder(10, 4, 0, (3, 3, 4)).rows(step).tolist() for step in range(4)] == PERMUTATION


# Lanes ----------------------------------------------------------------------------------------------------


@st.composite
def lane_orders(draw) -> StudyOrder:
    """Any order with a window and an epoch of at least a step."""
    lanes, of_each = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    batch = lanes * of_each
    shards = draw(
        st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda counts: sum(counts) >= batch)
    )
    return StudyOrder(
        sum(shards), batch, draw(st.integers(0, 99)), tuple(shards), draw(st.integers(1, 5)), lanes
    )


def lanes_of(order: StudyOrder, epoch: int) -> np.ndarray:
    """The rows of each lane, in the order of the steps: (lanes, studies of a lane)."""
    steps = range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch)
    return np.concatenate([order.rows(step).reshape(order.lanes, -1) for step in steps], axis=1)


def closed_parts(shard_of_row: np.ndarray, rows: np.ndarray) -> list[set[int]]:
    """Shards of each part of a sequence of all rows, as short as it can be with all studies of its shards in it."""
    parts, shards, waiting = [], set(), 0
    for row in rows:
        shard = int(shard_of_row[row])
        if shard not in shards:
            shards.add(shard)
            waiting += int((shard_of_row == shard).sum())
        waiting -= 1
        if waiting == 0:
            parts, shards = [*parts, shards], set()
    assert waiting == 0
    return parts


@given(lane_orders(), st.integers(0, 5))
def test_each_study_comes_once_in_an_epoch_and_fewer_than_a_batch_are_dropped(order, epoch):
    rows = lanes_of(order, epoch).ravel().tolist()
    assert len(rows) == len(set(rows)) == order.studies // order.batch * order.batch
    assert set(rows) <= set(range(order.studies))


@given(lane_orders(), st.integers(0, 5))
def test_studies_are_shuffled_among_a_windows_shards_alone(order, epoch):
    one_by_one = replace(order, batch=1, lanes=1)
    shard_of_row = np.repeat(np.arange(len(order.shards)), order.shards)
    parts = closed_parts(shard_of_row, lanes_of(one_by_one, epoch)[0])
    assert all(len(part) <= order.window for part in parts)
    assert sorted(shard for part in parts for shard in part) == sorted(set(shard_of_row.tolist()))


@given(lane_orders(), st.integers(0, 5))
def test_lanes_and_batch_cut_the_same_linear_order(order, epoch):
    linear = lanes_of(replace(order, batch=1, lanes=1), epoch)[0]
    kept = lanes_of(order, epoch).ravel()
    assert kept.tolist() == linear[: len(kept)].tolist()


@given(lane_orders(), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_an_order_depends_on_seed_epoch_shards_window_and_lanes_alone(order, steps):
    expected = [order.rows(step).tolist() for step in steps]
    for step, rows in list(zip(steps, expected, strict=True))[::-1]:
        _passes.cache_clear()
        np.random.seed(step)
        assert replace(order).rows(step).tolist() == rows


@given(lane_orders(), st.integers(0, 20))
def test_any_number_of_workers_that_divides_the_lanes_has_the_batch_of_one_lane_after_lane(order, first):
    whole = list(StepSampler(order, first=first, steps=first + 3, rank=0, world=1))
    for world in (world for world in range(1, order.lanes + 1) if order.lanes % world == 0):
        shares = [
            list(StepSampler(order, first=first, steps=first + 3, rank=rank, world=world))
            for rank in range(world)
        ]
        assert [[item for share in shares for item in share[step]] for step in range(3)] == whole
        lanes = order.rows(first).reshape(world, order.lanes // world, -1)
        for share, rows in zip(shares, lanes, strict=True):
            assert [row for row, _, _ in share[0]] == rows.ravel().tolist()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_another_number_of_workers_after_a_resume_has_the_batches_that_were_to_come(world):
    order = StudyOrder(60, 8, 3, (7, 13, 11, 9, 15, 5), window=2, lanes=4)
    whole = [order.rows(step).tolist() for step in range(20)]
    for rank in range(world):
        for step, items in enumerate(StepSampler(order, first=9, steps=20, rank=rank, world=world), start=9):
            share = 8 // world
            assert [row for row, _, _ in items] == whole[step][rank * share : (rank + 1) * share]


def test_a_window_of_all_shards_is_the_permutation():
    wide, plain = StudyOrder(40, 8, 0, (10,) * 4, window=4), StudyOrder(40, 8, 0)
    assert all(np.array_equal(wide.rows(step), plain.rows(step)) for step in range(15))


def test_each_epoch_takes_the_shards_in_another_order_and_drops_other_studies():
    order = StudyOrder(103, 10, 0, (25, 26, 26, 26), window=1, lanes=2)
    epochs = [lanes_of(order, epoch).ravel().tolist() for epoch in range(12)]
    assert len({tuple(rows) for rows in epochs}) == 12
    assert set().union(*epochs) == set(range(103))
    assert len({rows[0] // 26 for rows in epochs}) > 2


def test_lanes_are_on_record():
    order = StudyOrder(12, 4, 0, (3, 3, 3, 3), window=2, lanes=2)
    assert [order.rows(step).tolist() for step in range(4)] == LANES


@pytest.mark.parametrize(
    "wrong", [{"shards": (3, 3), "window": 1}, {"lanes": 3}, {"window": 1}], ids=["shards", "lanes", "none"]
)
def test_an_order_of_other_shards_or_uneven_lanes_is_our_own_mistake(wrong):
    with pytest.raises(AssertionError):
        StudyOrder(12, 4, 0, **wrong)


def test_uneven_shares_are_refused_not_cut():
    with pytest.raises(AssertionError, match="equally many"):
        StepSampler(StudyOrder(20, 8, 0), first=0, steps=2, rank=0, world=3)


# Mixes ----------------------------------------------------------------------------------------------------

MIXED = [[5, 3, 1, 0], [2, 4, 4, 0], [3, 2, 1, 5], [5, 3, 0, 2]]
"""Rows of the first steps of two archives of 3 + 1 and 2 studies by 2 to 1, batch 4, 2 lanes."""


@st.composite
def mixed_orders(draw) -> MixedOrder:
    """Any mix whose archives have at least a study for each lane, and an epoch of at least a step."""
    lanes, of_each = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    shards = st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(lambda counts: sum(counts) >= lanes)
    archives = draw(
        st.lists(shards, min_size=2, max_size=4).filter(
            lambda counts: sum(map(sum, counts)) >= lanes * of_each
        )
    )
    weights = st.integers(1, 40)
    return MixedOrder(
        tuple(map(tuple, archives)),
        tuple(draw(weights) for _ in archives),
        lanes * of_each,
        draw(st.integers(0, 99)),
        draw(st.integers(0, 4)),
        lanes,
    )


def drawn(order: MixedOrder, first: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Archive, row within it and pass of the studies of some steps, lane by lane: three times (L, steps x I)."""
    draws = [order.draws(step) for step in range(first, first + steps)]
    rows, passes = (
        np.concatenate([part.reshape(order.lanes, -1) for part in parts], 1)
        for parts in zip(*draws, strict=True)
    )
    ends = np.cumsum([sum(shards) for shards in order.archives])
    archive = np.searchsorted(ends, rows, side="right")
    return archive, rows - np.array([0, *ends])[archive], passes


@settings(max_examples=40, deadline=None)
@given(mixed_orders())
def test_each_lane_goes_through_its_part_of_each_archive_pass_after_pass(order):
    archive, row, number = drawn(order, 0, 40)
    for each, shards in enumerate(order.archives):
        length = sum(shards) // order.lanes
        parts = {}
        for lane in range(order.lanes):
            here = archive[lane] == each
            assert number[lane][here].tolist() == [place // length for place in range(here.sum())]
            for of_pass in set(number[lane][here].tolist()):
                parts[lane, of_pass] = row[lane][here & (number[lane] == of_pass)].tolist()
        for of_pass in {of_pass for _, of_pass in parts}:
            used = [study for lane in range(order.lanes) for study in parts.get((lane, of_pass), [])]
            assert len(used) == len(set(used)), "no study twice in a pass"


@settings(max_examples=40, deadline=None)
@given(mixed_orders())
def test_batches_hold_their_share_of_each_archive_and_so_do_lanes(order):
    share = np.array(order.weights) / sum(order.weights) * order.batch
    archive, _, _ = drawn(order, 0, 60)
    by_step = archive.reshape(order.lanes, 60, -1)
    count = np.stack([(by_step == each).sum((0, 2)) for each in range(len(share))], 1)
    levels = len(share) - 1
    exact = levels == 1 or order.lanes == 1
    assert np.abs(count - share).max() < (levels + 1 if exact else 3 * levels)
    assert np.abs(count.cumsum(0) - share * np.arange(1, 61)[:, None]).max() <= (
        levels if exact else 3 * levels
    )
    if levels == 1:
        assert ((count >= np.floor(share)) & (count <= np.ceil(share))).all()
    in_lane = np.stack([(archive == each).cumsum(1) for each in range(len(share))])
    places = np.arange(1, archive.shape[1] + 1)
    assert np.abs(in_lane - (share / order.batch)[:, None, None] * places).max() < levels + 1


@settings(max_examples=40, deadline=None)
@given(mixed_orders(), st.integers(0, 30))
def test_any_step_of_a_mix_and_any_number_of_workers_give_the_same_studies(order, first):
    whole = list(StepSampler(order, first=first, steps=first + 4, rank=0, world=1))
    for step in reversed(range(4)):
        _passes.cache_clear()
        rows, passes = order.draws(first + step)
        assert [item[:2] for item in whole[step]] == list(zip(rows.tolist(), passes.tolist(), strict=True))
    for world in (world for world in range(1, order.lanes + 1) if order.lanes % world == 0):
        shares = [
            list(StepSampler(order, first=first, steps=first + 4, rank=rank, world=world))
            for rank in range(world)
        ]
        assert [[item for share in shares for item in share[step]] for step in range(4)] == whole


@settings(max_examples=40, deadline=None)
@given(mixed_orders(), st.integers(0, 5))
def test_a_lane_of_a_mix_reads_a_window_of_each_archive_front_to_back(order, first):
    """Of each pass of an archive a lane reads neighboring windows, each to its end before the next."""
    if not order.window:
        return
    archive, row, number = drawn(order, 0, 30)
    for each, shards in enumerate(order.archives):
        shard_of_row = np.repeat(np.arange(len(shards)), shards)
        for lane in range(order.lanes):
            for of_pass in set(number[lane][archive[lane] == each].tolist()):
                read = shard_of_row[row[lane][(archive[lane] == each) & (number[lane] == of_pass)]]
                assert most_begun(read) <= order.window


def most_begun(shard_M: np.ndarray) -> int:
    """Most shards of a sequence between their first and their last read at one time."""
    spans = [np.flatnonzero(shard_M == shard)[[0, -1]] for shard in np.unique(shard_M)]
    return max(
        (sum(first <= place <= last for first, last in spans) for place in range(len(shard_M))), default=0
    )


@pytest.mark.parametrize("weights", [(1, 1), (5, 3, 2), (1, 1, 1)])
def test_each_worker_has_its_share_of_each_archive_too(weights):
    order = MixedOrder(tuple((999,) for _ in weights), weights, 64, 0, lanes=64)
    share = np.array(weights) / sum(weights) * 16
    for step in range(40):
        by_rank = (order.rows(step) // 999).reshape(4, 16)
        count = np.stack([(by_rank == each).sum(1) for each in range(len(weights))], 1)
        assert np.abs(count - share).max() < 3


def test_a_mix_is_on_record():
    order = MixedOrder(((3, 1), (2,)), (2, 1), 4, 0, window=1, lanes=2)
    assert [order.rows(step).tolist() for step in range(4)] == MIXED
    four = MixedOrder(((4, 4), (5,), (2, 4), (7,)), (4, 3, 2, 1), 8, 0, window=1, lanes=4)
    assert [four.rows(step).tolist() for step in range(3)] == FOUR


def test_weights_by_numbers_of_studies_are_the_concatenation():
    """After an epoch's worth of studies each of every archive has come once."""
    order = MixedOrder(((40,), (20,), (20,)), (40, 20, 20), 10, 0)
    archive, _, number = drawn(order, 0, order.per_epoch)
    assert np.bincount(archive.ravel()).tolist() == [40, 20, 20]
    assert number.max() == 0
    assert sorted(np.concatenate([order.rows(step) for step in range(8)]).tolist()) == list(range(80))


def test_archives_and_passes_have_permutations_of_their_own():
    order = MixedOrder(((30,), (30,)), (1, 1), 60, 0)
    archive, row, number = drawn(order, 0, 2)
    orders = {
        tuple(row[(archive == each) & (number == of_pass)].tolist()) for each in (0, 1) for of_pass in (0, 1)
    }
    assert len(orders) == 4
    assert all(sorted(rows) == list(range(30)) for rows in orders)


@pytest.mark.parametrize(
    ("archives", "weights"), [(((4,), (4,)), (1,)), (((4,), (4,)), (1, 0)), (((4,), (1,)), (1, 1))]
)
def test_a_mix_without_weights_or_with_less_than_a_study_a_lane_is_our_own_mistake(archives, weights):
    with pytest.raises(AssertionError):
        MixedOrder(archives, weights, 4, 0, lanes=2)
