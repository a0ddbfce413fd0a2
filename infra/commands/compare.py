"""`vetdino compare RUN…`: trainings and evaluations side by side on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig
from ...platform.core.location import Location
from ..pages.config import CompareConfig
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class Compare(CompareConfig, Command):
    """Compare runs with the first: settings, curves, figures with paired differences, on one HTML page."""

    basic: ClassVar = ("out", "metrics", "shards", "backbones", "split", "studies", "resamples", "seed")
    runs: Annotated[Positional[tuple[Location, ...]], arg(metavar="RUN…")]
    """Folders of trainings and evaluations; the first is compared with the others."""
    out: Location = Location("compare.html")
    """The page; it holds all it shows and fetches nothing."""

    def run(self) -> Path:
        from ..pages.compare import compare

        return compare([run.path for run in self.runs], self.out.path, subconfig(CompareConfig, self))
