"""A sheet of a prepared scan's slices with its labels outlined, to see at a glance whether they fit."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import cv2
import numpy as np

from .config import PLANES, Plane

ROWS, COLUMNS = 3, 4
"""Slices on a sheet."""

TILE = 256
"""Side of a slice on it, in pixels."""

LINE = 18
"""Height of a line of text, in pixels."""

MAX_NAMES = 24
"""Most classes named below a sheet."""


def class_color(number: int) -> tuple[int, int, int]:
    """A bright color for a class (red, green, blue), the same on every sheet, far from those of the next numbers.

    >>> class_color(1) != class_color(2)
    True
    """
    hue = (number - 1) * 0.381966 % 1  # the golden angle keeps neighboring numbers apart
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if number % 2 else 0.5, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def outline_labels(slice_HW: np.ndarray, labels_HW: np.ndarray | None, scale: int = 1) -> np.ndarray:
    """A slice (0 to 255), enlarged, with a line around each class: (H scale, W scale, 3) uint8."""
    size = (slice_HW.shape[1] * scale, slice_HW.shape[0] * scale)
    gray = np.clip(slice_HW, 0, 255).astype(np.uint8)
    painted = np.repeat(cv2.resize(gray, size, interpolation=cv2.INTER_LINEAR)[..., None], 3, axis=2)
    if labels_HW is None:
        return painted
    for number in np.unique(labels_HW[labels_HW > 0]):
        mask = cv2.resize((labels_HW == number).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        lines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, lines, -1, class_color(int(number)), 1)
    return painted


def overlay_sheet(
    image_ZHW: np.ndarray,
    labels_ZHW: np.ndarray | None,
    names: Mapping[int, str],
    *,
    title: str,
    plane: Plane = "axial",
) -> bytes:
    """Up to 12 slices spread over the labeled ones (or all), outlined, with the sides of the patient: PNG bytes.

    Sides are R and L, and A and P of sagittal slices.
    """
    right = PLANES[plane][2]
    left = {"L": "R", "P": "A"}[right]
    labeled = np.flatnonzero(labels_ZHW.any(axis=(1, 2))) if labels_ZHW is not None else np.empty(0, int)
    candidates = labeled if len(labeled) else np.arange(len(image_ZHW))
    count = min(ROWS * COLUMNS, len(candidates))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, count).round().astype(int))]
    rows = -(-len(chosen) // COLUMNS)
    canvas = np.zeros((LINE + rows * TILE, COLUMNS * TILE, 3), np.uint8)
    for place, z in enumerate(chosen):
        tile = outline_labels(image_ZHW[z], None if labels_ZHW is None else labels_ZHW[z])
        tile = cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_AREA)
        _write(tile, f"{z}", 4, 14)
        _write(tile, left, 4, TILE // 2)
        _write(tile, right, TILE - 12, TILE // 2)
        y, x = LINE + place // COLUMNS * TILE, place % COLUMNS * TILE
        canvas[y : y + TILE, x : x + TILE] = tile
    _write(canvas, title, 4, 13)
    numbers = [] if labels_ZHW is None else [int(number) for number in np.unique(labels_ZHW) if number]
    legend = _legend(numbers, names, canvas.shape[1])
    _, png = cv2.imencode(".png", np.concatenate([canvas, legend])[..., ::-1])
    return png.tobytes()


def _legend(numbers: list[int], names: Mapping[int, str], width: int) -> np.ndarray:
    """The classes in their colors, on as many lines as they need: (lines * LINE, width, 3) uint8."""
    entries = [
        (f"{number} {names.get(number, f'class {number}')}", class_color(number))
        for number in numbers[:MAX_NAMES]
    ]
    if len(numbers) > MAX_NAMES:
        entries.append((f"and {len(numbers) - MAX_NAMES} more", (255, 255, 255)))
    places, x, line = [], 4, 0
    for text, color in entries:
        (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
        if x + text_width > width - 4:
            x, line = 4, line + 1
        places.append((text, color, x, line))
        x += text_width + 16
    strip = np.zeros(((line + 1) * LINE if places else 0, width, 3), np.uint8)
    for text, color, x, line in places:
        _write(strip, text, x, line * LINE + 13, color)
    return strip


def _write(
    canvas: np.ndarray, text: str, x: int, y: int, color: tuple[int, int, int] = (255, 255, 255)
) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
