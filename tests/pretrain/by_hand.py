"""Steps of the engine beside steps of plain AdamW, in a process of its own; says `equal` where they are."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vetdino.platform.backbone import BackboneConfig, random_backbone
from vetdino.pretrain.distiller import Learner
from vetdino.pretrain.engine import Engine, OptimConfig, groups_of
from vetdino.pretrain.heads import HeadConfig
from vetdino.pretrain.schedules import Cosine

STEPS, BATCH = 5, 4

BACKBONE = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)


def compare(zero: int) -> None:
    """Five steps with one ZeRO stage; asserts that rates, decays and all weights agree after each."""
    torch.manual_seed(0)
    config = OptimConfig(
        lr=Cosine(start=0.1, end=0.01), clip=0.05, freeze_prototypes=0.5, zero=zero, precision="float32"
    )
    head = HeadConfig(prototypes=12, hidden=16, bottleneck=8)
    student = Learner(random_backbone(BACKBONE, 0), head, patches=True)
    plain = copy.deepcopy(student)
    for block in plain.backbone.vit.blocks:
        # As the engine has it on a CPU: where a gradient is next to nothing, AdamW makes much of its rounding.
        block.attn.fused_attn = False
    groups = groups_of(plain, config)
    rules = [group.pop("rule") for group in groups]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=False)
    engine = Engine(student, config, batch=BATCH, world=1, steps=STEPS, device=torch.device("cpu"))
    crops = torch.randint(0, 256, (2, BATCH, 1, 32, 32), dtype=torch.uint8)
    hidden = torch.rand(2, BATCH, 16) < 0.3

    def loss_of(model: nn.Module) -> Tensor:
        told = model(crops, None, hidden, True)
        return told.cls_SBK.square().sum() + told.patch_MK.square().sum()

    start = plain.head.prototypes_KW.clone()
    for step in range(STEPS):
        told = engine.schedule(step)
        wave = 0.5 * (1 + math.cos(math.pi * step / (STEPS - 1)))
        lr, decay = (0.01 + 0.09 * wave) * math.sqrt(BATCH / 1024), 0.4 - 0.36 * wave
        assert math.isclose(told["lr"], lr)
        assert math.isclose(told["weight_decay"], decay)
        frozen = step < 0.5 * STEPS
        for group, rule in zip(adam.param_groups, rules, strict=True):
            group["lr"] = 0.0 if rule.prototypes and frozen else lr * rule.lr
            group["weight_decay"] = decay if rule.decays else 0.0
        adam.zero_grad()
        loss_of(plain).backward()
        assert nn.utils.clip_grad_norm_(plain.parameters(), config.clip) > config.clip
        adam.step()
        engine.step(loss_of(engine.inner))
        assert torch.equal(student.head.prototypes_KW, start) == frozen
        for (name, expected), found in zip(plain.named_parameters(), student.parameters(), strict=True):
            assert torch.allclose(expected, found, atol=1e-6), (zero, step, name)


if __name__ == "__main__":
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for stage in (0, 1, 2):
        compare(stage)
    print("equal")
