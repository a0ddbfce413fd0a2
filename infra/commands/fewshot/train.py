"""`vetdino fewshot train VOLUMES --backbone B`: encoders trained on superpixel episodes, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....downstream.fewshot.learn.config import TrainConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import VOLUMES, BackboneSetting, Command
from .sources import network


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, Command):
    """Train an encoder for each fold and group of organs, without labels; `evaluate --trained OUT` measures them.
    The same command continues a stopped training."""

    basic: ClassVar = ("out", "steps", "setting", "groups", "folds", "lr", "learn.rank", "device", "seed")
    volumes: VOLUMES
    backbone: BackboneSetting
    out: Location = Location("runs/fewshot-train")
    """Folder for the encoders and their record."""

    def run(self) -> Path:
        from ....downstream.fewshot.learn.training import train
        from ....downstream.volumes.volume import load_volumes

        backbone = network(self.backbone, "fewshot train", self.device)
        return train(load_volumes(self.volumes.path), backbone, subconfig(TrainConfig, self), self.out.path)
