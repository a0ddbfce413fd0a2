"""`vetdino replay RUN --step N`: run a step with a non-finite loss again and find where it began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ...platform.core.location import Location
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class Replay(Command):
    """Run a bad step of a training again: its losses, and the first non-finite output and gradient."""

    folder: Annotated[Positional[Location], arg(metavar="RUN")]
    """Folder of the training."""
    step: int
    """Number of the step, one of those in the folder's `bad`."""

    def run(self) -> None:
        from ...pretrain.replay import replay_run

        print(replay_run(self.folder.path, self.step))
