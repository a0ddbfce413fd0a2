"""Bars, curves and projections have the colors of their names and stay readable."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.common.figures import colors_by_name
from vetdino.downstream.ultrasound.figures import OTHER_COLOR, Bar, bars, curves, projections


def test_bars_have_their_domains_colours_and_a_zero_is_written(png_pixels, shows_color):
    marks = {"everything": 0.2, "oracle": 0.6}
    both = [Bar("2 images", "arm", 0.5, 0.1, marks), Bar("2 images", "leg", 0.4, 0.0, marks, pale=True)]
    png = bars("Title", "Dice", both)
    assert shows_color(png, "#2371b0", near=12)  # arm's blue, slightly transparent
    zero = bars("Title", "Dice", [Bar("2 images", "arm", 0.0, 0.0, {})])
    unknown = bars("Title", "Dice", [Bar("2 images", "arm", float("nan"), 0.0, {})])
    assert not np.array_equal(png_pixels(zero), png_pixels(unknown))


@pytest.mark.slow
def test_many_groups_of_bars_take_more_lines_and_no_more_width(png_pixels):
    seven, many = (
        bars("Title", "Dice", [Bar(f"group {n}", "arm", 0.5, 0.1, {}) for n in range(count)])
        for count in (7, 28)
    )
    assert png_pixels(many).shape[1] <= 1.05 * png_pixels(seven).shape[1]
    assert png_pixels(many).shape[0] > 2.5 * png_pixels(seven).shape[0]


@pytest.mark.slow
def test_curves_stand_in_one_panel_each_and_many_panels_take_more_lines(png_pixels, shows_color):
    one = curves("Title", {"a": {"leg": [(0, 0.1), (1, 0.9)]}}, "x", "y")
    many = curves("Title", {str(n): {"leg": [(0, 0.1), (1, 0.9)]} for n in range(7)}, "x", "y")
    assert png_pixels(many).shape[0] > png_pixels(one).shape[0]
    assert shows_color(one, colors_by_name(["leg"])["leg"], near=6)


def test_projections_show_every_label(shows_color):
    points = np.random.default_rng(0).normal(size=(300, 3))
    labels = ["other"] * 200 + ["bone of leg"] * 100
    colors = {"other": OTHER_COLOR, "bone of leg": "#0b62a8"}
    assert shows_color(projections("Title", points, labels, colors), "#0b62a8", near=8)
