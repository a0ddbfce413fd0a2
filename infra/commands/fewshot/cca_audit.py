"""`vetdino fewshot cca-audit VOLUMES --backbone B`: what cutting masks to connected components does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....downstream.fewshot.audits.config import CcaConfig
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import VOLUMES, BackboneOrPixels, Command, RecordFolder
from .sources import volumes_for


@dataclass(frozen=True, kw_only=True)
class CcaAudit(CcaConfig, Command):
    """Cut predictions, and the ground truth, to their most confident component, to as many as the support has, or
    not at all."""

    basic: ClassVar = ("out", "shots", "organs", "folds", "scans", "per_organ", "seed")
    volumes: VOLUMES
    backbone: BackboneOrPixels
    out: RecordFolder = Location("runs/fewshot-cca-audit")

    def run(self) -> Path:
        from ....downstream.fewshot.audits.components import cca_audit
        from ....downstream.fewshot.audits.record import backbone_label, cca_record, record
        from ....downstream.fewshot.sources import load_source

        config = subconfig(CcaConfig, self)
        volumes, backbone = (
            volumes_for(self.out.path, self.volumes.path),
            load_source(self.backbone, self.device),
        )
        audit = cca_audit(volumes, backbone, config)
        record(cca_record(audit, backbone_label(backbone), config), volumes, backbone, config, self.out.path)
        return self.out.path
