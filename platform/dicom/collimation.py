"""The collimated field of a radiograph: where the x-rays came through, so that the blank border can be cut off.

Only rows and columns that hold nothing are ever cut, whatever the header says, and without a header the border must end
in a straight edge as a collimator's does: the outline of a body is round, and air around it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# H, W pixels of a picture; L lines: its rows or its columns.

BLANK = 0.01
"""A pixel is blank where it is this near to black or to white, on a scale of 1."""

FILLED = 0.002
"""A row or column is blank where at most this fraction of its pixels is not, or is blank in the other color."""

EDGE = 0.5
"""A black border ends at a collimator where it is followed by lines of which this fraction holds something ..."""

SLANT = 0.03
"""... within this fraction of the picture's side: collimators are turned by a degree or two."""

MIN_KEPT = 0.25
"""Fraction of the picture that must be left; where less would be, nothing is cut."""

SLACK = 0.03
"""How far, as a fraction of the side, a header's field may lie inside of what the pixels fill."""


class Field(NamedTuple):
    """Rows top to bottom and columns left to right (half-open) of a picture that are kept."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, pixels_HW: np.ndarray) -> np.ndarray:
        """That part of a picture of the same size."""
        return pixels_HW[self.top : self.bottom, self.left : self.right]

    def cut_off(self, shape: tuple[int, ...]) -> str:
        """What is cut off at the top, bottom, left and right, in fractions of the side.

        >>> Field(10, 100, 0, 80).cut_off((100, 100))
        '0.1000 0.0000 0.0000 0.2000'
        """
        height, width = shape
        parts = self.top / height, 1 - self.bottom / height, self.left / width, 1 - self.right / width
        return " ".join(f"{part:.4f}" for part in parts)

    def kept(self, shape: tuple[int, ...]) -> float:
        """The fraction of the picture's area that is kept."""
        return (self.bottom - self.top) * (self.right - self.left) / (shape[0] * shape[1])


def collimated_field(pixels_HW: np.ndarray, header: Field | None) -> tuple[Field, str]:
    """(the field to keep, how it was found). pixels: (H, W) uint16, 0 black, 65535 white. header: the field by tags.

    Found: `header`, `pixels`, `none` where no border shows, or `refused` where less than MIN_KEPT would be left; the
    last two keep everything.
    """
    whole = Field(0, pixels_HW.shape[0], 0, pixels_HW.shape[1])
    filled = _filled(pixels_HW)
    field, source = _by_edges(pixels_HW, filled), "pixels"
    if header is not None and (agreed := _agreed(header, filled, pixels_HW.shape)) is not None:
        field, source = agreed, "header"
    if field == whole:
        return whole, "none"
    if field.kept(pixels_HW.shape) < MIN_KEPT:
        return whole, "refused"
    return field, source


def field_of_shape(
    shape: tuple[int, ...],
    rectangle: Sequence[float] = (),
    circle: Sequence[float] = (),
    polygon: Sequence[float] = (),
) -> Field | None:
    """The rows and columns that a collimator or shutter leaves open (PS3.3 C.8.7.3, C.7.6.11); None without any.

    rectangle: left, right, upper, lower edge; circle: row and column of the center, radius; polygon: row, column of
    each corner; all count pixels from 1. Where there are several shapes, what all leave open.
    """
    boxes = []
    if len(rectangle) == 4:
        left, right, upper, lower = rectangle
        boxes.append((upper, lower, left, right))
    if len(circle) == 3:
        row, column, radius = circle
        boxes.append((row - radius, row + radius, column - radius, column + radius))
    if len(polygon) >= 6 and len(polygon) % 2 == 0:
        rows, columns = polygon[::2], polygon[1::2]
        boxes.append((min(rows), max(rows), min(columns), max(columns)))
    if not boxes or not np.isfinite(boxes).all():
        return None
    upper, left = max(box[0] for box in boxes), max(box[2] for box in boxes)
    lower, right = min(box[1] for box in boxes), min(box[3] for box in boxes)
    top, start = max(0, int(np.floor(upper)) - 1), max(0, int(np.floor(left)) - 1)
    bottom, end = min(shape[0], int(np.ceil(lower))), min(shape[1], int(np.ceil(right)))
    return Field(top, bottom, start, end) if top < bottom and start < end else None


def _filled(pixels_HW: np.ndarray) -> Field:
    """The rows and columns from the first to the last that hold something; all where none does."""
    ends = []
    for axis in (1, 0):
        is_filled_L = _content(pixels_HW, axis) > FILLED
        lines = np.flatnonzero(is_filled_L)
        ends += [lines[0], lines[-1] + 1] if len(lines) else [0, len(is_filled_L)]
    return Field(*map(int, ends))


def _content(pixels_HW: np.ndarray, axis: int) -> np.ndarray:
    """The fraction of each line that is not blank, (L,); a line is blank in one color, so the smaller of two counts."""
    low, high = round(BLANK * 65535), round((1 - BLANK) * 65535)
    return np.minimum((pixels_HW > low).mean(axis), (pixels_HW < high).mean(axis))


def _by_edges(pixels_HW: np.ndarray, filled: Field) -> Field:
    """The filled part, but with the sides whole where it does not end in a straight edge."""
    height, width = pixels_HW.shape
    columns_HL, rows_WL = pixels_HW[:, filled.left : filled.right], pixels_HW[filled.top : filled.bottom].T
    return Field(
        filled.top if _is_edge(columns_HL, filled.top) else 0,
        filled.bottom if _is_edge(columns_HL[::-1], height - filled.bottom) else height,
        filled.left if _is_edge(rows_WL, filled.left) else 0,
        filled.right if _is_edge(rows_WL[::-1], width - filled.right) else width,
    )


def _is_edge(lines: np.ndarray, first: int) -> bool:
    """Whether the blank lines before the first that is not end at a collimator. lines: (lines, pixels of a line)."""
    if first == 0:
        return False
    if np.median(lines[first - 1]) > 32767:  # only what was not exposed is white: air is black
        return True
    near = lines[first : first + max(2, int(SLANT * len(lines)))]
    return float(_content(near, 1).max(initial=0)) >= EDGE


def _agreed(header: Field, filled: Field, shape: tuple[int, ...]) -> Field | None:
    """The header's field, widened to what the pixels fill; None where much of that lies outside, or nothing is cut."""
    slack = SLACK * shape[0], SLACK * shape[0], SLACK * shape[1], SLACK * shape[1]
    inside = (
        header.top - filled.top,
        filled.bottom - header.bottom,
        header.left - filled.left,
        filled.right - header.right,
    )
    if any(over > allowed for over, allowed in zip(inside, slack, strict=True)):
        return None
    field = Field(
        min(header.top, filled.top),
        max(header.bottom, filled.bottom),
        min(header.left, filled.left),
        max(header.right, filled.right),
    )
    return None if field == Field(0, shape[0], 0, shape[1]) else field
