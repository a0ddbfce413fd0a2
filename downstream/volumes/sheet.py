"""A sheet of a prepared scan's slices with its labels outlined, to see at a glance whether they fit."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import cv2
import numpy as np

TILES = (3, 4)
"""Rows and columns of slices on a sheet."""

TILE = 256
"""Side of a slice on it, in pixels."""

LINE = 18
"""Height of a line of words, in pixels."""

NAMED = 24
"""Most classes named below a sheet."""


def colour_of(number: int) -> tuple[int, int, int]:
    """A bright colour for a class (red, green, blue), far from those of its neighbours, the same on every sheet.

    >>> colour_of(1) != colour_of(2)
    True
    """
    hue = (number - 1) * 0.381966 % 1  # the golden angle: neighbours never look alike
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75 if number % 2 else 0.5, 1.0))


def outlined(slice_HW: np.ndarray, labels_HW: np.ndarray | None, scale: int = 1) -> np.ndarray:
    """A slice (0 to 255), enlarged, with a line around each class: (H scale, W scale, 3) uint8."""
    size = (slice_HW.shape[1] * scale, slice_HW.shape[0] * scale)
    grey = np.clip(slice_HW, 0, 255).astype(np.uint8)
    painted = np.repeat(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)[..., None], 3, axis=2)
    if labels_HW is None:
        return painted
    for number in np.unique(labels_HW[labels_HW > 0]):
        mask = cv2.resize((labels_HW == number).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        lines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, lines, -1, colour_of(int(number)), 1)
    return painted


def sheet(
    image_ZHW: np.ndarray, labels_ZHW: np.ndarray | None, names: Mapping[int, str], *, title: str
) -> bytes:
    """Slices spread over those that are labelled (or all), outlined, with R and L of the patient: PNG bytes."""
    rows, columns = TILES
    labelled = np.flatnonzero(labels_ZHW.any(axis=(1, 2))) if labels_ZHW is not None else np.empty(0, int)
    among = labelled if len(labelled) else np.arange(len(image_ZHW))
    chosen = among[
        np.unique(np.linspace(0, len(among) - 1, min(rows * columns, len(among))).round().astype(int))
    ]
    rows = -(-len(chosen) // columns)
    canvas = np.zeros((LINE + rows * TILE, columns * TILE, 3), np.uint8)
    for place, z in enumerate(chosen):
        tile = outlined(image_ZHW[z], None if labels_ZHW is None else labels_ZHW[z])
        tile = cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_AREA)
        _words(tile, f"{z}", 4, 14)
        _words(tile, "R", 4, TILE // 2)
        _words(tile, "L", TILE - 12, TILE // 2)
        top, left = LINE + place // columns * TILE, place % columns * TILE
        canvas[top : top + TILE, left : left + TILE] = tile
    _words(canvas, title, 4, 13)
    numbers = [] if labels_ZHW is None else [int(number) for number in np.unique(labels_ZHW) if number]
    legend = _legend(numbers, names, canvas.shape[1])
    _, png = cv2.imencode(".png", np.concatenate([canvas, legend])[..., ::-1])
    return png.tobytes()


def _legend(numbers: list[int], names: Mapping[int, str], width: int) -> np.ndarray:
    """The classes in their colours, as many lines as they need: (N LINE, width, 3) uint8."""
    told = [
        (f"{number} {names.get(number, f'class {number}')}", colour_of(number)) for number in numbers[:NAMED]
    ]
    if len(numbers) > NAMED:
        told.append((f"and {len(numbers) - NAMED} more", (255, 255, 255)))
    places, x, line = [], 4, 0
    for words, colour in told:
        (long, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
        if x + long > width - 4:
            x, line = 4, line + 1
        places.append((words, colour, x, line))
        x += long + 16
    strip = np.zeros(((line + 1) * LINE if places else 0, width, 3), np.uint8)
    for words, colour, x, line in places:
        _words(strip, words, x, line * LINE + 13, colour)
    return strip


def _words(
    canvas: np.ndarray, words: str, x: int, y: int, colour: tuple[int, int, int] = (255, 255, 255)
) -> None:
    cv2.putText(canvas, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
