"""Near-duplicates: difference hashes of each picture, and every pair of pictures whose hashes differ in a few bits.

A copy that was exported again, compressed harder or resized has nearly the same hash; a hash of the file or of the
pixels does not see it. A coarse hash of 64 bits finds candidates, a fine one of 256 bits confirms them: of 1,592
mammograms of 892 patients, 1,750 pairs have nearly the same coarse hash, and one also the fine one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

# H, W pixels of a picture; N hashes, P pairs.

BITS = 64

RADIUS = 3
"""Two pictures are candidates where their coarse hashes differ in at most this many of 64 bits."""

FINE_RADIUS = 16
"""Candidates are near-duplicates where their fine hashes differ in at most this many of 256 bits. Both radii find 99 %
of copies at 80 % of the size, JPEG quality 60 and 5 % more contrast of real radiographs and mammograms."""

BACKGROUND = 10
"""Of 255, above the darkest pixel: what is darker does not count as content."""

OUTSIDE = 0.005
"""Of a picture's brightness, this fraction lies outside of the hashed part at each of its sides."""

BATCH = 1 << 20
"""Pairs that are compared at once: 100 MB."""


def difference_hash(pixels_HW: np.ndarray) -> str:
    """80 hexadecimal digits, 16 of the coarse hash and 64 of the fine one. pixels: (H, W) uint8.

    A bit says whether the picture, without the dark around it and averaged to a few cells, grows brighter
    from a cell to its right (coarse and fine) or to the one below (fine).

    >>> difference_hash(np.tile(np.arange(90, dtype=np.uint8), (80, 1)))[:16]
    'ffffffffffffffff'
    """
    content_HW = _content(pixels_HW).astype(np.float32)
    bits = _brighter(content_HW, 8, 8), _brighter(content_HW, 8, 16), _brighter(content_HW.T, 8, 16)
    return np.packbits(np.concatenate(bits)).tobytes().hex()


def _content(pixels_HW: np.ndarray) -> np.ndarray:
    """The part that is not dark background: without it most bits of a mammogram would mean nothing."""
    bright_HW = np.maximum(pixels_HW.astype(np.float32) - (int(pixels_HW.min()) + BACKGROUND), 0)
    slices = []
    for axis in (1, 0):
        sums_L = bright_HW.sum(axis).cumsum()
        if not sums_L[-1] > 0:
            return pixels_HW
        low, high = np.searchsorted(sums_L, [OUTSIDE * sums_L[-1], (1 - OUTSIDE) * sums_L[-1]])
        slices.append(slice(int(low), int(high) + 1))
    return pixels_HW[tuple(slices)]


def _brighter(picture_HW: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Whether each cell's right neighbor is brighter by half a grey level or more, (rows * columns,) bool."""
    import cv2

    cells = np.rint(
        cv2.resize(np.ascontiguousarray(picture_HW), (columns + 1, rows), interpolation=cv2.INTER_AREA)
    )
    return (cells[:, 1:] > cells[:, :-1]).ravel()


def near_duplicates(hashes_N5: np.ndarray, only_equal: bool = False) -> np.ndarray:
    """Pairs of near-duplicates, (P, 3) int64: i < j and how many of 256 bits differ, sorted.

    hashes: (N, 5) 64-bit words of `difference_hash`. Pictures with one and the same hash are listed with the
    first of them alone, and only that one with others: what belongs together is connected, and a picture that is there
    a thousand times gives 999 pairs. only_equal: of them only those with one and the same hash: among real
    radiographs one pair in a few thousand is a candidate otherwise, which is a day's work from some 10^7 on.
    """
    if not len(hashes_N5):
        return np.zeros((0, 3), np.int64)
    distinct_M5, first_M, group_N = np.unique(
        hashes_N5.astype(np.uint64), axis=0, return_index=True, return_inverse=True
    )
    group_N = group_N.reshape(-1)
    repeats = np.flatnonzero(first_M[group_N] != np.arange(len(group_N)))
    found = [np.column_stack([first_M[group_N[repeats]], repeats, np.zeros_like(repeats)])]
    for pairs_P3 in () if only_equal else near_pairs(distinct_M5[:, 0]):
        left, right = distinct_M5[pairs_P3[:, 0], 1:], distinct_M5[pairs_P3[:, 1], 1:]
        distance_P = np.bitwise_count(left ^ right).sum(axis=1, dtype=np.int64)
        is_near_P = distance_P <= FINE_RADIUS
        ends_P2 = np.sort(first_M[pairs_P3[is_near_P, :2]], axis=1)
        found.append(np.column_stack([ends_P2, distance_P[is_near_P]]))
    pairs_P3 = np.concatenate(found).astype(np.int64)
    return pairs_P3[np.lexsort((pairs_P3[:, 1], pairs_P3[:, 0]))]


def near_pairs(hashes_N: np.ndarray, radius: int = RADIUS) -> Iterator[np.ndarray]:
    """Every pair of hashes that differ in at most `radius` bits, once: rows (i, j, distance), i < j, (P, 3).

    hashes: (N,) uint64. Of radius + 2 bands of bits, a pair agrees in two or more whole bands, so that only hashes
    that share two bands are compared: the answer is exact.
    """
    bands = _bands(radius + 2)
    choices = list(combinations(range(len(bands)), 2))
    for number, (first, second) in enumerate(choices):
        mask = bands[first] | bands[second]
        for pairs_P2 in _pairs_in_groups(hashes_N & mask):
            differing_P = hashes_N[pairs_P2[:, 0]] ^ hashes_N[pairs_P2[:, 1]]
            distance_P = np.bitwise_count(differing_P)
            is_new_P = distance_P <= radius
            for earlier in choices[:number]:  # a pair that an earlier choice of bands gave
                is_new_P &= (differing_P & (bands[earlier[0]] | bands[earlier[1]])) != 0
            rows = np.column_stack([np.sort(pairs_P2, axis=1), distance_P])[is_new_P]
            if len(rows):
                yield rows


def _bands(count: int) -> list[np.uint64]:
    """Masks of `count` neighboring bands that share out the bits of a hash."""
    edges = [round(BITS * number / count) for number in range(count + 1)]
    return [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(edges)]


def _pairs_in_groups(keys_N: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of all pairs with equal keys, in batches (P, 2) int64 of about BATCH."""
    order_N = np.argsort(keys_N, kind="stable")
    sorted_N = keys_N[order_N]
    starts = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]]) if len(keys_N) else np.zeros(0, int)
    ends_N = np.repeat(np.r_[starts[1:], len(keys_N)], np.diff(np.r_[starts, len(keys_N)]))
    later_N = ends_N - np.arange(len(keys_N)) - 1  # how many of its group come after each
    for low, high in _slices(later_N):
        left_P = np.repeat(np.arange(low, high), later_N[low:high])
        before_P = np.repeat(np.cumsum(later_N[low:high]) - later_N[low:high], later_N[low:high])
        right_P = left_P + 1 + np.arange(len(left_P)) - before_P
        yield np.column_stack([order_N[left_P], order_N[right_P]])


def _slices(sizes_N: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of rows whose sizes sum to BATCH or just over it, without those of none."""
    sums_N = np.cumsum(sizes_N)
    low, done = 0, 0
    while low < len(sizes_N) and done < sums_N[-1]:
        high = min(int(np.searchsorted(sums_N, done + BATCH)) + 1, len(sizes_N))
        if sums_N[high - 1] > done:
            yield low, high
        low, done = high, int(sums_N[high - 1])
