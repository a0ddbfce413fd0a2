"""Frames: shadow below bone, masks within the field of view, and bytes that depend on the seed alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from vetdino.platform.phantom.config import SonogramConfig
from vetdino.platform.phantom.limb.frames import (
    GeneratedFrame,
    generate_frame,
    pixel_positions,
    scan_converted,
)
from vetdino.platform.phantom.limb.probe import CURVED, LINEAR
from vetdino.platform.phantom.limb.sweeps import nth_domain, nth_probe

SMALL = SonogramConfig(side=96, frames=2, seed=3, workers=1)


@pytest.fixture(scope="module")
def eight() -> dict[str, GeneratedFrame]:
    """The first frame of every domain of the cube."""
    return {nth_domain(n).name: generate_frame(replace(SMALL, side=256), nth_domain(n), 0) for n in range(8)}


@pytest.mark.slow
def test_below_bone_lies_a_shadow_and_at_its_top_a_bright_line(eight):
    for name, frame in eight.items():
        mask = frame.mask
        columns = np.flatnonzero(mask.any(0))
        widest = columns[np.argmax(mask[:, columns].sum(0))]
        top, bottom = np.flatnonzero(mask[:, widest])[[0, -1]]
        inside = frame.pixels[(top + bottom) // 2 : bottom, widest - 2 : widest + 3].astype(float)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 41))) * ~mask * (frame.pixels > 0)
        level = np.zeros_like(mask)
        level[(top + bottom) // 2 : bottom] = True
        beside = frame.pixels[(around > 0) & level].astype(float)
        assert inside.mean() < 0.5 * beside.mean(), name
        line = max(frame.pixels[top + k, widest - 2 : widest + 3].mean() for k in range(6))
        assert line > beside.mean() + 40, name


@pytest.mark.slow
def test_every_frame_has_a_head_of_bone_of_a_plausible_size_within_the_field():
    for number in range(10):
        for frame in (0, 40):
            made = generate_frame(replace(SMALL, side=64), nth_domain(number), frame)
            assert 0.01 < made.mask.mean() < 0.25, (number, frame)
            outside = ~field_of(made, number)
            assert not made.pixels[outside].any()
            assert not made.mask[outside].any()


def field_of(frame: GeneratedFrame, number: int) -> np.ndarray:
    """Where beams reach, computed from the geometry alone."""
    probe = nth_probe(SMALL, nth_domain(number).device)
    height, width = frame.pixels.shape
    y, x = np.mgrid[:height, :width] * frame.pixel
    x -= (width - 1) / 2 * frame.pixel
    if not probe.radius:
        return (np.abs(x) <= probe.width / 2) & (y >= 0.5) & (y <= probe.depth + 0.7)
    y += probe.radius * np.cos(probe.angle) - 0.6
    reach, angle = np.hypot(x, y), np.abs(np.arctan2(x, y))
    within = (reach >= probe.radius - 0.01) & (reach <= probe.radius + probe.depth)
    return within & (angle <= probe.angle + 1e-4)


@pytest.mark.slow
def test_neighboring_frames_are_alike_and_not_the_same():
    for number in (0, 6):
        first, second, later = (
            generate_frame(SMALL, nth_domain(number), k).pixels.astype(float).ravel() for k in (0, 1, 12)
        )
        near, far = np.corrcoef(first, second)[0, 1], np.corrcoef(first, later)[0, 1]
        assert 0.8 < near < 0.999
        assert far < near


def test_devices_differ_in_shape_of_field_depth_and_gray(eight):
    linear, curved = eight["s1-d1-arm"], eight["s1-d2-arm"]
    assert linear.pixels.shape != curved.pixels.shape
    assert (linear.pixels > 0).mean() > 0.75
    assert not curved.pixels[:20, :20].any()
    assert not curved.pixels[-8:, :8].any()
    assert LINEAR.depth < CURVED.depth
    assert LINEAR.dynamic != CURVED.dynamic
    further = [nth_probe(SMALL, number) for number in range(3, 9)]
    assert len(set(further)) == 6
    assert [bool(probe.radius) for probe in further] == [False, True] * 3


def test_the_same_seed_gives_the_same_frame_and_another_seed_another():
    domain = nth_domain(3)
    one, two, other = (generate_frame(replace(SMALL, seed=seed), domain, 1) for seed in (3, 3, 4))
    assert one.pixels.tobytes() == two.pixels.tobytes()
    assert one.mask.tobytes() == two.mask.tobytes()
    assert one.pixels.tobytes() != other.pixels.tobytes()


@pytest.mark.parametrize(("probe", "beam"), [(LINEAR, 20), (CURVED, 30)], ids=["linear", "curved"])
def test_scan_conversion_puts_a_sample_where_its_beam_passes(probe, beam):
    beams = np.zeros((len(probe.samples), len(probe.beams)), np.float32)
    row = len(probe.samples) // 2
    beams[row - 6 : row + 7, beam - 2 : beam + 3] = 255
    x, y, pixel = pixel_positions(probe, 400)
    image, field = scan_converted(beams, probe, x, y, pixel)
    weights = image / image.sum()
    if probe.radius:
        reach = probe.radius + probe.samples[row]
        expected = reach * np.sin(probe.beams[beam]), reach * np.cos(probe.beams[beam]) - probe.radius
    else:
        expected = probe.beams[beam], probe.samples[row]
    assert ((weights * x).sum(), (weights * y).sum()) == pytest.approx(expected, abs=pixel)
    assert not image[~field].any()


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curved"])
def test_the_image_holds_the_field_of_view_with_its_margin(probe):
    x, y, pixel = pixel_positions(probe, 300)
    assert max(x.shape) == 300
    assert np.diff(x[0]) == pytest.approx(pixel, abs=1e-4)
    assert np.diff(y[:, 0]) == pytest.approx(pixel, abs=1e-4)
    _, field = scan_converted(
        np.zeros((len(probe.samples), len(probe.beams)), np.float32), probe, x, y, pixel
    )
    assert not field[[0, -1]].any()
    assert not field[:, [0, -1]].any()
    assert y[field].max() == pytest.approx(probe.depth, abs=0.3)
    assert x[field].max() == pytest.approx(
        (probe.radius + probe.depth) * np.sin(probe.angle) if probe.radius else probe.width / 2, abs=0.4
    )
