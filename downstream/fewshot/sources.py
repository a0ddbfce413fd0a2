"""Sources of features for a table: backbones by name, pixels, baselines, and what trained encoders belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ...platform.core.device import DeviceChoice
from ...platform.core.errors import CheckpointError
from ...platform.models.backbone import random_like
from ...platform.models.loading import load
from ..common.sources import source_names
from .config import FewshotConfig
from .learn.encoder import CARD
from .learn.trained import ENCODERS
from .method.choice import candidate_blocks
from .method.config import TaskConfig
from .method.pixel_features import PixelFeatures
from .method.slices import SliceFeatures
from .method.token_features import LayerTokens, TokenFeatures

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

Backbones: TypeAlias = "Mapping[str, Backbone | None]"
"""Name of a source -> its backbone; None stands for pixel features."""

PIXELS = "pixels"
"""In place of a backbone: `PixelFeatures`, which need no network."""


def load_source(source: str | Path, device: DeviceChoice = "cpu") -> Backbone | None:
    """The backbone of a folder, weights file, timm:NAME or random:NAME; None for `pixels`. Raises as `load` does."""
    return None if str(source) == PIXELS else load(source, device)


def load_sources(sources: Sequence[str | Path], device: DeviceChoice = "cpu") -> dict[str, Backbone | None]:
    """Short name -> backbone; `pixels` keeps its name, others are named as in `compare-backbones`."""
    networks = [source for source in dict.fromkeys(map(str, sources)) if source != PIXELS]
    names = dict(zip(networks, source_names(networks), strict=True)) | {PIXELS: PIXELS}
    return {names[source]: load_source(source, device) for source in dict.fromkeys(map(str, sources))}


def slice_features(backbone: Backbone | None, config: TaskConfig) -> SliceFeatures:
    """A backbone's tokens, of several blocks where the support is to choose; pixel features for None."""
    if backbone is None:
        return PixelFeatures(config.slices)
    if config.slices.layers or config.slices.debias:
        return TokenFeatures(backbone, config.slices)
    return LayerTokens(backbone, config.slices, candidate_blocks(len(backbone.vit.blocks)))


def baseline_features(backbones: Backbones, config: FewshotConfig) -> dict[str, SliceFeatures]:
    """The features among `config.floors`: random weights of the first network's shape, and pixels.

    Baselines that are a source already are left out.
    """
    baselines = {}
    networks = [backbone for backbone in backbones.values() if backbone is not None]
    if networks and "random" in config.floors:
        baselines["random"] = slice_features(random_like(networks[0], config.seed).eval(), config)
    if PIXELS in config.floors and None not in backbones.values():
        baselines[PIXELS] = slice_features(None, config)
    return baselines


def trained_backbone_digest(trained: Path | str) -> str:
    """Digest of the backbone that a folder of trained encoders was trained from. Raises CheckpointError."""
    return _encoder_index(trained, "backbone")["digest"]


def trained_data_digest(trained: Path | str) -> str:
    """Digest of the prepared folder that its encoders were trained on. Raises CheckpointError."""
    return _encoder_index(trained, "data")


def trained_digest(trained: Path | str) -> str:
    """sha256 over the index and the cards of trained encoders, which hold the digests of their weights.

    Raises CheckpointError.
    """
    folders = [Path(trained) / entry["folder"] for entry in _encoder_index(trained, "encoders")]
    sha = hashlib.sha256((Path(trained) / ENCODERS).read_bytes())
    for folder in folders:
        sha.update((folder / CARD).read_bytes())
    return sha.hexdigest()


def _encoder_index(trained: Path | str, key: str) -> Any:
    path = Path(trained) / ENCODERS
    try:
        return json.loads(path.read_text())[key]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{path}: missing or damaged; `vetdino fewshot train` writes it when all encoders are done"
        ) from None
