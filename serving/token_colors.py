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


@dataclass(frozen=True, slots=True, eq=False)
class TokenColors:
    """rgb: of each view's patches, (N, 3) uint8. shares: of the tokens' variance, of each component."""

    rgb: tuple[np.ndarray, ...]
    shares: tuple[float, ...]

    def __repr__(self) -> str:
        return f"TokenColors({len(self.rgb)} views, {100 * sum(self.shares):.0f} % of variance)"


def token_colors(tokens: Sequence[np.ndarray], grids: Sequence[PatchGrid]) -> TokenColors:
    """Colors of patch tokens, views (N, D) float32 with their grids: alike where tokens point the same way.

    The components are those of the patches inside all views, as unit vectors; a view's border, which no one looks at,
    takes no part. Their signs, which mean nothing, are fixed: the largest weight of each is positive. A component
    without variance is mid-gray.
    """
    unit = [_unit(view_ND) for view_ND in tokens]
    inside = [grid.inside() if grid.inside().any() else np.ones(grid.count, bool) for grid in grids]
    tokens_PD = np.concatenate([view[mask] for view, mask in zip(unit, inside, strict=True)])
    mean_D = tokens_PD.mean(axis=0)
    covariance_DD = (tokens_PD - mean_D).T @ (tokens_PD - mean_D) / len(tokens_PD)
    variances_D, axes_DD = np.linalg.eigh(covariance_DD)
    order = np.argsort(-variances_D, kind="stable")[:COMPONENTS]
    axes_D3 = axes_DD[:, order]
    axes_D3 *= np.sign(axes_D3[np.abs(axes_D3).argmax(axis=0), np.arange(axes_D3.shape[1])])
    low_3, high_3 = np.percentile((tokens_PD - mean_D) @ axes_D3, SPREAD, axis=0)
    is_flat = high_3 - low_3 < 1e-6

    def colors(view_ND: np.ndarray) -> np.ndarray:
        scaled = ((view_ND - mean_D) @ axes_D3 - low_3) / np.where(is_flat, 1.0, high_3 - low_3)
        rgb = np.full((len(view_ND), 3), 127, np.uint8)
        rgb[:, : len(order)] = np.where(is_flat, 127, np.rint(255 * scaled.clip(0, 1))).astype(np.uint8)
        return rgb

    total = max(float(variances_D.clip(0).sum()), 1e-12)
    shares = tuple(max(0.0, float(variances_D[component])) / total for component in order)
    return TokenColors(tuple(map(colors, unit)), shares)


def _unit(tokens_ND: np.ndarray) -> np.ndarray:
    tokens_ND = np.asarray(tokens_ND, np.float64)
    return tokens_ND / np.maximum(np.linalg.norm(tokens_ND, axis=1, keepdims=True), 1e-12)
