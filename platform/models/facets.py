"""Dense descriptors of images: queries, keys, values, tokens and CLS attention of any blocks, in one pass.

After Amir et al. (arXiv 2112.05814), section 3. Patches may overlap (a stride smaller than the patch), images may have
any size, and positions follow them.
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
from .blocks import block_inputs, is_plain_attention, is_pre_norm
from .config import Resampling
from .positions import add_positions, rotated

if TYPE_CHECKING:
    from timm.models.vision_transformer import Attention

    from .backbone import Backbone

# B images of H x W pixels; R x C grid, N = R * C patches, L = N + prefix tokens; H heads of size E; D width.

KINDS = ("query", "key", "value", "token")
ATTENTION = "attention"


@dataclass(frozen=True, slots=True, eq=False)
class Facets:
    """Descriptors of each patch of a batch from some blocks, on the CPU; blocks are 0-based.

    features: (block, kind) -> (B, N, D) float32, row by row over the grid, heads side by side; the CLS token and
    registers are left out. cls_attention: block -> (B, H, N), each row's sum <= 1: the softmax runs over all
    tokens. grid: rows, columns.
    """

    features: Mapping[tuple[int, str], Tensor]
    cls_attention: Mapping[int, Tensor]
    grid: tuple[int, int]

    def __repr__(self) -> str:
        count = len(next(iter([*self.features.values(), *self.cls_attention.values()])))
        names = [f"{kind} {block + 1}" for block, kind in self.features]
        names += [f"attention {block + 1}" for block in self.cls_attention]
        return (
            f"Facets({count} images, grid {self.grid[0]}x{self.grid[1]}, blocks from 1: {', '.join(names)})"
        )


def extract_facets(
    backbone: Backbone,
    images_B1HW: Tensor,
    *,
    blocks: Sequence[int] = (-1,),
    kinds: Sequence[str] = ("key",),
    attention: Sequence[int] = (-1,),
    stride: int | None = None,
    position: Resampling | None = None,
) -> Facets:
    """The facets `kinds` of `blocks`, and the CLS token's attention in the blocks of `attention`, in one pass.

    images_B1HW: float32, normalized as `Backbone.prepare` does, of any size; pixels at the right and at the bottom
    that no patch covers are ignored. blocks, attention: 0-based, negative ones count from the end. A query, key or
    value is that of the block's normed input (query and key normed where the network does so); a token is the
    block's output, before any last norm. stride: from patch to patch in pixels, a divisor of the patch's side; None
    is that side. The grid is 1 + (side - patch) // stride. position: how position embeddings are resampled to it;
    None is the card's rule.

    Where a network turns queries and keys by their place (DINOv3), these facets are as they were before: what a patch
    shows, comparable at any place of any image. Attention is that of the turned ones, as the network computes it.

    Images go through one by one, so that an image's facets are the same to the last bit in any batch, and at most
    one image's activations are held beside the result of 4 B * N * D bytes a block and kind.

    Raises ConfigError for a block, kind or stride that there is not and where neither facets nor attention are
    requested, DataError for no images and for images smaller than a patch.
    """
    depth = len(backbone.vit.blocks)
    request = _Request(
        blocks=_block_numbers(blocks, depth) if kinds else (),
        kinds=_ordered_kinds(kinds),
        attention=_block_numbers(attention, depth),
    )
    if not request.depth:
        raise ConfigError("neither facets nor attention of any block are requested; name a block")
    stride = _checked_stride(stride, backbone.patch)
    tensors: dict[tuple[int, str], Tensor] = {}
    grid = _grid(images_B1HW, backbone.patch, stride)
    rule = position or backbone.card.positions
    backbone.eval()
    with torch.no_grad():
        for number, image_1HW in enumerate(images_B1HW):
            patches_1RCD = embed_patches(backbone, image_1HW[None], stride)
            x_1LD = backbone.vit.norm_pre(add_positions(backbone.vit, patches_1RCD, rule))
            rotary = block_inputs(backbone.vit, grid, rule)
            # Written in place: a list that is joined in the end would hold everything twice.
            for block, kind, value in _image_facets(backbone, x_1LD, rotary, request):
                if not number:
                    tensors[block, kind] = torch.empty(len(images_B1HW), *value.shape)
                tensors[block, kind][number] = value
    return Facets(
        features={key: tensor for key, tensor in tensors.items() if key[1] != ATTENTION},
        cls_attention={block: tensor for (block, kind), tensor in tensors.items() if kind == ATTENTION},
        grid=grid,
    )


def embed_patches(backbone: Backbone, images_B1HW: Tensor, stride: int) -> Tensor:
    """Embedded patches (B, R, C, D), one every `stride` pixels."""
    embed = backbone.vit.patch_embed
    images_B1HW = images_B1HW.to(embed.proj.weight.device, torch.float32)
    x_BDRC = F.conv2d(images_B1HW, embed.proj.weight, embed.proj.bias, stride=stride)
    return embed.norm(x_BDRC.permute(0, 2, 3, 1))


@dataclass(frozen=True, slots=True)
class _Request:
    """Which facets and attention to compute, blocks counted from 0."""

    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    attention: tuple[int, ...]

    @property
    def depth(self) -> int:
        """How many blocks have to run."""
        return max((*self.blocks, *self.attention), default=-1) + 1


def _image_facets(
    backbone: Backbone, x_1LD: Tensor, rotary: tuple[Tensor, ...], request: _Request
) -> Iterator[tuple[int, str, Tensor]]:
    """Block, kind and facet (N, D) or attention (H, N) of one image, block by block."""
    for number, block in enumerate(backbone.vit.blocks[: request.depth]):
        kinds = request.kinds if number in request.blocks else ()
        with_attention = number in request.attention
        if not with_attention and set(kinds) <= {"token"}:
            x_1LD = block(x_1LD, *rotary)
        else:
            attention = getattr(block, "attn", None)
            if not is_plain_attention(attention):
                raise ConfigError(
                    f"block {number + 1} of {backbone.card.config.name} has no plain attention, so no queries, "
                    "keys and values of its own; ask for kind token alone"
                )
            if number + 1 == request.depth and "token" not in kinds and is_pre_norm(block):
                qkv_1LD = attention.qkv(block.norm1(x_1LD))  # the rest of the last block is not needed
            else:
                x_1LD, qkv_1LD = _forward_with_qkv(block, attention, x_1LD, rotary)
            shown = (*kinds, ATTENTION) if with_attention else kinds
            facets = _attention_facets(attention, qkv_1LD[0], rotary, shown, backbone.prefix)
            yield from ((number, kind, value) for kind, value in facets)
        if "token" in kinds:
            yield number, "token", x_1LD[0, backbone.prefix :]


def _forward_with_qkv(
    block: nn.Module, attention: Attention, x_1LD: Tensor, rotary: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """A block's output, and the queries, keys and values that its attention computed for it."""
    outputs: list[Tensor] = []
    handle = attention.qkv.register_forward_hook(lambda _, __, qkv: outputs.append(qkv))
    try:
        x_1LD = block(x_1LD, *rotary)
    finally:
        handle.remove()
    return x_1LD, outputs[0]


def _attention_facets(
    attention: Attention, qkv_LD: Tensor, rotary: tuple[Tensor, ...], kinds: Sequence[str], prefix: int
) -> Iterator[tuple[str, Tensor]]:
    """Facets (N, D) by kind, and the CLS token's attention (H, N)."""
    query_LHE, key_LHE, value_LHE = qkv_LD.unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    if "key" in kinds or ATTENTION in kinds:
        key_LHE = attention.k_norm(key_LHE)
    if "query" in kinds:
        yield "query", attention.q_norm(query_LHE)[prefix:].flatten(1)
    if "key" in kinds:
        yield "key", key_LHE[prefix:].flatten(1)
    if "value" in kinds:
        yield "value", value_LHE[prefix:].flatten(1)
    if ATTENTION in kinds:
        if rotary:  # the CLS token's query is not turned
            key_LHE = rotated(key_LHE.transpose(0, 1), *rotary).transpose(0, 1)
        cls_query_HE = attention.q_norm(query_LHE[:1])[0] * attention.scale
        yield ATTENTION, torch.einsum("he,lhe->hl", cls_query_HE, key_LHE).softmax(-1)[:, prefix:]


def _grid(images_B1HW: Tensor, patch: int, stride: int) -> tuple[int, int]:
    assert images_B1HW.ndim == 4, "extract_facets takes a batch of images (B, 1, H, W)"
    assert images_B1HW.shape[1] == 1, "extract_facets takes gray images (B, 1, H, W)"
    if not len(images_B1HW):
        raise DataError("there are no images to extract facets from; give at least one")
    height, width = images_B1HW.shape[2:]
    if min(height, width) < patch:
        raise DataError(
            f"images of {height} x {width} pixels are smaller than a patch, {patch}; enlarge them first"
        )
    return 1 + (height - patch) // stride, 1 + (width - patch) // stride


def _checked_stride(stride: int | None, patch: int) -> int:
    if stride is None:
        return patch
    if stride < 1 or patch % stride:
        legal = ", ".join(str(step) for step in range(1, patch + 1) if patch % step == 0)
        raise ConfigError(f"stride {stride} does not divide the patch, {patch}; choose one of {legal}")
    return stride


def _block_numbers(blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Blocks counted from 0, each once, in their order."""
    for block in blocks:
        if not -depth <= block < depth:
            raise ConfigError(
                f"there is no block {block}: this backbone has {depth}, counted 0 to {depth - 1} "
                f"or -{depth} to -1"
            )
    return tuple(sorted({block % depth for block in blocks}))


def _ordered_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"no facet '{kind}' among {', '.join(KINDS)}; {nearest(kind, KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)
