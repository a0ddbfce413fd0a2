"""Positions of patches at any grid: position embeddings resampled by timm's rule or by DINO's, or rotations.

timm's rule: bicubic to the new grid, antialiased. DINO's rule: bicubic by the scale factors (grid + 0.1) / native,
not antialiased (`interpolate_pos_encoding` of DINO, arXiv 2104.14294, and of DINOv2 without registers). They differ
by up to 0.06 in an embedding as soon as the grid is another than the one that was trained, and a checkpoint is at its
best by the rule of the code that it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Resampling

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# B images; R rows and C columns of patches, N = R * C; P prefix tokens, L = P + N tokens; D width; H heads of size E.

BASE = 100.0
"""The longest period, which no head quite reaches. The shortest is 1: half the image, whose coordinates are -1 to 1."""


def resample_positions(
    positions_1LD: Tensor, prefix: int, native: tuple[int, int], grid: tuple[int, int], rule: Resampling
) -> Tensor:
    """Position embeddings of a native grid for another one; those of the first `prefix` tokens stay.

    Where the grid is the native one, they are returned as they are.
    """
    from timm.layers import resample_abs_pos_embed

    if grid == native:
        return positions_1LD
    if rule == "timm":
        return resample_abs_pos_embed(
            positions_1LD, new_size=list(grid), old_size=list(native), num_prefix_tokens=prefix
        )
    image_1DRC = positions_1LD[:, prefix:].float().unflatten(1, native).permute(0, 3, 1, 2)
    # The factors themselves, not the sizes, say where samples are taken: the tenth moves them a little.
    factors = [(new + 0.1) / old for new, old in zip(grid, native, strict=True)]
    image_1DRC = F.interpolate(image_1DRC, scale_factor=factors, mode="bicubic")
    patches_1ND = image_1DRC.flatten(2).transpose(1, 2).to(positions_1LD.dtype)
    return torch.cat([positions_1LD[:, :prefix], patches_1ND], dim=1)


def add_positions(vit: VisionTransformer, patches_BRCD: Tensor, rule: Resampling) -> Tensor:
    """Embedded patches as the first block takes them: (B, L, D), prefix tokens in front, positions added."""
    (_, rows, columns, _), native = patches_BRCD.shape, vit.patch_embed.grid_size
    grid = rows, columns
    if rule == "timm" or grid == native or vit.pos_embed is None:
        return vit._pos_embed(patches_BRCD)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions_1LD = resample_positions(vit.pos_embed, prefix, native, grid, rule)
    tokens: list[Tensor] = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    prefix_BPD = torch.cat(tokens, dim=1).expand(len(patches_BRCD), -1, -1)
    if prefix:
        prefix_BPD = prefix_BPD + positions_1LD[:, :prefix]
    return vit.pos_drop(
        torch.cat([prefix_BPD, patches_BRCD.flatten(1, 2) + positions_1LD[:, prefix:]], dim=1)
    )


def fit_positions(vit: VisionTransformer, state: Mapping[str, Tensor], rule: Resampling) -> dict[str, Tensor]:
    """The tensors of another ViT that change when its position embeddings are fitted to the grid of this one.

    Where only one of the two has position embeddings for its prefix tokens, they become part of those tokens, which
    gives the same output. Raises RuntimeError where the embeddings are of no square of patches.
    """
    positions_1LD = state["pos_embed"]
    if vit.pos_embed is not None and positions_1LD.shape == vit.pos_embed.shape:
        return {}
    embedded_here = 0 if vit.no_embed_class else vit.num_prefix_tokens
    embedded_there = _embedded_prefix(positions_1LD.shape[1], vit.num_prefix_tokens)
    changed: dict[str, Tensor] = {}
    if embedded_there != embedded_here:
        names = [name for name in ("cls_token", "reg_token") if name in state]
        prefix_1PD = torch.cat([state[name] for name in names], dim=1)
        prefix_1PD[:, :embedded_there] += positions_1LD[:, :embedded_there]
        split = prefix_1PD.split([state[name].shape[1] for name in names], dim=1)
        changed.update(zip(names, split, strict=True))
        zeros = positions_1LD.new_zeros(1, embedded_here, positions_1LD.shape[2])
        positions_1LD = torch.cat([zeros, positions_1LD[:, embedded_there:]], dim=1)
    side = math.isqrt(positions_1LD.shape[1] - embedded_here)
    grid = vit.patch_embed.grid_size
    positions_1LD = resample_positions(positions_1LD, embedded_here, (side, side), grid, rule)
    return changed | {"pos_embed": positions_1LD}


def _embedded_prefix(positions: int, prefix: int) -> int:
    """How many of the position embeddings belong to prefix tokens: all of them, the CLS or none.

    >>> _embedded_prefix(16 + 5, 5), _embedded_prefix(16 + 1, 5), _embedded_prefix(16, 5)
    (5, 1, 0)
    """
    for count in (prefix, 1, 0):
        if positions > count and math.isqrt(positions - count) ** 2 == positions - count:
            return count
    raise RuntimeError(f"pos_embed has {positions} rows, which is no square of patches")


def rotary_periods(size: int, rule: Resampling) -> Tensor:
    """The periods (E / 4,) float32 of heads of size E: BASE ** (4 k / E).

    rule: `dino` rounds them to bfloat16, as the files are that DINOv3 publishes; `timm` (and transformers) does not.
    """
    periods = BASE ** (torch.arange(size // 4, dtype=torch.float32, device="cpu") * 4 / size)
    return periods.bfloat16().float() if rule == "dino" else periods


def rotation_of_grid(
    grid: tuple[int, int], prefix: int, size: int, rule: Resampling, device: torch.device
) -> Tensor:
    """Cosines and sines of the angles by which queries and keys are turned: (2, L, E) float32; prefix tokens are not.

    Rows and columns of patches have coordinates (i + 0.5) / count * 2 - 1. The first quarter of the angles is of rows,
    the second of columns, and the second half repeats the first.
    """
    axes = [(torch.arange(count, device=device) + 0.5) / count * 2 - 1 for count in grid]
    places_N21 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)[..., None]
    angles_NE = (2 * math.pi * places_N21 / rotary_periods(size, rule).to(device)).flatten(1).repeat(1, 2)
    angles_LE = torch.cat([angles_NE.new_zeros(prefix, size), angles_NE])
    return torch.stack([angles_LE.cos(), angles_LE.sin()])


def rotated(x_BHLE: Tensor, rotation_2LE: Tensor) -> Tensor:
    """Queries or keys, each pair of entries e and e + E / 2 turned; in the dtype of x."""
    first, second = x_BHLE.chunk(2, dim=-1)
    return (x_BHLE * rotation_2LE[0] + torch.cat([-second, first], dim=-1) * rotation_2LE[1]).to(x_BHLE.dtype)
