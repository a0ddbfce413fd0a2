"""`vetdino fewshot segment SCAN… --support S --mask M`: organs of new scans from one labelled scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ....downstream.fewshot.config import FewshotSegmentConfig
from ....platform.core.config import subconfig
from ....platform.core.errors import ConfigError
from ....platform.core.location import Location
from ..arguments import BackboneOrPixels, Command


@dataclass(frozen=True, kw_only=True)
class FewshotSegment(FewshotSegmentConfig, Command):
    """Segment in new scans what a mask shows in a support scan; the masks have the new scans' own grids."""

    basic: ClassVar = ("components", "prepare.modality", "prepare.classes", "adapt.steps", "slices.layers")
    scans: Annotated[Positional[tuple[Location, ...]], arg(metavar="SCAN…")]
    """New scans: NIfTI files, folders of DICOM slices or of pictures."""
    support: Location
    """The labelled scan."""
    mask: Location
    """Its label map, with any number of classes."""
    backbone: BackboneOrPixels
    out: Location
    """Folder for masks/ (NIfTI), overlays/ and metrics.json."""

    def run(self) -> Path:
        if not self.scans:
            raise ConfigError(
                "no scan given: vetdino fewshot segment SCAN… --support S --mask M --backbone B --out DIR"
            )
        from ....downstream.fewshot.segment import segment
        from ....downstream.fewshot.sources import load_source

        config = subconfig(FewshotSegmentConfig, self)
        segment(
            [scan.path for scan in self.scans],
            self.support.path,
            self.mask.path,
            load_source(self.backbone, self.device),
            self.out.path,
            config,
        )
        return self.out.path
