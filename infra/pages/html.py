"""Pages that hold everything they show: tables, curves as SVG, pictures as data; the browser fetches nothing."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent

GUARD = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content-Security-Policy: the browser itself refuses to fetch anything."""

COLOURS = 8
"""Colours of curves in page.css; after the last the first comes again."""

MOST_POINTS = 400
"""Of one drawn curve; of longer ones every so many-th point is kept."""

# A chart's frame, in units of its view box.
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 460, 240, 52, 10, 10, 24


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart. points: (step, value, standard deviation over seeds or NaN), by step.

    name: in the legend. thin: each seed's own points, drawn faintly behind.
    """

    name: str
    colour: int
    points: Sequence[tuple[int, float, float]]
    thin: Sequence[Sequence[tuple[int, float]]] = ()


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document with its style and script inside."""
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{GUARD}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        # Without an icon of its own a browser would ask for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def text(words: str, kind: str = "") -> str:
    """A paragraph; what stands between backticks is code. kind: a class of page.css."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))
    return f"<p{f' class={kind}' if kind else ''}>{marked}</p>"


def code(words: str) -> str:
    """Words for a machine, as they stand."""
    return f"<pre><code>{escape(words)}</code></pre>"


def title(words: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(words)}</h{level}>"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table with the interval it lies in. verdict: `better`, `worse` or nothing."""

    value: str
    between: str = ""
    verdict: str = ""


def table(head: Sequence[str], rows: Iterable[Sequence[str | Cell]], whole: int = 0) -> str:
    """A table; the first `whole` rows are set apart as sums over the others."""
    lines = ['<div class="wide"><table>', f"<tr>{''.join(f'<th>{escape(word)}</th>' for word in head)}</tr>"]
    for number, row in enumerate(rows):
        mark = ' class="whole"' if number < whole else ""
        lines.append(f"<tr{mark}>{''.join(map(_cell, row))}</tr>")
    return "\n".join([*lines, "</table></div>"])


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    between = f' <span class="between">{escape(cell.between)}</span>' if cell.between else ""
    return f'<td class="number {cell.verdict}">{escape(cell.value)}{between}</td>'


def legend(names: Mapping[str, int]) -> str:
    """The names of curves with their colours; a click hides one in all charts."""
    buttons = [
        f'<button data-name="{escape(name)}" aria-pressed="true">'
        f'<span class="swatch" style="background: var(--c{colour % COLOURS})"></span>{escape(name)}</button>'
        for name, colour in names.items()
    ]
    return f'<div class="legend">{"".join(buttons)}</div>'


def chart(name: str, curves: Sequence[Curve]) -> str:
    """Curves over the step in one frame, with the band of one standard deviation around each."""
    curves = [_thinned(curve) for curve in curves]
    steps = [step for curve in curves for step, _, _ in curve.points]
    values = [value for curve in curves for value in _reach(curve)]
    frame = _Frame(min(steps), max(steps), *_room(values))
    parts = [frame.grid()]
    for curve in curves:
        parts += [*_drawn(curve, frame)]
    told = {
        "left": LEFT,
        "width": WIDTH - LEFT - RIGHT,
        "low": frame.first,
        "high": frame.last,
        "curves": [
            {
                "name": curve.name,
                "colour": curve.colour % COLOURS,
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
        f'data-chart="{escape(json.dumps(told))}">'
        + "".join(parts)
        + f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg><div class="told"></div></figure>'
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """One dot of a chart of intervals; low and high are NaN where it has none."""

    name: str
    colour: int
    value: float
    low: float
    high: float


def intervals(name: str, rows: Mapping[str, Sequence[Mark]], zero: float | None = None) -> str:
    """A row a finding, in it a dot with its interval for each source; a dashed line at `zero` (chance)."""
    step, left, top = 12, 150, 8
    values = [x for marks in rows.values() for mark in marks for x in (mark.value, mark.low, mark.high)]
    low, high = _room([x for x in [*values, zero] if x is not None and not math.isnan(x)])
    across = lambda value: left + (value - low) / (high - low) * (WIDTH - left - 14)
    height, parts = top, []
    for row, marks in rows.items():
        middle = height + step * len(marks) / 2 + 3
        parts.append(f'<text x="{left - 8}" y="{middle + 2:.1f}" text-anchor="end">{escape(row)}</text>')
        for mark in marks:
            height += step
            y, colour = height - 2, f"var(--c{mark.colour % COLOURS})"
            inner = f'<circle cx="{across(mark.value):.1f}" cy="{y}" r="3.2" fill="{colour}"/>'
            if not math.isnan(mark.low):
                inner += (
                    f'<line x1="{across(mark.low):.1f}" x2="{across(mark.high):.1f}" y1="{y}" y2="{y}" '
                    f'stroke="{colour}" stroke-width="1.6"/>'
                )
            parts.append(f'<g data-of="{escape(mark.name)}">{inner}</g>')
        height += 6
    scale = []
    for value in _ticks(low, high):
        scale.append(
            f'<line class="grid" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="{top}" y2="{height}"/>'
        )
        scale.append(f'<text x="{across(value):.1f}" y="{height + 14}" text-anchor="middle">{value:g}</text>')
    if zero is not None:
        scale.append(
            f'<line class="zero" x1="{across(zero):.1f}" x2="{across(zero):.1f}" y1="{top}" y2="{height}"/>'
        )
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height + 20}" role="img" aria-label="{escape(name)}">'
        + "".join(scale + parts)
        + "</svg></figure>"
    )


def picture(encoded: bytes, caption: str) -> str:
    """A PNG or JPEG with its caption."""
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(encoded).decode()
    return (
        f'<figure class="picture"><img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """From steps and values to places in the view box."""

    first: int
    last: int
    low: float
    high: float

    def at(self, step: float, value: float) -> str:
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


def _drawn(curve: Curve, frame: _Frame) -> Iterable[str]:
    colour, of = f"var(--c{curve.colour % COLOURS})", f'data-of="{escape(curve.name)}"'
    spread = [(step, value, std) for step, value, std in curve.points if not math.isnan(std)]
    if spread:
        edge = [frame.at(step, value + std) for step, value, std in spread]
        edge += [frame.at(step, value - std) for step, value, std in reversed(spread)]
        yield f'<polygon class="band" {of} points="{" ".join(edge)}" fill="{colour}"/>'
    for points in curve.thin:
        places = " ".join(frame.at(step, value) for step, value in points)
        yield f'<polyline class="thin" {of} points="{places}" stroke="{colour}"/>'
    if len(curve.points) == 1:
        x, y = frame.at(*curve.points[0][:2]).split(",")
        yield f'<circle {of} cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>'
    places = " ".join(frame.at(step, value) for step, value, _ in curve.points)
    yield f'<polyline class="curve" {of} points="{places}" stroke="{colour}"/>'


def _thinned(curve: Curve) -> Curve:
    return Curve(
        curve.name, curve.colour, _every(curve.points), tuple(_every(points) for points in curve.thin)
    )


def _every(points: Sequence) -> Sequence:
    """At most MOST_POINTS of the points, the last among them."""
    stride = -(-len(points) // MOST_POINTS) or 1
    return [*points[:-1:stride], *points[-1:]]


def _reach(curve: Curve) -> Iterable[float]:
    for _, value, std in curve.points:
        yield from (value, value - std, value + std) if not math.isnan(std) else (value,)
    for points in curve.thin:
        yield from (value for _, value in points)


def _room(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a little air; never of no width."""
    low, high = min(values), max(values)
    air = (high - low) * 0.04 or max(abs(high), 1.0) * 0.05
    return low - air, high + air


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
