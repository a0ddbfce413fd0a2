"""Attention of the CLS token in a backbone's last block: one color per head, laid over the view."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from ..platform.models.similarity import PatchGrid

# H heads, N patches; maps are (H, height, width) in pixels of the view.

Color = tuple[int, int, int]
"""RGB, 0 to 255."""

MEAN_COLOR: Color = (255, 205, 112)
"""Warm yellow, for the mean over heads."""

GLOWING_SHARE = 0.6
"""The strongest patches that together hold this share of a head's attention glow; the others stay dark."""


def attention_maps(attention_HN: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Attention of one view as smooth maps over its pixels, (H, height, width) float32 in 0..1.

    attention_HN: rows of the CLS token, from `Backbone.attention`. Each head is scaled by its own patches inside the
    view: 0 is the next patch after the strongest that together hold 60 % of their attention, 1 the 99.5th percentile.
    A quantile would not do for 0: where half of a radiograph is black, all of the animal would glow for every head.
    """
    top, left, rows, columns = grid.letterbox
    inside_N = grid.inside()
    shown_N = inside_N if inside_N.any() else ~inside_N  # a view so narrow that no patch is mostly inside
    maps = np.zeros((len(attention_HN), grid.height, grid.width), np.float32)
    for head, row_N in enumerate(np.asarray(attention_HN, np.float32)):
        cells = _without_border(row_N.reshape(grid.columns, grid.columns), grid)
        square = cv2.resize(cells, (grid.side, grid.side), interpolation=cv2.INTER_CUBIC)
        inner = square[top : top + rows, left : left + columns]
        low, high = _ends(row_N[shown_N])
        if high <= low:  # the same attention everywhere
            continue
        scaled = ((inner - low) / (high - low)).clip(0.0, 1.0)
        maps[head] = cv2.resize(scaled, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR)
    return maps


def _ends(patches_N: np.ndarray) -> tuple[float, float]:
    """The attention that is drawn as 0 and as 1."""
    descending_N = np.sort(patches_N)[::-1]
    held_N = np.cumsum(descending_N)
    weakest = descending_N[np.argmax(held_N >= GLOWING_SHARE * held_N[-1])]
    low = np.max(patches_N, where=patches_N < weakest, initial=descending_N[-1])
    return float(low), float(np.quantile(patches_N, 0.995))


def _without_border(cells: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """The cells, with those of the black border replaced by the view's edge: their attention must not bleed in."""
    inside = grid.inside().reshape(cells.shape)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):  # a view so narrow that no patch is mostly inside
        return cells
    index = np.arange(grid.columns)
    return cells[index.clip(rows[0], rows[-1])][:, index.clip(columns[0], columns[-1])]


def mean_attention_map(attention_HN: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """The mean over heads as one map, (height, width) float32 in 0..1."""
    return attention_maps(np.mean(attention_HN, axis=0, keepdims=True), grid)[0]


def head_colors(heads: int) -> list[Color]:
    """One RGB color per head: hues evenly spaced from blue on, of equal lightness.

    >>> len(set(head_colors(6)))
    6
    """
    hues = [(0.56 + head / heads) % 1.0 for head in range(heads)]
    rgb = [colorsys.hls_to_rgb(hue, 0.64, 0.85) for hue in hues]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in rgb]


def overlay(
    pixels_HW: np.ndarray, maps: np.ndarray, colors: list[Color], strength: float = 0.75
) -> np.ndarray:
    """The view with each map over it in its color, (height, width, 3) uint8 RGB.

    pixels_HW: (height, width) uint8; maps: (K, height, width) in 0..1; strength: opacity where a map is 1. Overlapping
    maps mix their colors by weight; the view is dimmed a little so that colors stand out.
    """
    gray = pixels_HW[..., None].astype(np.float32) * 0.8
    weight = maps * strength
    total = weight.sum(axis=0)[..., None]
    mixed = np.einsum("khw,kc->hwc", weight, np.asarray(colors, np.float32)) / np.maximum(total, 1e-6)
    opacity = np.minimum(total, strength)
    glow = gray * (1 - opacity) + mixed * opacity * (0.35 + 0.65 * gray / 255.0)
    return np.rint(glow.clip(0, 255)).astype(np.uint8)
