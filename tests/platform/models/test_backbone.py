"""A backbone's tokens, attention and prepared images; random weights and other sides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.platform.models.examples import DINO, images_of
from vetdino.platform.models.backbone import Backbone, random_backbone, random_like, resized
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.letterbox import letterbox_region
from vetdino.platform.models.transfer import copy_weights, timm_state


def test_tokens_are_those_of_the_timm_model(backbone):
    images = images_of(3)
    tokens = backbone.tokens(images)
    with torch.inference_mode():
        expected = backbone.vit.forward_features(images)
    assert torch.allclose(tokens.cls, expected[:, 0], atol=1e-5)
    assert torch.allclose(tokens.patches, expected[:, backbone.vit.num_prefix_tokens :], atol=1e-5)
    assert tokens.grid == (4, 4)
    assert repr(tokens) == "Tokens(3 images, width 64, grid 4x4)"


def attention_by_loops(backbone: Backbone, x_BLD: torch.Tensor, block: int) -> torch.Tensor:
    """The full softmax attention of one block for the CLS query, head by head."""
    layer = backbone.vit.blocks[block]
    qkv = layer.attn.qkv(layer.norm1(x_BLD))
    count, length, _ = x_BLD.shape
    heads, size = layer.attn.num_heads, backbone.width // layer.attn.num_heads
    row = torch.empty(count, heads, length)
    for b in range(count):
        for h in range(heads):
            query = qkv[b, 0, h * size : (h + 1) * size]
            scores = [
                float(query @ qkv[b, n, backbone.width + h * size : backbone.width + (h + 1) * size])
                for n in range(length)
            ]
            row[b, h] = torch.tensor(scores).div(math.sqrt(size)).softmax(0)
    return row


@pytest.mark.parametrize("block", [-1, 0])
def test_attention_is_the_row_of_the_full_softmax_and_sums_to_one_with_the_prefix(backbone, block):
    images = images_of(2)
    found = backbone.attention(images, block)
    vit = backbone.vit
    with torch.inference_mode():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        for layer in vit.blocks[: len(vit.blocks) + block if block < 0 else block]:
            x = layer(x)
        expected = attention_by_loops(backbone, x, block)
    assert found.shape == (2, 2, 16)
    assert torch.allclose(found, expected[..., backbone.prefix :], atol=1e-5)
    whole = found.sum(-1) + expected[..., : backbone.prefix].sum(-1)
    assert torch.allclose(whole, torch.ones(2, 2), atol=1e-5)


def test_attention_does_not_depend_on_the_fused_kernel_and_leaves_no_hook(backbone):
    found = []
    for fused in (True, False):
        for block in backbone.vit.blocks:
            block.attn.fused_attn = fused
        found.append(backbone.attention(images_of(2)))
    assert torch.allclose(*found, atol=1e-5)
    assert not any(block.attn._forward_pre_hooks for block in backbone.vit.blocks)


def test_another_side_gives_another_grid_by_resampled_positions(backbone):
    from timm.layers import resample_abs_pos_embed

    images = images_of(1, side=48)
    tokens = backbone.tokens(images)
    assert tokens.grid == (6, 6)
    assert tokens.patches.shape == (1, 36, 64)
    larger = random_backbone(replace(backbone.card.config, side=48), 1).eval()
    copy_weights(larger, timm_state(backbone))
    prefix = 0 if backbone.vit.no_embed_class else backbone.prefix
    assert larger.vit.pos_embed.shape[1] == 36 + prefix
    assert torch.allclose(larger.tokens(images).cls, tokens.cls, atol=1e-4)
    same = resample_abs_pos_embed(backbone.vit.pos_embed, (4, 4), num_prefix_tokens=prefix)
    assert torch.allclose(same, backbone.vit.pos_embed)


def test_hidden_patches_change_no_answer_that_hides_nothing(backbone):
    images = images_of(2)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(backbone(images, hidden).cls, backbone(images).cls)
        hidden[0, 5] = True
        other = images.clone()
        other[0, :, 8:16, 8:16] = 9.0  # patch 5 of 4 x 4: what is hidden has no influence
        assert torch.allclose(backbone(images, hidden).cls, backbone(other, hidden).cls, atol=1e-5)
        assert not torch.allclose(backbone(images).cls, backbone(other).cls, atol=1e-2)


def test_views_are_letterboxed_on_black_and_normalised():
    backbone = random_backbone(DINO, 0)
    view = np.full((20, 40), 255, np.uint8)
    [image] = backbone.prepare(view)
    top, left, rows, columns = letterbox_region(20, 40, 32)
    assert (top, left, rows, columns) == (8, 0, 16, 32)
    assert torch.allclose(image[:8], torch.tensor(-2.0))
    assert torch.allclose(image[8:24], torch.tensor(2.0))
    assert torch.allclose(image[24:], torch.tensor(-2.0))
    many = backbone.prepare_many([view, np.zeros((7, 3), np.uint8)])
    assert many.shape == (2, 1, 32, 32)
    assert torch.equal(many[0, 0], image)


def test_random_weights_are_those_of_their_seed_and_leave_torchs_own_draws_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = random_backbone(DINO, 1), random_backbone(DINO, 1), random_backbone(DINO, 2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.card.digest == two.card.digest != other.card.digest
    like = random_like(other, 1)
    assert like.card.digest == one.card.digest
    assert like.card.label == "random weights, seed 1"


def test_a_random_twin_and_another_side_keep_the_rule_for_positions():
    backbone = random_backbone(DINO, 0).eval()
    backbone.card = replace(backbone.card, positions="dino")
    assert random_like(backbone).card.positions == "dino"
    other, images = resized(backbone, 56), images_of(1, side=56)
    assert other.card.positions == "dino"
    assert torch.allclose(other.tokens(images).cls, backbone.tokens(images).cls, atol=1e-5)
    backbone.card = replace(backbone.card, positions="timm")
    assert not torch.allclose(other.tokens(images).cls, backbone.tokens(images).cls, atol=1e-5)


def test_a_backbone_for_another_side_answers_as_the_first_one_does_at_that_side(backbone):
    side = backbone.side * 2
    other = resized(backbone, side)
    images = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert other.side == side
    assert torch.allclose(other.tokens(images).cls, backbone.tokens(images).cls, atol=1e-4)
    assert other.card.digest != backbone.card.digest


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_without_patches_the_cls_tokens_and_their_gradients_are_the_same(name, drop_path):
    shape = BackboneConfig(name=name, side=32, patch=8, width=32, depth=2, heads=2, drop_path=drop_path)
    backbone = random_backbone(shape, 0).train()
    images, found = torch.randn(6, 1, 32, 32), []
    for patches in (True, False):
        torch.manual_seed(1)
        backbone.zero_grad()
        tokens = backbone(images, patches=patches)
        (tokens.cls * torch.linspace(-1, 2, 32)).sum().backward()
        slopes = [None if p.grad is None else p.grad.clone() for p in backbone.parameters()]
        found.append((tokens, slopes))
    (whole, slopes), (alone, others) = found
    torch.testing.assert_close(alone.cls, whole.cls)
    assert alone.patches.shape == (6, 0, 32)
    for slope, other in zip(slopes, others, strict=True):
        if slope is not None:
            torch.testing.assert_close(other, slope, atol=1e-5, rtol=1e-4)
