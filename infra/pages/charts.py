"""Charts as SVG: curves over the training step, and values with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TypeVar

from .html import COLORS, css_color

T = TypeVar("T")

MAX_POINTS = 400
"""Most points of one drawn curve; of longer ones every n-th point is drawn."""

# The plot area, in units of the SVG view box.
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 460, 240, 52, 10, 10, 24

# The plot area of a chart of intervals; the names of its rows need more room on the left.
ROW_STEP, ROW_LEFT, ROW_TOP = 12, 150, 8


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve of a chart. points: (step, value, standard deviation over seeds or NaN), by step.

    name: in the legend. color: its number. seeds: (step, value) of each seed, drawn faintly behind.
    """

    name: str
    color: int
    points: Sequence[tuple[int, float, float]]
    seeds: Sequence[Sequence[tuple[int, float]]] = ()


def line_chart(name: str, curves: Sequence[Curve]) -> str:
    """Curves over the step in one frame, each with a band of one standard deviation."""
    curves = [_thinned(curve) for curve in curves]
    steps = [step for curve in curves for step, _, _ in curve.points]
    low, high = _padded_range([value for curve in curves for value in _drawn_values(curve)])
    frame = _Frame(min(steps), max(steps), low, high)
    # What page.js needs to show values under the pointer.
    data = {
        "left": LEFT,
        "width": WIDTH - LEFT - RIGHT,
        "low": frame.first,
        "high": frame.last,
        "curves": [
            {
                "name": curve.name,
                "color": curve.color % COLORS,
                "points": [
                    [step, value, None if math.isnan(std) else std] for step, value, std in curve.points
                ],
            }
            for curve in curves
        ],
    }
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} over the step" '
        f'data-chart="{escape(json.dumps(data))}">'
        + frame.grid()
        + "".join(part for curve in curves for part in _curve_svg(curve, frame))
        + f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg><div class="readout"></div></figure>'
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """From steps and values to positions in the view box."""

    first: int
    last: int
    low: float
    high: float

    def point(self, step: float, value: float) -> str:
        x = LEFT + (step - self.first) / max(self.last - self.first, 1) * (WIDTH - LEFT - RIGHT)
        return f"{x:.1f},{self.y(value):.1f}"

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> str:
        parts = []
        for value in _ticks(self.low, self.high):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        ends = ((self.first, LEFT, "start"), (self.last, WIDTH - RIGHT, "end"))
        parts += [
            f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step:,}</text>'
            for step, x, anchor in ends
        ]
        return "".join(parts)


def _curve_svg(curve: Curve, frame: _Frame) -> Iterator[str]:
    """Band, curves of the seeds, and the curve; a curve of one point is a dot."""
    color, series = css_color(curve.color), f'data-series="{escape(curve.name)}"'
    band = [(step, value, std) for step, value, std in curve.points if not math.isnan(std)]
    if band:
        edge = [frame.point(step, value + std) for step, value, std in band]
        edge += [frame.point(step, value - std) for step, value, std in reversed(band)]
        yield f'<polygon class="band" {series} points="{" ".join(edge)}" fill="{color}"/>'
    for seed in curve.seeds:
        points = " ".join(frame.point(step, value) for step, value in seed)
        yield f'<polyline class="seed" {series} points="{points}" stroke="{color}"/>'
    if len(curve.points) == 1:
        x, y = frame.point(*curve.points[0][:2]).split(",")
        yield f'<circle {series} cx="{x}" cy="{y}" r="3.5" fill="{color}"/>'
    points = " ".join(frame.point(step, value) for step, value, _ in curve.points)
    yield f'<polyline class="curve" {series} points="{points}" stroke="{color}"/>'


@dataclass(frozen=True, slots=True)
class Mark:
    """One dot of a chart of intervals; low and high are NaN if it has no interval."""

    name: str
    color: int
    value: float
    low: float
    high: float


def interval_chart(name: str, rows: Mapping[str, Sequence[Mark]], chance: float | None = None) -> str:
    """A row per finding with a dot and its interval for each source; a dashed line at `chance`."""
    values = [x for marks in rows.values() for mark in marks for x in (mark.value, mark.low, mark.high)]
    low, high = _padded_range([x for x in [*values, chance] if x is not None and not math.isnan(x)])

    def x(value: float) -> str:
        return f"{ROW_LEFT + (value - low) / (high - low) * (WIDTH - ROW_LEFT - 14):.1f}"

    height, parts = ROW_TOP, []
    for row, marks in rows.items():
        middle = height + ROW_STEP * len(marks) / 2 + 3
        parts.append(f'<text x="{ROW_LEFT - 8}" y="{middle + 2:.1f}" text-anchor="end">{escape(row)}</text>')
        for mark in marks:
            height += ROW_STEP
            y, color = height - 2, css_color(mark.color)
            dot = f'<circle cx="{x(mark.value)}" cy="{y}" r="3.2" fill="{color}"/>'
            if not math.isnan(mark.low):
                dot += (
                    f'<line x1="{x(mark.low)}" x2="{x(mark.high)}" y1="{y}" y2="{y}" '
                    f'stroke="{color}" stroke-width="1.6"/>'
                )
            parts.append(f'<g data-series="{escape(mark.name)}">{dot}</g>')
        height += 6
    scale = []
    for value in _ticks(low, high):
        scale.append(
            f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{ROW_TOP}" y2="{height}"/>'
            f'<text x="{x(value)}" y="{height + 14}" text-anchor="middle">{value:g}</text>'
        )
    if chance is not None:
        scale.append(f'<line class="chance" x1="{x(chance)}" x2="{x(chance)}" y1="{ROW_TOP}" y2="{height}"/>')
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height + 20}" role="img" aria-label="{escape(name)}">'
        + "".join(scale + parts)
        + "</svg></figure>"
    )


def _thinned(curve: Curve) -> Curve:
    seeds = tuple(_every_nth(points) for points in curve.seeds)
    return replace(curve, points=_every_nth(curve.points), seeds=seeds)


def _every_nth(points: Sequence[T]) -> Sequence[T]:
    """At most MAX_POINTS of the points, with the last one."""
    stride = -(-len(points) // MAX_POINTS) or 1
    return [*points[:-1:stride], *points[-1:]]


def _drawn_values(curve: Curve) -> Iterator[float]:
    for _, value, std in curve.points:
        yield from (value, value - std, value + std) if not math.isnan(std) else (value,)
    for points in curve.seeds:
        yield from (value for _, value in points)


def _padded_range(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a margin; never of zero width."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers inside a range.

    >>> _ticks(0.48, 0.71)
    [0.5, 0.55, 0.6, 0.65, 0.7]
    """
    raw = (high - low) / most
    scale = 10 ** math.floor(math.log10(raw))
    step = next(scale * part for part in (1, 2, 5, 10) if scale * part >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]
