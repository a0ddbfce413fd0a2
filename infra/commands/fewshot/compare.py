"""`vetdino fewshot compare VOLUMES --backbones B…`: encoders side by side on the same scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from ....downstream.fewshot.config import FewshotConfig
from ....platform.core.config import subconfig
from ....platform.core.errors import ConfigError
from ....platform.core.location import Location
from ..arguments import SOURCE, VOLUMES, Command, RecordFolder
from .evaluate import BASIC
from .sources import volumes_for


@dataclass(frozen=True, kw_only=True)
class FewshotCompare(FewshotConfig, Command):
    """Measure encoders on the same scans; every difference is from the first, with a paired test."""

    basic: ClassVar = (*BASIC, "trained")
    volumes: VOLUMES
    backbones: Annotated[
        tuple[str, ...],
        arg(help=f"{SOURCE}, or `pixels` (no network); the first is compared with the others."),
    ]
    trained: tuple[Location, ...] = ()
    """Folders that `vetdino fewshot train` wrote for these backbones and scans: rows of their own."""
    out: RecordFolder = Location("runs/fewshot-compare")

    def run(self) -> Path:
        if len({*self.backbones, *self.trained}) < 2:
            raise ConfigError("compare needs two encoders or more; give them to --backbones")
        from ....downstream.fewshot.experiments import compare
        from ....downstream.fewshot.sources import load_sources

        volumes = volumes_for(self.out.path, self.volumes.path)
        config = subconfig(FewshotConfig, self)
        compare(
            volumes,
            load_sources(self.backbones, self.device),
            config,
            self.out.path,
            [folder.path for folder in self.trained],
        )
        return self.out.path
