"""Views as patch tokens: by a backbone with its attention, or by the pixels of the patches as a baseline.

V views, N patches of a view, H heads, D width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...platform.data.study import View
from ...platform.models.letterbox import letterboxed
from .truth import PatchTruth, ViewTruth, patch_truth

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedView:
    """One view with the truth of its patches, their tokens (N, D), and attention (H, N) where there is a backbone."""

    view: View
    patches: PatchTruth
    tokens: np.ndarray
    attention: np.ndarray | None = None

    @property
    def projection(self) -> str:
        """The true projection, whatever the file says."""
        return self.patches.truth.projection

    def __repr__(self) -> str:
        return f"TokenizedView({self.projection}, {len(self.tokens)} patches)"


def tokenized_views(
    backbone: Backbone | None, views: Sequence[tuple[View, ViewTruth | None]], side: int, patch: int
) -> list[TokenizedView]:
    """The views of a study that have a map, on the backbone's own grid.

    Without a backbone, tokens are pixels, of views letterboxed to `side` and cut into patches of `patch`.
    """
    known = [(view, truth) for view, truth in views if truth is not None]
    if backbone is None:
        return [
            TokenizedView(view, patch_truth(view, truth, side, patch), pixel_tokens(view, side, patch))
            for view, truth in known
        ]
    if not known:
        return []
    images = backbone.prepare_many([view.pixels for view, _ in known])
    tokens_VND = backbone.tokens(images).patches.float().cpu().numpy()
    attention_VHN = backbone.attention(images).float().cpu().numpy()
    return [
        TokenizedView(view, patch_truth(view, truth, backbone.side, backbone.patch), tokens_ND, attention_HN)
        for (view, truth), tokens_ND, attention_HN in zip(known, tokens_VND, attention_VHN, strict=True)
    ]


def pixel_tokens(view: View, side: int, patch: int) -> np.ndarray:
    """Tokens of the pixel baseline: the pixels of each patch minus their mean, (N, patch * patch) float32.

    Their cosine is the normalized cross-correlation of two patches, which ignores brightness and contrast.
    """
    count = side // patch
    cells = letterboxed(view.pixels, side)[: count * patch, : count * patch].astype(np.float32)
    cells = cells.reshape(count, patch, count, patch).swapaxes(1, 2).reshape(count * count, -1)
    return cells - cells.mean(axis=1, keepdims=True)


def unit_or_zero(tokens_ND: np.ndarray) -> np.ndarray:
    """Tokens of length 1; a token of length 0, as of an even patch of pixels, stays 0 and has cosine 0 with all."""
    tokens_ND = np.asarray(tokens_ND, np.float32)
    return tokens_ND / np.maximum(np.linalg.norm(tokens_ND, axis=1, keepdims=True), 1e-12)
