"""Random bits are the same in NumPy and torch; quantiles are those of the normal distribution."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.pretrain.batches.noise import hash_bits, normal_quantiles


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_mixed_bits_are_the_same_in_whole_numbers_of_any_size(counter, first, second):
    one = hash_bits(np.array([counter], np.uint32), first, second)
    two = hash_bits(np.array([counter], np.int64), np.int64(first), np.int64(second))
    assert int(one[0]) == int(two[0]) == hash_bits(counter, first, second) < 2**32
    assert hash_bits(counter, first, second) != hash_bits(counter, first ^ 1, second)
    assert hash_bits(counter, first, second) != hash_bits(counter, first, second ^ 1)


def test_quantiles_stand_for_the_normal_distribution():
    steps = normal_quantiles()
    assert np.allclose(steps, -steps[::-1])
    assert abs(steps.std() - 1) < 1e-3


def test_mixed_bits_are_the_same_in_numpy_and_in_torch():
    generator = np.random.default_rng(0)
    counter, first, second = generator.integers(2**32, size=(3, 1000), dtype=np.uint32)
    wide = [torch.from_numpy(numbers.astype(np.int64)) for numbers in (counter, first, second)]
    assert np.array_equal(hash_bits(*wide).numpy(), hash_bits(counter, first, second))
