"""`vetdino zeroshot segment IMAGES… --backbone B`: masks for new frames, without ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ....downstream.ultrasound.config import ZeroshotSegmentConfig
from ....platform.core.config import subconfig
from ....platform.core.errors import ConfigError
from ....platform.core.location import Location
from ..arguments import BackboneSetting, Command
from .experiments import BASIC


@dataclass(frozen=True, kw_only=True)
class ZeroshotSegment(ZeroshotSegmentConfig, Command):
    """Write a mask and an overlay for each frame; frames given together are segmented together."""

    basic: ClassVar = ("method", *BASIC[1:])
    images: Annotated[Positional[tuple[Location, ...]], arg(metavar="IMAGES…")]
    """Images, or folders of them."""
    backbone: BackboneSetting
    out: Location
    """Folder for masks/, overlays/, frames.csv (a row for each frame, empty masks included) and metrics.json."""

    def run(self) -> Path:
        if not self.images:
            raise ConfigError("no image given: vetdino zeroshot segment IMAGES… --backbone B --out DIR")
        from ....downstream.ultrasound.experiments.segment import segment

        segment(
            [place.path for place in self.images],
            self.backbone,
            self.out.path,
            subconfig(ZeroshotSegmentConfig, self),
        )
        return self.out.path
