"""timm's networks by their settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from tests.platform.models.examples import DINO, DINOV2, REGISTERED, images_of
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.architecture import config_from_shapes, hidden_settings
from vetdino.platform.models.backbone import random_backbone


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"side": 30}, "backbone.side 30 is no multiple"), ({"heads": 5}, "cannot be built so")],
)
def test_settings_that_make_no_vit_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        random_backbone(replace(DINO, **changes), 0)


def test_an_architecture_has_the_registers_that_the_settings_say():
    assert random_backbone(DINO, 0).prefix == 1
    assert random_backbone(DINOV2, 0).prefix == 5
    assert random_backbone(replace(DINOV2, registers=2), 0).prefix == 3
    assert random_backbone(replace(DINOV2, registers=0), 0).prefix == 1
    tokens = random_backbone(REGISTERED, 0).tokens(images_of(2))
    assert tokens.patches.shape == (2, 16, 64)


@pytest.mark.parametrize(
    "name",
    [
        *("vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_base_patch16_224", "vit_large_patch14_dinov2"),
        *("vit_huge_patch14_224", "vit_giant_patch14_224", "vit_giant_patch14_dinov2", "vit_gigantic_patch14_224"),
    ],
)  # fmt: skip
def test_heads_of_published_sizes_are_timms(name):
    with torch.device("meta"):
        vit = timm.create_model(name, num_classes=0)
    config = config_from_shapes(vit.state_dict())
    assert (config.heads, config.side) == (vit.blocks[0].attn.num_heads, vit.patch_embed.img_size[0])
    assert hidden_settings(vit)["eps"] == 1e-6


def test_a_size_that_is_not_published_needs_its_heads():
    with torch.device("meta"):
        state = timm.create_model("vit_small_patch16_224", embed_dim=320, num_heads=4, depth=5).state_dict()
    with pytest.raises(ConfigError, match=r"width 320 and 5 blocks are no published size.* add #heads=N"):
        config_from_shapes(state)
    assert config_from_shapes(state, heads=4).heads == 4
