"""`vetdino fewshot prepare SRC OUT`: scans and label maps become slices, once, with checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ....downstream.volumes.config import PrepareConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import Command


@dataclass(frozen=True, kw_only=True)
class Prepare(PrepareConfig, Command):
    """Turn scans and their label maps (NIfTI, DICOM, pictures) into slices, with checks and overlay sheets."""

    basic: ClassVar = ("modality", "plane", "side", "classes", "stack_spacing", "stack_axes", "min_slices")
    source: Annotated[Positional[Location], arg(metavar="SRC")]
    """Folder of scans and labels, or a table (CSV) of image, label, name, modality, spacing, axes."""
    out: Annotated[Positional[Location], arg(metavar="OUT")]
    """Folder for volumes/, overlays/, volumes.json and report.csv."""

    def run(self) -> Path:
        from ....downstream.volumes.prepare import prepare

        return prepare(self.source.path, self.out.path, subconfig(PrepareConfig, self))
