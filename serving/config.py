"""Settings of the browser app; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..platform.core.device import DeviceConfig
from ..platform.core.location import Location

HOST = "127.0.0.1"
"""The only address served: the app is for the person at this machine."""

RANDOM = "random"
"""Name, among the backbones, of the first backbone's architecture with random weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig(DeviceConfig):
    """What the app shows, and on which port."""

    shards: Location
    """Folder of shards from `vetdino ingest`."""
    backbones: tuple[str | Path, ...]
    """Backbone folders in the order of the buttons; `random` is the first one's architecture with random weights."""
    features: tuple[Location, ...] = ()
    """Study-level feature tables, or galleries that `vetdino index` built, the i-th from the i-th backbone; features
    that are not given are computed."""
    split: Literal["train", "val", "test"] = "test"
    """Split whose studies can be opened."""
    limit: int | None = None
    """Show only the first so many studies of the split; None shows all."""
    port: int = 7860
    """TCP port on 127.0.0.1."""
    matches: int = 8
    """Number of nearest studies shown."""
    side: int | None = None
    """Side of the square input image in pixels, a multiple of every backbone's patch size; larger than in training
    gives a finer grid of patches. None: the backbone's own."""
