"""The projection head: tokens become scores over prototypes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# N tokens, D width of the backbone, W bottleneck, K prototypes.


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Size of the projection heads."""

    prototypes: int = 65536
    """Prototypes K that a token is scored against."""
    hidden: int = 2048
    """Width of the two hidden layers."""
    bottleneck: int = 256
    """Width of the vector that is compared with the prototypes."""


class Head(nn.Module):
    """MLP of three layers with GELU between, L2-normalised bottleneck, unit-length prototypes.

    DINO (arXiv 2104.14294), appendix C; DINOv2 (arXiv 2304.07193) has the same. `prototypes_KW` are plain rows
    normalised at each use, which is a weight-normed layer without bias (Salimans and Kingma, arXiv 1602.07868)
    with its gain fixed at one: its direction v is `prototypes_KW`, and so is the gradient.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.prototypes_KW = nn.Parameter(torch.empty(config.prototypes, config.bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.prototypes_KW)

    def forward(self, tokens_ND: Tensor) -> Tensor:
        """Cosine of each token (N, D), or (..., N, D), with each prototype: (N, K) or (..., N, K), in -1..1; no
        temperature."""
        return F.linear(F.normalize(self.mlp(tokens_ND), dim=-1), F.normalize(self.prototypes_KW, dim=-1))

    @torch.no_grad()
    def spread(self, tokens_ND: Tensor) -> None:
        """Fit the head to the tokens of an untrained backbone, so that its first targets tell pictures apart.

        The tokens of random weights are nearly parallel, and so are their bottleneck vectors: all teachers'
        answers are alike and short trainings end with a uniform teacher. Here the last layer is whitened on a
        sample of tokens (zero mean, equal variance along its leading directions), as data-dependent
        initialisations do (Mishkin and Matas, arXiv 1511.06422; Kraehenbuehl et al., arXiv 1511.06856).
        """
        last = self.mlp[-1]
        hidden = self.mlp[:-1](tokens_ND.float())
        mean = hidden.mean(0)
        _, spread, directions = torch.linalg.svd(hidden - mean, full_matrices=False)
        scale = spread / len(hidden) ** 0.5
        kept = min(last.out_features, int((scale > 1e-3 * scale[0]).sum()))
        whiten = directions[:kept] / scale[:kept, None]
        mix = torch.linalg.qr(torch.randn(last.out_features, kept))[0].to(hidden)
        last.weight.copy_(mix @ whiten)
        last.bias.copy_(-(last.weight @ mean))
