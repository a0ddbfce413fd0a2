"""Features by name for a table: the encoder, and the floors that are features too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..platform.backbone import random_like
from .fewshot import FewshotConfig, TaskConfig
from .slices import PixelFeatures, SliceFeatures, TokenFeatures

if TYPE_CHECKING:
    from ..platform.backbone import Backbone


def features_of(backbone: Backbone | None, config: TaskConfig) -> SliceFeatures:
    """A backbone's tokens; pixel features without one."""
    return TokenFeatures(backbone, config.slices) if backbone is not None else PixelFeatures(config.slices)


def sources_of(backbone: Backbone | None, config: FewshotConfig) -> dict[str, SliceFeatures]:
    """Source -> features, the encoder first (`pixels` where there is no backbone); then the floors asked for."""
    sources = {"pixels" if backbone is None else "encoder": features_of(backbone, config)}
    if backbone is not None and "random" in config.floors:
        sources["random"] = features_of(random_like(backbone, config.seed), config)
    if "pixels" in config.floors:
        sources.setdefault("pixels", features_of(None, config))
    return sources
