"""`vetdino compare-backbones BACKBONE…`: several backbones on the same studies, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ...downstream.config import EvaluateConfig
from ...platform.core.config import subconfig
from ...platform.core.location import Location
from .arguments import SOURCE, Command
from .evaluate import BASIC


@dataclass(frozen=True, kw_only=True)
class CompareBackbones(EvaluateConfig, Command):
    """Measure backbones on the same studies; every difference is between the first one and another."""

    basic: ClassVar = ("out", *BASIC)
    backbones: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="BACKBONE…", help=f"{SOURCE}; the first is compared with the others."),
    ]
    shards: Location
    """Folder of shards that `vetdino ingest` wrote."""
    out: Location = Location("runs/compare-backbones")
    """Folder for tables and figures."""

    def run(self) -> Path:
        from ...downstream.evaluate import compare_backbones

        compare_backbones(self.backbones, str(self.shards), self.out.path, subconfig(EvaluateConfig, self))
        return self.out.path
