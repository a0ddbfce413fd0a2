"""Hidden patches: how many, how often, and in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vetdino.pretrain.batches.config import MaskConfig
from vetdino.pretrain.batches.masks import block_mask


def masks(side: int, config: MaskConfig, count: int = 400, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([block_mask(side, config, generator) for _ in range(count)])


def test_nothing_is_hidden_where_the_probability_is_zero():
    assert not masks(8, MaskConfig(probability=0.0)).any()


@given(st.integers(2, 20), st.floats(0, 1), st.integers(0, 2**32))
def test_exactly_the_drawn_share_is_hidden(side, ratio, seed):
    hidden = block_mask(side, MaskConfig(probability=1.0, ratio=(ratio, ratio)), np.random.default_rng(seed))
    assert hidden.shape == (side * side,)
    assert hidden.dtype == bool
    assert hidden.sum() == round(ratio * side * side)


def test_half_of_the_crops_hide_a_tenth_to_a_half_of_their_patches():
    shares = masks(14, MaskConfig()).mean(1)
    some = shares[shares > 0]
    assert 0.4 < len(some) / len(shares) < 0.6
    assert some.min() >= 0.1 - 1 / 196
    assert some.max() <= 0.5 + 1 / 196
    assert some.mean() == pytest.approx(0.3, abs=0.03)


def test_hidden_patches_lie_in_blocks_and_not_alone():
    hidden = masks(14, MaskConfig(probability=1.0)).reshape(-1, 14, 14)
    beside = np.zeros(hidden.shape, int)
    for axis in (1, 2):
        for step in (-1, 1):
            moved = np.roll(hidden, step, axis)
            edge = [slice(None)] * 3
            edge[axis] = 0 if step == 1 else -1
            moved[tuple(edge)] = False
            beside += moved
    # Strewn at random each hidden patch would have 4 x 0.3 hidden neighbours.
    assert beside[hidden].mean() > 2


def test_every_place_is_hidden_about_equally_often():
    often = masks(8, MaskConfig(probability=1.0), count=2000).mean(0).reshape(8, 8)
    # Blocks reach the corners less often than the middle, but they do.
    assert often.min() > 0.08
    assert often.max() < 0.5


def test_one_seed_gives_one_mask():
    assert np.array_equal(masks(9, MaskConfig(), seed=3), masks(9, MaskConfig(), seed=3))
