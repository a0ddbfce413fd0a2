"""`vetdino evaluate BACKBONE SHARDS`: k-NN, linear, fine-tuning and multi-view tasks beside baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...downstream.config import EvaluateConfig
from ...platform.core.config import subconfig
from ...platform.core.location import Location
from .arguments import BACKBONE, SHARDS, Command

BASIC = (
    "tasks",
    "fractions",
    "resamples",
    "seed",
    "knn.level",
    "finetune.epochs",
    "finetune.workers",
    "device",
)


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluateConfig, Command):
    """Measure a backbone beside baselines: the same network with random weights, raw pixels and their PCA."""

    basic: ClassVar = ("out", *BASIC)
    backbone: BACKBONE
    shards: SHARDS
    out: Location = Location("runs/evaluate")
    """Folder for tables and figures."""

    def run(self) -> Path:
        from ...downstream.evaluate import evaluate

        evaluate(self.backbone, str(self.shards), self.out.path, subconfig(EvaluateConfig, self))
        return self.out.path
