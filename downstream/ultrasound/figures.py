"""Pictures of zero-shot experiments as PNG bytes: grids of frames, bars, curves, projections.

A domain has one colour in all of them; what was found is filled with it, the truth is outlined in yellow.
"""

# H, W height and width of a frame; R, C rows and columns of its patches; P patches of all frames.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...platform.measure.figures import COLOURS, canvas_of, png_of, ruled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUTH = "#ffe14d"
"""Colour of the truth's outline."""

OTHER = "#9a9a9a"
"""Colour of what is no bone."""

MARKS = {
    "tokencut": "D",
    "oracle": "^",
    "random": "x",
    "random_oracle": "v",
    "mean_mask": "+",
    "everything": "_",
}
"""Row of a table -> the sign it has above a bar."""

WORDS = {
    "cosegment": "co-segmentation",
    "tokencut": "TokenCut",
    "oracle": "oracle (clusters by truth)",
    "random": "random weights",
    "random_oracle": "random weights, oracle",
    "mean_mask": "mean mask of the others",
    "everything": "everything foreground",
}
"""Row of a table -> what it is called in a figure."""

SIDE = 1.45
"""Side of a tile in a grid, in inches."""

TILE = 320
"""Longest side of a tile, in pixels."""


ACROSS = 7
"""Most groups of bars that stand side by side."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One small picture of a grid: (H, W) grey or (H, W, 3) uint8, words above and below it."""

    pixels: np.ndarray
    above: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a value, its spread (standard deviation), marks by row, and whose colour it has."""

    group: str
    domain: str
    value: float
    spread: float
    marks: Mapping[str, float]
    pale: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Couple:
    """Two frames side by side and the places of them that belong together, the first of them number 1.

    left, right: (H, W, 3) uint8; named: words and colour above each. places: (P, 4), row and column of the left
    frame, row and column of the right one, in pixels. below: words under both.
    """

    left: np.ndarray
    right: np.ndarray
    named: tuple[tuple[str, str], tuple[str, str]]
    places: np.ndarray
    below: str = ""


def colours_of(domains: Sequence[str]) -> dict[str, str]:
    """One colour a domain, by the order of their names: the same in every figure of the same domains.

    >>> colours_of(["leg", "arm"]) == colours_of(["arm", "leg"])
    True
    """
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(sorted(domains))}


def overlay(
    pixels_HW: np.ndarray, found_HW: np.ndarray | None, colour: str, truth_HW: np.ndarray | None = None
) -> np.ndarray:
    """A frame with what was found filled in a colour and the truth outlined: (H, W, 3) uint8."""
    painted = np.repeat(pixels_HW[..., None], 3, axis=2)
    if found_HW is not None and found_HW.any():
        mixed = 0.5 * painted[found_HW] + 0.5 * np.array(_rgb(colour))
        painted[found_HW] = np.round(mixed).astype(np.uint8)
    if truth_HW is not None and truth_HW.any():
        outlines, _ = cv2.findContours(truth_HW.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, _rgb(TRUTH), max(1, min(pixels_HW.shape) // 130))
    return painted


def heat(values_RC: np.ndarray) -> np.ndarray:
    """Values of patches as colours from dark (lowest) to light (highest): (R, C, 3) uint8."""
    from matplotlib import colormaps

    low, high = float(values_RC.min()), float(values_RC.max())
    scaled = (values_RC - low) / (high - low) if high > low else np.zeros_like(values_RC)
    return np.round(colormaps["magma"](scaled)[..., :3] * 255).astype(np.uint8)


def grid(
    title: str, rows: Sequence[tuple[str, str, Sequence[Tile]]], note: str = "", side: float = SIDE
) -> bytes:
    """Rows of tiles, each row with its name and colour at the left. Rows may differ in length."""
    columns = max(len(tiles) for _, _, tiles in rows)
    shapes = [tile.pixels.shape[:2] for _, _, tiles in rows for tile in tiles]
    tall = float(np.median([height / width for height, width in shapes]))
    words = 0.17 * (
        any(t.above for _, _, ts in rows for t in ts) + any(t.below for _, _, ts in rows for t in ts)
    )
    canvas = canvas_of(max(5.0, columns * side + 0.4), len(rows) * (side * tall + words + 0.08) + 0.75)
    places = canvas.subplots(len(rows), columns, squeeze=False)
    for (name, colour, tiles), line in zip(rows, places, strict=True):
        for place in line:
            place.axis("off")
        for place, tile in zip(line, tiles, strict=False):
            place.imshow(_small(tile.pixels), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            place.set_title(tile.above, fontsize=7, pad=2)
            if tile.below:
                place.text(
                    0.5, -0.02, tile.below, transform=place.transAxes, ha="center", va="top", fontsize=7
                )
        line[0].text(
            -0.06,
            0.5,
            _folded(name),
            transform=line[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            fontsize=7,
            color=colour,
            fontweight="bold",
        )
    return png_of(canvas, title, note)


def bars(title: str, measure: str, bars: Sequence[Bar], note: str = "") -> bytes:
    """Bars in groups, some groups a line; a colour a domain, the standard deviation as a line, floors and oracle as
    marks."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    colours = colours_of({bar.domain for bar in bars})
    widest = max(sum(bar.group == group for bar in bars) for group in groups)
    across = min(ACROSS, len(groups))
    down = math.ceil(len(groups) / across)
    canvas = canvas_of(max(7.0, 1.2 + across * (0.35 + 0.24 * widest)), 1.0 + 3.6 * down)
    drawn: set[str] = set()
    for line, axes in enumerate(canvas.subplots(down, squeeze=False)[:, 0]):
        shown = groups[line * across : (line + 1) * across]
        for number, group in enumerate(shown):
            own = [bar for bar in bars if bar.group == group]
            width = 0.84 / len(own)
            for place, bar in enumerate(own):
                x = number - 0.42 + (place + 0.5) * width
                _bar(axes, x, width, bar, colours[bar.domain], drawn)
        axes.set_xticks(range(len(shown)), [_folded(group) for group in shown], fontsize=8)
        axes.tick_params(axis="x", length=0, pad=20)
        axes.set_xlim(-0.6, across - 0.4)
        axes.set_ylim(0, 1)
        ruled(axes, measure)
    canvas.legend(loc="outside right upper", fontsize=7, frameon=False)
    return png_of(canvas, title, note)


def curves(
    title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], xlabel: str, ylabel: str
) -> bytes:
    """Panels side by side, four in a line; in each a curve of (x, y) from 0 to 1 for each name."""
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = colours_of(names)
    across = min(4, len(panels))
    down = math.ceil(len(panels) / across)
    canvas = canvas_of(max(6.0, 2.7 * across + 1.6), 2.5 * down + 0.9)
    places = canvas.subplots(down, across, squeeze=False).ravel()
    for place in places[len(panels) :]:
        place.axis("off")
    for place, (panel, by_name) in zip(places, panels.items(), strict=False):
        for name, points in by_name.items():
            place.plot(*zip(*points, strict=True), color=colours[name], marker="o", markersize=2.5, lw=1.2)
        if all(float(x).is_integer() for points in by_name.values() for x, _ in points):
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.set_title(panel, fontsize=8)
        place.set_xlabel(xlabel, fontsize=7)
        place.tick_params(axis="x", labelsize=7)
        place.set_ylim(-0.03, 1)  # a curve along 0 is seen
        ruled(place, ylabel)
    _named(canvas, names, colours)
    return png_of(canvas, title)


def projections(
    title: str, points_P3: np.ndarray, labels: Sequence[str], colours: Mapping[str, str]
) -> bytes:
    """Three components of patches as three plane views, in the colours of their labels."""
    canvas = canvas_of(11.0, 4.2)
    told = np.asarray(labels)
    for place, (x, y) in zip(canvas.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        for name in sorted(colours, key=lambda one: colours[one] != OTHER):  # what is no bone lies below
            own = points_P3[told == name]
            quiet = colours[name] == OTHER
            place.scatter(
                own[:, x],
                own[:, y],
                s=4 if quiet else 8,
                alpha=0.4 if quiet else 0.9,
                color=colours[name],
                lw=0,
            )
        place.set_xlabel(f"component {x + 1}", fontsize=8)
        place.tick_params(axis="x", labelsize=7)
        ruled(place, f"component {y + 1}")
    _named(canvas, list(colours), colours)
    return png_of(canvas, title)


def joined(title: str, couples: Sequence[Couple], note: str = "") -> bytes:
    """A line for each couple: its frames at one height, numbered dots at the places, a line from place to place."""
    gap = 0.12
    wide = max(sum(side.shape[1] / side.shape[0] for side in (one.left, one.right)) + gap for one in couples)
    canvas = canvas_of(9.0, 0.9 + len(couples) * (8.6 / wide + 0.5))
    for axes, one in zip(canvas.subplots(len(couples), squeeze=False)[:, 0], couples, strict=True):
        axes.axis("off")
        start, ends = 0.0, []
        for side, (name, colour), place_P2 in zip(
            (one.left, one.right), one.named, np.split(one.places, 2, axis=1), strict=True
        ):
            height, width = side.shape[:2]
            axes.imshow(side, extent=(start, start + width / height, 1, 0))
            axes.text(start, -0.02, name, fontsize=8, color=colour, fontweight="bold", va="bottom")
            ends.append((start + (place_P2[:, 1] + 0.5) / height, (place_P2[:, 0] + 0.5) / height))
            start += width / height + gap
        _numbered(axes, *ends)
        axes.text(0, 1.03, one.below, fontsize=7, va="top")
        axes.set_xlim(0, wide)
        axes.set_ylim(1.1, -0.1)
    return png_of(canvas, title, note)


def _numbered(axes: Axes, left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> None:
    """Dots at (x, y) of either side with their number in them, joined; the first lies above the others."""
    for number, ((x, y), (to_x, to_y)) in enumerate(
        zip(np.column_stack(left), np.column_stack(right), strict=True)
    ):
        colour, above = COLOURS[number % len(COLOURS)], 3 - number / 1000
        axes.plot([x, to_x], [y, to_y], color=colour, lw=1.0, alpha=0.75, zorder=2)
        axes.plot(
            [x, to_x], [y, to_y], "o", color=colour, markersize=9, mec="white", mew=0.6, ls="", zorder=above
        )
        for at, down in ((x, y), (to_x, to_y)):
            axes.text(
                at,
                down,
                str(number + 1),
                fontsize=5.5,
                color="white",
                ha="center",
                va="center_baseline",
                zorder=above,
            )


def _bar(axes: Axes, x: float, width: float, bar: Bar, colour: str, drawn: set[str]) -> None:
    """One bar with its marks; `drawn` holds what the legend knows already. A NaN is not drawn."""

    def once(word: str) -> str:
        known = word in drawn
        drawn.add(word)
        return "_" + word if known else word

    kind = f"{bar.domain}, alone" if bar.pale else bar.domain
    axes.bar(
        x,
        bar.value,
        width * 0.9,
        color=colour,
        alpha=0.4 if bar.pale else 0.9,
        hatch="///" if bar.pale else None,
        edgecolor="white",
        label=once(kind),
    )
    axes.errorbar(x, bar.value, yerr=bar.spread, color="#222222", lw=0.8, capsize=1.5)
    # Below the axis: a bar of no height is an answer too.
    axes.text(x, -0.008, f"{bar.value:.2f}", ha="center", va="top", fontsize=6, rotation=90)
    for row, value in bar.marks.items():
        axes.plot(
            x,
            value,
            MARKS[row],
            color="#222222",
            markersize=4.5,
            mew=0.9,
            mfc="none",
            ls="",
            label=once(WORDS[row]),
        )


def _named(canvas: Figure, names: Sequence[str], colours: Mapping[str, str]) -> None:
    """A legend of colours, outside at the right."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colours[name], marker="o", ls="", markersize=5, label=name) for name in names
    ]
    canvas.legend(handles=lines, loc="outside right upper", fontsize=7, frameon=False)


def _small(pixels: np.ndarray) -> np.ndarray:
    """A tile no longer than it is shown, uint8; patches, few as they are, stay patches."""
    scale = TILE / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _folded(name: str, width: int = 18) -> str:
    """A long name on several lines, broken where it has a joint.

    >>> _folded("muscle_dltrack_1234x688")
    'muscle_dltrack_\\n1234x688'
    """
    lines = [""]
    for part in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part.strip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)
