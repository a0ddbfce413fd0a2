"""`vetdino fewshot evaluate VOLUMES --backbone B`: segmentation over folds, beside baselines and oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....downstream.fewshot.config import FewshotEvaluateConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import VOLUMES, BackboneOrPixels, Command, RecordFolder
from .sources import one_encoder, volumes_for

BASIC = (
    "out",
    "shots",
    "beside",
    "floors",
    "components",
    "folds",
    "prototypes.compat",
    "slices.layers",
)


@dataclass(frozen=True, kw_only=True)
class FewshotEvaluate(FewshotEvaluateConfig, Command):
    """Measure segmentation from few labelled scans by the published protocol and on whole volumes."""

    basic: ClassVar = (*BASIC, "trained", "adapt.steps")
    volumes: VOLUMES
    backbone: BackboneOrPixels
    trained: Location | None = None
    """Folder that `vetdino fewshot train` wrote for this backbone and these scans: its encoders come first."""
    out: RecordFolder = Location("runs/fewshot-evaluate")

    def run(self) -> Path:
        from ....downstream.fewshot.experiments import evaluate

        volumes, encoders = (
            volumes_for(self.out.path, self.volumes.path),
            one_encoder(self.backbone, self.device),
        )
        trained = [self.trained.path] if self.trained else []
        evaluate(volumes, encoders, subconfig(FewshotEvaluateConfig, self), self.out.path, trained)
        return self.out.path
