"""A backbone of each kind."""

from __future__ import annotations

import pytest
import torch

from tests.platform.models.examples import DINO, DINOV2, REGISTERED
from vetdino.platform.models.backbone import Backbone, random_backbone


@pytest.fixture(params=[DINO, DINOV2, REGISTERED], ids=["dino", "dinov2", "registered"])
def backbone(request) -> Backbone:
    """Random weights, made large enough that attention is far from uniform."""
    backbone = random_backbone(request.param, 0).eval()
    with torch.no_grad():
        for block in backbone.vit.blocks:
            block.attn.qkv.weight *= 20
            if hasattr(block.ls1, "gamma"):
                block.ls1.gamma.fill_(1.0)
    return backbone
