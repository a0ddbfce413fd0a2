"""Candidates of the three indexes: none that belongs is missing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.gallery.tables import table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.gallery.indexes import (
    ApproximateIndex,
    ExactIndex,
    brute_force,
    build_index,
    candidate_count,
    joined,
    load_index,
    part_of_index,
)
from vetdino.serving.gallery.vectors import unit_rows


def stored(count=300, width=16, kinds=0, seed=0):
    return table(count, width, seed, kinds=kinds).vectors.astype(np.float16)


def queries(width=16):
    return table(5, width, seed=9).vectors


@pytest.mark.parametrize("allowed", [None, np.arange(300) % 3 == 0])
def test_an_exact_index_gives_every_row_that_ties_for_the_last_place(allowed):
    rows = stored(kinds=4)
    index, factory = build_index(rows, "flat")
    assert factory == "Flat"
    for query, (ids, estimates) in zip(
        queries(), ExactIndex(index, 1000).search(queries(), 7, allowed), strict=True
    ):
        cosines = np.where(allowed if allowed is not None else True, unit_rows(rows) @ query, -2)
        best = np.flatnonzero(cosines > np.sort(cosines)[-7] - 1e-7)
        assert set(best + 1000) <= set(ids.tolist())
        assert np.isinf(estimates).all()


def test_an_approximate_index_gives_every_row_that_ties_for_the_last_place():
    rows = stored(kinds=3)
    index, factory = build_index(rows, "ivf")
    assert factory == "IVF69,RaBitQ"
    for ids, estimates in ApproximateIndex(index, "ivf", 69).search(queries(), 7, None):
        equal = [row for row in range(300) if (rows[row] == rows[ids[np.argmin(estimates)]]).all()]
        assert set(equal) <= set(ids.tolist())


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_gives_only_rows_that_may_be_found(kind):
    index, _ = build_index(stored(), kind)
    allowed = np.arange(300) % 3 == 0
    for ids, _ in ApproximateIndex(index, kind, 69).search(queries(), 50, allowed):
        assert len(ids) >= 50
        assert (ids % 3 == 0).all()


def test_the_same_rows_give_the_same_index():
    one, other = (build_index(stored(), "ivf")[0] for _ in range(2))
    for found, again in zip(
        ApproximateIndex(one, "ivf", 8).search(queries(), 20, None),
        ApproximateIndex(other, "ivf", 8).search(queries(), 20, None),
        strict=True,
    ):
        np.testing.assert_array_equal(found[0], again[0])
        np.testing.assert_array_equal(found[1], again[1])


def test_a_part_of_an_index_finds_what_the_whole_one_finds_of_it():
    index, _ = build_index(stored(), "ivf")
    part = part_of_index(index, "ivf", 8, 100, 200)
    assert (part.index.ntotal, index.ntotal) == (100, 300)
    inside = (np.arange(300) >= 100) & (np.arange(300) < 200)
    for (ids, estimates), (same, also) in zip(
        part.search(queries(), 10, None),
        ApproximateIndex(index, "ivf", 8).search(queries(), 10, inside),
        strict=True,
    ):
        assert dict(zip(ids.tolist(), estimates.tolist(), strict=True)) == dict(
            zip(same.tolist(), also.tolist(), strict=True)
        )
    with pytest.raises(GalleryError, match="hnsw"):
        part_of_index(index, "hnsw", 8, 100, 200)


def test_more_effort_finds_more():
    index, _ = build_index(stored(), "ivf")
    few, many = (
        sum(len(ids) for ids, _ in ApproximateIndex(index, "ivf", 1).search(queries(), 300, None, effort))
        for effort in (1, 69)
    )
    assert few < many == 5 * 300


def test_brute_force_gives_the_rows_it_is_given():
    rows = stored(20)
    ((ids, estimates),) = brute_force(rows[5:9], np.arange(5, 9), queries()[:1], 3)
    assert set(ids.tolist()) <= {5, 6, 7, 8}
    assert len(ids) >= 3
    assert np.isinf(estimates).all()


def test_a_damaged_index_is_refused_in_one_line(tmp_path):
    (tmp_path / "index.faiss").write_bytes(b"IxFI" + bytes(40))
    with pytest.raises(GalleryError, match="damaged") as refusal:
        load_index(tmp_path / "index.faiss")
    assert "\n" not in str(refusal.value)


def test_candidates_grow_with_the_matches_and_none_joined_are_none():
    assert candidate_count(1, 100) == 100
    assert candidate_count(30, 200) == 600
    assert len(joined([]).ids) == 0
