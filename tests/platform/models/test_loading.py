"""Backbones from folders, files, timm's hub and random weights; what is no source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.platform.models.examples import DINO, DINOV2, dino_by_loops, images_of, in_color, published
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models import loading
from vetdino.platform.models.backbone import random_backbone, random_like, resized
from vetdino.platform.models.card import CARD, WEIGHTS
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.loading import BackboneSource, load, parse_source
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.models.source import SourceOptions
from vetdino.platform.models.transfer import timm_state
from vetdino.platform.models.weights import IMAGENET, ColorNormalization, file_state


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
def test_a_weights_file_gives_the_tokens_of_its_model_for_three_normalized_channels(
    made, name, rule, file, tmp_path
):
    state = published(**made)
    (save_file if file.endswith("safetensors") else torch.save)(state, str(tmp_path / file))
    backbone = load(f"{tmp_path / file}#heads={made.get('width', 64) // 64}")
    card, side, width = backbone.card, 4 * made.get("patch", 16), made.get("width", 64)
    assert (backbone.side, backbone.width, len(backbone.vit.blocks)) == (side, width, 3)
    assert (card.config.name, card.positions, card.label) == (name, rule, file)
    assert (card.mean, card.std) == (0.449, 0.226)
    shape = {
        "img_size": side, "patch_size": side // 4, "embed_dim": width, "depth": 3, "num_heads": width // 64,
    }  # fmt: skip
    shown = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    own = file_state(tmp_path / file)
    if made.get("registers"):  # position embeddings of CLS and patches: the CLS's becomes part of it
        own["cls_token"] = own["cls_token"] + own["pos_embed"][:, :1]
        own["pos_embed"] = own["pos_embed"][:, 1:]
    vit, expected = in_color(name, IMAGENET, shown, own, **shape)
    tokens = backbone.tokens(backbone.prepare_many([shown]))
    torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.patches, expected[:, vit.num_prefix_tokens :], atol=1e-5, rtol=1e-5)
    if made.get("dinov2"):
        assert torch.equal(backbone.mask_token, state["mask_token"][0])


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


def test_weights_with_another_sha256_than_the_given_one_are_refused(tmp_path):
    file = tmp_path / "dino.pth"
    torch.save(published(width=192, depth=12), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    backbone = load(f"{file}#sha256={sha256.upper()}")
    assert backbone.card == load(file).card == load(Path(f"{file}#sha256={sha256}")).card
    with pytest.raises(CheckpointError, match=r"dino\.pth: its sha256 is .*, not 000000000000…"):
        load(f"{file}#sha256={'0' * 64}")
    card = save_backbone(tmp_path / "b", backbone)
    assert load(f"{tmp_path / 'b'}#sha256={card.weights_sha256}").card == card
    with pytest.raises(CheckpointError, match=r"its sha256 is .*, not 000000000000…"):
        load(f"{tmp_path / 'b'}#sha256={'0' * 64}")
    assert load(f"{file}#heads=3,sha256={sha256}").card.digest == backbone.card.digest
    for name in ("", "12345678", "g" * 64, f"{sha256}0"):
        with pytest.raises(ConfigError, match="is not 64 hexadecimal digits"):
            load(f"{file}#sha256={name}")
    with pytest.raises(ConfigError, match="a timm name has no file"):
        load(f"timm:vit_tiny_patch16_224#sha256={sha256}")
    with pytest.raises(CheckpointError, match="no backbone here"):
        load(f"{tmp_path / 'none.pth'}#sha256={sha256}")


@pytest.mark.parametrize(
    ("name", "channels", "rule"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", ColorNormalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "timm"),
        ("vit_small_patch8_224.dino", IMAGENET, "dino"),
        ("vit_small_patch14_dinov2.lvd142m", IMAGENET, "dino"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", IMAGENET, "timm"),
        # No bias in its patch embedding, three means that differ.
        (
            "vit_base_patch32_clip_224.openai",
            ColorNormalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
            "timm",
        ),
    ],
)
def test_published_weights_give_for_gray_the_tokens_they_gave_for_color(name, channels, rule, monkeypatch):
    make = timm.create_model
    small = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 2, "num_heads": 2}
    shown = np.random.default_rng(0).integers(0, 256, (56, 56), dtype=np.uint8)
    torch.manual_seed(0)
    color, expected = in_color(name, channels, shown, **small)

    def fetched(name, pretrained=False, **settings):
        return color if pretrained else make(name, **settings | small)

    monkeypatch.setattr("timm.create_model", fetched)
    monkeypatch.setattr(loading, "native_config", lambda name: BackboneConfig(name=name, side=56))
    backbone = load(f"timm:{name}")
    assert (backbone.card.positions, backbone.card.label) == (rule, f"timm:{name}")
    found = backbone.tokens(backbone.prepare_many([shown]))
    torch.testing.assert_close(found.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.patches, expected[:, color.num_prefix_tokens :], atol=1e-5, rtol=1e-5)


def test_random_weights_of_a_timm_name_with_its_tag():
    backbone = load("random:vit_tiny_patch16_224.augreg_in21k")
    assert (backbone.side, backbone.patch, backbone.card.positions) == (224, 16, "timm")
    assert backbone.card.label == "random weights, seed 0"


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (
            "vit_tiny_patch16_224",
            ConfigError,
            "is no path; give random:vit_tiny_patch16_224 for random weights or timm:vit_tiny_patch16_224 for",
        ),
        ("vit_tiny_patch16_224.augreg_in21k", ConfigError, r"timm:vit_tiny_patch16_224\.augreg_in21k for"),
        ("vit_tiny_pach16_224", ConfigError, "nearest is 'vit_tiny_patch16_224'"),
        ("random:vit_tiny_pach16_224", ConfigError, "nearest is 'vit_tiny_patch16_224'"),
        ("timm:vit_tiny_pach16_224", ConfigError, "nearest is 'vit_tiny_patch16_224'"),
        ("random:resnet50", ConfigError, "cannot be built so|no plain Vision Transformer"),
        ("nowhere/backbone", CheckpointError, "no backbone here"),
        ("missing.pth", CheckpointError, "no backbone here"),
        ("tests", CheckpointError, "no backbone here"),
    ],
)
def test_what_is_no_backbone_is_refused(source, error, said):
    with pytest.raises(error, match=said):
        load(source)


def test_weights_with_registers_as_dinov2_publishes_them_answer_as_they_did(tmp_path):
    # Position embeddings of CLS and patches are added, then the registers come between.
    before = random_backbone(replace(DINOV2, heads=1, registers=0, name="vit_small_patch14_dinov2"), 0).eval()
    registers = torch.randn(1, 4, 64)
    state = timm_state(before) | {"register_tokens": registers}
    assert state["pos_embed"].shape[1] == 17
    torch.save(state, tmp_path / "dinov2_vits14_reg4.pth")
    images = images_of(2)
    vit = before.vit
    with torch.inference_mode():
        x = vit._pos_embed(vit.patch_embed(images))
        x = torch.cat([x[:, :1], registers.expand(2, -1, -1), x[:, 1:]], dim=1)
        expected = vit.norm(vit.blocks(x))
    backbone = load(f"{tmp_path / 'dinov2_vits14_reg4.pth'}#heads=1,mean=0.5,std=0.25")
    assert backbone.card.config.registers == 4
    tokens = backbone.tokens(images)
    assert torch.allclose(tokens.cls, expected[:, 0], atol=1e-5)
    assert torch.allclose(tokens.patches, expected[:, 5:], atol=1e-5)
    assert backbone.attention(images).shape == (2, 1, 16)
    assert resized(backbone, 48).tokens(images_of(1, side=48)).grid == (6, 6)


def test_heads_that_shapes_do_not_tell_are_refused_until_they_are_said(tmp_path):
    state = published(width=320, depth=3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=r"a\.pth: width 320 and 3 blocks .*add #heads=N"):
        load(tmp_path / "a.pth")
    shown = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for heads, eps in ((4, None), (5, 1e-2)):
        norm = {} if eps is None else {"norm_layer": partial(torch.nn.LayerNorm, eps=eps)}
        shape = {"img_size": 64, "embed_dim": 320, "depth": 3, "num_heads": heads, **norm}
        _, expected = in_color("vit_small_patch16_224", IMAGENET, shown, state, **shape)
        backbone = load(f"{tmp_path / 'a.pth'}#heads={heads}" + (f",eps={eps}" if eps else ""))
        tokens = backbone.tokens(backbone.prepare_many([shown]))
        torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    save_backbone(tmp_path / "b", backbone)  # the card keeps both
    assert torch.equal(load(tmp_path / "b").tokens(backbone.prepare_many([shown])).cls, tokens.cls)
    with pytest.raises(ConfigError, match="320 cannot be divided among 7 heads"):
        load(f"{tmp_path / 'a.pth'}#heads=7")


HALF = ColorNormalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def classifier_of_timm() -> tuple[dict[str, torch.Tensor], np.ndarray, torch.Tensor]:
    """A ViT with a classifier whose images were normalized by 0.5 and 0.5, a gray image, and its tokens of it."""
    shown = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    torch.manual_seed(0)
    vit, expected = in_color("vit_tiny_patch16_224.augreg_in21k", HALF, shown, img_size=32)
    return (
        vit.state_dict() | {"head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)},
        shown,
        expected,
    )


def test_a_timm_file_of_another_normalization_is_refused_until_it_is_said(tmp_path):
    state, shown, expected = classifier_of_timm()
    save_file(state, str(tmp_path / "a.safetensors"))
    with pytest.raises(ConfigError, match=r"a\.safetensors: it holds a classifier.* add #timm=NAME"):
        load(tmp_path / "a.safetensors")
    for said in ("timm=vit_tiny_patch16_224.augreg_in21k", "mean=0.5,std=0.5", "mean=0.5/0.5/0.5,std=0.5"):
        backbone = load(f"{tmp_path / 'a.safetensors'}#{said}")
        assert (backbone.card.mean, backbone.card.std, backbone.card.positions) == (0.5, 0.5, "timm")
        tokens = backbone.tokens(backbone.prepare_many([shown]))
        torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match="not the weights of a vit_small_patch16_224-like"):
        load(f"{tmp_path / 'a.safetensors'}#timm=vit_small_patch16_224")


def test_what_timms_hub_says_beside_its_weights_is_read(tmp_path):
    state, shown, expected = classifier_of_timm()
    save_file(state, str(tmp_path / "model.safetensors"))
    facts = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": HALF.mean, "std": HALF.std}}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    backbone = load(tmp_path / "model.safetensors")
    assert backbone.card.config == BackboneConfig(name="vit_tiny_patch16_224", side=32)
    tokens = backbone.tokens(backbone.prepare_many([shown]))
    torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"]}')  # another library's
    with pytest.raises(ConfigError, match="it holds a classifier"):
        load(tmp_path / "model.safetensors")


def test_the_weights_file_of_a_backbone_folder_is_that_folder(tmp_path):
    before = random_backbone(DINO, 0, mean=0.3, std=0.2)
    before.card = replace(before.card, positions="dino")
    save_backbone(tmp_path / "b", before)
    assert load(tmp_path / "b" / WEIGHTS).card == load(tmp_path / "b").card
    assert load(tmp_path / "b" / WEIGHTS).card.config.heads == 2
    with pytest.raises(ConfigError, match=r"heads is for weights files, here .*card\.json says it"):
        load(f"{tmp_path / 'b'}#heads=4")
    alone = tmp_path / "copied.safetensors"
    alone.write_bytes((tmp_path / "b" / WEIGHTS).read_bytes())
    with pytest.raises(ConfigError, match="width 64 and 2 blocks"):
        load(alone)
    with pytest.raises(ConfigError, match=r"one gray channel.*add #mean=M,std=S"):
        load(f"{alone}#heads=2")
    images = images_of(2)
    assert torch.equal(
        load(f"{alone}#heads=2,mean=0.3,std=0.2").tokens(images).cls, before.tokens(images).cls
    )


def first_two_blocks_at_96(state: dict[str, torch.Tensor], shown: np.ndarray) -> torch.Tensor:
    """Tokens (1, L, D) of DINO's network of two blocks whose position embeddings are resampled from 4 x 4 to 6 x 6."""
    native = state["pos_embed"][0, 1:].unflatten(0, (4, 4))
    positions = dino_by_loops(native, (6, 6)).flatten(0, 1)
    at_96 = state | {"pos_embed": torch.cat([state["pos_embed"][:, :1], positions[None]], dim=1)}
    shape = {"img_size": 96, "embed_dim": 64, "depth": 2, "num_heads": 4}
    return in_color("vit_small_patch16_224", IMAGENET, shown, at_96, **shape)[1]


def test_any_depth_and_side_give_the_tokens_of_the_first_blocks_and_the_last_norm(tmp_path):
    state = published()
    torch.save(state, tmp_path / "dino.pth")
    shown = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    expected = first_two_blocks_at_96(state, shown)
    whole = load(f"{tmp_path / 'dino.pth'}#heads=4")
    save_backbone(tmp_path / "b", whole)
    cut = load(f"{tmp_path / 'dino.pth'}#heads=4,depth=2,side=96")
    save_backbone(tmp_path / "cut", cut)
    sources = (
        f"{tmp_path / 'dino.pth'}#heads=4,depth=2,side=96",
        f"{tmp_path / 'b'}#depth=2,side=96",
        tmp_path / "cut",
    )
    for source in sources:
        backbone = load(source)
        assert (len(backbone.vit.blocks), backbone.card.config.depth, backbone.side) == (2, 2, 96)
        assert backbone.card.label == "dino.pth, first 2 of 3 blocks, 96 px"
        tokens = backbone.tokens(backbone.prepare_many([shown]))
        torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-5)
        assert random_like(backbone).side == 96
    resampled_once = resized(cut, 64)  # as a training exports it
    assert (resampled_once.side, resampled_once.card.input_side) == (64, None)


def test_the_digest_is_that_of_the_depth_and_the_side(tmp_path):
    save_backbone(tmp_path / "b", random_backbone(DINO, 0))
    said = ("", "#depth=2", "#side=32", "#depth=1", "#side=64", "#depth=1,side=64")
    whole, same_depth, same_side, *others = (load(f"{tmp_path / 'b'}{options}").card for options in said)
    assert whole == same_depth == replace(same_side, input_side=None)
    assert whole.digest == same_side.digest
    assert len({card.digest for card in (whole, *others)}) == 4
    assert load("random:vit_tiny_patch16_224#depth=3,side=96").card.config.depth == 3


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ("depth=3", "depth 3 of 2 blocks; choose 1 to 2"),
        ("side=50", "side 50 is no multiple of the patch, 8; nearest is 48"),
        ("side=3", "nearest is 8"),
    ],
)
def test_a_depth_or_side_that_cannot_be_is_refused(said, fact, tmp_path):
    save_backbone(tmp_path / "b", random_backbone(DINO, 0))
    with pytest.raises(ConfigError, match=fact):
        load(f"{tmp_path / 'b'}#{said}")


def test_what_a_file_says_in_its_metadata_is_believed_unless_a_person_says_otherwise(tmp_path, caplog):
    state, path = published(width=320), tmp_path / "a.safetensors"
    save_file(state, str(path), metadata={"format": "pt", "heads": "4", "eps": "0.01"})
    shown = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    for options, heads in (("", 4), ("#heads=5", 5)):
        norm = partial(torch.nn.LayerNorm, eps=0.01)
        shape = {"img_size": 64, "embed_dim": 320, "depth": 3, "num_heads": heads, "norm_layer": norm}
        _, expected = in_color("vit_small_patch16_224", IMAGENET, shown, state, **shape)
        backbone = load(f"{path}{options}")
        tokens = backbone.tokens(backbone.prepare_many([shown]))
        torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
    save_file(state, str(path), metadata={"heads": "four"})
    with pytest.raises(
        ConfigError, match=r"a\.safetensors: its metadata: heads 'four' is not a number of heads"
    ):
        load(path)


def test_what_is_assumed_of_a_file_is_logged_and_in_its_card(tmp_path, caplog):
    path = tmp_path / "a.pth"
    torch.save(published(width=384, depth=12), path)  # MoCo v3's ViT-S has these shapes, and 12 heads
    assumed = "6 heads, eps 1e-06, ImageNet's mean and std"
    assert load(path).card.origin == {"assumed": assumed}
    assert (
        f"a.pth: taken as a network of DINO, DINOv2 or DINOv3, with {assumed}; where it is another"
        in caplog.text
    )
    assert load(f"{path}#heads=12").card.origin == {"assumed": "eps 1e-06, ImageNet's mean and std"}
    caplog.clear()
    for said in ("timm=vit_small_patch16_224.dino", "heads=12,eps=1e-6,mean=0.5,std=0.5"):
        assert not load(f"{path}#{said}").card.origin
    assert not caplog.text


def test_a_source_says_which_weights(tmp_path):
    assert parse_source("random:vit_a") == BackboneSource("random", "vit_a")
    assert parse_source("timm:vit_a") == BackboneSource("timm", "vit_a")
    sha256 = 32 * "5e"
    (tmp_path / "a.pth").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / CARD).touch()
    assert parse_source(tmp_path / "a.pth") == BackboneSource("file", str(tmp_path / "a.pth"))
    assert parse_source(f"{tmp_path / 'b'}#sha256={sha256}") == BackboneSource(
        "folder", str(tmp_path / "b"), SourceOptions(sha256=sha256)
    )


def test_a_path_that_looks_like_a_timm_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_backbone(tmp_path / "vit_tiny_patch16_224", random_backbone(DINO, 3))
    assert load("vit_tiny_patch16_224").card.label == "random weights, seed 3"
