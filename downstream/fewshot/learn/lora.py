"""LoRA: trainable low-rank matrices beside the frozen linear layers of a Vision Transformer.

Hu et al., arXiv 2106.09685, section 4.1: W x + B A x with W frozen and B = 0 at the start, so training starts from the
backbone itself. Ayzenberg et al., arXiv 2403.03273, use rank 4 beside qkv, proj, fc1 and fc2 of all blocks.
"""

# C width, R rank.

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....platform.core.errors import ConfigError

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

TARGETS = ("qkv", "proj", "fc1", "fc2")
"""Names of the linear layers of a block that get a LoRA layer."""


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable product of rank R."""

    def __init__(self, frozen: nn.Linear, rank: int, random: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        weight = frozen.weight
        # Standard deviation 1 / R, as in the released code of arXiv 2403.03273: at its learning rate, SGD hardly
        # moves a smaller start.
        down_RC = torch.randn(rank, weight.shape[1], generator=random) / rank
        self.down_RC = nn.Parameter(down_RC.to(weight))
        self.up_CR = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + F.linear(F.linear(x, self.down_RC), self.up_CR)


def weight_sharing_copy(backbone: Backbone) -> Backbone:
    """A copy of the modules over the same weight memory, in eval mode; no parameter requires a gradient."""
    shared = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in backbone.parameters()
    }
    return copy.deepcopy(backbone, shared).eval()


def add_lora(backbone: Backbone, rank: int, random: torch.Generator) -> None:
    """Replaces every linear layer named in `TARGETS`, in all blocks. Raises ConfigError if there is none."""
    layers = [
        (parent, name)
        for block in backbone.vit.blocks
        for parent in block.modules()
        for name, child in parent.named_children()
        if name in TARGETS and isinstance(child, nn.Linear)
    ]
    if not layers:
        raise ConfigError(
            f"{backbone.card.config.name}: its blocks have no linear layer {', '.join(TARGETS)}; LoRA needs one"
        )
    for parent, name in layers:
        setattr(parent, name, LoraLinear(getattr(parent, name), rank, random))
