"""The projection head: tokens become scores over prototypes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .config import HeadConfig

# N tokens, D width of the backbone, W bottleneck, K prototypes.


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
        unit_ND = F.normalize(self.mlp(tokens_ND), dim=-1)
        scores_NK = _Cosines.apply(unit_ND.flatten(0, -2), self.prototypes_KW)
        return scores_NK.view(*unit_ND.shape[:-1], len(self.prototypes_KW))

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


class _Cosines(torch.autograd.Function):
    """Products of unit vectors (N, W) with prototypes (K, W), each divided by its prototype's length: (N, K).

    Dividing the few scores and not the many prototypes spares normalised prototypes and their gradient, K x W
    numbers each: forward and backward of a head of K 65,536 take 115 ms for 377 on 40 tokens and one CPU thread.
    With s = <u, w> / |w|: ds/du = w / |w|, ds/dw = u / |w| - s w / |w|^2. Products are made in the type of the
    autocast around them; lengths and the gradient of the prototypes in the prototypes' own.
    """

    @staticmethod
    def forward(ctx: Any, unit_NW: Tensor, prototypes_KW: Tensor) -> Tensor:
        device = prototypes_KW.device.type
        dtype = prototypes_KW.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        shrink_K = torch.linalg.vector_norm(prototypes_KW, dim=-1).clamp_min(1e-12).reciprocal()
        left_NW, right_KW = unit_NW.to(dtype), prototypes_KW.to(dtype)
        scores_NK = F.linear(left_NW, right_KW).mul_(shrink_K)
        ctx.save_for_backward(left_NW, right_KW, prototypes_KW, shrink_K, scores_NK)
        ctx.unit_dtype = unit_NW.dtype
        return scores_NK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_NK: Tensor) -> tuple[Tensor, Tensor]:
        left_NW, right_KW, prototypes_KW, shrink_K, scores_NK = ctx.saved_tensors
        along_K = (slope_NK.to(shrink_K.dtype) * scores_NK).sum(0) * shrink_K.square()
        slope_NK = (slope_NK * shrink_K).to(left_NW.dtype)
        to_prototypes_KW = (slope_NK.T @ left_NW).to(prototypes_KW.dtype)
        to_prototypes_KW.addcmul_(prototypes_KW, along_K[:, None], value=-1)
        return (slope_NK @ right_KW).to(ctx.unit_dtype), to_prototypes_KW
