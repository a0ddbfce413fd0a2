"""Pictures of images as PNG bytes: tiles in rows, overlays of masks, two frames joined by lines.

A mask that was found is filled with a color, the truth is outlined in yellow.
"""

# H, W height and width of an image; R, C rows and columns of its patches; P points.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...platform.measure.plots import COLORS, empty_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUTH_COLOR = "#ffe14d"
"""Color of the truth's outline."""

TILE_INCHES = 1.45
"""Side of a tile in a grid."""

TILE_PIXELS = 320
"""Longest side of a tile."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One small picture of a grid: (H, W) gray or (H, W, 3) RGB, uint8, with text above and below it."""

    pixels: np.ndarray
    above: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class JoinedFrames:
    """Two frames side by side, and the points of them that belong together.

    left, right: (H, W, 3) uint8. titles: text and color above each. points: (P, 4), row and column in the left
    frame, row and column in the right one, in pixels. below: text under both.
    """

    left: np.ndarray
    right: np.ndarray
    titles: tuple[tuple[str, str], tuple[str, str]]
    points: np.ndarray
    below: str = ""


def colors_by_name(names: Iterable[str]) -> dict[str, str]:
    """One color per name, in the names' alphabetical order: the same names have the same colors in every figure.

    >>> colors_by_name(["leg", "arm"]) == colors_by_name(["arm", "leg"])
    True
    """
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(sorted(set(names)))}


def overlay(
    pixels_HW: np.ndarray, mask_HW: np.ndarray | None, color: str, truth_HW: np.ndarray | None = None
) -> np.ndarray:
    """A gray image with a mask filled half transparently and the truth outlined: (H, W, 3) uint8."""
    painted = np.repeat(pixels_HW[..., None], 3, axis=2)
    if mask_HW is not None and mask_HW.any():
        mixed = 0.5 * painted[mask_HW] + 0.5 * np.array(_rgb(color))
        painted[mask_HW] = np.round(mixed).astype(np.uint8)
    if truth_HW is not None and truth_HW.any():
        outlines, _ = cv2.findContours(truth_HW.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, _rgb(TRUTH_COLOR), max(1, min(pixels_HW.shape) // 130))
    return painted


def heat_map(values_RC: np.ndarray) -> np.ndarray:
    """Values of patches as colors from dark (lowest) to light (highest): (R, C, 3) uint8."""
    from matplotlib import colormaps

    low, high = float(values_RC.min()), float(values_RC.max())
    scaled = (values_RC - low) / (high - low) if high > low else np.zeros_like(values_RC)
    return np.round(colormaps["magma"](scaled)[..., :3] * 255).astype(np.uint8)


def grid(
    title: str, rows: Sequence[tuple[str, str, Sequence[Tile]]], note: str = "", side: float = TILE_INCHES
) -> bytes:
    """Rows of tiles, each row with its name and color at the left. Rows may differ in length."""
    columns = max(len(tiles) for _, _, tiles in rows)
    every_tile = [tile for _, _, tiles in rows for tile in tiles]
    ratio = float(np.median([tile.pixels.shape[0] / tile.pixels.shape[1] for tile in every_tile]))
    text_inches = 0.17 * (any(tile.above for tile in every_tile) + any(tile.below for tile in every_tile))
    canvas = empty_figure(
        max(5.0, columns * side + 0.4), len(rows) * (side * ratio + text_inches + 0.08) + 0.75
    )
    axes_grid = canvas.subplots(len(rows), columns, squeeze=False)
    for (name, color, tiles), axes_row in zip(rows, axes_grid, strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, tile in zip(axes_row, tiles, strict=False):
            axes.imshow(_shrunk(tile.pixels), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(tile.above, fontsize=7, pad=2)
            if tile.below:
                axes.text(0.5, -0.02, tile.below, transform=axes.transAxes, ha="center", va="top", fontsize=7)
        axes_row[0].text(
            -0.06,
            0.5,
            fold_name(name),
            transform=axes_row[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            fontsize=7,
            color=color,
            fontweight="bold",
        )
    return png_bytes(canvas, title, note)


def joined_frames(title: str, pairs: Sequence[JoinedFrames], note: str = "") -> bytes:
    """A row per pair: both frames at one height, numbered dots at the points, a line from point to point."""
    gap = 0.12
    widest = max(sum(side.shape[1] / side.shape[0] for side in (one.left, one.right)) + gap for one in pairs)
    canvas = empty_figure(9.0, 0.9 + len(pairs) * (8.6 / widest + 0.5))
    for axes, pair in zip(canvas.subplots(len(pairs), squeeze=False)[:, 0], pairs, strict=True):
        axes.axis("off")
        start, ends = 0.0, []
        for side, (name, color), point_P2 in zip(
            (pair.left, pair.right), pair.titles, np.split(pair.points, 2, axis=1), strict=True
        ):
            height, width = side.shape[:2]
            axes.imshow(side, extent=(start, start + width / height, 1, 0))
            axes.text(start, -0.02, name, fontsize=8, color=color, fontweight="bold", va="bottom")
            ends.append((start + (point_P2[:, 1] + 0.5) / height, (point_P2[:, 0] + 0.5) / height))
            start += width / height + gap
        _draw_numbered_lines(axes, *ends)
        axes.text(0, 1.03, pair.below, fontsize=7, va="top")
        axes.set_xlim(0, widest)
        axes.set_ylim(1.1, -0.1)
    return png_bytes(canvas, title, note)


def fold_name(name: str, width: int = 18) -> str:
    """A long name on several lines, broken after an underscore or at a space.

    >>> fold_name("muscle_dltrack_1234x688")
    'muscle_dltrack_\\n1234x688'
    """
    lines = [""]
    for part in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part.strip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def _draw_numbered_lines(
    axes: Axes, left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]
) -> None:
    """Dots at (x, y) on either side with their number in them, joined; the first lies above the others."""
    for number, ((x, y), (to_x, to_y)) in enumerate(
        zip(np.column_stack(left), np.column_stack(right), strict=True)
    ):
        color, above = COLORS[number % len(COLORS)], 3 - number / 1000
        axes.plot([x, to_x], [y, to_y], color=color, lw=1.0, alpha=0.75, zorder=2)
        axes.plot(
            [x, to_x], [y, to_y], "o", color=color, markersize=9, mec="white", mew=0.6, ls="", zorder=above
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


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """An image reduced to TILE_PIXELS where it is larger, uint8; small ones, such as maps of patches, stay."""
    scale = TILE_PIXELS / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color.removeprefix("#")))
