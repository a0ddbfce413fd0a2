"""`vetdino demo`: everything on generated studies, then the app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...platform.core.config import subconfig
from ..demo import DemoConfig, demo
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class Demo(DemoConfig, Command):
    """Generate studies, ingest, pretrain, evaluate and embed them, then open the app."""

    basic: ClassVar = ("out", "serve", "port", "studies", "side", "seed", "steps")

    def run(self) -> Path:
        return demo(subconfig(DemoConfig, self))
