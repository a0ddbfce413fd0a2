"""Charts as SVG: positions, bands, intervals, thinning."""

from __future__ import annotations

import json
import math
import re
from html import unescape

from vetdino.infra.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    WIDTH,
    Curve,
    Mark,
    interval_chart,
    line_chart,
)

NAN = math.nan


def polyline(svg: str, css_class: str) -> list[list[float]]:
    points = re.search(rf'<polyline class="{css_class}"[^>]*points="([^"]*)"', svg)[1]
    return [[float(number) for number in point.split(",")] for point in points.split()]


def test_a_curve_spans_the_frame_and_larger_values_are_higher():
    points = polyline(
        line_chart("loss", [Curve("a", 0, [(0, 2.0, NAN), (5, 1.0, NAN), (10, 0.0, NAN)])]), "curve"
    )
    assert [x for x, _ in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    heights = [y for _, y in points]
    assert heights == sorted(heights)
    assert max(heights) < HEIGHT - BOTTOM


def test_the_band_is_one_standard_deviation_around_the_mean():
    svg = line_chart("loss", [Curve("a", 0, [(0, 1.0, 0.5), (10, 1.0, 0.5)], [[(0, 1.5), (10, 1.5)]])])
    edge = [point.split(",") for point in re.search(r'class="band"[^>]*points="([^"]*)"', svg)[1].split()]
    assert len(edge) == 4
    upper = float(edge[0][1])
    assert upper == polyline(svg, "seed")[0][1]  # mean + std is where the seed at 1.5 is


def test_without_seeds_there_is_no_band():
    assert 'class="band"' not in line_chart("loss", [Curve("a", 0, [(0, 1.0, NAN), (1, 2.0, NAN)])])


def test_a_curve_of_one_point_is_a_dot():
    assert "<circle" in line_chart("loss", [Curve("a", 0, [(3, 1.0, NAN)])])


def test_values_for_the_pointer_are_in_the_page():
    svg = line_chart("loss", [Curve("a <b>", 9, [(0, 1.0, NAN), (10, 2.0, 0.25)])])
    data = json.loads(unescape(re.search(r'data-chart="([^"]*)"', svg)[1]))
    assert (data["low"], data["high"]) == (0, 10)
    assert data["curves"] == [{"name": "a <b>", "color": 1, "points": [[0, 1.0, None], [10, 2.0, 0.25]]}]


def test_a_long_curve_is_thinned_but_keeps_its_last_point():
    points = [(step, float(step), NAN) for step in range(10 * MAX_POINTS + 1)]
    drawn = polyline(line_chart("loss", [Curve("a", 0, points)]), "curve")
    assert len(drawn) <= MAX_POINTS + 1
    assert drawn[-1][0] == WIDTH - RIGHT


def test_an_interval_is_a_line_through_its_dot_and_none_is_a_dot_alone():
    svg = interval_chart("AUROC", {"mass": [Mark("a", 0, 0.7, 0.6, 0.8), Mark("b", 1, 0.5, NAN, NAN)]}, 0.5)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    [(low, high)] = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="\d+" y2="\d+" stroke=', svg)
    assert float(low) < dots[0] < float(high)
    chance = float(re.search(r'class="chance" x1="([\d.]+)"', svg)[1])
    assert chance == dots[1]


def test_without_chance_there_is_no_dashed_line():
    assert 'class="chance"' not in interval_chart("AP", {"mass": [Mark("a", 0, 0.7, 0.6, 0.8)]})
