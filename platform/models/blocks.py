"""What a timm block computes in ways that timm does not have: on a part of the batch, or for the CLS token alone.

The modules of a block are called whole, never by slices of their weights: DeepSpeed gathers weights where modules
are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
from torch import Tensor, nn

from .positions import rotated

if TYPE_CHECKING:
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    from .config import Resampling

# B images, L tokens, D width; H heads of size E. rotary: what `block_inputs` gives, of one tensor or none.


def block_inputs(vit: VisionTransformer, grid: tuple[int, int], rule: Resampling) -> tuple[Tensor, ...]:
    """What every block takes beside the tokens of a grid: the rotation of a `RotaryTransformer`, else nothing."""
    from .rotary import RotaryTransformer

    return (vit.rotation(grid, rule),) if isinstance(vit, RotaryTransformer) else ()


def forward_on_subsets(block: Block, x_BLD: Tensor, *rotary: Tensor) -> Tensor:
    """A block's forward whose two branches are computed for a random part of the batch alone in training.

    Stochastic depth (arXiv 1603.09382) by batch subset, DINOv2 (arXiv 2304.07193), section 5: a branch is added to
    round(B * (1 - rate)) images of B, at least one, drawn anew for each branch, and scaled by B over that number, so
    that the expectation is that of the whole batch. What is dropped costs nothing. Draws come from torch's own
    generator of the device.
    """
    x_BLD = _add_branch(x_BLD, block.drop_path1, lambda x: block.ls1(block.attn(block.norm1(x), *rotary)))
    return _add_branch(x_BLD, block.drop_path2, lambda x: block.ls2(block.mlp(block.norm2(x))))


def forward_cls(block: Block, x_BLD: Tensor, *rotary: Tensor) -> Tensor:
    """A plain block's output for the CLS token alone, (B, 1, D); it attends to all tokens of the input."""
    attention = cast("Attention", block.attn)
    x_B1D = _add_branch(
        x_BLD, block.drop_path1, lambda x: block.ls1(_attend(attention, block.norm1(x), *rotary))
    )
    return _add_branch(x_B1D, block.drop_path2, lambda x: block.ls2(block.mlp(block.norm2(x))))


def is_pre_norm(block: nn.Module) -> TypeGuard[Block]:
    """Whether a block is one of two residual branches, attention and MLP, each behind its norm."""
    from timm.models.vision_transformer import Block

    from .rotary import RotaryBlock

    return type(block) in (Block, RotaryBlock)


def is_plain_attention(attention: object) -> TypeGuard[Attention]:
    """Whether an attention is one softmax of queries, keys and values of its own, turned by place or not."""
    from timm.models.vision_transformer import Attention

    from .rotary import RotaryAttention

    return type(attention) in (Attention, RotaryAttention)


def is_plain(block: nn.Module) -> TypeGuard[Block]:
    """Whether `forward_cls` computes what the block does."""
    return is_pre_norm(block) and is_plain_attention(block.attn) and block.attn.gate is None


def cls_attention(attention: Attention, x_BLD: Tensor, *rotary: Tensor) -> tuple[Tensor, Tensor]:
    """The CLS query's softmax over all tokens, (B, H, 1, L), and the tokens' values, (B, H, L, E).

    x_BLD: normed input of the attention. Computed without fused kernels, which do not give the softmax.
    """
    count, length, _ = x_BLD.shape
    qkv = attention.qkv(x_BLD).view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(qkv[0][:, :, :1]), attention.k_norm(qkv[1])
    if rotary:  # the CLS token's query is not turned
        key = rotated(key, *rotary)
    return ((query * attention.scale) @ key.transpose(-2, -1)).softmax(-1), qkv[2]


def _attend(attention: Attention, x_BLD: Tensor, *rotary: Tensor) -> Tensor:
    """The attention's output for the CLS token, (B, 1, D)."""
    weights, values = cls_attention(attention, x_BLD, *rotary)
    mixed = (attention.attn_drop(weights) @ values).transpose(1, 2).flatten(2)
    return attention.proj_drop(attention.proj(attention.norm(mixed)))


def _add_branch(x_BLD: Tensor, drop: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """Tokens plus a residual branch; only the first of them where the branch returns fewer."""
    count = len(x_BLD)
    rate = getattr(drop, "drop_prob", 0.0) if drop.training else 0.0
    kept = max(1, round(count * (1 - rate)))
    if kept >= count:
        change = branch(x_BLD)
        return x_BLD[:, : change.shape[1]] + change
    chosen = torch.randperm(count, device=x_BLD.device)[:kept]
    change = branch(x_BLD.index_select(0, chosen)).to(x_BLD.dtype)
    return x_BLD[:, : change.shape[1]].index_add(0, chosen, change, alpha=count / kept)
