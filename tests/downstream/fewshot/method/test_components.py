"""Components are those that touch, corners included; the surest are kept."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from vetdino.downstream.fewshot.method.components import (
    component_confidences,
    count_components,
    keep_components,
)
from vetdino.platform.core.errors import ConfigError, DataError

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def parts_of(mask):
    """Sets of pixels that touch by side or corner, in reading order, by flooding."""
    left, parts = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    for start in map(tuple, np.argwhere(mask).tolist()):
        if start not in left:
            continue
        left.remove(start)
        part, queue = {start}, deque([start])
        while queue:
            row, column = queue.popleft()
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            part |= near
            queue.extend(near)
        parts.append(part)
    return parts


@given(MASKS, st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_kept_parts_are_those_of_plain_flooding(mask, seed, n):
    score = np.random.default_rng(seed).random(mask.shape)
    sure = lambda part: sum(score[place] for place in part) / (mask.sum() + 1e-6)
    best = sorted(parts_of(mask), key=sure, reverse=True)[:n]
    wanted = np.zeros_like(mask)
    for place in (place for part in best for place in part):
        wanted[place] = True
    np.testing.assert_array_equal(keep_components(mask, score, "n", n), wanted)
    _, confidence = component_confidences(mask, score)
    np.testing.assert_allclose(sorted(confidence), sorted(map(sure, parts_of(mask))))


@given(MASKS, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_confidences_are_scipys_sums_bit_for_bit(mask, seed):
    score = np.random.default_rng(seed).random(mask.shape)
    part, confidence = component_confidences(mask, score)
    sums = ndimage.sum_labels(score, part, np.arange(1, part.max() + 1))
    np.testing.assert_array_equal(confidence, np.asarray(sums) / (mask.sum() + 1e-6))


@given(MASKS)
@settings(max_examples=30, deadline=None)
def test_what_is_kept_is_part_of_the_mask_and_more_parts_keep_no_less(mask):
    score = np.full(mask.shape, 0.8)
    one, two, every = (
        keep_components(mask, score, "1"),
        keep_components(mask, score, "n", 2),
        keep_components(mask, score, "all"),
    )
    assert not (one & ~two).any()
    assert not (two & ~every).any()
    np.testing.assert_array_equal(every, mask)
    assert one.any() == mask.any()


def two_parts():
    mask = np.zeros((8, 10), bool)
    mask[1:4, 1:4] = True
    mask[5:7, 6:9] = True
    return mask


def test_a_large_part_beats_a_small_one_that_is_a_little_surer():
    mask = two_parts()
    kept = keep_components(mask, np.where(np.arange(10) < 5, 0.6, 0.8) * np.ones((8, 1)), "1")
    assert kept[:, :5].sum() == 9
    assert not kept[:, 5:].any()


def test_a_small_part_wins_where_it_is_much_surer():
    kept = keep_components(two_parts(), np.where(np.arange(10) < 5, 0.1, 0.9) * np.ones((8, 1)), "1")
    assert not kept[:, :5].any()
    assert kept[:, 5:].sum() == 6


def test_of_parts_equally_sure_the_first_in_reading_order_is_kept():
    mask = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    np.testing.assert_array_equal(
        keep_components(mask, np.ones((3, 3)), "1"), mask & (np.arange(3) < 1)[:, None]
    )


def test_pixels_that_meet_at_a_corner_are_one_part():
    assert count_components(np.eye(4)[None]) == 1


def test_n_is_the_most_parts_of_any_support_slice_and_never_less_than_one():
    assert count_components(np.stack([two_parts(), np.ones((8, 10))])) == 2
    assert count_components(np.zeros((2, 4, 4))) == 1


def test_an_empty_mask_stays_empty():
    empty = np.zeros((4, 5), bool)
    for keep in ("1", "n", "all"):
        assert not keep_components(empty, np.ones((4, 5)), keep, 2).any()


def test_confidences_sum_to_the_mean_probability_of_the_mask():
    mask, score = two_parts(), np.random.default_rng(0).random((8, 10))
    part, confidence = component_confidences(mask, score)
    assert part.max() == 2
    assert confidence.sum() == pytest.approx(score[mask].mean(), abs=1e-6)


def test_what_cannot_be_done_is_refused_with_a_line():
    mask = two_parts()
    with pytest.raises(ConfigError, match="n = None"):
        keep_components(mask, np.ones(mask.shape), "n")
    with pytest.raises(ConfigError, match="n = 0"):
        keep_components(mask, np.ones(mask.shape), "n", 0)
    with pytest.raises(ConfigError, match="keep '2'"):
        keep_components(mask, np.ones(mask.shape), "2")
    with pytest.raises(DataError, match="of one slice"):
        keep_components(mask, np.ones((3, 3)), "1")
    with pytest.raises(DataError, match="non-finite"):
        keep_components(mask, np.full(mask.shape, np.nan), "1")
    with pytest.raises(DataError, match=r"must be \(N, H, W\)"):
        count_components(mask)
