"""Weights of one Vision Transformer put into another: of color into gray, of one grid into another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .architecture import BIAS, KERNEL, block_count
from .positions import fit_positions
from .weights import ColorNormalization, gray_patch_embedding

if TYPE_CHECKING:
    from .backbone import Backbone

TENSORS = ("blocks.", "norm.", "norm_pre.", "patch_embed.", "reg_token", "pos_embed")
"""Names of tensors, or how they begin, that must have a place in the other network; heads need none."""


def timm_state(backbone: Backbone) -> dict[str, Tensor]:
    """A backbone's tensors under timm's names, and its mask token."""
    return {**backbone.vit.state_dict(), "mask_token": backbone.mask_token.detach()}


def copy_weights(
    backbone: Backbone, state: Mapping[str, Tensor], normalization: ColorNormalization | None = None
) -> None:
    """Copy the weights of another ViT of the same width, depth and registers, under timm's names, into a backbone.

    A three-channel patch embedding becomes gray: exactly, for the card's mean and std, where `normalization` says how
    its images were normalized; else by its sum over channels. Position embeddings are resampled to the grid by the
    card's rule. Heads are left behind. Raises RuntimeError, of one line, where a tensor is missing, left over or of
    another shape; the backbone is then as before.
    """
    vit = backbone.vit
    target = vit.state_dict()
    state = _fitted_biases(state, target)
    copied = {name: value for name, value in state.items() if name in target}
    missing = sorted(set(target) - set(copied))
    if missing:
        raise RuntimeError(f"{missing[0]} is missing")
    if (blocks := block_count(state)) != len(vit.blocks):
        raise RuntimeError(f"{blocks} blocks, not {len(vit.blocks)}")
    left_over = sorted(name for name in state if name.startswith(TENSORS) and name not in target)
    if left_over:
        raise RuntimeError(f"{left_over[0]} has no place")
    if "pos_embed" in copied:
        copied |= fit_positions(vit, copied, backbone.card.positions)
    if copied[KERNEL].shape[1] == 3:
        copied |= _gray_tensors(backbone, copied, normalization)
    for name, value in target.items():
        if value.shape != copied[name].shape:
            raise RuntimeError(f"{name} is {tuple(copied[name].shape)}, not {tuple(value.shape)}")
    vit.load_state_dict(copied)
    if "mask_token" in state and state["mask_token"].numel() == len(backbone.mask_token):
        backbone.mask_token.data.copy_(state["mask_token"].flatten())


def _fitted_biases(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in which, where networks have no position embeddings, a bias of zeros is none: as in the target, it is
    added or left out. DINOv3's files have such biases, timm's copies of them do not."""
    fitted = dict(state)
    if "pos_embed" in target or "pos_embed" in state:
        return fitted
    for number in range(block_count(target)):
        name = f"blocks.{number}.attn.qkv.bias"
        if name in target and name not in fitted:
            fitted[name] = torch.zeros_like(target[name])
        elif name in fitted and name not in target and not fitted[name].any():
            del fitted[name]
    return fitted


def _gray_tensors(
    backbone: Backbone, state: Mapping[str, Tensor], normalization: ColorNormalization | None
) -> dict[str, Tensor]:
    """The patch embedding for one channel. Its constant goes into the bias, or, where the architecture has none, into
    the position embeddings of the patches, which are added next."""
    card = backbone.card
    kernel, constant_D = gray_patch_embedding(state[KERNEL], normalization, card.mean, card.std)
    if BIAS in state:
        return {KERNEL: kernel, BIAS: state[BIAS] + constant_D}
    positions_1LD = state["pos_embed"].clone()
    positions_1LD[:, 0 if backbone.vit.no_embed_class else backbone.prefix :] += constant_D
    return {KERNEL: kernel, "pos_embed": positions_1LD}
