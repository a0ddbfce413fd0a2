"""What the student is asked for: agree with the teacher on views and on hidden patches, and stay spread out.

All are computed in float32 (float64 where that is what they are given), whatever the autocast around them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# S student crops, T teacher crops, B studies, K prototypes, M hidden patches, D width; N rows, A rows of all parts.


def view_loss(student_SBK: Tensor, target_TBK: Tensor, temperature: float = 0.1) -> Tensor:
    """How far each student crop is from each teacher crop of the same study: the mean cross-entropy, in nats.

    student_SBK: scores of the student's crops, not yet divided by the temperature; any float type.
    target_TBK: the teacher's probabilities (`Centring`, `Sinkhorn`), float32; no gradient flows into them.

    The teacher's crops come first among the student's, so s == t is the same picture twice; those pairs are
    left out. Equal to `-sum_k target * log_softmax(student / temperature)` averaged over the S*T - min(S, T)
    other pairs and over B; zero where there are none. Scalar, float32.
    DINO (arXiv 2104.14294), equation 3; VET-DINO (arXiv 2505.15248) for crops of two views.
    """
    crops, studies, _ = student_SBK.shape
    teachers = len(target_TBK)
    pairs = crops * teachers - min(crops, teachers)
    weight_B = target_TBK.new_full((studies,), 1 / max(1, pairs * studies))
    return _CrossEntropy.apply(student_SBK, target_TBK, weight_B, temperature, True)


def patch_loss(
    student_MK: Tensor, target_MK: Tensor, weight_M: Tensor, images: int, temperature: float = 0.1
) -> Tensor:
    """How far the student's guess of each hidden patch is from what the teacher sees there, in nats.

    student_MK: scores of the hidden patches alone, not yet divided by the temperature; any float type.
    target_MK: the teacher's probabilities for the same patches, float32; no gradient flows into them.
    weight_M: one over the number of hidden patches of the patch's image, so that every image counts alike;
    images: how many images were looked at, those without hidden patches among them.

    `sum_m weight_m * CE_m / images`, scalar, float32; zero for no patch at all.
    iBOT (arXiv 2111.07832), equation 2; weights as in DINOv2 (arXiv 2304.07193), section 4.
    """
    return _CrossEntropy.apply(student_MK[None], target_MK[None], weight_M / images, temperature, False)


class _CrossEntropy(torch.autograd.Function):
    """sum_b weight_b * sum_st CE(target_tb, student_sb), with its gradient formed in the same pass.

    d/d student_sb = weight_b / temperature * (softmax(student_sb / temperature) * sum_k target - target),
    target summed over the teacher's crops. One crop at a time stays in the cache: at S 24, T 2, B 4 and
    K 65,536 on one thread that halves the time that autograd takes over logsumexp and products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_SBK: Tensor,
        target_TBK: Tensor,
        weight_B: Tensor,
        temperature: float,
        skip_same: bool,
    ) -> Tensor:
        wanted_TBK, weight_B1 = _precise(target_TBK), _precise(weight_B)[:, None]
        every_BK = wanted_TBK.sum(0)
        loss = wanted_TBK.new_zeros(())
        slope_SBK = torch.empty_like(student_SBK) if ctx.needs_input_grad[0] else None
        for s, scores_BK in enumerate(student_SBK):
            same = skip_same and s < len(wanted_TBK)
            wanted_BK = every_BK - wanted_TBK[s] if same else every_BK
            log_p_BK = torch.log_softmax(_precise(scores_BK) / temperature, dim=-1)
            loss -= ((log_p_BK * wanted_BK).sum(-1, keepdim=True) * weight_B1).sum()
            if slope_SBK is not None:
                slope_BK = log_p_BK.exp_().mul_(wanted_BK.sum(-1, keepdim=True)).sub_(wanted_BK)
                slope_SBK[s] = slope_BK.mul_(weight_B1 / temperature)
        ctx.save_for_backward(slope_SBK)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (slope_SBK,) = ctx.saved_tensors
        return slope_SBK * above.to(slope_SBK.dtype), None, None, None, None


def koleo_loss(vectors_BD: Tensor) -> Tensor:
    """Keeps vectors apart: minus the mean log distance to the nearest other vector on the sphere.

    vectors_BD: CLS tokens of B different pictures, of any length and float type; scalar, float32.
    Zero for fewer than two vectors; duplicates count as a distance of 1e-8, DINOv2's own floor, and do not push.
    Sablayrolles et al. (arXiv 1806.03198), section 3; DINOv2, section 4.
    """
    if len(vectors_BD) < 2:
        return _precise(vectors_BD).sum() * 0.0
    # Nearest neighbours are told apart by less than bfloat16 can hold.
    with torch.autocast(vectors_BD.device.type, enabled=False):
        unit_BD = F.normalize(_precise(vectors_BD), dim=-1)
        with torch.no_grad():
            likeness_BB = unit_BD @ unit_BD.T
            nearest_B = likeness_BB.fill_diagonal_(-2.0).argmax(-1)
        gap_B = (unit_BD - unit_BD[nearest_B]).square().sum(-1)
        return -0.5 * torch.log(gap_B.clamp_min(1e-16)).mean()


def koleo_part(live_BD: Tensor, all_AD: Tensor, first: int) -> Tensor:
    """`koleo_loss` of a batch that is held in parts, by micro-batches or by ranks.

    all_AD: the vectors of the whole batch, without gradient; live_BD: those of this part, which take the place
    of rows first..first + B. Every part answers with the loss of the whole batch, and the SUM of the parts'
    gradients is its gradient: where gradients are averaged over n parts, this one's is to be taken n times.
    """
    rest_AD = all_AD.detach().to(live_BD.dtype)
    return koleo_loss(torch.cat([rest_AD[:first], live_BD, rest_AD[first + len(live_BD) :]]))


class Centring(nn.Module):
    """Teacher targets by centring and sharpening: softmax((logits - centre) / temperature).

    The centre follows the mean over the batches of all ranks with momentum 0.9. DINO (arXiv 2104.14294),
    section 3.1, equation 4.
    """

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.centre_K: Tensor
        self.register_buffer("centre_K", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Targets (N, K) float32 of the teacher's scores, by the centre of the steps before; the centre itself
        is left alone."""
        return torch.softmax((_precise(logits_NK) - self.centre_K) / temperature, dim=-1)

    @torch.no_grad()
    def follow(self, logits_NK: Tensor) -> None:
        """Move the centre towards this step's mean of the teacher's scores over all ranks; a step without a
        score anywhere leaves it."""
        total_K = torch.cat([logits_NK.float().sum(0), logits_NK.new_full((1,), len(logits_NK)).float()])
        _sum_over_ranks(total_K)
        self.centre_K.lerp_(total_K[:-1] / total_K[-1].clamp_min(1), (1 - self.momentum) * (total_K[-1] > 0))


class Sinkhorn(nn.Module):
    """Teacher targets by Sinkhorn-Knopp: every prototype gets an equal share of all ranks' batch.

    Three alternating normalisations of the columns and the rows of exp(logits / temperature), carried out on
    logarithms: whatever the scores, no row and no column is lost to underflow or overflow.
    SwAV (arXiv 2006.09882), appendix A; DINOv2, section 4.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Targets (N, K) float32 of the teacher's scores, each row summing to one. All ranks call this together;
        one may have no rows."""
        share_NK = _precise(logits_NK) / temperature
        for _ in range(self.iterations):
            share_NK -= _logsumexp_over_ranks(share_NK)
            share_NK -= torch.logsumexp(share_NK, -1, keepdim=True)
        return share_NK.exp_()

    def follow(self, logits_NK: Tensor) -> None:
        """Nothing to remember from step to step."""


def entropy(target_NK: Tensor) -> Tensor:
    """Mean entropy of the targets, in nats; ln K means that the teacher tells nothing."""
    return -(target_NK * target_NK.clamp_min(1e-12).log()).sum(-1).mean()


def _precise(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _logsumexp_over_ranks(value_NK: Tensor) -> Tensor:
    """logsumexp of each column over the rows of all ranks: (K,)."""
    peak_K = value_NK.amax(0) if len(value_NK) else value_NK.new_full(value_NK.shape[1:], -torch.inf)
    _max_over_ranks(peak_K)
    total_K = (value_NK - peak_K).exp_().sum(0)
    _sum_over_ranks(total_K)
    return peak_K + total_K.log_()


def _sum_over_ranks(value: Tensor) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)


def _max_over_ranks(value: Tensor) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
