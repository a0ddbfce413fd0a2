"""Backbones: tokens and attention, and where their weights come from."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vetdino.platform.backbone import (
    CARD,
    WEIGHTS,
    Backbone,
    BackboneConfig,
    adopt,
    foreign_state,
    letterbox_of,
    letterboxed,
    load,
    plain_state,
    pretrained_state,
    random_backbone,
    random_like,
    resized,
    save_backbone,
)
from vetdino.platform.config import from_json, to_json
from vetdino.platform.errors import CheckpointError, ConfigError

DINO = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=64, depth=2, heads=2)

DINOV2 = replace(DINO, name="vit_small_patch14_reg4_dinov2")
"""With registers, layer scale, and position embeddings for the patches alone."""


REGISTERED = replace(DINO, registers=3)
"""Registers in an architecture that has none: here position embeddings are theirs too."""


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


def images_of(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def foreign(path: Path, *, dinov2: bool, prefix: str = "", wrapper: str = "", width: int = 64) -> Path:
    """A weights file as DINO or DINOv2 publish them: three channels, their names, a wrapper."""
    vit = timm.create_model(
        "vit_small_patch14_dinov2" if dinov2 else "vit_small_patch16_224",
        num_classes=0,
        img_size=56 if dinov2 else 64,
        embed_dim=width,
        depth=3,
        num_heads=width // 64,
        pretrained=False,
    )
    state = {prefix + name: value for name, value in vit.state_dict().items()}
    if dinov2:
        state[prefix + "mask_token"] = torch.full((1, width), 0.5)
    else:
        state["module.head.last_layer.weight"] = torch.zeros(3)
    if path.suffix == ".safetensors":
        save_file(state, str(path))
    else:
        torch.save({wrapper: state, "epoch": 100} if wrapper else state, path)
    return path


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
    adopt(larger, plain_state(backbone))
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
    top, left, rows, columns = letterbox_of(20, 40, 32)
    assert (top, left, rows, columns) == (8, 0, 16, 32)
    assert torch.allclose(image[:8], torch.tensor(-2.0))
    assert torch.allclose(image[8:24], torch.tensor(2.0))
    assert torch.allclose(image[24:], torch.tensor(-2.0))
    many = backbone.prepare_many([view, np.zeros((7, 3), np.uint8)])
    assert many.shape == (2, 1, 32, 32)
    assert torch.equal(many[0, 0], image)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 50), (50, 3), (31, 33), (1, 1)])
def test_a_letterbox_lies_where_it_says(height, width):
    square = letterboxed(np.full((height, width), 255, np.uint8), 16)
    top, left, rows, columns = letterbox_of(height, width, 16)
    expected = np.zeros((16, 16), np.uint8)
    expected[top : top + rows, left : left + columns] = 255
    assert np.array_equal(square, expected)


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


def test_a_backbone_folder_gives_back_what_was_saved(tmp_path, backbone):
    card = save_backbone(tmp_path / "b", backbone)
    again = load(tmp_path / "b")
    assert not again.training
    assert again.card == card
    assert from_json(type(card), to_json(card)) == card
    images = images_of(2)
    assert torch.equal(again.tokens(images).patches, backbone.tokens(images).patches)


def test_half_precision_halves_the_file_and_hardly_moves_the_answer(tmp_path):
    backbone = random_backbone(DINO, 0)
    save_backbone(tmp_path / "whole", backbone)
    save_backbone(tmp_path / "half", backbone, half=True)
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = load(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert torch.allclose(again.tokens(images_of(2)).cls, backbone.tokens(images_of(2)).cls, atol=2e-2)


def test_the_digest_is_that_of_the_weights_and_the_preparation_not_of_the_words(tmp_path):
    backbone = random_backbone(DINO, 0)
    card = save_backbone(tmp_path, backbone)
    assert replace(card, label="other", origin={"a": "b"}, metrics={"c": 1.0}).digest == card.digest
    assert replace(card, mean=0.4).digest != card.digest
    assert replace(card, weights_sha256="0").digest != card.digest


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1] + b"x"), CheckpointError, "sha256"),
        (lambda f: (f / WEIGHTS).unlink(), CheckpointError, "cannot be read"),
        (lambda f: (f / CARD).write_text("{"), ConfigError, r"card\.json: not JSON"),
        (
            lambda f: (f / CARD).write_text((f / CARD).read_text().replace('"mean"', '"men"')),
            ConfigError,
            "unknown setting 'men'; the nearest is 'mean'",
        ),
        (lambda f: (f / CARD).unlink(), CheckpointError, "no backbone here"),
    ],
)  # fmt: skip
def test_a_damaged_backbone_folder_is_refused(harm, error, said, tmp_path):
    save_backbone(tmp_path / "b", random_backbone(DINO, 0))
    harm(tmp_path / "b")
    with pytest.raises(error, match=said):
        load(tmp_path / "b")


@pytest.mark.parametrize(
    ("file", "dinov2", "prefix", "wrapper"),
    [
        ("dino.pth", False, "module.backbone.", "teacher"),
        ("dino.pth", False, "", ""),
        ("dinov2.pth", True, "", ""),
        ("dinov2.pth", True, "teacher.backbone.", "model"),
        ("dinov2.safetensors", True, "module.backbone.", ""),
    ],
)
def test_a_weights_file_answers_to_grey_as_its_model_to_three_equal_channels(
    file, dinov2, prefix, wrapper, tmp_path
):
    path = foreign(tmp_path / file, dinov2=dinov2, prefix=prefix, wrapper=wrapper)
    backbone = load(path)
    patch, side = (14, 56) if dinov2 else (16, 64)
    assert (backbone.patch, backbone.side, backbone.width, len(backbone.vit.blocks)) == (patch, side, 64, 3)
    own = timm.create_model(
        "vit_small_patch14_dinov2" if dinov2 else "vit_small_patch16_224",
        num_classes=0, img_size=side, embed_dim=64, depth=3, num_heads=1, pretrained=False,
    ).eval()  # fmt: skip
    state = foreign_state(path)
    own.load_state_dict({name: state[name] for name in own.state_dict()})
    images = images_of(2, side=side)
    with torch.inference_mode():
        expected = own.forward_features(images.expand(-1, 3, -1, -1))
    assert torch.allclose(backbone.tokens(images).cls, expected[:, 0], atol=1e-4)
    if dinov2:
        assert (backbone.mask_token == 0.5).all()


def test_our_own_weights_file_is_read_as_the_folder_is(tmp_path):
    backbone = random_backbone(replace(DINO, heads=1), 0)
    save_backbone(tmp_path, backbone)
    other = random_backbone(replace(DINO, heads=1), 1)
    adopt(other, foreign_state(tmp_path / WEIGHTS))
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
        adopt(other, plain_state(random_backbone(DINO, 0)))
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_file_that_holds_no_vit_is_refused_in_one_line(tmp_path):
    files = {
        "text.pth": lambda path: path.write_text("no weights"),
        "text.safetensors": lambda path: path.write_text("no weights"),
        "list.pth": lambda path: torch.save([torch.zeros(2)], path),
        "resnet.pth": lambda path: torch.save({"conv1.weight": torch.zeros(2)}, path),
        "half.pth": lambda path: torch.save(
            {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8), "pos_embed": torch.zeros(1, 17, 64)}, path
        ),
    }
    for name, make in files.items():
        make(tmp_path / name)
        with pytest.raises(CheckpointError) as refusal:
            load(tmp_path / name)
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("vit_tiny_pach16_224", ConfigError, "no timm model; nearest is 'vit_tiny_patch16_224'"),
        ("resnet50", ConfigError, "cannot be built so|no plain Vision Transformer"),
        ("nowhere/backbone", CheckpointError, "no backbone here"),
        ("missing.pth", CheckpointError, "no backbone here"),
    ],
)
def test_what_is_no_backbone_is_refused(source, error, said):
    with pytest.raises(error, match=said):
        load(source)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"side": 30}, "backbone.side 30 is no multiple"), ({"heads": 5}, "cannot be built so")],
)
def test_settings_that_make_no_vit_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        random_backbone(replace(DINO, **changes), 0)


def test_a_backbone_for_another_side_answers_as_the_first_one_does_at_that_side(backbone):
    side = backbone.side * 2
    other = resized(backbone, side)
    images = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    assert other.side == side
    assert torch.allclose(other.tokens(images).cls, backbone.tokens(images).cls, atol=1e-4)
    assert other.card.digest != backbone.card.digest


def test_resampled_positions_are_a_bicubic_antialiased_picture_of_the_first_ones(backbone):
    for side in (16, 48):
        grid = side // 8
        other = resized(backbone, side).vit.pos_embed
        prefix = 0 if backbone.vit.no_embed_class else backbone.prefix
        before = backbone.vit.pos_embed
        picture = before[0, prefix:].T.reshape(1, -1, 4, 4)
        expected = F.interpolate(picture, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
        assert torch.allclose(other[0, prefix:], expected[0].flatten(1).T, atol=1e-6)
        assert torch.equal(other[:, :prefix], before[:, :prefix])


def test_an_architecture_has_the_registers_that_the_settings_say():
    assert random_backbone(DINO, 0).prefix == 1
    assert random_backbone(DINOV2, 0).prefix == 5
    assert random_backbone(replace(DINOV2, registers=2), 0).prefix == 3
    assert random_backbone(replace(DINOV2, registers=0), 0).prefix == 1
    tokens = random_backbone(REGISTERED, 0).tokens(images_of(2))
    assert tokens.patches.shape == (2, 16, 64)


def test_a_card_without_registers_keeps_the_digest_that_it_had_before_there_was_the_setting():
    card = random_backbone(DINO, 0).card
    told = asdict(replace(card, label="", origin={}, metrics={}))
    del told["config"]["registers"]
    before = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    assert card.digest == before
    assert replace(card, config=replace(card.config, registers=0)).digest != before


def test_weights_with_registers_as_dinov2_publishes_them_answer_as_they_did(tmp_path):
    # Position embeddings of CLS and patches are added, then the registers come between.
    before = random_backbone(replace(DINOV2, heads=1, registers=0, name="vit_small_patch14_dinov2"), 0).eval()
    registers = torch.randn(1, 4, 64)
    state = plain_state(before) | {"register_tokens": registers}
    assert state["pos_embed"].shape[1] == 17
    torch.save(state, tmp_path / "dinov2_vits14_reg4.pth")
    images = images_of(2)
    vit = before.vit
    with torch.inference_mode():
        x = vit._pos_embed(vit.patch_embed(images))
        x = torch.cat([x[:, :1], registers.expand(2, -1, -1), x[:, 1:]], dim=1)
        expected = vit.norm(vit.blocks(x))
    backbone = load(tmp_path / "dinov2_vits14_reg4.pth")
    assert backbone.card.config.registers == 4
    tokens = backbone.tokens(images)
    assert torch.allclose(tokens.cls, expected[:, 0], atol=1e-5)
    assert torch.allclose(tokens.patches, expected[:, 5:], atol=1e-5)
    assert backbone.attention(images).shape == (2, 1, 16)
    assert resized(backbone, 48).tokens(images_of(1, side=48)).grid == (6, 6)


@pytest.mark.parametrize("order", [1, -1])
def test_positions_of_prefix_tokens_may_be_part_of_those_tokens(order):
    # The plain architecture has position embeddings for its registers, DINOv2's has none.
    apart = replace(DINOV2, registers=3)
    plain = replace(apart, name="vit_small_patch14_dinov2")
    one, other = (random_backbone(config, seed).eval() for seed, config in enumerate((plain, apart)[::order]))
    adopt(other, plain_state(one))
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
        adopt(random_backbone(target, 1), plain_state(random_backbone(source, 0)))


def test_positions_that_are_no_square_of_patches_are_refused():
    backbone = random_backbone(DINO, 0)
    state = plain_state(backbone)
    state["pos_embed"] = torch.zeros(1, 15, 64)
    with pytest.raises(RuntimeError, match="pos_embed has 15 rows, which is no square of patches"):
        adopt(backbone, state)


def test_weights_of_a_timm_name_that_cannot_be_fetched_are_told_in_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(
        CheckpointError, match=r"timm:vit_tiny_patch16_224: .*\(no route to host\); fetch"
    ) as told:
        pretrained_state("vit_tiny_patch16_224")
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="no timm model; nearest is 'vit_tiny_patch16_224'"):
        pretrained_state("vit_tiny_pach16_224")


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
