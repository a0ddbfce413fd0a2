"""DINOv3 networks as DINOv3 and timm store them: names, biases and periods; and their architecture, read off shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import CheckpointError, ConfigError
from .architecture import KERNEL, block_count, published_config
from .config import BackboneConfig, Resampling
from .positions import BASE, rotary_periods

# D width, E size of a head.

PERIODS = "rope_embed.periods"
"""Periods (E / 4,) of the rotary position embeddings, in DINOv3's own files. Among tensors under our names it says that
a network turns queries and keys; it is empty where they come from code that computes the periods."""

COMPUTED = torch.empty(0)
"""In the place of the periods that a file does not hold."""

OWN = {
    r"^storage_tokens$": "reg_token",
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}
"""DINOv3's own names -> ours."""

TIMM = {r"\.gamma_([12])$": r".ls\1.gamma"}
"""Names of timm's `Eva` -> ours."""

HEADS = {(192, 12): 3, (384, 12): 6, (768, 12): 12, (1024, 24): 16, (1280, 32): 20, (4096, 40): 32}
"""(width, blocks) -> heads of the networks that are published."""


def rotary_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network in one of both formats under the names of a `RotaryTransformer`, and `PERIODS`; those of
    any other network as they are.

    Raises CheckpointError where keys have a bias, which DINOv3 masks.
    """
    if "storage_tokens" in state or PERIODS in state:
        return {PERIODS: COMPUTED} | _masked_biases(_renamed(state, OWN))
    if any(name.endswith(".gamma_1") for name in state) and "pos_embed" not in state:
        return {PERIODS: COMPUTED} | _joined_biases(_renamed(state, TIMM))
    return dict(state)


def rotary_config(state: Mapping[str, Tensor], heads: int | None, eps: float | None) -> BackboneConfig:
    """The architecture of tensors that `rotary_tensors` gives.

    Raises ConfigError, which names the option, for heads that neither periods nor a published size tell.
    """
    width, _, patch, _ = state[KERNEL].shape
    depth, periods = block_count(state), len(state[PERIODS])
    heads = heads or (width // (4 * periods) if periods else HEADS.get((width, depth)))
    if heads is None:
        raise ConfigError(
            f"width {width} and {depth} blocks are no published size of DINOv3, and tensors do not tell the number of "
            "heads; add #heads=N to the path"
        )
    if width % (4 * heads) or periods not in (0, width // (4 * heads)):
        raise ConfigError(
            f"width {width} and {periods} periods do not fit {heads} heads; give the right #heads=N"
        )
    gated = "blocks.0.mlp.fc1_g.weight" in state
    name = f"vit_small_{'plus_' if gated else ''}patch16_dinov3"
    if gated and state["blocks.0.mlp.fc2.weight"].shape[1] == 2 * width:
        name = "vit_7b_patch16_dinov3"
    elif "blocks.0.attn.qkv.bias" in state:
        name += "_qkvb"
    return BackboneConfig(
        name=name,
        side=published_config(name).input_size[-1],
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        eps=eps,
    )


def periods_rule(state: Mapping[str, Tensor]) -> Resampling:
    """Whose periods a network computes with; see `rotary.rotary_periods`. Raises ConfigError for others."""
    periods = state[PERIODS]
    if not len(periods):
        return "timm"
    rules: tuple[Resampling, ...] = ("dino", "timm")
    for rule in rules:
        if torch.allclose(periods, rotary_periods(4 * len(periods), rule), rtol=1e-4, atol=0):
            return rule
    raise ConfigError(
        f"{PERIODS} are {periods[0]:.4g} to {periods[-1]:.4g}, which are not those of base {BASE:g}, with which DINOv3 "
        "is published"
    )


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def _masked_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries, keys and values multiplied by the masks beside them, which are left out."""
    masked = {}
    for name, value in state.items():
        if name.endswith(".qkv.bias"):
            mask = state.get(f"{name}_mask", torch.ones(1))
            value = torch.where(mask == 0, 0.0, value * mask)
            if value.chunk(3)[1].any():
                raise CheckpointError(f"{name}: its keys have a bias, which DINOv3's do not")
        if not name.endswith(".bias_mask"):
            masked[name] = value
    return masked


def _joined_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries and values as one tensor, with zeros for the keys between them."""
    joined = {name: value for name, value in state.items() if not name.endswith((".q_bias", ".v_bias"))}
    for name, query in state.items():
        if name.endswith(".q_bias"):
            block = name.removesuffix("q_bias")
            joined[f"{block}qkv.bias"] = torch.cat([query, torch.zeros_like(query), state[f"{block}v_bias"]])
    return joined
