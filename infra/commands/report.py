"""`vetdino report BACKBONE`: its model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig
from ...platform.core.location import Location
from ...platform.core.storage import naming
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

    @contextmanager
    def _prepared(self, action: str) -> Iterator[Self]:
        from ..pages.nearby import with_records

        with with_records(self.backbone) as (folder, urls), naming(urls):
            backbone = dataclasses.replace(self, backbone=Location(folder))
            with Command._prepared(backbone, action) as local:
                yield local

    def run(self) -> Path:
        from ..pages.report import report

        return report(self.backbone.path, self.out.path, subconfig(ReportConfig, self))
