"""The collimated field: found, and nothing that shows something is ever cut off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.dicom.collimation import BLANK, FILLED, Field, collimated_field, field_of_shape
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.detector import open_field
from vetdino.platform.phantom.dog.studies import generate_study

WHOLE = Field(0, 100, 0, 80)


def collimated(top: int, bottom: int, left: int, right: int, border: int = 0) -> np.ndarray:
    """A noisy picture of 100 x 80 with a border of one value."""
    pixels = np.full((100, 80), border, np.uint16)
    field = np.random.default_rng(0).integers(8000, 50000, (bottom - top, right - left))
    pixels[top:bottom, left:right] = field
    return pixels


def test_a_picture_without_a_border_stays_whole():
    assert collimated_field(collimated(0, 100, 0, 80), None) == (WHOLE, "none")
    assert collimated_field(np.zeros((100, 80), np.uint16), None) == (WHOLE, "none")


@pytest.mark.parametrize("border", [0, 65535])
def test_a_black_or_white_border_is_cut_off(border):
    pixels = collimated(10, 90, 5, 80, border)
    field, source = collimated_field(pixels, None)
    assert (field, source) == (Field(10, 90, 5, 80), "pixels")
    assert field.cut_off(pixels.shape) == "0.1000 0.1000 0.0625 0.0000"
    assert field.of(pixels).shape == (80, 75)


def test_a_field_that_is_small_is_not_trusted():
    assert collimated_field(collimated(40, 60, 30, 60), None) == (WHOLE, "refused")


def test_air_around_a_round_body_is_no_collimator():
    v, u = np.mgrid[:100, :80]
    body = (((v - 50) / 40) ** 2 + ((u - 40) / 30) ** 2 < 1).astype(np.uint16) * 30000
    assert collimated_field(body, None) == (WHOLE, "none")
    assert collimated_field(body, Field(8, 93, 8, 73)) == (Field(8, 93, 8, 73), "header")  # its header knows


def test_a_header_never_cuts_what_shows_something():
    pixels = collimated(10, 90, 5, 75)
    assert collimated_field(pixels, Field(11, 89, 6, 74)) == (Field(10, 90, 5, 75), "header")  # a pixel off
    assert collimated_field(pixels, Field(30, 60, 5, 75)) == (Field(10, 90, 5, 75), "pixels")  # wrong
    full = collimated(0, 100, 0, 80)
    assert collimated_field(full, Field(20, 80, 20, 60)) == (WHOLE, "none")


@settings(max_examples=150, deadline=None)
@given(
    edges=st.tuples(st.integers(0, 40), st.integers(50, 100), st.integers(0, 30), st.integers(40, 80)),
    header=st.none()
    | st.tuples(st.integers(0, 50), st.integers(51, 100), st.integers(0, 40), st.integers(41, 80)),
    border=st.sampled_from([0, 400, 65535]),
    seed=st.integers(0, 9),
)
def test_only_blank_rows_and_columns_are_ever_cut(edges, header, border, seed):
    pixels = collimated(*edges, border)
    random = np.random.default_rng(seed)
    pixels[random.integers(0, 100, 5 * seed), random.integers(0, 80, 5 * seed)] = random.integers(
        0, 65535, 5 * seed
    )
    field, _ = collimated_field(pixels, Field(*header) if header else None)
    low, high = BLANK * 65535, (1 - BLANK) * 65535
    for part in (
        pixels[: field.top],
        pixels[field.bottom :],
        pixels[:, : field.left].T,
        pixels[:, field.right :].T,
    ):
        for line in part:
            assert min((line > low).mean(), (line < high).mean()) <= FILLED + 1e-9


@pytest.mark.slow
def test_the_field_of_generated_radiographs():
    bright, dark = [], []
    for number in range(8):
        for view in generate_study(PhantomConfig(side=256, seed=5), number).views:
            opened = open_field(view.exposure, view.pixels.shape) > 0.5
            field, _ = collimated_field(np.rint(view.pixels * (65535 / 4095)).astype(np.uint16), None)
            rows, columns = np.flatnonzero(opened.any(1)), np.flatnonzero(opened.any(0))
            truth = Field(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
            (dark if view.exposure.shutter else bright).append(overlap(field, truth))
            cut = np.ones(opened.shape, bool)
            cut[field.top : field.bottom, field.left : field.right] = False
            shown = opened & (view.truth.path > 0.05) & (view.pixels > 0.05 * 4095)
            assert not (shown & cut).any()  # no part of the animal that shows
    assert np.mean(bright) > 0.97
    assert np.mean(dark) > 0.8  # black blades beside black air cannot be told apart


def overlap(one: Field, other: Field) -> float:
    """Intersection over union."""
    rows = max(0, min(one.bottom, other.bottom) - max(one.top, other.top))
    columns = max(0, min(one.right, other.right) - max(one.left, other.left))
    areas = sum((field.bottom - field.top) * (field.right - field.left) for field in (one, other))
    return rows * columns / (areas - rows * columns)


def test_shapes_of_a_header():
    assert field_of_shape((100, 80)) is None
    assert field_of_shape((100, 80), rectangle=(6, 75, 11, 90)) == Field(10, 90, 5, 75)
    assert field_of_shape((100, 80), circle=(50, 40, 20)) == Field(29, 70, 19, 60)
    assert field_of_shape((100, 80), polygon=(11, 6, 11, 75, 90, 40)) == Field(10, 90, 5, 75)
    assert field_of_shape((100, 80), (6, 75, 11, 90), (50, 40, 20)) == Field(29, 70, 19, 60)
    assert field_of_shape((100, 80), rectangle=(75, 6, 11, 90)) is None
    assert field_of_shape((100, 80), rectangle=(1, 2, 3)) is None
    assert field_of_shape((100, 80), rectangle=(float("nan"), 75, 11, 90)) is None
