"""Patch tokens as colors: their first three principal components, of all views of a study together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..platform.models.similarity import PatchGrid

# V views, N patches of a view, P patches inside of all views, D width of a token.

SPREAD = (1.0, 99.0)
"""Percentiles of a component that become 0 and 255."""

COMPONENTS = 3
"""Red, green and blue."""

LEAST = 0.1
"""Share of the patches that must be left without the background; where fewer are, nothing is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenColors:
    """rgb: of each view's patches, (N, 3) uint8. shown: which have a color, (N,) bool.

    shares: of the variance of the tokens that were fitted, of each component.
    """

    rgb: tuple[np.ndarray, ...]
    shown: tuple[np.ndarray, ...]
    shares: tuple[float, ...]

    def __repr__(self) -> str:
        return f"TokenColors({len(self.rgb)} views, {100 * sum(self.shares):.0f} % of variance)"


def token_colors(
    tokens: Sequence[np.ndarray], grids: Sequence[PatchGrid], *, background: bool = True
) -> TokenColors:
    """Colors of patch tokens, views (N, D) float32 with their grids: alike where tokens point the same way.

    The components are those of the patches inside all views, as unit vectors; the border around a view takes no part.
    Their signs, which mean nothing, are fixed: the largest weight of each is positive. A component without variance is
    mid-gray. background=False leaves out the background before, as DINOv2's figures do: the patches on the side of the
    first component on which most patches at the views' edges lie.
    """
    unit = [_unit(view_ND) for view_ND in tokens]
    inside = [grid.inside() if grid.inside().any() else np.ones(grid.count, bool) for grid in grids]
    fitted = inside if background else _foreground(unit, inside, grids)
    tokens_PD = _rows(unit, fitted)
    mean_D, axes_D3, shares = _components(tokens_PD)
    low_3, high_3 = np.percentile((tokens_PD - mean_D) @ axes_D3, SPREAD, axis=0)
    is_flat = high_3 - low_3 < 1e-6

    def colors(view_ND: np.ndarray) -> np.ndarray:
        scaled = ((view_ND - mean_D) @ axes_D3 - low_3) / np.where(is_flat, 1.0, high_3 - low_3)
        rgb = np.full((len(view_ND), COMPONENTS), 127, np.uint8)
        rgb[:, : len(low_3)] = np.where(is_flat, 127, np.rint(255 * scaled.clip(0, 1))).astype(np.uint8)
        return rgb

    return TokenColors(tuple(map(colors, unit)), tuple(fitted), shares)


def _components(tokens_PD: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Mean (D,), the first axes (D, 3) and their shares of the variance."""
    mean_D = tokens_PD.mean(axis=0)
    covariance_DD = (tokens_PD - mean_D).T @ (tokens_PD - mean_D) / len(tokens_PD)
    variances_D, axes_DD = np.linalg.eigh(covariance_DD)
    order = np.argsort(-variances_D, kind="stable")[:COMPONENTS]
    axes_D3 = axes_DD[:, order]
    axes_D3 = axes_D3 * np.sign(axes_D3[np.abs(axes_D3).argmax(axis=0), np.arange(axes_D3.shape[1])])
    total = max(float(variances_D.clip(0).sum()), 1e-12)
    return mean_D, axes_D3, tuple(max(0.0, float(variances_D[axis])) / total for axis in order)


def _foreground(
    unit: Sequence[np.ndarray], inside: Sequence[np.ndarray], grids: Sequence[PatchGrid]
) -> list[np.ndarray]:
    """The patches of each view that are not background, (N,) bool; all inside where nearly all would be."""
    tokens_PD = _rows(unit, inside)
    mean_D, axes_D3, _ = _components(tokens_PD)
    scores_P = (tokens_PD - mean_D) @ axes_D3[:, 0]
    edge_P = np.concatenate(
        [
            _edge(mask.reshape(grid.columns, -1)).ravel()[mask]
            for mask, grid in zip(inside, grids, strict=True)
        ]
    )
    threshold = _otsu(scores_P)
    is_background_high = np.mean(scores_P[edge_P] > threshold) > 0.5
    kept = [mask & (((view - mean_D) @ axes_D3[:, 0] > threshold) != is_background_high)
            for view, mask in zip(unit, inside, strict=True)]  # fmt: skip
    share = sum(int(mask.sum()) for mask in kept) / len(tokens_PD)
    return kept if share >= LEAST else list(inside)


def _edge(inside: np.ndarray) -> np.ndarray:
    """The outermost patches of a view, (columns, columns) bool like `inside`."""
    padded = np.pad(inside, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~inner


def _otsu(scores_P: np.ndarray) -> float:
    """The threshold between two groups with the largest variance between them (Otsu 1979)."""
    ordered = np.sort(scores_P)
    count = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    low, high = sums[:-1] / count, (sums[-1] - sums[:-1]) / (len(ordered) - count)
    cut = int(np.argmax(count * (len(ordered) - count) * (low - high) ** 2))
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def _rows(views: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([view[mask] for view, mask in zip(views, masks, strict=True)])


def _unit(tokens_ND: np.ndarray) -> np.ndarray:
    tokens_ND = np.asarray(tokens_ND, np.float64)
    return tokens_ND / np.maximum(np.linalg.norm(tokens_ND, axis=1, keepdims=True), 1e-12)
