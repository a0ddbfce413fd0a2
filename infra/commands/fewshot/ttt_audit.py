"""`vetdino fewshot ttt-audit VOLUMES --backbone B`: what test-time training does, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....downstream.fewshot.audits.config import TttConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import VOLUMES, BackboneSetting, Command, RecordFolder
from .sources import network, volumes_for


@dataclass(frozen=True, kw_only=True)
class TttAudit(TttConfig, Command):
    """Train on every query slice and segment it again, in several ways, each compared with no training."""

    basic: ClassVar = (
        *("out", "trained", "organs", "folds", "scans", "per_organ"),
        *("adapt.steps", "adapt.rate", "device", "seed"),
    )
    volumes: VOLUMES
    backbone: BackboneSetting
    trained: Location | None = None
    """Folder that `vetdino fewshot train` wrote: its encoders are audited, each in its fold."""
    out: RecordFolder = Location("runs/fewshot-ttt-audit")

    def run(self) -> Path:
        from ....downstream.fewshot.audits.adaptation import ttt_audit
        from ....downstream.fewshot.audits.record import backbone_label, record, ttt_record
        from ....downstream.fewshot.learn.encoder import TrainableEncoder
        from ....downstream.fewshot.learn.trained import load_trained_encoders
        from ....platform.core.device import resolve_device

        config = subconfig(TttConfig, self)
        device = resolve_device(config.device)
        volumes, backbone = (
            volumes_for(self.out.path, self.volumes.path),
            network(self.backbone, "ttt-audit", self.device),
        )
        if self.trained is None:
            fresh = TrainableEncoder(backbone, config.learn, config.slices, config.seed).to(device)
            audit = ttt_audit(volumes, lambda _: fresh, config)
        else:
            encoders = load_trained_encoders(
                self.trained.path, backbone, config.slices, volumes=volumes, folds=config.folds, device=device
            )
            audit = ttt_audit(volumes, lambda lesson: encoders[lesson.fold, lesson.organ], config)
        record(ttt_record(audit, backbone_label(backbone), config), volumes, backbone, config, self.out.path)
        return self.out.path
