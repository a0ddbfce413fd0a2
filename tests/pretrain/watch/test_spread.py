"""Mean cosine and effective rank: known values, loops, and the same in NumPy and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vetdino.pretrain.watch.spread import cosine_and_rank, effective_rank, mean_cosine


@pytest.mark.parametrize("shape", [(64, 384), (7, 5), (3, 40), (2, 2)])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_spread_of_a_batch_is_that_of_the_probe(shape, mean):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(shape, generator=generator) * torch.logspace(0, -3, shape[1]) + mean
    cosine, rank = cosine_and_rank(vectors)
    unit = F.normalize(vectors.double(), dim=-1).numpy()
    assert cosine.shape == rank.shape == ()
    assert cosine.item() == pytest.approx(mean_cosine(unit), abs=1e-6)
    assert rank.item() == pytest.approx(effective_rank(unit), rel=1e-4)


def test_one_vector_alone_has_no_spread_and_equal_ones_are_all_alike():
    assert [value.item() for value in cosine_and_rank(torch.ones(1, 4))] == [0.0, 1.0]
    cosine, rank = cosine_and_rank(torch.ones(5, 4))
    assert cosine.item() == pytest.approx(1.0)
    assert math.isfinite(rank.item())


def test_the_spread_is_computed_in_half_precision_batches_without_a_gradient():
    vectors = torch.randn(6, 8, dtype=torch.bfloat16, requires_grad=True)
    assert not any(value.requires_grad for value in cosine_and_rank(vectors))
    assert torch.allclose(cosine_and_rank(vectors)[0], cosine_and_rank(vectors.float())[0])


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 6))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_mean_cosine_is_that_of_all_pairs():
    vectors = unit(9)
    pairs = [vectors[i] @ vectors[j] for i in range(9) for j in range(9) if i != j]
    assert mean_cosine(vectors) == pytest.approx(np.mean(pairs))
    assert mean_cosine(np.tile(unit(1), (5, 1))) == pytest.approx(1.0)
    assert mean_cosine(unit(1)) == pytest.approx(0.0, abs=1e-12)


def test_effective_rank_counts_directions_of_equal_spread_and_is_one_for_a_line():
    corners = np.concatenate([np.eye(6), -np.eye(6)])
    assert effective_rank(corners) == pytest.approx(6.0)
    assert effective_rank(np.linspace(-1, 1, 9)[:, None] * unit(1)) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(np.ones((4, 6))) == pytest.approx(1.0)
