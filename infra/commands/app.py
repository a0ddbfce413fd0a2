"""`vetdino app`: patch similarity, attention and nearest studies in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...platform.core.config import subconfig
from ...serving.config import AppConfig
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class App(AppConfig, Command):
    """Open a page that shows patch similarity, attention and nearest studies of one or more backbones."""

    basic: ClassVar = ("features", "split", "limit", "runs", "port", "side")

    def run(self) -> None:
        from ...serving.page.app import serve

        serve(subconfig(AppConfig, self))
