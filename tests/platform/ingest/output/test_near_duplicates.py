"""Near-duplicates: every pair within the radius is found, as by comparing all, and copies are told from others."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vetdino.platform.ingest.output import near_duplicates as module
from vetdino.platform.ingest.output.near_duplicates import (
    FINE_RADIUS,
    RADIUS,
    difference_hash,
    near_duplicates,
    near_pairs,
)
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.studies import generate_study

WORDS = st.integers(0, 2**64 - 1)
FLIPS = st.lists(st.integers(0, 63), max_size=6)


def all_pairs(hashes: list[int], radius: int) -> set[tuple[int, int, int]]:
    """The slow way."""
    return {
        (i, j, (hashes[i] ^ hashes[j]).bit_count())
        for j in range(len(hashes))
        for i in range(j)
        if (hashes[i] ^ hashes[j]).bit_count() <= radius
    }


@st.composite
def related_hashes(draw) -> list[int]:
    """Hashes of which many differ from another in a few bits, and some in none."""
    hashes = draw(st.lists(WORDS | st.sampled_from([0, 2**64 - 1]), min_size=1, max_size=8))
    for _ in range(draw(st.integers(0, 12))):
        copy = draw(st.sampled_from(hashes))
        for bit in draw(FLIPS):
            copy ^= 1 << bit
        hashes.append(copy)
    return hashes


@settings(max_examples=100, deadline=None)
@given(hashes=related_hashes(), radius=st.integers(0, 5), batch=st.sampled_from([1, 3, 1 << 20]))
def test_exactly_the_pairs_within_the_radius_are_found_each_once(hashes, radius, batch):
    before, module.BATCH = module.BATCH, batch
    try:
        rows = [
            tuple(row) for rows in near_pairs(np.array(hashes, np.uint64), radius) for row in rows.tolist()
        ]
    finally:
        module.BATCH = before
    assert len(rows) == len(set(rows))
    assert set(rows) == all_pairs(hashes, radius)


def words_of(*hashes: str) -> np.ndarray:
    return np.array([np.frombuffer(bytes.fromhex(text), ">u8") for text in hashes]).reshape(-1, 5)


@settings(max_examples=60, deadline=None)
@given(coarse=related_hashes(), data=st.data())
def test_what_is_listed_connects_what_comparing_all_connects(coarse, data):
    fine = [data.draw(st.sampled_from([0, 1, 2**12 - 1, 2**13 - 1, 2**200])) for _ in coarse]
    words = words_of(*(f"{c:016x}{f:064x}" for c, f in zip(coarse, fine, strict=True)))
    expected = {
        (i, j): (fine[i] ^ fine[j]).bit_count()
        for i, j, _ in all_pairs(coarse, RADIUS)
        if (fine[i] ^ fine[j]).bit_count() <= FINE_RADIUS
    }
    listed = {(i, j): distance for i, j, distance in near_duplicates(words).tolist()}
    assert listed.items() <= expected.items()
    assert groups(listed, len(coarse)) == groups(expected, len(coarse))


def groups(pairs, count: int) -> list[int]:
    rows, columns = np.array([*pairs] or np.zeros((0, 2), int)).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (count, count)))[1].tolist()


def test_a_thousand_equal_pictures_give_999_pairs():
    words = words_of(*["ab" * 40] * 1000)
    assert near_duplicates(words).tolist() == [[0, j, 0] for j in range(1, 1000)]
    assert len(near_duplicates(words[:0])) == 0


def test_only_equal_pictures_can_be_asked_for():
    words = words_of("00" * 40, "00" * 39 + "01", "00" * 40)
    assert near_duplicates(words).tolist() == [[0, 1, 1], [0, 2, 0]]
    assert near_duplicates(words, only_equal=True).tolist() == [[0, 2, 0]]


@pytest.mark.slow
def test_a_copy_is_near_and_another_picture_is_not():
    config = PhantomConfig(side=256, seed=2)
    views = [view for n in range(12) for view in generate_study(config, n, truth=False).views]
    pictures = [(view.pixels >> 4).astype(np.uint8) for view in views]
    hashes = [difference_hash(picture) for picture in pictures]
    copies = []
    for picture in pictures:
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
        small = cv2.resize(cv2.imdecode(jpeg, 0), None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        copies.append(difference_hash(np.clip(small * 1.05 + 3, 0, 255).astype(np.uint8)))
    count = len(pictures)
    pairs = {(i, j) for i, j, _ in near_duplicates(words_of(*hashes, *copies)).tolist()}
    found = sum((i, i + count) in pairs for i in range(count))
    assert found >= 0.9 * count
    assert not {(i, j) for i, j in pairs if j % count != i % count}  # no two different pictures


def test_a_black_border_does_not_change_the_hash():
    picture = np.random.default_rng(0).integers(30, 255, (80, 90), np.uint8)
    picture[0, 0] = 0
    assert difference_hash(np.pad(picture, 40)) == difference_hash(picture)
    assert len(difference_hash(np.zeros((5, 4), np.uint8))) == 80
