"""`vetdino report BACKBONE`: its model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig
from ...platform.core.location import Location
from ..pages.config import ReportConfig
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class ModelCard(ReportConfig, Command):
    """Write a backbone's model card as Markdown and HTML, from its files and its evaluations."""

    basic: ClassVar = ("out", "runs", "shards", "split", "studies", "licence")
    backbone: Annotated[Positional[Location], arg(metavar="BACKBONE")]
    """Backbone folder."""
    out: Location = Location("runs/report")
    """Folder for card.md, card.html and pictures."""

    def run(self) -> Path:
        from ..pages.report import report

        return report(self.backbone.path, self.out.path, subconfig(ReportConfig, self))
