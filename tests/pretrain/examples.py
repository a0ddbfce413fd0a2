"""A distiller of the tiny training, and a checkpoint of it as engine and loop write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import save_file

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.training import checkpoint
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.distiller import Distiller


def distiller_of(config: PretrainConfig) -> Distiller:
    torch.manual_seed(0)
    return Distiller(random_backbone(config.backbone, 0), config.distill)


def write_checkpoint(
    config: PretrainConfig, step: int, change: Callable[[Distiller], None] = lambda _: None
) -> Distiller:
    """A checkpoint of fresh weights, changed; as engine and loop write it."""
    distiller = distiller_of(config)
    with torch.no_grad():
        change(distiller)
    root = config.out / "checkpoints"
    draft = checkpoint.begin(root, step)
    state = {name: value.contiguous() for name, value in distiller.state_dict().items()}
    followers = {name: value for name, value in state.items() if not name.startswith("student.")}
    save_file(followers, draft / "teacher.safetensors")
    rows = {f"weight {name} 0": p.detach().view(-1) for name, p in distiller.student.named_parameters()}
    (draft / "position.json").write_text("{}")
    (draft / "engine").mkdir()
    save_file(rows | {"step": torch.tensor(float(step))}, draft / "engine" / "worker0000.safetensors")
    checkpoint.publish(root, step)
    return distiller
