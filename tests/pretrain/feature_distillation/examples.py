"""The smallest distillation, on the studies of tests/pretrain/conftest.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.pretrain.conftest import changed
from vetdino.platform.core.location import Location
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.config import FeatureDistillationConfig
from vetdino.pretrain.distillation.config import OptimConfig
from vetdino.pretrain.feature_distillation.config import StudentConfig
from vetdino.pretrain.watch.config import ProbeConfig

SMALL = StudentConfig(patch=8, width=32, depth=2, heads=2)


def write_teacher(folder: Path, seed: int = 1) -> Path:
    """A backbone folder of random weights."""
    config = BackboneConfig(name="vit_tiny_patch16_224", side=28, patch=7, width=48, depth=2, heads=2)
    save_backbone(folder, random_backbone(config, seed))
    return folder


def tiny_distillation(
    teacher: Path, shards: Path, out: Path, changes: Mapping[str, Any] | None = None, **top: Any
) -> FeatureDistillationConfig:
    """Nested settings are changed by dotted name. The student is a ViT unless `student` says otherwise."""
    config = FeatureDistillationConfig(
        teacher=str(teacher),
        student=top.pop("student", "vit_tiny_patch16_224"),
        backbone=top.pop("backbone", SMALL),
        shards=(Location(shards),),
        out=Location(out),
        crops=CropConfig(global_side=32, local_side=32, globals_per_view=1, locals_per_view=0),
        optim=OptimConfig(lr=Cosine(start=3e-2, end=1e-3, warmup=0.2), zero=0, precision="float32"),
        probe=ProbeConfig(every=2, k=3),
        batch=8,
        steps=6,
        device="cpu",
        threads=1,
        loaders=0,
        log_every=1,
        checkpoint_every=3,
    )
    for path, value in (changes or {}).items():
        config = changed(config, path, value)
    return replace(config, **top)
