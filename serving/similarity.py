"""Patch similarity between two views: a patch here, and where the same thing may be over there.

A network sees a view letterboxed into a square; people see the view. `PatchGrid` translates between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..platform.models.backbone import letterbox_of

# N, M patches of two views; D width of a token. Boxes are (left, top, right, bottom) in pixels of the view.

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The patches of a network's square, laid over the view of height x width pixels that fills it.

    side and patch are in pixels of the square. Patches count along rows, from the top left.

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
        """Patches in a row, and rows of patches."""
        return self.side // self.patch

    @property
    def count(self) -> int:
        """Number of patches."""
        return self.columns**2

    @property
    def letterbox(self) -> Box:
        """Where the view lies in the square: (top, left, rows, columns), pixels of the square."""
        return letterbox_of(self.height, self.width, self.side)

    def box(self, patch: int) -> Box:
        """The part of the view that a patch covers; of no area where the patch sees only the black border."""
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
        """Which patches show more of the view than of the border, (N,) bool."""
        top, left, rows, columns = self.letterbox
        starts = np.arange(self.columns) * self.patch
        tall = (np.minimum(starts + self.patch, top + rows) - np.maximum(starts, top)).clip(0)
        wide = (np.minimum(starts + self.patch, left + columns) - np.maximum(starts, left)).clip(0)
        return (2 * tall[:, None] * wide[None, :] > self.patch**2).ravel()

    def patch_at(self, x: float, y: float) -> int:
        """The patch that covers a point of the view, 0 <= x < width, 0 <= y < height."""
        top, left, rows, columns = self.letterbox
        row = int((top + y * rows / self.height) // self.patch)
        column = int((left + x * columns / self.width) // self.patch)
        last = self.columns - 1
        return min(max(row, 0), last) * self.columns + min(max(column, 0), last)


@dataclass(frozen=True, slots=True)
class BoxScore:
    """One patch that answers an anchor: its number, its cosine, and its box in pixels of its view."""

    patch: int
    score: float
    box: Box


def cosine_matrix(left_ND: np.ndarray, right_MD: np.ndarray) -> np.ndarray:
    """Cosine of every patch token with every other, (N, M) float32; a token of length 0 is like nothing."""
    return _unit(left_ND) @ _unit(right_MD).T


def similarity_of(patch: int, left_ND: np.ndarray, right_MD: np.ndarray) -> np.ndarray:
    """How alike each patch of the right view is to one patch of the left, (M,) float32 cosines."""
    return cosine_matrix(left_ND[patch : patch + 1], right_MD)[0]


def top_boxes(scores_M: np.ndarray, grid: PatchGrid, k: int = 5) -> list[BoxScore]:
    """The k patches that answer best, best first; of equal ones the first. Patches of the border never do."""
    order = np.argsort(-scores_M, kind="stable")
    order = order[grid.inside()[order]][:k]
    return [BoxScore(patch=int(i), score=float(scores_M[i]), box=grid.box(int(i))) for i in order]


def as_bytes(cosines: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The matrix as uint8 with the cosines that 0 and 255 stand for; one step is at most 1/127 of a cosine.

    Tokens of one network often share most of their direction, so the range is the matrix's own.
    """
    low, high = float(cosines.min()), float(cosines.max())
    scale = 255.0 / max(high - low, 1e-6)
    return np.rint((cosines - low) * scale).astype(np.uint8), low, high


def _unit(tokens_ND: np.ndarray) -> np.ndarray:
    tokens_ND = np.asarray(tokens_ND, np.float32)
    length_N1 = np.linalg.norm(tokens_ND, axis=1, keepdims=True)
    return tokens_ND / np.maximum(length_N1, 1e-12)
