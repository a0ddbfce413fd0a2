"""Backbones: tokens and attention, and where their weights come from."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import zipfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.backbone import (
    CARD,
    WEIGHTS,
    Backbone,
    BackboneConfig,
    Card,
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
from vetdino.platform.models.weights import IMAGENET, Channels

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


def published(
    *, width: int = 64, depth: int = 3, patch: int = 16, grid: int = 4, dinov2: bool = False, registers: int = 0,
    gated: bool = False, seed: int = 0,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """A network's tensors as DINO or DINOv2 publish them: their names, their order, their shapes."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, grid * grid + 1, width)}
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    if dinov2:
        shapes["mask_token"] = (1, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    hidden = 8 * int(width * 4 * 2 / 3 / 8) if gated else 4 * width
    wide, narrow = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    for number in range(depth):
        block = {
            "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
            wide: ((2 if gated else 1) * hidden, width), narrow: (width, hidden),
        }  # fmt: skip
        for name, shape in block.items():
            shapes[f"blocks.{number}.{name}.weight"] = shape
            shapes[f"blocks.{number}.{name}.bias"] = shape[:1]
        if dinov2:
            shapes |= {f"blocks.{number}.{name}.gamma": (width,) for name in ("ls1", "ls2")}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draws) * 0.1 for name, shape in shapes.items()}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def training_of_dino(teacher: dict[str, torch.Tensor]) -> dict:
    """A whole checkpoint of DINO's training: the student is wrapped for DDP, the teacher is not; heads, optimizer
    with a learning rate out of a NumPy table, the command line as argparse left it."""
    head = {"head.mlp.0.weight": torch.zeros(8, 64), "head.last_layer.weight_g": torch.ones(5, 1)}
    return {
        "student": prefixed("module.", prefixed("backbone.", {k: v + 1 for k, v in teacher.items()}) | head),
        "teacher": prefixed("backbone.", teacher) | head,
        "optimizer": {
            "state": {0: {"step": 5, "exp_avg": torch.zeros(3)}},
            "param_groups": [
                {"lr": np.float64(1e-4), "weight_decay": np.linspace(0, 1, 3)[1], "params": [0]}
            ],
        },
        "epoch": 800,
        "args": Namespace(
            arch="vit_small", patch_size=8, global_crops_scale=(0.4, 1.0), gpu=0, dist_url="env://"
        ),
        "dino_loss": {"center": torch.zeros(1, 5)},
        "fp16_scaler": {"scale": 65536.0, "growth_interval": 2000},
    }


def chunked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As DINOv2's training names the blocks: in chunks of two, the number in the whole behind the chunk's."""
    return {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", k): v for k, v in state.items()
    }


def in_colour(name: str, channels: Channels, shown_HW: np.ndarray, state: dict | None = None, **settings):
    """A timm model of colour pictures, and its tokens (1, L, D) of a grey one shown as three channels."""
    vit = timm.create_model(name, num_classes=0, **settings).eval()
    if state is not None:
        vit.load_state_dict({key: state[key] for key in vit.state_dict()})
    grey = torch.from_numpy(shown_HW).float().expand(1, 3, -1, -1) / 255
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (channels.mean, channels.std))
    with torch.inference_mode():
        return vit, vit.forward_features((grey - mean) / std)


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


@pytest.mark.parametrize("file", ["dino.pth", "dino.safetensors"])
@pytest.mark.parametrize(
    ("made", "name", "rule"),
    [
        ({}, "vit_small_patch16_224", "dino"),
        ({"patch": 8}, "vit_small_patch16_224", "dino"),
        ({"dinov2": True, "patch": 14}, "vit_small_patch14_dinov2", "dino"),
        ({"dinov2": True, "patch": 14, "registers": 4}, "vit_small_patch14_reg4_dinov2", "timm"),
        ({"dinov2": True, "patch": 14, "gated": True, "width": 192}, "vit_giant_patch14_dinov2", "dino"),
    ],
)
def test_a_weights_file_answers_to_grey_as_its_model_to_three_normalised_channels(
    made, name, rule, file, tmp_path
):
    state = published(**made)
    (save_file if file.endswith("safetensors") else torch.save)(state, str(tmp_path / file))
    backbone = load(tmp_path / file)
    card, side, width = backbone.card, 4 * made.get("patch", 16), made.get("width", 64)
    assert (backbone.side, backbone.width, len(backbone.vit.blocks)) == (side, width, 3)
    assert (card.config.name, card.positions, card.label) == (name, rule, file)
    assert (card.mean, card.std) == (0.449, 0.226)
    shape = {
        "img_size": side, "patch_size": side // 4, "embed_dim": width, "depth": 3, "num_heads": width // 64,
    }  # fmt: skip
    shown = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    own = foreign_state(tmp_path / file)
    if made.get("registers"):  # position embeddings of CLS and patches: the CLS's becomes part of it
        own["cls_token"] = own["cls_token"] + own["pos_embed"][:, :1]
        own["pos_embed"] = own["pos_embed"][:, 1:]
    vit, expected = in_colour(name, IMAGENET, shown, own, **shape)
    tokens = backbone.tokens(backbone.prepare_many([shown]))
    torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, vit.num_prefix_tokens :], atol=1e-5, rtol=1e-5)
    if made.get("dinov2"):
        assert torch.equal(backbone.mask_token, state["mask_token"][0])


@pytest.mark.parametrize("pile", [0, 1, 2, 3, 4, 5, 6, 7])
def test_a_network_is_found_under_any_wrapping_and_of_two_the_teacher(pile, tmp_path):
    teacher = published()
    student = {name: value + 1 for name, value in teacher.items()}
    piles = [
        teacher,
        training_of_dino(teacher),
        {"student": student, "teacher": prefixed("module.backbone.", teacher)},
        {"model": prefixed("module.student.", student) | prefixed("module.teacher.backbone.", teacher)},
        {"state_dict": {"teacher": {"module": prefixed("backbone.", teacher)}}, "epoch": 3},
        {"teacher": prefixed("backbone.", chunked(teacher)) | {"dino_head.mlp.0.weight": torch.zeros(3)}},
        {"student": prefixed("module.backbone.", teacher)},
        prefixed("teacher.", teacher) | prefixed("student.", student) | {"logit": torch.zeros(2)},
    ]
    torch.save(piles[pile], tmp_path / "a.pth")
    found = foreign_state(tmp_path / "a.pth")
    assert found.keys() >= teacher.keys()
    assert all(torch.equal(found[name], value) for name, value in teacher.items())
    assert torch.equal(load(tmp_path / "a.pth").vit.cls_token, teacher["cls_token"])


@pytest.mark.parametrize(
    ("made", "digits"),
    [
        ({"width": 384, "depth": 12, "patch": 8, "grid": 28}, (224, 8, 384, 12, 6, 150)),
        ({"width": 384, "depth": 12, "patch": 14, "grid": 37, "dinov2": True}, (518, 14, 384, 12, 6, 175)),
    ],
    ids=["dino_deitsmall8_pretrain.pth", "dinov2_vits14_pretrain.pth"],
)
def test_files_of_the_published_sizes_are_read(made, digits, tmp_path):
    side, patch, width, depth, heads, tensors = digits
    state = published(**made)
    assert len(state) == tensors
    torch.save(state, tmp_path / "a.pth")
    config = load(tmp_path / "a.pth").card.config
    assert (config.side, config.patch, config.width, config.depth, config.heads) == (
        side, patch, width, depth, heads,
    )  # fmt: skip


def test_a_training_checkpoint_from_the_days_of_numpy_1_is_read(tmp_path):
    torch.save(training_of_dino(published()), tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for entry in new.infolist():
            data = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\n" in data
                data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(entry, data)
    assert torch.equal(foreign_state(tmp_path / "old.pth")["norm.bias"], published()["norm.bias"])


def test_what_lies_beside_the_tensors_and_is_not_known_to_be_harmless_is_named(tmp_path):
    torch.save({"model": published(), "where": Path("a")}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"a\.pth: cannot be read .*it holds \S*Path; save its tensors alone"
    ):
        load(tmp_path / "a.pth")
    assert Namespace not in torch.serialization.get_safe_globals()  # let in for the reading alone


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_whole(half, tmp_path):
    torch.save({name: value.to(half) for name, value in published().items()}, tmp_path / "a.pth")
    assert {value.dtype for value in foreign_state(tmp_path / "a.pth").values()} == {torch.float32}
    assert load(tmp_path / "a.pth").mask_token.dtype == torch.float32


def test_weights_are_held_against_the_sha256_that_is_asked_for(tmp_path):
    file = tmp_path / "dino.pth"
    torch.save(published(), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    backbone = load(f"{file}#sha256={sha256.upper()}")
    assert backbone.card == load(file).card == load(Path(f"{file}#sha256={sha256}")).card
    with pytest.raises(
        CheckpointError, match=r"dino\.pth: its sha256 is .*, not 000000000000… as asked; fetch"
    ):
        load(f"{file}#sha256={'0' * 64}")
    card = save_backbone(tmp_path / "b", backbone)
    assert load(f"{tmp_path / 'b'}#sha256={card.weights_sha256}").card == card
    with pytest.raises(CheckpointError, match=r"its sha256 is .*, not 000000000000… as asked"):
        load(f"{tmp_path / 'b'}#sha256={'0' * 64}")
    for asked in ("", "12345678", "g" * 64, f"{sha256}0"):
        with pytest.raises(ConfigError, match="a sha256 has 64 hexadecimal digits"):
            load(f"{file}#sha256={asked}")
    with pytest.raises(ConfigError, match="a timm name has no file"):
        load(f"vit_tiny_patch16_224#sha256={sha256}")
    with pytest.raises(CheckpointError, match="no backbone here"):
        load(f"{tmp_path / 'none.pth'}#sha256={sha256}")


@pytest.mark.parametrize(
    ("name", "channels", "rule"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", Channels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "timm"),
        ("vit_small_patch8_224.dino", IMAGENET, "dino"),
        ("vit_small_patch14_dinov2.lvd142m", IMAGENET, "dino"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", IMAGENET, "timm"),
        # No bias in its patch embedding, three means that differ.
        (
            "vit_base_patch32_clip_224.openai",
            Channels((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
            "timm",
        ),
    ],
)
def test_the_published_weights_of_a_timm_name_answer_to_grey_as_they_did_to_colour(
    name, channels, rule, monkeypatch
):
    make = timm.create_model
    small = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 2}
    shown = np.random.default_rng(0).integers(0, 256, (56, 56), dtype=np.uint8)
    torch.manual_seed(0)
    colour, expected = in_colour(name, channels, shown, **small)

    def fetched(asked, pretrained=False, **settings):
        return colour if pretrained else make(asked, **settings | small)

    monkeypatch.setattr("timm.create_model", fetched)
    monkeypatch.setattr("vetdino.platform.models.backbone._native_side", lambda _: 56)
    backbone = load(f"timm:{name}")
    assert (backbone.card.positions, backbone.card.label) == (rule, f"timm:{name}")
    found = backbone.tokens(backbone.prepare_many([shown]))
    torch.testing.assert_close(found.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.patches, expected[:, colour.num_prefix_tokens :], atol=1e-5, rtol=1e-5)


def test_a_timm_name_with_its_tag_is_built_at_random():
    backbone = load("vit_tiny_patch16_224.augreg_in21k")
    assert (backbone.side, backbone.patch, backbone.card.positions) == (224, 16, "timm")
    assert backbone.card.label == "random weights, seed 0"


def test_a_random_twin_and_another_side_keep_the_rule_for_positions():
    backbone = random_backbone(DINO, 0).eval()
    backbone.card = replace(backbone.card, positions="dino")
    assert random_like(backbone).card.positions == "dino"
    other, images = resized(backbone, 56), images_of(1, side=56)
    assert other.card.positions == "dino"
    assert torch.allclose(other.tokens(images).cls, backbone.tokens(images).cls, atol=1e-5)
    backbone.card = replace(backbone.card, positions="timm")
    assert not torch.allclose(other.tokens(images).cls, backbone.tokens(images).cls, atol=1e-5)


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


def test_cards_keep_the_digest_that_they_had_before_there_were_registers_and_positions():
    card = Card(label="a", config=DINO, weights_sha256=32 * "5e")
    assert card.digest == "62205acb7765aaf0fac55b4b49e7bcb472af5525a662d3b4bfe88abda124ebae"
    registered = replace(card, config=replace(DINO, registers=0))
    assert registered.digest == "8acf8d7aeba3bae4b7b68ff733eae28912ec7483202ea132d3291203f914670f"
    assert replace(card, positions="timm").digest == card.digest
    assert replace(card, positions="dino").digest != card.digest
    told = json.loads(to_json(card))
    del told["positions"], told["config"]["registers"]
    assert from_json(Card, json.dumps(told)) == card


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
