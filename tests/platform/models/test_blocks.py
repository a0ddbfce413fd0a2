"""Blocks on a part of the batch in training."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests.platform.models.examples import DINO, images_of
from vetdino.platform.models.backbone import Backbone, random_backbone

DROPPING = replace(DINO, drop_path=0.5)


def residuals(backbone: Backbone, x: torch.Tensor) -> list[torch.Tensor]:
    """What each branch of the last block adds to all of x, the second after a whole first."""
    block = backbone.vit.blocks[-1]
    first = block.ls1(block.attn(block.norm1(x)))
    return [first, block.ls2(block.mlp(block.norm2(x + first)))]


@torch.no_grad()
def test_a_block_in_training_adds_each_branch_to_half_of_the_pictures_at_twice_its_size():
    backbone = random_backbone(DROPPING, 0).train()
    block = backbone.vit.blocks[-1]
    block.mlp.fc2.weight.zero_()
    block.mlp.fc2.bias.zero_()
    x = torch.randn(8, 17, 64)
    expected = residuals(backbone, x)[0]
    torch.manual_seed(0)
    added = block(x) - x
    kept = added.abs().flatten(1).amax(1) > 0
    assert int(kept.sum()) == 4
    assert torch.allclose(added[kept], 2 * expected[kept], atol=1e-5)
    torch.manual_seed(0)
    assert torch.equal(block(x) - x, added)
    assert not torch.equal(block(x) - x, added)


@pytest.mark.slow
@torch.no_grad()
def test_the_mean_over_many_draws_is_the_whole_blocks_answer():
    backbone = random_backbone(replace(DROPPING, drop_path=0.3), 0).train()
    block = backbone.vit.blocks[-1]
    # The second branch looks at the first one's sum: without its norm and bend the whole is linear.
    block.norm2 = block.mlp = torch.nn.Identity()
    x = torch.randn(5, 3, 64)
    expected = 2 * (x + block.attn(block.norm1(x)))
    torch.manual_seed(0)
    draws = torch.stack([block(x) for _ in range(4000)])
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - expected).abs() < 6 * error + 1e-5).all()
    assert torch.allclose(block.eval()(x), expected, atol=1e-5)


def test_dropped_pictures_are_not_computed():
    backbone = random_backbone(DROPPING, 0).train()
    seen = []
    for block in backbone.vit.blocks:
        for branch in (block.attn, block.mlp):
            branch.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    backbone(images_of(8))
    assert seen == [8, 8, 4, 4]
    seen.clear()
    backbone(images_of(1))
    assert seen == [1, 1, 1, 1]
    seen.clear()
    backbone.eval()(images_of(8))
    assert seen == [8, 8, 8, 8]


def test_stochastic_depth_changes_no_name_and_no_answer_in_evaluation():
    dropping, plain = random_backbone(DROPPING, 0).eval(), random_backbone(DINO, 0).eval()
    assert list(dropping.state_dict()) == list(plain.state_dict())
    assert torch.equal(dropping.tokens(images_of(3)).cls, plain.tokens(images_of(3)).cls)


def test_a_copy_of_a_dropping_backbone_runs_its_own_weights():
    first = random_backbone(DROPPING, 0).eval()
    second = copy.deepcopy(first)
    with torch.no_grad():
        for value in first.parameters():
            value.zero_()
    assert second.tokens(images_of(2)).cls.abs().max() > 0.1
    assert first.tokens(images_of(2)).cls.abs().max() == 0.0


def test_gradients_flow_through_dropping_blocks_under_autocast():
    backbone = random_backbone(DROPPING, 0).train()
    images = images_of(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = backbone(images, torch.zeros(8, 16, dtype=torch.bool)).cls.float().square().sum()
    loss.backward()
    for name, value in backbone.vit.named_parameters():
        assert torch.isfinite(value.grad).all(), name
    assert backbone.vit.blocks[-1].attn.qkv.weight.grad.abs().max() > 0
