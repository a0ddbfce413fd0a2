"""Facets of every block in one pass are those of the slow way: full attention, one facet at a time."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tests.platform.models.examples import dino_by_loops
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.models.backbone import Backbone, random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.facets import KINDS, extract_facets

ROOT = Path(__file__).resolve().parents[3]


TINY = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=3, heads=2)


VITS = {
    "dino": TINY,
    "registers": replace(TINY, registers=3),
    "dinov2": replace(TINY, name="vit_small_patch14_dinov2"),  # layer scale
    "dinov2_reg": replace(TINY, name="vit_small_patch14_reg4_dinov2"),  # positions for patches alone
    "clip": replace(
        TINY, name="vit_base_patch16_clip_224"
    ),  # a norm before the blocks, no bias in the embedding
    "normed": TINY,  # queries and keys have norms of their own
}


def backbone_of(name: str) -> Backbone:
    """Random weights, made large enough that attention is far from uniform and positions matter."""
    backbone = random_backbone(VITS[name], 0).eval()
    torch.manual_seed(1)
    for block in backbone.vit.blocks:
        block.attn.qkv.weight.data *= 10
        nn.init.normal_(block.attn.qkv.bias)
        for scale in (block.ls1, block.ls2):
            if hasattr(scale, "gamma"):
                scale.gamma.data.uniform_(0.5, 1.5)
        if name == "normed":
            block.attn.q_norm, block.attn.k_norm = nn.LayerNorm(16), nn.LayerNorm(16)
            nn.init.normal_(block.attn.k_norm.weight)
    nn.init.normal_(backbone.vit.pos_embed)
    return backbone


def images_of(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(seed))


def first_tokens(backbone: Backbone, image_HW: Tensor, stride: int, rule: str) -> tuple[Tensor, int, int]:
    """What the first block takes, patch by patch: (L, D), and the grid."""
    vit, patch = backbone.vit, backbone.patch
    kernel, bias = vit.patch_embed.proj.weight[:, 0], vit.patch_embed.proj.bias
    tops = range(0, image_HW.shape[0] - patch + 1, stride)
    lefts = range(0, image_HW.shape[1] - patch + 1, stride)
    patches = [
        (kernel * image_HW[top : top + patch, left : left + patch]).sum((1, 2))
        for top in tops
        for left in lefts
    ]
    patches_ND = torch.stack(patches) + (0 if bias is None else bias)
    own = 0 if vit.no_embed_class else vit.num_prefix_tokens
    grid, positions_LD = (len(tops), len(lefts)), vit.pos_embed[0]
    if grid != (4, 4) and rule == "dino":
        picture = dino_by_loops(positions_LD[own:].reshape(4, 4, -1), grid)
        positions_LD = torch.cat([positions_LD[:own], picture.flatten(0, 1)])
    elif grid != (4, 4):
        positions_LD = resample_abs_pos_embed(
            vit.pos_embed, new_size=list(grid), old_size=[4, 4], num_prefix_tokens=own
        )[0]
    prefix_PD = torch.cat([token[0] for token in (vit.cls_token, vit.reg_token) if token is not None])
    if own:
        prefix_PD = prefix_PD + positions_LD[:own]
    return vit.norm_pre(torch.cat([prefix_PD, patches_ND + positions_LD[own:]])), *grid


def slowly(backbone: Backbone, x_LD: Tensor, wanted: int, kind: str) -> Tensor:
    """One facet of one block, or its attention row: the network is run for it alone, attention is a full map."""
    for number, block in enumerate(backbone.vit.blocks):
        attention = block.attn
        normed = block.norm1(x_LD)
        weight, bias = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        query, key, value = (
            (normed @ w.T + b).view(len(x_LD), 2, -1).transpose(0, 1)
            for w, b in zip(weight, bias, strict=True)
        )
        query, key = attention.q_norm(query), attention.k_norm(key)
        look_HLL = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1)
        x_LD = x_LD + block.ls1(attention.proj((look_HLL @ value).transpose(0, 1).flatten(1)))
        x_LD = x_LD + block.ls2(block.mlp(block.norm2(x_LD)))
        if number == wanted:
            if kind == "attention":
                return look_HLL[:, 0, backbone.prefix :]
            heads = {"query": query, "key": key, "value": value}
            return (x_LD if kind == "token" else heads[kind].transpose(0, 1).flatten(1))[backbone.prefix :]
    raise AssertionError(wanted)


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize(
    ("size", "stride", "rule"),
    [
        ((32, 32), 8, "dino"),
        ((32, 32), 8, "timm"),
        ((24, 40), 8, "dino"),
        ((29, 43), 4, "dino"),
        ((29, 43), 4, "timm"),
        ((21, 16), 2, "dino"),
        ((16, 67), 8, "timm"),
    ],
)
@torch.no_grad()
def test_one_pass_gives_what_the_slow_way_gives_one_by_one(name, size, stride, rule):
    backbone = backbone_of(name)
    images = images_of(2, *size)
    found = extract_facets(
        backbone, images, blocks=range(3), kinds=KINDS, attention=range(3), stride=stride, position=rule
    )
    assert set(found.features) == {(block, kind) for block in range(3) for kind in KINDS}
    for number, image in enumerate(images):
        x_LD, rows, columns = first_tokens(backbone, image[0], stride, rule)
        assert found.grid == (rows, columns)
        assert rows == 1 + (size[0] - 8) // stride
        for block in range(3):
            for kind in KINDS:
                slow = slowly(backbone, x_LD, block, kind)
                assert found.features[block, kind][number].shape == slow.shape == (rows * columns, 32)
                torch.testing.assert_close(found.features[block, kind][number], slow, atol=1e-5, rtol=1e-5)
            slow = slowly(backbone, x_LD, block, "attention")
            torch.testing.assert_close(found.cls_attention[block][number], slow, atol=1e-5, rtol=1e-5)


def test_the_reference_can_tell_the_rules_and_the_blocks_apart():
    backbone = backbone_of("dino")
    image = images_of(1, 29, 43)[0, 0]
    keys = [
        slowly(backbone, first_tokens(backbone, image, 4, rule)[0], block, "key")
        for rule, block in (("dino", 2), ("timm", 2), ("dino", 1))
    ]
    assert (keys[0] - keys[1]).abs().max() > 0.05
    assert (keys[0] - keys[2]).abs().max() > 0.5


@pytest.mark.parametrize("rule", ["timm", "dino"])
def test_the_rule_is_the_checkpoints_own_and_the_backbone_itself_obeys_it(rule):
    backbone = backbone_of("registers")
    backbone.card = replace(backbone.card, positions=rule)
    images = images_of(2, 48, 40)
    own = extract_facets(backbone, images, kinds=["token"])
    said = extract_facets(backbone, images, kinds=["token"], position=rule)
    other = extract_facets(backbone, images, kinds=["token"], position={"timm": "dino", "dino": "timm"}[rule])
    assert torch.equal(own.features[2, "token"], said.features[2, "token"])
    assert (own.features[2, "token"] - other.features[2, "token"]).abs().max() > 0.01
    with torch.no_grad():
        normed = backbone.vit.norm(own.features[2, "token"])
    torch.testing.assert_close(normed, backbone.tokens(images).patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own.cls_attention[2], backbone.attention(images), atol=1e-5, rtol=1e-5)


def test_each_block_runs_once_for_an_image_and_none_after_the_last_requested_one():
    backbone = backbone_of("dinov2")
    runs = [0, 0, 0]

    def count(number: int):
        def hook(*_: object) -> None:
            runs[number] += 1

        return hook

    for number, block in enumerate(backbone.vit.blocks):
        block.mlp.register_forward_hook(count(number))
    images = images_of(2, 32, 32)
    extract_facets(backbone, images, blocks=[0, 1, 2], kinds=KINDS, attention=[0, 1, 2])
    assert runs == [2, 2, 2]
    extract_facets(backbone, images, blocks=[0], kinds=KINDS, attention=[1])
    assert runs == [4, 2, 2]  # of the second block only the attention is requested
    assert not any(block.attn.qkv._forward_hooks for block in backbone.vit.blocks)


def test_only_requested_facets_are_returned_and_blocks_may_count_from_the_end():
    backbone = backbone_of("dino")
    images = images_of(3, 32, 40)
    whole = extract_facets(backbone, images, blocks=range(3), kinds=KINDS, attention=range(3))
    found = extract_facets(backbone, images)
    assert (set(found.features), set(found.cls_attention)) == ({(2, "key")}, {2})
    found = extract_facets(backbone, images, blocks=(-1, 0, 2), kinds=("value", "query"), attention=())
    assert set(found.features) == {(0, "value"), (0, "query"), (2, "value"), (2, "query")}
    assert not found.cls_attention
    for key, value in found.features.items():
        assert (value.dtype, value.shape) == (torch.float32, (3, 20, 32))
        torch.testing.assert_close(value, whole.features[key], atol=1e-5, rtol=1e-5)
    found = extract_facets(backbone, images, kinds=(), attention=(1,))
    assert repr(found) == "Facets(3 images, grid 4x5, blocks from 1: attention 2)"
    assert torch.equal(found.cls_attention[1], whole.cls_attention[1])
    assert (found.cls_attention[1].sum(-1) < 1).all()


def test_an_images_answer_is_the_same_to_the_last_bit_whatever_its_company():
    backbone = backbone_of("registers")
    images = images_of(5, 40, 48)
    together = extract_facets(backbone, images, kinds=KINDS, stride=4)
    for order in ([3], [4, 0], [2, 1, 4, 3, 0]):
        some = extract_facets(backbone, images[order], kinds=KINDS, stride=4)
        for key, value in some.features.items():
            assert torch.equal(value, together.features[key][order])
        assert torch.equal(some.cls_attention[2], together.cls_attention[2][order])


def test_what_the_patches_do_not_cover_is_not_seen():
    backbone = backbone_of("dino")
    images = images_of(1, 39, 35)
    found = extract_facets(backbone, images)
    assert found.grid == (4, 4)
    images[..., 32:, :] = images[..., 32:] = 99.0
    assert torch.equal(extract_facets(backbone, images).features[2, "key"], found.features[2, "key"])


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"stride": 3}, ConfigError, "stride 3 does not divide the patch, 8; choose one of 1, 2, 4, 8"),
        ({"stride": 0}, ConfigError, "stride 0 does not divide"),
        ({"stride": 16}, ConfigError, "stride 16 does not divide"),
        (
            {"kinds": ["keys"]},
            ConfigError,
            "no facet 'keys' among query, key, value, token; the nearest is 'key'",
        ),
        ({"blocks": [3]}, ConfigError, "no block 3: this backbone has 3, counted 0 to 2 or -3 to -1"),
        ({"attention": [-4]}, ConfigError, "no block -4"),
        ({"kinds": (), "attention": ()}, ConfigError, "neither facets nor attention"),
        ({"images_B1HW": torch.zeros(1, 1, 7, 40)}, DataError, "7 x 40 pixels are smaller than a patch, 8"),
        ({"images_B1HW": torch.zeros(0, 1, 8, 8)}, DataError, "no images"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        extract_facets(backbone_of("dino"), **{"images_B1HW": images_of(1, 32, 32)} | arguments)


def test_blocks_without_plain_attention_give_tokens_and_refuse_the_rest():
    backbone = backbone_of("dino")
    backbone.vit.blocks[1].attn.__class__ = type("Other", (type(backbone.vit.blocks[1].attn),), {})
    images = images_of(1, 32, 32)
    assert set(extract_facets(backbone, images, kinds=["token"], attention=[]).features) == {(2, "token")}
    with pytest.raises(ConfigError, match="block 2 of vit_tiny_patch16_224 has no plain attention"):
        extract_facets(backbone, images, blocks=[1])


MEMORY = """
import torch
from benchmarks.step.measure import peak_memory
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.facets import KINDS, extract_facets

torch.set_num_threads(1)
config = BackboneConfig(name="vit_small_patch16_224", patch=8, depth=1, width=96, heads=6)
backbone = random_backbone(config, 0)
images = torch.randn(2, 1, 224, 224)
extract_facets(backbone, images[..., :64, :64], kinds=KINDS)
before = peak_memory(torch.device("cpu"))
answer = extract_facets(backbone, images, kinds=KINDS, stride=4)
size = sum(value.nbytes for value in answer.features.values()) + answer.cls_attention[0].nbytes
print(peak_memory(torch.device("cpu")) - before - size)
"""


@pytest.mark.slow
def test_no_full_attention_map_is_ever_held():
    # 55 x 55 patches and the CLS: a map of 6 heads is 220 MB, all else of this narrow network a tenth of that.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) < 100e6
