"""DINOv3's files in each format they are published in: the tokens are those of timm's own network."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.platform.models.dinov3_files import (
    CONFIG,
    DEPTH,
    HEADS,
    PATCH,
    PREPROCESSOR,
    WIDTH,
    of_timm,
    of_transformers,
    published,
    timm_network,
    write,
)
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.architecture import create_vit, hidden_settings, native_config
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.dinov3_format import COMPUTED, PERIODS, rotary_config, rotary_tensors
from vetdino.platform.models.facets import extract_facets
from vetdino.platform.models.loading import load, source_weights
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.models.transfer import copy_weights, timm_state

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def gray(side: tuple[int, int], seed: int = 1) -> torch.Tensor:
    return torch.rand(2, 1, *side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["own", "transformers", "timm"])
def file_of(request, tmp_path):
    """Writes a network in one format; gives the source to load, and mean and std of its channels."""

    def write_file(state, biased=True):
        if request.param == "own":
            torch.save(state, tmp_path / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth")
            return str(tmp_path / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"), IMAGENET
        if request.param == "transformers":
            source = write(tmp_path / "dinov3-vits16", of_transformers(state))
            return str(source), (PREPROCESSOR["image_mean"], PREPROCESSOR["image_std"])
        file = tmp_path / "dinov3.safetensors"
        save_file(of_timm(state, biased=biased), file)
        return f"{file}#heads={HEADS}", IMAGENET

    write_file.format = request.param
    return write_file


@pytest.mark.parametrize(
    "kind", [{}, {"gated": True}, {"biased": False}], ids=["small", "plus", "zero-biases"]
)
@torch.no_grad()
def test_a_file_of_each_format_gives_the_tokens_of_timms_network_for_color(kind, file_of):
    state, biased = published(**kind), kind.get("biased", True)
    source, (mean, std) = file_of(state, biased)
    backbone = load(source)
    own = file_of.format == "own"
    eva = timm_network(state, biased=biased, periods=own)
    assert backbone.card.positions == ("dino" if own else "timm")
    for side in ((32, 32), (24, 40), (64, 64)):
        pictures = gray(side)
        color = (pictures.expand(-1, 3, -1, -1) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
            :, None, None
        ]
        expected = eva.forward_features(color)
        tokens = backbone.tokens((pictures - backbone.card.mean) / backbone.card.std)
        assert expected.std() > 0.1
        torch.testing.assert_close(tokens.cls, expected[:, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens.patches, expected[:, 5:], atol=1e-5, rtol=1e-5)
    if file_of.format != "timm":  # timm throws the mask token away
        assert torch.equal(backbone.mask_token, state["mask_token"][0])


def test_the_first_blocks_at_another_side_are_saved_and_loaded_as_they_are(tmp_path):
    torch.save(published(), tmp_path / "dinov3.pth")
    backbone = load(f"{tmp_path / 'dinov3.pth'}#depth=2,side=40")
    assert (len(backbone.vit.blocks), backbone.side) == (2, 40)
    pictures = backbone.normalize((gray((40, 40)) * 255).byte())
    save_backbone(tmp_path / "folder", backbone)
    again = load(tmp_path / "folder")
    assert again.card.positions == "dino"
    assert torch.equal(again.tokens(pictures).patches, backbone.tokens(pictures).patches)
    whole = load(tmp_path / "dinov3.pth")
    facets = extract_facets(whole, pictures, blocks=(1,), kinds=("token",), attention=())
    with torch.no_grad():
        expected = whole.vit.norm(facets.features[1, "token"])
    torch.testing.assert_close(again.tokens(pictures).patches, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_plus_patch16_dinov3",
        "vit_base_patch16_dinov3_qkvb",
        pytest.param("vit_huge_plus_patch16_dinov3", marks=pytest.mark.slow),
        pytest.param("vit_7b_patch16_dinov3", marks=pytest.mark.slow),
    ],
)
def test_each_architecture_of_timm_has_the_tensors_of_its_name(name):
    with torch.device("meta"):
        eva = timm.create_model(name, num_classes=0)
        vit = create_vit(native_config(name))
    state = rotary_tensors(eva.state_dict())
    del state[PERIODS]
    shapes = {key: value.shape for key, value in vit.state_dict().items()}
    gray = {"patch_embed.proj.weight": (eva.embed_dim, 1, 16, 16)}
    assert shapes == {key: value.shape for key, value in state.items()} | gray
    config = rotary_config(state | {PERIODS: COMPUTED}, None, None)
    assert (config.heads, config.side) == (eva.blocks[0].attn.num_heads, 256)
    with torch.device("meta"):
        again = create_vit(config)
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert hidden_settings(again) == hidden_settings(vit)
    assert hidden_settings(vit)["eps"] == 1e-5


@pytest.mark.slow
def test_a_name_of_timms_hub_and_its_folder_give_the_network_that_timm_makes(tmp_path, monkeypatch):
    name, make = "vit_small_patch16_dinov3", timm.create_model
    torch.manual_seed(0)
    eva = make(name, num_classes=0).eval()
    monkeypatch.setattr(
        "timm.create_model", lambda name, pretrained=False, **more: eva if pretrained else make(name, **more)
    )
    named = load(f"timm:{name}")
    facts = {"architecture": name, "pretrained_cfg": {"mean": IMAGENET[0], "std": IMAGENET[1]}}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    save_file(eva.state_dict(), tmp_path / "model.safetensors")
    file = load(tmp_path / "model.safetensors")
    pictures = gray((64, 32))
    color = (pictures.expand(-1, 3, -1, -1) - torch.tensor(IMAGENET[0])[:, None, None]) / torch.tensor(
        IMAGENET[1]
    )[:, None, None]
    with torch.no_grad():
        expected = eva.forward_features(color)
    for backbone in (named, file):
        assert (backbone.card.config.name, backbone.side, backbone.card.positions) == (name, 256, "timm")
        tokens = backbone.tokens((pictures - backbone.card.mean) / backbone.card.std)
        torch.testing.assert_close(tokens.patches, expected[:, 5:], atol=1e-5, rtol=1e-5)


def with_changes(**changes):
    return published() | changes


@pytest.mark.parametrize(
    ("state", "options", "error", "said"),
    [
        (with_changes(**{PERIODS: 1000.0 ** (torch.arange(4) / 4)}), "", ConfigError, "not those of base 100"),
        (with_changes(**{"blocks.1.attn.qkv.bias_mask": torch.ones(144)}), "", CheckpointError, "keys have a bias"),
        (published(), "#heads=4", ConfigError, "4 periods do not fit 4 heads"),
        (published(), "#heads=5", ConfigError, "do not fit 5 heads"),
        (published(), "#timm=vit_small_patch14_dinov2", CheckpointError, "is missing"),
    ],
)  # fmt: skip
def test_what_is_not_computed_here_is_refused_in_one_line(state, options, error, said, tmp_path):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(error, match=said) as refusal:
        load(f"{tmp_path / 'a.pth'}{options}")
    assert str(tmp_path / "a.pth") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_transformers_files_without_their_facts_or_with_another_base_are_refused(tmp_path):
    file = write(tmp_path / "a", of_transformers(published()), CONFIG | {"rope_theta": 10000.0})
    with pytest.raises(CheckpointError, match="rope_theta is 10000"):
        load(file)
    (file.parent / "config.json").unlink()
    with pytest.raises(
        ConfigError, match=r"width 48 and 3 blocks are no published size of DINOv3.*add #heads=N"
    ):
        load(file)
    assert load(f"{file}#heads={HEADS}").card.config.heads == HEADS


def test_a_bias_of_zeros_is_no_bias_and_networks_with_and_without_positions_do_not_mix(tmp_path):
    config = BackboneConfig(
        name="vit_small_patch16_dinov3", side=32, patch=PATCH, width=WIDTH, depth=DEPTH, heads=HEADS
    )
    torch.save(published(biased=False), tmp_path / "zeros.pth")
    torch.save(published(), tmp_path / "biased.pth")
    zeros, biased = (source_weights(tmp_path / name) for name in ("zeros.pth", "biased.pth"))
    without = random_backbone(config, 0)
    copy_weights(without, zeros.state, zeros.normalization)
    with_bias = random_backbone(replace(config, name="vit_small_patch16_dinov3_qkvb"), 0)
    copy_weights(with_bias, timm_state(without))
    pictures = gray((32, 32))
    torch.testing.assert_close(with_bias.tokens(pictures).patches, without.tokens(pictures).patches)
    with pytest.raises(RuntimeError, match=r"blocks.0.attn.qkv.bias has no place"):
        copy_weights(without, biased.state, biased.normalization)
    embedded = random_backbone(replace(config, name="vit_small_patch14_reg4_dinov2"), 0)
    with pytest.raises(RuntimeError, match="pos_embed has no place"):
        copy_weights(with_bias, timm_state(embedded))
    with pytest.raises(RuntimeError, match="pos_embed is missing"):
        copy_weights(embedded, timm_state(with_bias))
