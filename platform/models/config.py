"""Which Vision Transformer: the settings of a backbone, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Resampling: TypeAlias = Literal["timm", "dino"]
"""How position embeddings come to another grid (`positions`), or of which periods rotary ones are (`rotary`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """Which Vision Transformer, and the size of its images."""

    name: str = "vit_small_patch14_dinov2"
    """A timm Vision Transformer; the settings below override the parts of it that they name."""
    side: int = 224
    """Side of the square image it is built for, in pixels; a multiple of the patch."""
    patch: int | None = None
    """Side of a patch in pixels; None keeps the architecture's."""
    width: int | None = None
    """Width of a token; None keeps the architecture's."""
    depth: int | None = None
    """Number of blocks; None keeps the architecture's."""
    heads: int | None = None
    """Attention heads a block; None keeps the architecture's."""
    registers: int | None = None
    """Register tokens beside the CLS (arXiv 2309.16588); None keeps the architecture's."""
    eps: float | None = None
    """Epsilon of the layer norms; None keeps the architecture's."""
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block, rising linearly from 0 in the first (student only)."""
