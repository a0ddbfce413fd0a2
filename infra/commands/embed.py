"""`vetdino embed BACKBONE SHARDS OUT`: features of every study or view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from ...platform.core.device import DeviceConfig
from ...platform.core.location import Location
from .arguments import BACKBONE, SHARDS, Command


@dataclass(frozen=True, kw_only=True)
class Embed(DeviceConfig, Command):
    """Write a backbone's features of each study (or view) as a Parquet table with the labels."""

    basic: ClassVar = ("level", "splits", "batch", "device")
    backbone: BACKBONE
    shards: SHARDS
    out: Annotated[Positional[Location], arg(metavar="OUT")]
    """Folder for features.parquet."""
    level: Literal["study", "view"] = "study"
    """One vector for each study (the mean of its views) or for each view."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    """Splits to embed."""
    batch: int = 64
    """Views in one pass through the backbone."""

    def run(self) -> Path:
        from ...platform.core.errors import DataError
        from ...platform.data.manifest import load_manifest
        from ...platform.measure.extraction import check_extraction, extract
        from ...platform.measure.features import save_features
        from ...platform.models.loading import load

        shards = str(self.shards)
        check_extraction(load_manifest(shards), shards, self.splits, self.batch)
        if self.out.path.is_file() and self.out.path.suffix != ".parquet":
            raise DataError(f"{self.out.path} is a file; give a folder, or a name that ends in .parquet")
        backbone = load(self.backbone, self.device)
        features = extract(backbone, shards, self.splits, level=self.level, batch=self.batch)
        save_features(features, self.out.path)
        return self.out.path
