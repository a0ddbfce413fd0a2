"""Low-rank additions to a Vision Transformer: what a few thousand steps on few scans may change of a large network.

Hu et al., "LoRA", arXiv 2106.09685, section 4.1: W x + B A x, where W stays and B begins at 0, so that the start is the
network itself. Ayzenberg et al., arXiv 2403.03273, put rank 4 beside qkv, proj, fc1 and fc2 of all blocks.
"""

# L tokens, C width; R rank.

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....platform.core.errors import ConfigError

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

PLACES = ("qkv", "proj", "fc1", "fc2")
"""Names of the linear maps of a block that get an addition."""


class Lora(nn.Module):
    """A frozen linear map and its addition of rank R."""

    def __init__(self, frozen: nn.Linear, rank: int, random: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        weight = frozen.weight
        # Deviation 1 / R, as the released code of arXiv 2403.03273 has it: plain gradient descent at its learning
        # rate hardly moves a smaller start.
        down_RC = torch.randn(rank, weight.shape[1], generator=random) / rank
        self.down_RC = nn.Parameter(down_RC.to(weight))
        self.up_CR = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + F.linear(F.linear(x, self.down_RC), self.up_CR)


def sharing(backbone: Backbone) -> Backbone:
    """A backbone of its own modules over the same weights, none of which asks for a gradient."""
    kept = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in backbone.parameters()
    }
    return copy.deepcopy(backbone, kept).eval()


def add_lora(backbone: Backbone, rank: int, random: torch.Generator) -> None:
    """Puts an addition beside every map of `PLACES` in all blocks. Raises ConfigError where there is none of them."""
    maps = [
        (parent, name)
        for block in backbone.vit.blocks
        for parent in block.modules()
        for name, child in parent.named_children()
        if name in PLACES and isinstance(child, nn.Linear)
    ]
    if not maps:
        raise ConfigError(
            f"{backbone.card.config.name}: its blocks have no linear {', '.join(PLACES)} to put an addition beside"
        )
    for parent, name in maps:
        setattr(parent, name, Lora(getattr(parent, name), rank, random))
