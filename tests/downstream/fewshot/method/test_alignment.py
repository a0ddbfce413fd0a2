"""Slices of a scan are matched with those of the support, also where both show different stretches of the body."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.fewshot.method.alignment import (
    MAX_SLICES,
    Aligner,
    alignment,
    slice_descriptors,
    volume_parts,
)
from vetdino.downstream.fewshot.method.protocol import parts_from_supports
from vetdino.downstream.fewshot.method.support import build_support_set
from vetdino.downstream.volumes.volume import Volume


def anatomy(at: np.ndarray) -> np.ndarray:
    """(Z, 32, 32): what all patients share, smooth along the body, at these millimeters."""
    knots = 40 * np.random.default_rng(9).normal(size=(12, 4, 4))
    columns = [np.interp(at, np.linspace(0, 210, 12), column) for column in knots.reshape(12, -1).T]
    return np.kron(np.stack(columns, axis=1).reshape(-1, 4, 4), np.ones((1, 8, 8)))


def body(seed: int = 0, slices: int = 40, step: float = 5.0, size: float = 1.0) -> Volume:
    """A patient of 200 mm times `size`, whose slices change along the body; an organ from 80 to 120 mm of 200."""
    random = np.random.default_rng(seed)
    at = (np.arange(slices) + 0.5) * step / size
    y, x = np.mgrid[:32, :32]
    inside = np.hypot(y - 16, x - 16) < 14
    image = inside * (120 + anatomy(at)) + random.normal(0, 3, (slices, 32, 32))
    labels = ((at[:, None, None] > 80) & (at[:, None, None] < 120) & (np.hypot(y - 14, x - 12) < 5)).astype(
        np.uint8
    )
    return Volume(f"b{seed}", image.clip(1, 255).astype(np.float32), labels, (step, 1.5, 1.5), "mri", None)


def cut(volume: Volume, first: int, last: int) -> Volume:
    return replace(volume, image_ZHW=volume.image_ZHW[first:last], labels_ZHW=volume.labels_ZHW[first:last])


def stretch(volume: Volume) -> tuple[int, int]:
    shown = np.flatnonzero(volume.labels_ZHW.any(axis=(1, 2)))
    return int(shown[0]), int(shown[-1])


def found(support: Volume, query: Volume, pixels) -> tuple[int, int]:
    aligner = Aligner(lambda _: pixels)
    parts = aligner.parts(build_support_set(1, "liver", [support]), query)
    return min(parts), max(parts)


@pytest.mark.parametrize(
    ("support", "query"),
    [
        (body(0), body(1)),
        (cut(body(0), 10, 40), body(1)),
        (body(0), cut(body(1), 12, 36)),
        (cut(body(0), 0, 30), cut(body(1), 10, 40)),
        (body(0), body(1, slices=80, step=2.5)),
        (body(0, slices=80, step=2.5), cut(body(1), 10, 34)),
        (body(0), body(1, slices=44, size=1.1)),
        (body(0, slices=160, step=1.25), cut(body(1), 10, 34)),
    ],
)
def test_the_organs_stretch_is_found_whatever_both_scans_cover(support, query, pixels):
    first, last = found(support, query, pixels)
    # Within half the distance to which stretches and starts are searched.
    allowed = 1.5 * max(1.0, 2 * support.spacing[0] / query.spacing[0])
    assert abs(first - stretch(query)[0]) <= allowed
    assert abs(last - stretch(query)[1]) <= allowed


def test_the_guess_by_share_of_the_length_misses_what_the_alignment_finds(pixels):
    support, query = cut(body(0), 0, 30), cut(body(1), 14, 40)
    guess = parts_from_supports(26, [support.labels_ZHW == 1], reach=0.0)
    assert abs(min(guess) - stretch(query)[0]) > 8
    assert abs(found(support, query, pixels)[0] - stretch(query)[0]) <= 1


def test_several_supports_say_their_mean(pixels):
    query = body(3)
    supports = [cut(body(0), 0, 30), cut(body(1), 10, 40), body(2)]
    parts = Aligner(lambda _: pixels).parts(build_support_set(1, "liver", supports), query)
    assert abs(min(parts) - stretch(query)[0]) <= 1
    assert set(parts.values()) == {0, 1, 2}


def test_without_a_known_spacing_scans_are_taken_as_equally_long(pixels):
    query = replace(body(1, slices=80, step=2.5), in_mm=False)
    first, last = found(body(0), query, pixels)
    assert abs(first - stretch(query)[0]) <= 3
    assert abs(last - stretch(query)[1]) <= 3


def test_the_best_alignment_is_that_of_a_slow_search():
    random = np.random.default_rng(0)
    support, ratio = random.normal(size=(9, 5)), 1.0
    query = support[2:8] + 0.3 * random.normal(size=(6, 5))
    support, query = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (support, query))
    best = {}
    for stretch_by in (0.8, 0.9, 1.0, 1.1, 1.25):
        for double in range(-2 * int(np.ceil(stretch_by * 6)), 18):
            start, cosines = double / 2, []
            for place in range(6):
                other = stretch_by * place + start
                if -0.5 < other < 8.5:
                    cosines.append(query[place] @ support[min(max(int(np.rint(other)), 0), 8)])
            if len(cosines) >= 0.5 * min(6, 9 / stretch_by):
                best[stretch_by, start] = np.mean(cosines)
    assert alignment(query, support, ratio) == max(best, key=best.get)


def test_descriptors_are_few_and_tell_a_patients_slices_apart(pixels):
    rows, step = slice_descriptors(pixels, body(0, slices=150, step=4 / 3))
    assert step == 3
    assert len(rows) == 50 <= MAX_SLICES
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    same = slice_descriptors(pixels, replace(body(0), image_ZHW=np.repeat(body(0).image_ZHW[:1], 4, axis=0)))[
        0
    ]
    assert not same.any()


def test_descriptors_are_computed_once_for_each_scan(pixels):
    calls = []

    def counted(volume, slices):
        calls.append(volume.name)
        return pixels(volume, slices)

    aligner, support = Aligner(lambda _: counted), build_support_set(1, "liver", [body(0)])
    for query in (body(1), body(2)):
        for _ in range(2):
            aligner.parts(support, query)
    assert [calls.count(name) for name in ("b0", "b1", "b2")] == [40, 40, 40]


def test_without_an_aligner_the_stretch_is_guessed():
    support, query = build_support_set(1, "liver", [body(0)]), body(1)
    assert volume_parts(None, support, query, 0.1) == parts_from_supports(40, support.organ_masks(), 0.1)
