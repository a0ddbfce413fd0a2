"""Where a patch lies: position embeddings of a Vision Transformer at any grid, by timm's rule or by DINO's.

The rules differ as soon as the grid is another than the one that was trained: by up to 0.06 in an embedding. A
checkpoint answers best by the rule that its own code has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B images; R rows and C columns of patches; P prefix tokens, L = P + R * C tokens; D width.

Rule = Literal["timm", "dino"]
"""timm: bicubic to the new grid, antialiased. dino: bicubic by the scale factors (grid + 0.1) / native, not
antialiased (`interpolate_pos_encoding` of DINO, arXiv 2104.14294, and of DINOv2 without registers)."""


def resampled(
    positions_1LD: Tensor, prefix: int, native: tuple[int, int], grid: tuple[int, int], rule: Rule
) -> Tensor:
    """Position embeddings of a native grid for another one; those of the first `prefix` tokens stay.

    The native grid's own are given back untouched by both rules.
    """
    from timm.layers import resample_abs_pos_embed

    if grid == native:
        return positions_1LD
    if rule == "timm":
        return resample_abs_pos_embed(
            positions_1LD, new_size=list(grid), old_size=list(native), num_prefix_tokens=prefix
        )
    picture_1DRC = positions_1LD[:, prefix:].float().unflatten(1, native).permute(0, 3, 1, 2)
    # The factors themselves, not the sizes, say where samples are taken: the tenth moves them a little.
    factors = [(new + 0.1) / old for new, old in zip(grid, native, strict=True)]
    picture_1DRC = F.interpolate(picture_1DRC, scale_factor=factors, mode="bicubic")
    patches_1ND = picture_1DRC.flatten(2).transpose(1, 2).to(positions_1LD.dtype)
    return torch.cat([positions_1LD[:, :prefix], patches_1ND], dim=1)


def placed(vit: nn.Module, patches_BRCD: Tensor, rule: Rule) -> Tensor:
    """Embedded patches as the first block takes them: (B, L, D), prefix tokens in front, positions added."""
    grid, native = tuple(patches_BRCD.shape[1:3]), tuple(vit.patch_embed.grid_size)
    if rule == "timm" or grid == native or vit.pos_embed is None:
        return vit._pos_embed(patches_BRCD)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions_1LD = resampled(vit.pos_embed, prefix, native, grid, rule)
    tokens = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    first_BPD = torch.cat(tokens, dim=1).expand(len(patches_BRCD), -1, -1)
    if prefix:
        first_BPD = first_BPD + positions_1LD[:, :prefix]
    return vit.pos_drop(torch.cat([first_BPD, patches_BRCD.flatten(1, 2) + positions_1LD[:, prefix:]], dim=1))


def fitted(vit: nn.Module, state: Mapping[str, Tensor], rule: Rule) -> dict[str, Tensor]:
    """Another ViT's position embeddings resampled to the grid of this one, and its prefix tokens.

    Where the prefix tokens have embeddings of their own on one side alone, they are added to those tokens: the
    same answer under another name. Raises RuntimeError where the embeddings are of no square of patches.
    """
    positions_1LD = state["pos_embed"]
    if positions_1LD.shape == vit.pos_embed.shape:
        return {}
    wanted = 0 if vit.no_embed_class else vit.num_prefix_tokens
    found = _prefix_of(positions_1LD.shape[1], vit.num_prefix_tokens)
    changed = {}
    if found != wanted:
        names = [name for name in ("cls_token", "reg_token") if name in state]
        prefix_1PD = torch.cat([state[name] for name in names], dim=1)
        prefix_1PD[:, :found] += positions_1LD[:, :found]
        split = prefix_1PD.split([state[name].shape[1] for name in names], dim=1)
        changed.update(zip(names, split, strict=True))
        zeros = positions_1LD.new_zeros(1, wanted, positions_1LD.shape[2])
        positions_1LD = torch.cat([zeros, positions_1LD[:, found:]], dim=1)
    side = math.isqrt(positions_1LD.shape[1] - wanted)
    grid = tuple(vit.patch_embed.grid_size)
    return changed | {"pos_embed": resampled(positions_1LD, wanted, (side, side), grid, rule)}


def _prefix_of(positions: int, prefix: int) -> int:
    """How many of the position embeddings are not of a square of patches: all prefix tokens', the CLS's or none.

    >>> _prefix_of(16 + 5, 5), _prefix_of(16 + 1, 5), _prefix_of(16, 5)
    (5, 1, 0)
    """
    for count in (prefix, 1, 0):
        if positions > count and math.isqrt(positions - count) ** 2 == positions - count:
            return count
    raise RuntimeError(f"pos_embed has {positions} rows, which is no square of patches")
