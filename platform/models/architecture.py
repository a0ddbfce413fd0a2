"""timm's Vision Transformers, built by a config or recognized by the shapes of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any

from ..core.config import nearest
from ..core.errors import ConfigError
from .blocks import forward_on_subsets
from .config import BackboneConfig

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor

KERNEL = "patch_embed.proj.weight"
BIAS = "patch_embed.proj.bias"


def create_vit(config: BackboneConfig) -> VisionTransformer:
    """The timm model of a config for one gray channel and images of any side, without a classifier.

    Raises ConfigError where timm has no such model, cannot build it with these settings or the model has another
    structure than a plain Vision Transformer with a CLS token.
    """
    import timm
    from timm.models.vision_transformer import Block, VisionTransformer

    check_name(config.name)
    try:
        vit = timm.create_model(
            config.name,
            pretrained=False,
            in_chans=1,
            num_classes=0,
            img_size=config.side,
            dynamic_img_size=True,
            drop_path_rate=config.drop_path,
            **timm_overrides(config),
        )
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
            if type(block) is Block:
                block.forward = MethodType(forward_on_subsets, block)  # type: ignore[method-assign] # timm offers no hook
    return vit


def timm_overrides(config: BackboneConfig) -> dict[str, Any]:
    """The settings that differ from the named architecture, as arguments of `timm.create_model`."""
    arguments = {
        "patch_size": config.patch,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "reg_tokens": config.registers,
    }
    return {key: value for key, value in arguments.items() if value is not None}


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


def config_from_shapes(state: Mapping[str, Tensor]) -> BackboneConfig:
    """The architecture of DINO's or DINOv2's weights, under timm's names, read off the shapes of the tensors."""
    width, _, patch, _ = state[KERNEL].shape
    registers = state["reg_token"].shape[1] if "reg_token" in state else None
    name = "vit_small_patch16_224"
    if any(key.endswith("ls1.gamma") for key in state):
        fc1, fc2 = (state.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
        gated = fc1 is not None and fc2 is not None and len(fc1) == 2 * fc2.shape[1]  # DINOv2's largest
        name = f"vit_{'giant' if gated else 'small'}_patch14_{'reg4_' if registers else ''}dinov2"
    return BackboneConfig(
        name=name,
        # A square grid and a CLS position: the root, rounded down, is the grid's side.
        side=math.isqrt(state["pos_embed"].shape[1]) * patch,
        patch=patch,
        width=width,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        # Shapes do not say it; all of DINO's and DINOv2's heads are 64 wide.
        heads=max(1, width // 64),
        registers=registers,
    )
