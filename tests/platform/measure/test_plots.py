"""Plots are pictures, with or without intervals."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from vetdino.platform.measure.plots import COLORS, empty_figure, interval_plot, png_bytes, style_y_axis
from vetdino.platform.measure.results import MetricValue


def value_of(finding, source, number, half=0.05):
    return MetricValue("AUROC", finding, source, number, number - half, number + half, 5, 10)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def inked(picture, color):
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) < 30).sum())


def test_every_source_has_its_color_and_every_finding_its_row():
    few = pixels(interval_plot([value_of("mass", "ours", 0.7), value_of("mass", "random", 0.5)], chance=0.5))
    more = pixels(interval_plot([value_of(name, "ours", 0.7) for name in ("mass", "stones", "heart")]))
    assert inked(few, COLORS[0]) > 50
    assert inked(few, COLORS[1]) > 50
    assert inked(few, COLORS[2]) == 0
    assert more.shape[0] > few.shape[0]


@pytest.mark.parametrize("value", [math.nan, 0.6])
def test_what_was_not_measured_or_has_no_interval_is_left_out(value):
    drawn = pixels(
        interval_plot([value_of("mass", "ours", 0.7), value_of("mass", "random", value, math.nan)])
    )
    assert (inked(drawn, COLORS[1]) > 60) == (not math.isnan(value))


def test_the_same_figures_give_the_same_bytes():
    values = [value_of("mass", "ours", 0.7)]
    assert interval_plot(values) == interval_plot(values)


def titled(title="", note=""):
    figure = empty_figure(3.0, 2.0)
    style_y_axis(figure.subplots(), "percent")
    return figure, png_bytes(figure, title, note)


def test_titles_and_notes_are_broken_at_the_width_of_the_figure_and_only_where_there_are_any():
    bare, plain = titled()
    assert bare.get_suptitle() == bare.get_supxlabel() == ""
    figure, png = titled("a title of many words " * 4, "a note of many words " * 4)
    assert max(map(len, figure.get_suptitle().splitlines())) <= 39
    assert max(map(len, figure.get_supxlabel().splitlines())) <= 54
    assert pixels(png).shape == pixels(plain).shape == (260, 390, 3)
    assert png != plain


def test_a_ruled_axis_has_its_name_and_lines_behind_what_is_drawn():
    [axes] = titled()[0].axes
    assert axes.get_ylabel() == "percent"
    assert axes.get_axisbelow()
    assert any(line.get_visible() for line in axes.get_ygridlines())
