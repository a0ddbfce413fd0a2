"""`vetdino fewshot kshot VOLUMES --backbone B`: what more labelled scans add."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....downstream.fewshot.config import KshotConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import VOLUMES, BackboneOrPixels, Command, RecordFolder
from .evaluate import BASIC
from .sources import one_encoder, volumes_for


@dataclass(frozen=True, kw_only=True)
class Kshot(KshotConfig, Command):
    """Measure with 1, 2, 4 labelled scans on the same queries, for each rule that pools several."""

    basic: ClassVar = BASIC
    volumes: VOLUMES
    backbone: BackboneOrPixels
    out: RecordFolder = Location("runs/fewshot-kshot")

    def run(self) -> Path:
        from ....downstream.fewshot.experiments import kshot

        volumes, encoders = (
            volumes_for(self.out.path, self.volumes.path),
            one_encoder(self.backbone, self.device),
        )
        kshot(volumes, encoders, subconfig(KshotConfig, self), self.out.path)
        return self.out.path
