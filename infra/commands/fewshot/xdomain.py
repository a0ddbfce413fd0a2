"""`vetdino fewshot xdomain VOLUMES VOLUMES… --backbone B`: scans of one folder as support for another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ....downstream.fewshot.config import XdomainConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import BackboneOrPixels, Command, RecordFolder
from .evaluate import BASIC
from .sources import one_encoder, volumes_for


@dataclass(frozen=True, kw_only=True)
class Xdomain(XdomainConfig, Command):
    """Measure every pair of folders, one as support and one as query; classes are matched by name."""

    basic: ClassVar = (*BASIC, "trained")
    volumes: Annotated[Positional[tuple[Location, ...]], arg(metavar="VOLUMES VOLUMES…")]
    """Two or more folders that `vetdino fewshot prepare` wrote."""
    backbone: BackboneOrPixels
    trained: tuple[Location, ...] = ()
    """Folders that `vetdino fewshot train` wrote for this backbone: each is used where the folder that it was
    trained on is the support."""
    out: RecordFolder = Location("runs/fewshot-xdomain")

    def run(self) -> Path:
        from ....downstream.fewshot.xdomain import xdomain

        folders = [volumes_for(self.out.path, folder.path) for folder in self.volumes]
        xdomain(
            folders,
            one_encoder(self.backbone, self.device),
            subconfig(XdomainConfig, self),
            self.out.path,
            [folder.path for folder in self.trained],
        )
        return self.out.path
