"""Gaussian noise from a counter and a key: the same numbers in NumPy on a CPU and in torch on any device."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

QUANTILES = 4096
"""Steps of the normal distribution that noise is drawn from; the outermost are at 3.7 standard deviations."""

Words = TypeVar("Words", np.ndarray, "Tensor")


@lru_cache(maxsize=1)
def normal_quantiles() -> np.ndarray:
    """The middles of equally probable steps of the standard normal distribution: (QUANTILES,) float32."""
    normal = NormalDist()
    steps = [normal.inv_cdf((step + 0.5) / QUANTILES) for step in range(QUANTILES)]
    return np.array(steps, np.float32)


def hash_bits(counter: Words, first: Words | int, second: Words | int) -> Words:
    """32 random bits for each counter under two keys of 32 bits; equal in NumPy and in torch.

    All are integers below 2**32: NumPy arrays of uint32, or torch tensors of int64 on any device, where no
    product reaches 2**63. Two rounds of shift and multiply with the second key between them, as in the integer
    hashes of Mueller and of Wellons (https://nullprogram.com/blog/2018/07/31).
    """
    word = counter ^ first
    word = (((word >> 16) ^ word) * 0x45D9F3B) & 0xFFFFFFFF
    word = (((word >> 16) ^ word) + second) & 0xFFFFFFFF
    word = (word * 0x45D9F3B) & 0xFFFFFFFF
    return (word >> 16) ^ word
