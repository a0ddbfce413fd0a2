"""Exposure and processing of radiographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vetdino.platform.phantom.dog.detector import (
    BITS,
    Exposure,
    draw_exposure,
    exposed_image,
    marker_path,
    open_field,
)
from vetdino.platform.phantom.dog.solids import Ellipsoid, Rays, Solid
from vetdino.platform.phantom.dog.xray import project


def body_path(side=96) -> np.ndarray:
    beam = Rays(np.eye(3), np.zeros(3), (side, side), 20 / side)
    trunk = Ellipsoid(np.zeros(3), (5.0, 7.0, 6.0), np.eye(3))
    lung = Ellipsoid(np.array([0, -2.0, 0]), (3.0, 2.0, 4.0), np.eye(3))
    return project([Solid("body", 0.25, 0.0, (trunk,)), Solid("lung", 0.07, 0.25, (lung,))], beam).path


def test_an_exposed_film_is_twelve_bits_with_air_dark_and_lung_darker_than_flesh():
    picture = exposed_image(body_path(), Exposure(), np.random.default_rng(0))
    assert picture.dtype == np.uint16
    assert picture.max() < 2**BITS
    assert picture[2, 2] < picture[38, 48] < picture[66, 48]


def test_the_same_film_and_the_same_chance_give_the_same_picture():
    one, two, three = (
        exposed_image(body_path(), Exposure(), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (one == two).all()
    assert (one != three).any()


def test_more_photons_make_less_noise():
    def grain(photons):
        exposure = Exposure(photons=photons, blur=0.01)
        pair = [
            exposed_image(body_path(), exposure, np.random.default_rng(seed)).astype(float) for seed in (1, 2)
        ]
        return np.std(np.diff(pair[0] - pair[1], axis=0)[40:50, 40:50])

    assert grain(100) > 2 * grain(10_000)


def test_the_blades_leave_a_field_and_the_marker_lies_in_it():
    random = np.random.default_rng(3)
    for _ in range(40):
        exposure = draw_exposure(random, (0.2, 0.2, 0.2, 0.2), "R", right=False)
        thick, opened = (
            marker_path(exposure, (128, 100)) > 0,
            open_field(replace(exposure, twist=0.0), (128, 100)),
        )
        assert (opened[thick] > 0.5).mean() > 0.8
        assert np.nonzero(thick)[1].mean() < 50


def test_a_shutter_paints_the_border_black_and_without_it_the_border_stays_bright():
    exposure = Exposure(blades=(0.1, 0.0, 0.0, 0.0))
    bright = exposed_image(body_path(), exposure, np.random.default_rng(0))
    black = exposed_image(body_path(), replace(exposure, shutter=True), np.random.default_rng(0))
    assert bright[:7].mean() > 3500
    assert black[:7].max() == 0
