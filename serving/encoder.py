"""One backbone of the app: tokens and attention of a view, and the studies similar by its features."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..platform.core.errors import ConfigError
from .similar import SimilarStudies
from .similarity import PatchGrid
from .studies import Place, StudyBrowser, view_pixels

if TYPE_CHECKING:
    from ..platform.models.backbone import Backbone


@dataclass(frozen=True, slots=True, eq=False)
class EncodedView:
    """A backbone's output for one view: patch tokens (N, D) and CLS attention (H, N), float32; and the patch grid."""

    tokens: np.ndarray
    attention: np.ndarray
    grid: PatchGrid

    def __repr__(self) -> str:
        return f"EncodedView({len(self.tokens)} patches, {len(self.attention)} heads)"


def check_side(side: int, backbone: Backbone) -> None:
    """Raises ConfigError for a side of the input that the backbone's patches do not divide."""
    if side < 1 or side % backbone.patch:
        raise ConfigError(
            f"side {side} is not a multiple of {backbone.patch}, the patch size of {backbone.card.label}"
        )


class ViewEncoder:
    """One backbone with the studies similar by its features; encodes one view at a time, also with several threads.

    side: of the square input image in pixels; None: the backbone's own. Raises ConfigError if it is not a multiple of
    the patch size.
    """

    def __init__(
        self, backbone: Backbone, similar: SimilarStudies, studies: StudyBrowser, side: int | None
    ) -> None:
        self.backbone, self.similar, self.studies = backbone, similar, studies
        self.side = side or backbone.side
        check_side(self.side, backbone)
        self._lock = threading.Lock()
        self.encode = lru_cache(maxsize=128)(self._encode)

    def _encode(self, place: Place, view: int) -> EncodedView:
        pixels = view_pixels(self.studies.load(place), view)
        with self._lock:
            image = self.backbone.prepare(pixels, self.side)[None]
            tokens = self.backbone.tokens(image).patches[0]
            attention = self.backbone.attention(image)[0]
        height, width = pixels.shape
        grid = PatchGrid(height=height, width=width, side=self.side, patch=self.backbone.patch)
        return EncodedView(tokens.float().cpu().numpy(), attention.float().cpu().numpy(), grid)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the page shows of this backbone."""
        backbone = self.backbone
        blocks: Any = backbone.vit.blocks
        return {
            "label": backbone.card.label,
            "digest": backbone.card.digest[:12],
            "summary": f"{len(blocks)} blocks of width {backbone.width}, patches of {backbone.patch} pixels, "
            f"image side {self.side}",
            "heads": blocks[-1].attn.num_heads,
        }

    def __repr__(self) -> str:
        return f"ViewEncoder({self.backbone.card.label}, side {self.side})"
