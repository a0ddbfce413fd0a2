"""Parameter groups with layer-wise learning rates, for AdamW over a backbone and the heads on it."""

# timm.optim.param_groups_layer_decay gives other numbers: its last block learns at the rate of the norm after it,
# where BEiT's and MAE's is one step slower; and it makes a group a layer, where saved optimizer states count on one
# group for all parameters of one rule.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

PREFIX = "backbone.vit."
"""Where a network keeps its timm Vision Transformer."""

UNDECAYED = ("cls_token", "pos_embed", "mask_token", "reg_token")


@dataclass(frozen=True, slots=True)
class GroupRule:
    """What the parameters of one group have in common."""

    lr_factor: float
    """Multiplies the learning rate."""
    decays: bool
    """Whether weight decay applies."""
    kind: str = ""
    """What a training loop tells apart beside these, such as `prototypes`."""


def parameter_groups(
    network: nn.Module,
    layer_decay: float,
    *,
    patch_embed: float = 1.0,
    kind: Callable[[str], str] = lambda name: "",
) -> list[dict[str, Any]]:
    """The trainable parameters of a network in groups `{"params": [...], "rule": GroupRule}`, in a fixed order.

    network: has a `Backbone` as its attribute `backbone`; everything else counts as head. Of another network there all
    layers have the factor 1. layer_decay: as in BEiT
    (arXiv 2106.08254, section 3.3) and MAE (arXiv 2111.06377, appendix A.1): of n blocks, block b = 0..n-1 has the
    factor layer_decay ** (n - b), tokens and embeddings layer_decay ** (n + 1), the last norm and the heads 1.
    patch_embed: a further factor of the patch embedding. kind: parameter name -> `GroupRule.kind`.

    Weight decay applies to matrices, not to biases, norms, tokens and position embeddings.
    """
    vit = getattr(network.get_submodule("backbone"), "vit", None)
    depth = len(vit.blocks) if vit is not None else 0
    if vit is None:
        layer_decay = 1.0
    groups: dict[GroupRule, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = layer_decay ** layers_above(name, depth)
        if name.startswith(f"{PREFIX}patch_embed."):
            factor *= patch_embed
        decays = parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in UNDECAYED
        groups.setdefault(GroupRule(factor, decays, kind(name)), []).append(parameter)
    return [{"params": parameters, "rule": rule} for rule, parameters in groups.items()]


def layers_above(name: str, depth: int) -> int:
    """How many layers lie between a parameter and the heads, in a ViT of `depth` blocks.

    >>> names = ("head.weight", "backbone.vit.norm.bias", "backbone.vit.blocks.11.ls1.gamma", "backbone.vit.cls_token")
    >>> [layers_above(name, depth=12) for name in names]
    [0, 0, 1, 13]
    """
    inner = name.removeprefix(PREFIX)
    if inner.startswith("blocks."):
        return depth - int(inner.split(".")[1])
    if not name.startswith("backbone.") or inner.startswith(("norm.", "fc_norm.")):
        return 0
    return depth + 1
