"""Vision Transformers of DINOv3 (arXiv 2508.10104): queries and keys are turned by the place of their patch.

timm has them as `Eva`. Here they are a timm `VisionTransformer` without position embeddings, whose blocks take a
rotation beside the tokens, so that all that works on blocks works on these too. Training does not shift, jitter or
rescale the coordinates, as DINOv3's own does.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Mlp, RotaryEmbeddingDinoV3, SwiGLU
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from ..core.errors import ConfigError
from .positions import BASE, rotated, rotation_of_grid

if TYPE_CHECKING:
    from .config import BackboneConfig, Resampling

# B images, L tokens: P prefix tokens and N patches; D width, H heads of size E, which has E / 4 periods.


class MaskedBiasLinear(nn.Linear):
    """Queries, keys and values of one matrix; the bias of the keys counts as 0, whatever the tensor holds.

    Keys that are not turned may have a bias without effect on the softmax; turned, it would have one.
    """

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat([query, torch.zeros_like(key), value]))


class RotaryAttention(Attention):
    """timm's attention, its queries and keys turned."""

    def __init__(self, dim: int, *args: Any, **settings: Any) -> None:
        super().__init__(dim, *args, **settings)
        if self.qkv.bias is not None:
            self.qkv = MaskedBiasLinear(dim, 3 * self.attn_dim)

    def forward(self, x_BLD: Tensor, rotation_2LE: Tensor) -> Tensor:  # type: ignore[override]
        qkv = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query_BHLE = rotated(self.q_norm(qkv[0]), rotation_2LE)
        key_BHLE = rotated(self.k_norm(qkv[1]), rotation_2LE)
        if self.fused_attn:
            rate = self.attn_drop.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query_BHLE, key_BHLE, qkv[2], dropout_p=rate)
        else:
            weights = ((query_BHLE * self.scale) @ key_BHLE.transpose(-2, -1)).softmax(-1)
            mixed = self.attn_drop(weights) @ qkv[2]
        return self.proj_drop(self.proj(self.norm(mixed.transpose(1, 2).flatten(2))))


class RotaryBlock(Block):
    """timm's block over a `RotaryAttention`."""

    def forward(self, x_BLD: Tensor, rotation_2LE: Tensor) -> Tensor:  # type: ignore[override]
        x_BLD = x_BLD + self.drop_path1(self.ls1(self.attn(self.norm1(x_BLD), rotation_2LE)))
        return x_BLD + self.drop_path2(self.ls2(self.mlp(self.norm2(x_BLD))))


class RotaryTransformer(VisionTransformer):
    """A Vision Transformer of `RotaryBlock`s, without position embeddings."""

    def rotation(self, grid: tuple[int, int], rule: Resampling) -> Tensor:
        """What each block takes beside the tokens of a grid: (2, L, E)."""
        first: Any = self.blocks[0]  # timm's, whose attributes are not typed
        device = next(self.parameters()).device
        return rotation_of_grid(grid, self.num_prefix_tokens, first.attn.head_dim, rule, device)


def create_rotary(config: BackboneConfig, overrides: dict[str, Any]) -> RotaryTransformer:
    """The network of one of timm's names for DINOv3's architecture, for one gray channel, without a classifier.

    overrides: arguments of timm's `Eva`. Raises ConfigError for a network of `Eva` that computes something else;
    TypeError and AssertionError of timm for settings that cannot be.
    """
    with torch.device("meta"):
        eva: Any = timm.create_model(config.name, num_classes=0, img_size=config.side, **overrides)
    if not is_dinov3(eva):
        raise ConfigError(f"backbone.name {config.name!r} is no plain Vision Transformer; choose a vit_…")
    block: Any = eva.blocks[0]
    heads = block.attn.num_heads
    if eva.embed_dim % (4 * heads):
        raise ConfigError(
            f"backbone.width {eva.embed_dim} makes no {heads} heads of a size that 4 divides, as rotary position "
            "embeddings need"
        )
    return RotaryTransformer(
        img_size=config.side,
        patch_size=eva.patch_embed.patch_size,
        in_chans=1,
        num_classes=0,
        embed_dim=eva.embed_dim,
        depth=len(eva.blocks),
        num_heads=heads,
        mlp_ratio=(block.mlp.fc2.in_features + 0.5) / eva.embed_dim,  # is rounded down to that number
        qkv_bias=block.attn.q_bias is not None,
        init_values=block.init_values,
        pos_embed="none",
        reg_tokens=eva.num_prefix_tokens - 1,
        dynamic_img_size=True,
        drop_path_rate=config.drop_path,
        norm_layer=partial(nn.LayerNorm, eps=block.norm1.eps),
        act_layer=type(block.mlp.act),
        block_fn=RotaryBlock,
        mlp_layer=type(block.mlp),
        attn_layer=RotaryAttention,
    )


def is_dinov3(eva: Any) -> bool:
    """Whether a network of timm computes what `create_rotary` builds."""
    rope, block = getattr(eva, "rope", None), eva.blocks[0] if isinstance(eva, Eva) else None
    return (
        isinstance(eva, Eva)
        and isinstance(rope, RotaryEmbeddingDinoV3)
        and isinstance(block, EvaBlock)
        and isinstance(block.attn, EvaAttention)
        and isinstance(block.mlp, Mlp | SwiGLU)
        and (rope.temperature, rope.rotate_half, rope.normalize_coords) == (BASE, True, "separate")
        and (rope.grid_offset, rope.grid_indexing, rope.max_period) == (0.0, "ij", None)
        and eva.pos_embed is None
        and eva.cls_token is not None
        and block.init_values is not None
        and block.attn.qkv is not None
        and block.attn.gate is None
        and all(
            isinstance(part, nn.Identity)
            for part in (eva.norm_pre, block.attn.norm, block.attn.q_norm, block.mlp.norm)
        )
        and isinstance(eva.norm, nn.LayerNorm)
    )
