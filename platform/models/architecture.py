"""timm's Vision Transformers, built by a config or recognized by the shapes of their weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from ..core.config import nearest
from ..core.errors import ConfigError
from .blocks import forward_on_subsets, is_pre_norm
from .config import BackboneConfig

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

KERNEL = "patch_embed.proj.weight"
BIAS = "patch_embed.proj.bias"

PUBLISHED_HEADS = {
    (192, 12): 3,
    (384, 12): 6,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1536, 40): 24,
    (1664, 48): 16,
}
"""(width, blocks) -> heads of the Vision Transformers that are published as tiny, small, base, large, huge, giant and
gigantic, DINO's and DINOv2's among them. Their layer norms have an epsilon of 1e-6."""


def create_vit(config: BackboneConfig) -> VisionTransformer:
    """The timm model of a config for one gray channel and images of any side, without a classifier.

    Raises ConfigError where timm has no such model, cannot build it with these settings or the model has another
    structure than a plain Vision Transformer with a CLS token.
    """
    from timm.models.vision_transformer import VisionTransformer

    check_name(config.name)
    try:
        vit = _create(config)
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"backbone.name {config.name!r} cannot be built so: {error}") from error
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        raise ConfigError(f"backbone.name {config.name!r} is no plain Vision Transformer; choose a vit_…")
    patch = vit.patch_embed.patch_size[0]
    if config.side % patch:
        raise ConfigError(
            f"backbone.side {config.side} is no multiple of the patch, {patch}; "
            f"nearest is {round(config.side / patch) * patch}"
        )
    if config.drop_path:
        for block in vit.blocks:
            if is_pre_norm(block):
                block.forward = MethodType(forward_on_subsets, block)  # type: ignore[method-assign] # timm offers no hook
    return vit


def _create(config: BackboneConfig) -> VisionTransformer:
    """The network of a name, or another one of timm. Raises as timm does, and as `create_rotary`."""
    import timm

    if is_rotary(config.name):
        from .rotary import create_rotary

        overrides = timm_overrides(config)
        if "reg_tokens" in overrides:
            overrides["num_reg_tokens"] = overrides.pop("reg_tokens")
        return create_rotary(config, overrides)
    network: Any = timm.create_model(
        config.name,
        pretrained=False,
        in_chans=1,
        num_classes=0,
        img_size=config.side,
        dynamic_img_size=True,
        drop_path_rate=config.drop_path,
        **timm_overrides(config),
    )
    return network


def is_rotary(name: str) -> bool:
    """Whether a timm name is that of a network that turns queries and keys, as DINOv3's do."""
    import timm

    return timm.models.is_model_in_modules(name, ["eva"])


def timm_overrides(config: BackboneConfig) -> dict[str, Any]:
    """The settings that differ from the named architecture, as arguments of `timm.create_model`."""
    from torch import nn

    arguments = {
        "patch_size": config.patch,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "reg_tokens": config.registers,
        "norm_layer": None if config.eps is None else partial(nn.LayerNorm, eps=config.eps),
    }
    return {key: value for key, value in arguments.items() if value is not None}


def hidden_settings(vit: VisionTransformer) -> dict[str, int | float | str | None]:
    """What a network computes with that the shapes of its tensors do not tell: heads, epsilon and activation."""
    block: Any = vit.blocks[0]
    attention, norm, mlp = (getattr(block, name, None) for name in ("attn", "norm1", "mlp"))
    return {
        "heads": getattr(attention, "num_heads", None),
        "eps": getattr(norm, "eps", None),
        "activation": type(getattr(mlp, "act", None)).__name__,
    }


def check_name(name: str) -> None:
    """Raises ConfigError, with the nearest name, where timm has no such model."""
    import timm

    if not timm.is_model(name):
        raise ConfigError(
            f"backbone.name {name!r} is no timm model; {nearest(name, timm.list_models('*vit*'))}"
        )


def native_config(name: str) -> BackboneConfig:
    """The config of a timm model at the image side of its published weights. Raises as `published_config`."""
    return BackboneConfig(name=name, side=published_config(name).input_size[-1])


def published_config(name: str) -> PretrainedCfg:
    """What timm knows of a model's published weights: their file, image side and normalization.

    Raises ConfigError, with the nearest name, where timm has no such model.
    """
    import timm

    check_name(name)
    config = timm.get_pretrained_cfg(name)
    assert config is not None, name
    return config


def native_side(state: Mapping[str, Tensor]) -> int:
    """The image side in pixels that the position embeddings of weights under timm's names are for."""
    # A square grid and a few prefix tokens: the root, rounded down, is the grid's side.
    return math.isqrt(state["pos_embed"].shape[1]) * state[KERNEL].shape[-1]


def block_number(name: str) -> int | None:
    """The block, counted from 0, that a tensor under timm's name belongs to; None for none.

    >>> block_number("blocks.11.attn.qkv.weight"), block_number("norm.weight")
    (11, None)
    """
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else None


def block_count(state: Mapping[str, Tensor]) -> int:
    """The number of blocks that weights under timm's names are of."""
    return len({block_number(name) for name in state} - {None})


def config_from_shapes(
    state: Mapping[str, Tensor], heads: int | None = None, eps: float | None = None
) -> BackboneConfig:
    """The architecture of DINO's or DINOv2's weights, under timm's names, read off the shapes of the tensors.

    Shapes do not tell the heads: those of published sizes are known. Raises ConfigError, which names the option, for
    another size where `heads` is None.
    """
    width, _, patch, _ = state[KERNEL].shape
    registers = state["reg_token"].shape[1] if "reg_token" in state else None
    name = "vit_small_patch16_224"
    if any(key.endswith("ls1.gamma") for key in state):
        fc1, fc2 = (state.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
        gated = fc1 is not None and fc2 is not None and len(fc1) == 2 * fc2.shape[1]  # DINOv2's largest
        name = f"vit_{'giant' if gated else 'small'}_patch14_{'reg4_' if registers else ''}dinov2"
    depth = block_count(state)
    heads = heads or PUBLISHED_HEADS.get((width, depth))
    if heads is None:
        raise ConfigError(
            f"width {width} and {depth} blocks are no published size, and tensors do not tell the number of heads; "
            "add #heads=N to the path, or #timm=NAME for an architecture of timm"
        )
    if width % heads:
        raise ConfigError(f"width {width} cannot be divided among {heads} heads; give the right #heads=N")
    return BackboneConfig(
        name=name,
        side=native_side(state),
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        registers=registers,
        eps=eps,
    )
