"""Features by name for a table: encoders, and the floors that are features too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...platform.core.errors import CheckpointError
from ...platform.models.backbone import load, random_like
from .config import FewshotConfig
from .learn.training import ENCODERS
from .method.config import TaskConfig
from .method.slices import PixelFeatures, SliceFeatures, TokenFeatures

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

PIXELS = "pixels"
"""In place of a backbone: no network, grey values, gradients and where in the body they lie."""


def features_of(backbone: Backbone | None, config: TaskConfig) -> SliceFeatures:
    """A backbone's tokens; pixel features without one."""
    return TokenFeatures(backbone, config.slices) if backbone is not None else PixelFeatures(config.slices)


def loaded(source: str | Path) -> Backbone | None:
    """Whatever `platform.backbone.load` takes, or `pixels`, which is no backbone."""
    return None if str(source) == PIXELS else load(source)


def backbones_of(sources: Sequence[str | Path]) -> dict[str, Backbone | None]:
    """Short name -> backbone, each loaded; `pixels` keeps its name, others are named as `compare-backbones` does."""
    from ..evaluate import names_of

    networks = [source for source in dict.fromkeys(map(str, sources)) if source != PIXELS]
    names = dict(zip(networks, names_of(networks), strict=True)) | {PIXELS: PIXELS}
    return {names[source]: loaded(source) for source in dict.fromkeys(map(str, sources))}


def sources_of(backbones: Mapping[str, Backbone | None], config: TaskConfig) -> dict[str, SliceFeatures]:
    """Name -> features of each, in their order."""
    return {name: features_of(backbone, config) for name, backbone in backbones.items()}


def floors_of(backbones: Mapping[str, Backbone | None], config: FewshotConfig) -> dict[str, SliceFeatures]:
    """The floors asked for that are features and no source already: random weights like the first network's, pixels."""
    floors = {}
    networks = [backbone for backbone in backbones.values() if backbone is not None]
    if networks and "random" in config.floors:
        floors["random"] = features_of(random_like(networks[0], config.seed).eval(), config)
    if PIXELS in config.floors and None not in backbones.values():
        floors[PIXELS] = features_of(None, config)
    return floors


def backbone_of(trained: Path | str) -> str:
    """Digest of the backbone that a folder of trained encoders was trained from. Raises CheckpointError."""
    return _told(trained, "backbone")["digest"]


def data_of(trained: Path | str) -> str:
    """Digest of the prepared folder that its encoders were trained on. Raises CheckpointError."""
    return _told(trained, "data")


def _told(trained: Path | str, name: str) -> Any:
    path = Path(trained) / ENCODERS
    try:
        return json.loads(path.read_text())[name]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{path}: missing or damaged; `vetdino fewshot train` leaves it when all encoders are done"
        ) from None
