"""Networks that turn queries and keys: facets and attention against loops, and all that trains a backbone."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.backbone import Backbone, random_backbone, random_like, resized
from vetdino.platform.models.blocks import forward_cls
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.facets import KINDS, extract_facets
from vetdino.platform.training.parameter_groups import parameter_groups
from vetdino.pretrain.distillation.blocks import prepare_blocks
from vetdino.pretrain.distillation.config import OptimConfig

TINY = BackboneConfig(
    name="vit_small_patch16_dinov3_qkvb", side=32, patch=8, width=32, depth=3, heads=2, registers=2
)


def backbone_of(name: str = TINY.name, rule: str = "timm", **changes) -> Backbone:
    """Random weights, made large enough that attention is far from uniform; keys have a bias, which counts as 0."""
    backbone = random_backbone(replace(TINY, name=name, **changes), 0)
    backbone.card = replace(backbone.card, positions=rule)
    torch.manual_seed(1)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    for block in backbone.vit.blocks:
        nn.init.uniform_(block.norm1.weight, 0.5, 1.0)
        nn.init.normal_(block.attn.qkv.weight, std=0.4)
    return backbone


def images_of(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(0))


def turned(vector: list[float], place: tuple[float, float], rule: str) -> list[float]:
    """A query or key of 16 entries: entries e and e + 8 are a complex number, multiplied by its place's phase."""
    pairs = []
    for e in range(8):
        period = 100.0 ** (4 * (e % 4) / 16)
        if rule == "dino":
            period = float(torch.tensor(period).bfloat16())
        angle = 2 * math.pi * place[e // 4] / period
        pairs.append(complex(vector[e], vector[e + 8]) * cmath.exp(1j * angle))
    return [pair.real for pair in pairs] + [pair.imag for pair in pairs]


def slowly(backbone: Backbone, image_HW: Tensor, stride: int) -> dict[tuple[int, str], Tensor]:
    """Every facet and attention row of an image, head by head and token by token."""
    vit, rule, prefix = backbone.vit, backbone.card.positions, 3
    kernel = vit.patch_embed.proj
    tops, lefts = (range(0, length - 7, stride) for length in image_HW.shape)
    x = [*vit.cls_token[0], *vit.reg_token[0]]
    places: list[tuple[float, float] | None] = [None] * prefix
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            x.append(
                (kernel.weight[:, 0] * image_HW[top : top + 8, left : left + 8]).sum((1, 2)) + kernel.bias
            )
            places.append(((row + 0.5) / len(tops) * 2 - 1, (column + 0.5) / len(lefts) * 2 - 1))
    x_LD = torch.stack(x)
    found = {}
    for number, block in enumerate(vit.blocks):
        bias = torch.zeros(96) if block.attn.qkv.bias is None else block.attn.qkv.bias.clone()
        bias[32:64] = 0
        parts = (block.norm1(x_LD) @ block.attn.qkv.weight.T + bias).chunk(3, dim=1)
        for kind, part in zip(("query", "key", "value"), parts, strict=True):
            found[number, kind] = part[prefix:]
        mixed, rows = [], []
        for head in range(2):
            query, key, value = (part[:, 16 * head : 16 * head + 16] for part in parts)
            query, key = (
                torch.tensor(
                    [
                        vector if place is None else turned(vector, place, rule)
                        for vector, place in zip(of.tolist(), places, strict=True)
                    ]
                )
                for of in (query, key)
            )
            look_LL = torch.stack([(key @ one / 4).softmax(0) for one in query])
            mixed.append(look_LL @ value)
            rows.append(look_LL[0, prefix:])
        found[number, "attention"] = torch.stack(rows)
        x_LD = x_LD + block.ls1(block.attn.proj(torch.cat(mixed, dim=1)))
        x_LD = x_LD + block.ls2(block.mlp(block.norm2(x_LD)))
        found[number, "token"] = x_LD[prefix:]
    return found | {(-1, "output"): vit.norm(x_LD)}


@pytest.mark.parametrize(
    ("name", "rule", "size", "stride"),
    [
        ("vit_small_patch16_dinov3_qkvb", "timm", (32, 32), 8),
        ("vit_small_patch16_dinov3_qkvb", "dino", (24, 40), 8),
        ("vit_small_plus_patch16_dinov3", "dino", (19, 27), 4),
    ],
)
@torch.no_grad()
def test_tokens_facets_and_attention_are_those_of_loops(name, rule, size, stride):
    backbone = backbone_of(name, rule).eval()
    images = images_of(2, *size)
    facets = extract_facets(backbone, images, blocks=range(3), kinds=KINDS, attention=range(3), stride=stride)
    for number, image in enumerate(images):
        slow = slowly(backbone, image[0], stride)
        for block in range(3):
            for kind in KINDS:
                torch.testing.assert_close(
                    facets.features[block, kind][number], slow[block, kind], atol=2e-5, rtol=1e-4
                )
            torch.testing.assert_close(
                facets.cls_attention[block][number], slow[block, "attention"], atol=1e-5, rtol=1e-4
            )
        if stride == 8:
            tokens, attention = backbone.tokens_and_attention(image[None], 1)
            torch.testing.assert_close(tokens.cls[0], slow[-1, "output"][0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(tokens.patches[0], slow[-1, "output"][3:], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(attention[0], slow[1, "attention"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_the_rotation_or_by_the_other_rule_the_output_is_another():
    backbone = backbone_of().eval()
    images = images_of(1, 32, 32)
    tokens = backbone.tokens(images).patches
    other = backbone_of(rule="dino").tokens(images).patches
    assert (other - tokens).abs().max() > 1e-3
    with pytest.raises(TypeError, match="rotation"):
        backbone.vit.forward_features(images)  # timm's own way knows of none
    swapped = backbone.tokens(images.transpose(2, 3)).patches
    assert (swapped - tokens).abs().max() > 0.1


def test_keys_are_descriptors_of_what_a_patch_shows_and_not_of_its_place():
    """In the first block a patch that is copied to another place has the same key."""
    backbone = backbone_of().eval()
    image = images_of(1, 32, 32)
    image[..., 24:, 24:] = image[..., :8, :8]
    facets = extract_facets(backbone, image, blocks=(0,), kinds=("key",), attention=(0,))
    torch.testing.assert_close(facets.features[0, "key"][0, 0], facets.features[0, "key"][0, 15])
    attention = facets.cls_attention[0][0]
    assert (attention[:, 0] / attention[:, 15] - 1).abs().min() > 0.1  # which depends on the place


def gradients(checkpoint_activations: bool) -> dict[str, Tensor]:
    """Those of one step over crops of three grids, with hidden patches in one of them."""
    network = nn.Module()
    network.backbone = backbone_of().train()
    options = OptimConfig(checkpoint_activations=checkpoint_activations)
    prepare_blocks(network, options, torch.device("cpu"))
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 3:7] = True
    crops = [(images_of(2, 32, 32), masked), (images_of(2, 16, 16),), (images_of(2, 24, 16),)]
    tokens = [network.backbone(*crop) for crop in crops] + [network.backbone(crops[1][0], patches=False)]
    sum((one.cls**3).sum() + (one.patches**3).sum() for one in tokens).backward()
    return {name: value.grad for name, value in network.backbone.named_parameters()}


def test_gradients_reach_all_but_the_bias_of_keys_and_are_the_same_when_blocks_are_computed_again():
    found, again = gradients(False), gradients(True)
    for name, gradient in found.items():
        torch.testing.assert_close(again[name], gradient)
        parts = gradient.chunk(3) if name.endswith("qkv.bias") else (gradient,)
        assert [bool(part.any()) for part in parts] == [True, False, True][: len(parts)], name


def test_hidden_patches_are_not_seen_and_others_are():
    backbone = backbone_of().eval()
    images, other = images_of(1, 32, 32), images_of(1, 32, 32)
    other[..., :8, :8] += 1
    masked = torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 0] = True
    with torch.no_grad():
        assert torch.equal(backbone(images, masked).patches, backbone(other, masked).patches)
        assert not torch.equal(backbone(images).patches, backbone(other).patches)


def test_stochastic_depth_drops_whole_branches_of_some_images():
    backbone = backbone_of(drop_path=0.9).train()
    images = images_of(8, 32, 32)
    torch.manual_seed(0)
    some = backbone(images).patches
    assert torch.equal(backbone.eval()(images).patches, backbone_of().eval()(images).patches)
    assert (some - backbone(images).patches).abs().max() > 0.1
    x = torch.randn(8, 19, 32)
    rotation = backbone.vit.rotation((4, 4), "timm")
    last = backbone.vit.blocks[-1]
    torch.testing.assert_close(forward_cls(last, x, rotation), last(x, rotation)[:, :1])


def test_layers_learn_at_their_own_rates_and_tokens_do_not_decay():
    network = nn.Module()
    network.backbone = backbone_of()
    groups = parameter_groups(network, 0.5)
    rule = {id(value): group["rule"] for group in groups for value in group["params"]}
    vit = network.backbone.vit
    factors = [
        rule[id(value)].lr_factor for value in (vit.reg_token, vit.blocks[0].attn.qkv.weight, vit.norm.bias)
    ]
    assert factors == [0.5**4, 0.5**3, 1.0]
    assert not rule[id(vit.cls_token)].decays
    assert not rule[id(vit.reg_token)].decays
    assert not rule[id(vit.blocks[0].attn.qkv.bias)].decays


def test_another_side_has_the_same_weights_and_the_same_rule():
    backbone = backbone_of(rule="dino").eval()
    larger = resized(backbone, 48)
    images = images_of(1, 48, 48)
    assert larger.side == 48
    assert torch.equal(larger.tokens(images).patches, backbone.tokens(images).patches)
    assert random_like(backbone).card.positions == "dino"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 36}, "width 36 makes no 2 heads of a size that 4 divides"),
        ({"heads": 5}, "width 32 makes no 5 heads of a size that 4 divides"),
        ({"side": 30}, "no multiple of the patch"),
        ({"name": "eva02_tiny_patch14_224"}, "is no plain Vision Transformer"),
    ],
)
def test_settings_that_make_no_such_network_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        random_backbone(replace(TINY, **changes), 0)
