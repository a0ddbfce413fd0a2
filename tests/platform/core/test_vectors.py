"""Vectors of length 1, and means of them."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.core.vectors import mean_vectors, unit_vectors

VECTORS = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)


def test_a_mean_is_of_the_rows_up_to_the_next_start():
    means = mean_vectors(VECTORS, [0, 1, 4], "studies")
    for mean, rows in zip(means, (VECTORS[:1], VECTORS[1:4], VECTORS[4:]), strict=True):
        plain = rows.mean(axis=0)
        np.testing.assert_allclose(mean, plain / np.linalg.norm(plain), atol=1e-6)
    assert means.dtype == np.float32


def test_a_mean_does_not_depend_on_the_other_groups():
    together = mean_vectors(VECTORS, [0, 3], "studies")
    assert (mean_vectors(VECTORS[3:], [0], "a study")[0] == together[1]).all()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_what_has_no_direction_is_refused(bad):
    vectors = VECTORS.copy()
    vectors[2] = bad
    with pytest.raises(FeaturesError, match="1 of 7 vectors of mine"):
        unit_vectors(vectors, "mine")
    with pytest.raises(FeaturesError, match="1 of 1 vectors of a study"):
        mean_vectors(np.stack([VECTORS[0], -VECTORS[0]]), [0], "a study")
    with pytest.raises(FeaturesError, match="must be"):
        unit_vectors(vectors[0])
