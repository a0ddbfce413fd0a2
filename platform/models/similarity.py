"""Patch similarity between two views: which patches of one view resemble a patch of the other.

A network sees a view letterboxed into a square; people see the view. `PatchGrid` translates between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .letterbox import letterbox_region

# N, M patches of two views; D width of a token. Boxes are (left, top, right, bottom) in pixels of the view.

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The patches of a network's square input, in pixels of the view of height x width that it shows.

    side and patch are in pixels of the square. Patches are numbered along rows, from the top left.

    >>> grid = PatchGrid(height=100, width=200, side=32, patch=8)
    >>> grid.count, grid.box(5), grid.box(0)
    (16, (50, 0, 100, 50), (0, 0, 50, 0))
    """

    height: int
    width: int
    side: int
    patch: int

    @property
    def columns(self) -> int:
        """Number of patches per row, and of rows."""
        return self.side // self.patch

    @property
    def count(self) -> int:
        """Number of patches."""
        return self.columns**2

    @property
    def letterbox(self) -> Box:
        """The view's rectangle in the square: (top, left, rows, columns), in pixels of the square."""
        return letterbox_region(self.height, self.width, self.side)

    def box(self, patch: int) -> Box:
        """The part of the view that a patch covers; of zero area if the patch shows only the black border."""
        left, top, right, bottom = (int(edge) for edge in self.boxes()[patch])
        return left, top, right, bottom

    def boxes(self) -> np.ndarray:
        """All boxes, (N, 4) int64."""
        top, left, rows, columns = self.letterbox
        edges = np.arange(self.columns + 1) * self.patch
        x = np.rint((edges - left) * self.width / columns).clip(0, self.width).astype(np.int64)
        y = np.rint((edges - top) * self.height / rows).clip(0, self.height).astype(np.int64)
        row, column = np.divmod(np.arange(self.count), self.columns)
        return np.stack([x[column], y[row], x[column + 1], y[row + 1]], axis=1)

    def inside(self) -> np.ndarray:
        """(N,) bool: patches that show more of the view than of the border."""
        top, left, rows, columns = self.letterbox
        starts = np.arange(self.columns) * self.patch
        heights = (np.minimum(starts + self.patch, top + rows) - np.maximum(starts, top)).clip(0)
        widths = (np.minimum(starts + self.patch, left + columns) - np.maximum(starts, left)).clip(0)
        return (2 * heights[:, None] * widths[None, :] > self.patch**2).ravel()

    def patch_at(self, x: float, y: float) -> int:
        """The patch that covers a point of the view, 0 <= x < width, 0 <= y < height."""
        top, left, rows, columns = self.letterbox
        row = int((top + y * rows / self.height) // self.patch)
        column = int((left + x * columns / self.width) // self.patch)
        last = self.columns - 1
        return min(max(row, 0), last) * self.columns + min(max(column, 0), last)


@dataclass(frozen=True, slots=True)
class BoxScore:
    """A patch similar to another: its number, its cosine, and its box in pixels of its view."""

    patch: int
    score: float
    box: Box


def cosine_matrix(left_ND: np.ndarray, right_MD: np.ndarray) -> np.ndarray:
    """Cosines between all pairs of patch tokens, (N, M) float32; 0 for a token of length 0."""
    return _normalized(left_ND) @ _normalized(right_MD).T


def top_boxes(scores_M: np.ndarray, grid: PatchGrid, k: int = 5) -> list[BoxScore]:
    """The k most similar patches inside the view, best first; ties in the order of patch numbers."""
    order = np.argsort(-scores_M, kind="stable")
    order = order[grid.inside()[order]][:k]
    return [BoxScore(patch=int(i), score=float(scores_M[i]), box=grid.box(int(i))) for i in order]


def quantized(cosines: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The matrix as uint8, and the cosines that 0 and 255 stand for; a step is at most 1/127 of a cosine.

    The range is the matrix's own, since tokens of one network often share most of their direction.
    """
    low, high = float(cosines.min()), float(cosines.max())
    scale = 255.0 / max(high - low, 1e-6)
    return np.rint((cosines - low) * scale).astype(np.uint8), low, high


def _normalized(tokens_ND: np.ndarray) -> np.ndarray:
    tokens_ND = np.asarray(tokens_ND, np.float32)
    length_N1 = np.linalg.norm(tokens_ND, axis=1, keepdims=True)
    return tokens_ND / np.maximum(length_N1, 1e-12)
