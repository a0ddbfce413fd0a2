"""Where the CLS token of a block looks: one soft colour for each head, laid over the view."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from .similarity import PatchGrid

# H heads, N patches; maps are (H, height, width) in pixels of the view.

MEAN_COLOUR = (255, 205, 112)
"""Lamp light: of the mean over heads, RGB."""


def maps_of(attention_HN: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Attention of one view as smooth maps over its pixels, (H, height, width) float32 in 0..1.

    attention_HN: rows of the CLS token, as `Backbone.attention` gives them. Each head is scaled by its own
    values inside the view: its median becomes 0 and its 99.5th percentile 1.
    """
    top, left, rows, columns = grid.letterbox
    maps = np.empty((len(attention_HN), grid.height, grid.width), np.float32)
    for head, row_N in enumerate(np.asarray(attention_HN, np.float32)):
        cells = _without_border(row_N.reshape(grid.columns, grid.columns), grid)
        square = cv2.resize(cells, (grid.side, grid.side), interpolation=cv2.INTER_CUBIC)
        inner = square[top : top + rows, left : left + columns]
        low, high = np.quantile(inner, [0.5, 0.995])
        scaled = ((inner - low) / max(float(high - low), 1e-12)).clip(0.0, 1.0)
        maps[head] = cv2.resize(scaled, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR)
    return maps


def _without_border(cells: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """The cells, those of the black border repeating the view's edge: attention there must not bleed in."""
    inside = grid.inside().reshape(cells.shape)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):  # a view so narrow that no patch is mostly inside
        return cells
    every = np.arange(grid.columns)
    return cells[every.clip(rows[0], rows[-1])][:, every.clip(columns[0], columns[-1])]


def mean_map(attention_HN: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """The mean over heads as one map, (height, width) float32 in 0..1."""
    return maps_of(np.mean(attention_HN, axis=0, keepdims=True), grid)[0]


def colours_of(heads: int) -> list[tuple[int, int, int]]:
    """One RGB colour a head, evenly around the wheel and equally bright, beginning at a calm blue.

    >>> len(set(colours_of(6)))
    6
    """
    wheel = [(0.56 + head / heads) % 1.0 for head in range(heads)]
    return [tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.64, 0.85)) for hue in wheel]


def overlay(
    pixels_HW: np.ndarray, maps: np.ndarray, colours: list[tuple[int, int, int]], strength: float = 0.75
) -> np.ndarray:
    """The view with each map glowing over it in its colour, (height, width, 3) uint8 RGB.

    pixels_HW: (height, width) uint8; maps: (K, height, width) in 0..1; strength: of a map at its peak, 0..1.
    Where maps meet, their colours mix by weight; the view is dimmed a little so that the colours read.
    """
    grey = pixels_HW[..., None].astype(np.float32) * 0.8
    weight = maps * strength
    total = weight.sum(axis=0)[..., None]
    mixed = np.einsum("khw,kc->hwc", weight, np.asarray(colours, np.float32)) / np.maximum(total, 1e-6)
    cover = np.minimum(total, strength)
    glow = grey * (1 - cover) + mixed * cover * (0.35 + 0.65 * grey / 255.0)
    return np.rint(glow.clip(0, 255)).astype(np.uint8)
