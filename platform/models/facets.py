"""Everything that a Vision Transformer's blocks know of each patch, in one pass: queries, keys, values, tokens, and
where the CLS token looks.

Dense descriptors after Amir et al. (arXiv 2112.05814), section 3. Patches may overlap (a stride smaller than the
patch), images may have any size, and the position embeddings follow them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.config import nearest
from ..core.errors import ConfigError, DataError
from .positions import Rule, placed

if TYPE_CHECKING:
    from .backbone import Backbone

# B images of H x W pixels; R x C grid, N = R * C patches, L = N + prefix tokens; H heads of size E; D width.

KINDS = ("query", "key", "value", "token")


@dataclass(frozen=True, slots=True, eq=False)
class Facets:
    """What some blocks say of each patch of a batch, on the CPU; blocks are 0-based.

    of: (block, kind) -> (B, N, D) float32, row by row over the grid, heads side by side; the CLS token and
    registers are left out. cls_attention: block -> (B, H, N), each row's sum <= 1: the softmax runs over all
    tokens. grid: rows, columns.
    """

    of: Mapping[tuple[int, str], Tensor]
    cls_attention: Mapping[int, Tensor]
    grid: tuple[int, int]

    def __repr__(self) -> str:
        count = len(next(iter([*self.of.values(), *self.cls_attention.values()])))
        names = [f"{kind} {block + 1}" for block, kind in self.of]
        names += [f"attention {block + 1}" for block in self.cls_attention]
        return (
            f"Facets({count} images, grid {self.grid[0]}x{self.grid[1]}, blocks from 1: {', '.join(names)})"
        )


def facets_of(
    backbone: Backbone,
    images_B1HW: Tensor,
    *,
    blocks: Sequence[int] = (-1,),
    kinds: Sequence[str] = ("key",),
    attention: Sequence[int] = (-1,),
    stride: int | None = None,
    position: Rule | None = None,
) -> Facets:
    """All facets of all asked blocks, and the CLS token's attention in the blocks of `attention`, in one pass.

    images_B1HW: float32, normalised as `Backbone.prepare` does, of any size; what the patches do not cover, at
    the right and at the bottom, is not seen. blocks, attention: 0-based, negative ones count from the end. A
    query, key or value is the block's own, of its normed input (keys and queries normed where the network does
    so); a token is the block's output, before any last norm. stride: from patch to patch in pixels, a divisor of
    the patch's side; None is that side. The grid is 1 + (side - patch) // stride. position: how position
    embeddings are resampled to it; None is the checkpoint's own way.

    Images go through one by one, so that an image's answer is the same to the last bit whatever its company, and
    at most one image's activations are held beside the answer of 4 B * N * D bytes a block and kind.

    Raises ConfigError for a block, kind or stride that there is not and where nothing is asked for, DataError for
    no images and for images smaller than a patch.
    """
    depth = len(backbone.vit.blocks)
    asked = _Asked(_numbered(blocks, depth) if kinds else (), _known(kinds), _numbered(attention, depth))
    if not asked.last:
        raise ConfigError("neither facets nor attention of any block are asked for; name a block")
    stride = _stride_of(stride, backbone.patch)
    grid = _grid_of(images_B1HW, backbone.patch, stride)
    rule = position or backbone.card.positions
    answer = Facets(of={}, cls_attention={}, grid=grid)
    backbone.eval()
    with torch.no_grad():
        for number, image_1HW in enumerate(images_B1HW):
            patches_1RCD = embedded(backbone, image_1HW[None], stride)
            x_1LD = backbone.vit.norm_pre(placed(backbone.vit, patches_1RCD, rule))
            # Written in place: a list that is joined in the end would hold everything twice.
            for key, value in _walk(backbone, x_1LD, asked):
                home = answer.of if isinstance(key, tuple) else answer.cls_attention
                if not number:
                    home[key] = torch.empty(len(images_B1HW), *value.shape)
                home[key][number] = value
    return answer


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for, blocks counted from 0."""

    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    attention: tuple[int, ...]

    @property
    def last(self) -> int:
        """How many blocks have to run."""
        return max((*self.blocks, *self.attention), default=-1) + 1


def _walk(backbone: Backbone, x_1LD: Tensor, asked: _Asked) -> Iterator[tuple[tuple[int, str] | int, Tensor]]:
    """One image through the blocks, each once: (block, kind) with (N, D), block with (H, N), as they come."""
    from timm.models.vision_transformer import Attention, Block

    for number, block in enumerate(backbone.vit.blocks[: asked.last]):
        kinds = asked.kinds if number in asked.blocks else ()
        looks = number in asked.attention
        if not looks and set(kinds) <= {"token"}:
            x_1LD = block(x_1LD)
        else:
            if type(getattr(block, "attn", None)) is not Attention:
                raise ConfigError(
                    f"block {number + 1} of {backbone.card.config.name} has no plain attention, so no queries, "
                    "keys and values of its own; ask for kind token alone"
                )
            if number + 1 == asked.last and "token" not in kinds and type(block) is Block:
                qkv_1LD = block.attn.qkv(block.norm1(x_1LD))  # what comes after is asked for by nobody
            else:
                x_1LD, qkv_1LD = _overheard(block, x_1LD)
            yield from _attended(block.attn, qkv_1LD[0], number, kinds, looks, backbone.prefix)
        if "token" in kinds:
            yield (number, "token"), x_1LD[0, backbone.prefix :]


def _overheard(block: nn.Module, x_1LD: Tensor) -> tuple[Tensor, Tensor]:
    """A block's answer, and the queries, keys and values that it made on the way."""
    heard: list[Tensor] = []
    handle = block.attn.qkv.register_forward_hook(lambda _, __, qkv: heard.append(qkv))
    try:
        x_1LD = block(x_1LD)
    finally:
        handle.remove()
    return x_1LD, heard[0]


def _attended(
    attention: nn.Module, qkv_LD: Tensor, number: int, kinds: Sequence[str], looks: bool, prefix: int
) -> Iterator[tuple[tuple[int, str] | int, Tensor]]:
    query_LHE, key_LHE, value_LHE = qkv_LD.unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    if "key" in kinds or looks:
        key_LHE = attention.k_norm(key_LHE)
    if "query" in kinds:
        yield (number, "query"), attention.q_norm(query_LHE)[prefix:].flatten(1)
    if "key" in kinds:
        yield (number, "key"), key_LHE[prefix:].flatten(1)
    if "value" in kinds:
        yield (number, "value"), value_LHE[prefix:].flatten(1)
    if looks:
        first_HE = attention.q_norm(query_LHE[:1])[0] * attention.scale
        yield number, torch.einsum("he,lhe->hl", first_HE, key_LHE).softmax(-1)[:, prefix:]


def embedded(backbone: Backbone, images_B1HW: Tensor, stride: int) -> Tensor:
    """Embedded patches (B, R, C, D), one every `stride` pixels."""
    embed = backbone.vit.patch_embed
    images_B1HW = images_B1HW.to(embed.proj.weight.device, torch.float32)
    x_BDRC = F.conv2d(images_B1HW, embed.proj.weight, embed.proj.bias, stride=stride)
    return embed.norm(x_BDRC.permute(0, 2, 3, 1))


def _grid_of(images_B1HW: Tensor, patch: int, stride: int) -> tuple[int, int]:
    assert images_B1HW.ndim == 4, "facets_of takes a batch of images (B, 1, H, W)"
    assert images_B1HW.shape[1] == 1, "facets_of takes grey images (B, 1, H, W)"
    if not len(images_B1HW):
        raise DataError("there are no images to look at; give one at least")
    height, width = images_B1HW.shape[2:]
    if min(height, width) < patch:
        raise DataError(
            f"images of {height} x {width} pixels are smaller than a patch, {patch}; enlarge them first"
        )
    return 1 + (height - patch) // stride, 1 + (width - patch) // stride


def _stride_of(stride: int | None, patch: int) -> int:
    if stride is None:
        return patch
    if stride < 1 or patch % stride:
        legal = ", ".join(str(step) for step in range(1, patch + 1) if patch % step == 0)
        raise ConfigError(f"stride {stride} does not divide the patch, {patch}; choose one of {legal}")
    return stride


def _numbered(blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Blocks counted from 0, each once, in their order."""
    for block in blocks:
        if not -depth <= block < depth:
            raise ConfigError(
                f"there is no block {block}: this backbone has {depth}, counted 0 to {depth - 1} "
                f"or -{depth} to -1"
            )
    return tuple(sorted({block % depth for block in blocks}))


def _known(kinds: Sequence[str]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no facet '{kind}' among {', '.join(KINDS)}; {nearest(kind, KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)
