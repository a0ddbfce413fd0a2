"""The network that is fine-tuned, a backbone with a linear head over the mean of a study's views, and its loss.

V views of the B studies of a batch, S side of an image, T tokens, D width of a study's vector, L blocks, F findings,
N studies of a split.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...platform.models.backbone import Backbone
from .config import FinetuneConfig


class _DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382) per view; its random draws come with the batch, not from this worker."""

    factor_V: Tensor | None = None

    def forward(self, x_VTD: Tensor) -> Tensor:
        return x_VTD if self.factor_V is None else x_VTD * self.factor_V[:, None, None].to(x_VTD.dtype)


class FinetuneNetwork(nn.Module):
    """A backbone, the mean over a study's views, and a linear head initialized to zero."""

    def __init__(self, backbone: Backbone, findings: int, config: FinetuneConfig) -> None:
        """backbone: is copied, not changed."""
        super().__init__()
        # Without the blocks' own stochastic depth, whose draws depend on the batch of a worker.
        card = replace(backbone.card, config=replace(backbone.card.config, drop_path=0.0))
        self.backbone = Backbone(card)
        self.backbone.load_state_dict(backbone.state_dict())
        self.backbone.mask_token.requires_grad_(False)  # nothing is masked here
        self.pool, self.rate = config.pool, config.drop_path
        self.precision = config.precision
        for block in self.backbone.vit.blocks:
            for name in ("drop_path1", "drop_path2"):
                if hasattr(block, name):
                    setattr(block, name, _DropPath())
        width = self.backbone.width * (1 if self.pool == "cls" else 2)
        self.head = nn.Linear(width, findings)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_VSS: Tensor, counts_B: Tensor, drop_draws_VL2: Tensor | None = None) -> Tensor:
        """Logits (B, F) float32 of studies whose views, uint8, are adjacent: `counts_B` of each."""
        self.set_drop_path(drop_draws_VL2)
        half = self.precision == "bfloat16"
        with torch.autocast(images_VSS.device.type, dtype=torch.bfloat16, enabled=half):
            # Without patches the last block computes the CLS token alone, and stochastic depth does not fit it.
            patches = self.pool != "cls" or drop_draws_VL2 is not None
            tokens = self.backbone(self.backbone.normalize(images_VSS[:, None]), patches=patches)
        vectors_VD = tokens.cls.float()
        if self.pool != "cls":
            vectors_VD = torch.cat([vectors_VD, tokens.patches.float().mean(dim=1)], dim=1)
        study_V = torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B)
        sums_BD = vectors_VD.new_zeros(len(counts_B), vectors_VD.shape[1]).index_add(0, study_V, vectors_VD)
        return self.head(sums_BD / counts_B[:, None])

    def set_drop_path(self, drop_draws_VL2: Tensor | None) -> None:
        """Drop the residual branches whose draw is below their block's rate; None drops nothing."""
        blocks = self.backbone.vit.blocks
        for number, block in enumerate(blocks):
            rate = self.rate * number / max(1, len(blocks) - 1)
            for branch, name in enumerate(("drop_path1", "drop_path2")):
                drop = getattr(block, name, None)
                if isinstance(drop, _DropPath):
                    drop.factor_V = None
                    if drop_draws_VL2 is not None:
                        drop.factor_V = (drop_draws_VL2[:, number, branch] >= rate).float() / (1 - rate)


def positive_weights(labels_NF: np.ndarray, balance: float) -> np.ndarray:
    """Weight of a present finding in the loss, (F,): absent over present studies in training, at most `balance`.

    >>> positive_weights(np.array([[1, 1, 1], [0, 1, 0], [0, 0, np.nan], [0, np.nan, np.nan]]), balance=2.5)
    array([2.5, 0.5, 1. ])
    """
    ratio_F = (labels_NF == 0).sum(axis=0) / (labels_NF == 1).sum(axis=0)
    return np.minimum(ratio_F, balance) if balance > 1 else np.ones(len(ratio_F))


def known_label_loss(logits_BF: Tensor, labels_BF: Tensor, weight_F: Tensor) -> Tensor:
    """Sum of the binary cross-entropy over known labels; NaN is unknown, `weight_F` weights present findings."""
    known_BF = ~labels_BF.isnan()
    each_BF = F.binary_cross_entropy_with_logits(
        logits_BF, labels_BF.nan_to_num(), pos_weight=weight_F, reduction="none"
    )
    return torch.where(known_BF, each_BF, 0.0).sum()
