"""What the student is asked for: agree with the teacher on views and on hidden patches, and stay spread out.

All are computed in float32, whatever the autocast around them.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

# S student crops, T teacher crops, B studies, K prototypes, M hidden patches, D width.


def view_loss(student_SBK: Tensor, target_TBK: Tensor, temperature: float = 0.1) -> Tensor:
    """How far each student crop is from each teacher crop of the same study: the mean cross-entropy.

    The teacher's crops come first among the student's, so s == t is the same picture twice; those pairs are
    left out. Equal to `-sum_k target * log_softmax(student / temperature)` averaged over the S*T - T other
    pairs and over B, formed as logsumexp minus one product: the targets of a row sum to one.
    DINO (arXiv 2104.14294), equation 3; VET-DINO (arXiv 2505.15248) for crops of two views.
    """
    crops, studies, _ = student_SBK.shape
    teachers = target_TBK.shape[0]
    logits_SBK = student_SBK.float() / temperature
    target_TBK = target_TBK.float()
    lse_SB = torch.logsumexp(logits_SBK, dim=-1)
    agreement = (logits_SBK * target_TBK.sum(0)).sum()
    same = (logits_SBK[:teachers] * target_TBK).sum()
    total = teachers * lse_SB.sum() - lse_SB[:teachers].sum() - (agreement - same)
    return total / (studies * (crops * teachers - teachers))


def patch_loss(
    student_MK: Tensor, target_MK: Tensor, weight_M: Tensor, images: int, temperature: float = 0.1
) -> Tensor:
    """How far the student's guess of each hidden patch is from what the teacher sees there.

    weight_M: one over the number of hidden patches of the patch's image, so that every image counts alike;
    images: how many images were looked at, those without hidden patches among them.
    iBOT (arXiv 2111.07832), equation 2; weights as in DINOv2 (arXiv 2304.07193), section 4.
    """
    logits_MK = student_MK.float() / temperature
    loss_M = torch.logsumexp(logits_MK, -1) - (target_MK.float() * logits_MK).sum(-1)
    return (loss_M * weight_M).sum() / images


def koleo_loss(vectors_BD: Tensor) -> Tensor:
    """Keeps vectors apart: minus the mean log distance to the nearest other vector on the sphere.

    Zero for fewer than two vectors; duplicates count as a distance of 1e-4 rather than as infinity.
    Sablayrolles et al. (arXiv 1806.03198), section 3; DINOv2, section 4.
    """
    if len(vectors_BD) < 2:
        return vectors_BD.sum() * 0.0
    unit_BD = F.normalize(vectors_BD.float(), dim=-1)
    with torch.no_grad():
        likeness_BB = unit_BD @ unit_BD.T
        nearest_B = likeness_BB.fill_diagonal_(-2.0).argmax(-1)
    gap_B = (unit_BD - unit_BD[nearest_B]).square().sum(-1)
    return -0.5 * torch.log(gap_B.clamp_min(1e-8)).mean()


class Centring(nn.Module):
    """Teacher targets by centring and sharpening: softmax((logits - centre) / temperature).

    The centre follows the mean over the batches of all ranks with momentum 0.9. DINO, section 3.1, equation 4.
    """

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.centre_K: Tensor
        self.register_buffer("centre_K", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Targets (N, K) by the centre of the steps before; the centre itself is left alone."""
        return torch.softmax((logits_NK.float() - self.centre_K) / temperature, dim=-1)

    @torch.no_grad()
    def follow(self, logits_NK: Tensor) -> None:
        """Move the centre towards this step's mean over all ranks."""
        total_K = torch.cat([logits_NK.float().sum(0), logits_NK.new_full((1,), len(logits_NK)).float()])
        _sum_over_ranks(total_K)
        self.centre_K.lerp_(total_K[:-1] / total_K[-1].clamp_min(1), (1 - self.momentum) * (total_K[-1] > 0))


class Sinkhorn(nn.Module):
    """Teacher targets by Sinkhorn-Knopp: every prototype gets an equal share of all ranks' batch.

    Three alternating normalisations in float32, the maximum subtracted before the exponential.
    SwAV (arXiv 2006.09882), appendix A; DINOv2, section 4.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Targets (N, K), each row summing to one."""
        scaled_NK = logits_NK.float() / temperature
        peak = scaled_NK.amax() if len(scaled_NK) else scaled_NK.new_full((), -torch.inf)
        _max_over_ranks(peak)
        share_NK = torch.exp(scaled_NK - peak)
        for _ in range(self.iterations):
            column_K = share_NK.sum(0)
            _sum_over_ranks(column_K)
            share_NK /= column_K.clamp_min(1e-30)
            share_NK /= share_NK.sum(-1, keepdim=True).clamp_min(1e-30)
        return share_NK

    def follow(self, logits_NK: Tensor) -> None:
        """Nothing to remember from step to step."""


def entropy(target_NK: Tensor) -> Tensor:
    """Mean entropy of the targets, in nats; ln K means that the teacher tells nothing."""
    return -(target_NK * target_NK.clamp_min(1e-12).log()).sum(-1).mean()


def _sum_over_ranks(value: Tensor) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)


def _max_over_ranks(value: Tensor) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
