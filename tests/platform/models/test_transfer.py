"""Weights of one network in another: all of them or none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.platform.models.examples import DINO, DINOV2, REGISTERED, images_of
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.card import WEIGHTS
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.models.transfer import copy_weights, timm_state
from vetdino.platform.models.weights import file_state


def test_our_own_weights_file_is_read_as_the_folder_is(tmp_path):
    backbone = random_backbone(replace(DINO, heads=1), 0)
    save_backbone(tmp_path, backbone)
    other = random_backbone(replace(DINO, heads=1), 1)
    copy_weights(other, file_state(tmp_path / WEIGHTS))
    assert torch.equal(other.tokens(images_of(1)).cls, backbone.tokens(images_of(1)).cls)
    assert torch.equal(other.mask_token, backbone.mask_token)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 128}, r"is \(.*64.*\), not \(.*128.*\)"),
        ({"depth": 1}, "2 blocks, not 1"),
        ({"depth": 3}, r"blocks\.2\..* is missing"),
        ({"patch": 16}, r"patch_embed\.proj\.weight is \(64, 1, 8, 8\), not \(64, 1, 16, 16\)"),
    ],
)
def test_weights_of_another_architecture_are_not_adopted_in_part(changes, said):
    other = random_backbone(replace(DINO, **changes), 1)
    before = [value.clone() for value in other.parameters()]
    with pytest.raises(RuntimeError, match=said):
        copy_weights(other, timm_state(random_backbone(DINO, 0)))
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


@pytest.mark.parametrize("order", [1, -1])
def test_positions_of_prefix_tokens_may_be_part_of_those_tokens(order):
    # The plain architecture has position embeddings for its registers, DINOv2's has none.
    apart = replace(DINOV2, registers=3)
    plain = replace(apart, name="vit_small_patch14_dinov2")
    one, other = (random_backbone(config, seed).eval() for seed, config in enumerate((plain, apart)[::order]))
    copy_weights(other, timm_state(one))
    assert torch.allclose(other.tokens(images_of(2)).patches, one.tokens(images_of(2)).patches, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (DINOV2, replace(DINOV2, registers=0), "reg_token has no place"),
        (DINO, REGISTERED, "reg_token is missing"),
        (replace(DINOV2, registers=0), DINO, r"blocks\.0\.ls1\.gamma has no place"),
    ],
)
def test_weights_that_would_be_left_over_or_wanting_are_refused(source, target, said):
    with pytest.raises(RuntimeError, match=said):
        copy_weights(random_backbone(target, 1), timm_state(random_backbone(source, 0)))


def test_positions_that_are_no_square_of_patches_are_refused():
    backbone = random_backbone(DINO, 0)
    state = timm_state(backbone)
    state["pos_embed"] = torch.zeros(1, 15, 64)
    with pytest.raises(RuntimeError, match="pos_embed has 15 rows, which is no square of patches"):
        copy_weights(backbone, state)
