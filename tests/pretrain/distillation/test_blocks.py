"""Blocks computed in another way have the same gradient and parameter names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.distillation.blocks import prepare_blocks
from vetdino.pretrain.distillation.config import HeadConfig, OptimConfig
from vetdino.pretrain.distillation.distiller import Learner

BACKBONE = BackboneConfig(name="vit_small_patch14_reg4_dinov2", side=32, patch=8, width=32, depth=2, heads=2)


HEAD = HeadConfig(prototypes=12, hidden=16, bottleneck=8)


CONFIG = OptimConfig(layer_decay=0.5, patch_embed=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_computed_again_have_the_same_gradient_and_names(precision):
    crops = torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8)
    hidden = torch.rand(2, 3, 16) < 0.3
    gradients, names = [], []
    for again in (False, True):
        torch.manual_seed(1)
        student = Learner(random_backbone(replace(BACKBONE, drop_path=0.5), 0), HEAD, patches=True).train()
        prepare_blocks(student, replace(CONFIG, checkpoint_activations=again), torch.device("cpu"))
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = student(crops, None, hidden, True)
        (outputs.cls_SBK.float().square().sum() + outputs.patch_MK.float().square().sum()).backward()
        gradients.append([value.grad for value in student.parameters()])
        names.append(list(student.state_dict()))
    assert names[0] == names[1]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
