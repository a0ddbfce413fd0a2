"""The losses (view, patch, contrast, KoLeo) and the teacher's targets (centering, Sinkhorn-Knopp).

All are computed in float32 (float64 for float64 inputs), whatever the autocast around them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...platform.training.ranks import max_over_ranks, sum_over_ranks

# S student crops, G global ones, T teacher crops, B studies, K prototypes, M hidden patches, D width; N rows, A rows
# of the whole batch (all micro-batches of all ranks).


def view_loss(student_SBK: Tensor, target_TBK: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy between each student crop and each teacher crop of the same study, in nats.

    student_SBK: the student's logits, not yet divided by the temperature; any float type.
    target_TBK: the teacher's probabilities (`Centering`, `Sinkhorn`), float32; no gradient flows into them.

    The teacher's crops come first among the student's, so s == t is the same crop twice; those pairs are left
    out. Equal to `-sum_k target * log_softmax(student / temperature)` averaged over the S*T - min(S, T)
    other pairs and over B; zero if there are none. Scalar, float32.
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
    """Cross-entropy between the student's logits at hidden patches and the teacher's targets there, in nats.

    student_MK: logits of the hidden patches only, not yet divided by the temperature; any float type.
    target_MK: the teacher's probabilities for the same patches, float32; no gradient flows into them.
    weight_M: one over the number of hidden patches in the patch's image, so that every image counts alike.
    images: number of images, including those without hidden patches.

    `sum_m weight_m * CE_m / images`, scalar, float32; zero without hidden patches.
    iBOT (arXiv 2111.07832), equation 2; weights as in DINOv2 (arXiv 2304.07193), section 4.
    """
    return _CrossEntropy.apply(student_MK[None], target_MK[None], weight_M / images, temperature, False)


class _CrossEntropy(torch.autograd.Function):
    """sum_b weight_b * sum_st CE(target_tb, student_sb), with its gradient formed in the same pass.

    d/d student_sb = weight_b / temperature * (softmax(student_sb / temperature) * sum_k target - target),
    target summed over the teacher's crops. One crop at a time stays in the cache: at S 24, T 2, B 4 and
    K 65,536 on one thread this takes half the time of autograd through logsumexp and products.
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
        targets_TBK, weight_B1 = _float32(target_TBK), _float32(weight_B)[:, None]
        all_targets_BK = targets_TBK.sum(0)
        loss = targets_TBK.new_zeros(())
        slope_SBK = torch.empty_like(student_SBK) if ctx.needs_input_grad[0] else None
        for s, logits_BK in enumerate(student_SBK):
            same = skip_same and s < len(targets_TBK)
            target_BK = all_targets_BK - targets_TBK[s] if same else all_targets_BK
            log_p_BK = torch.log_softmax(_float32(logits_BK) / temperature, dim=-1)
            loss -= ((log_p_BK * target_BK).sum(-1, keepdim=True) * weight_B1).sum()
            if slope_SBK is not None:
                slope_BK = log_p_BK.exp_().mul_(target_BK.sum(-1, keepdim=True)).sub_(target_BK)
                slope_SBK[s] = slope_BK.mul_(weight_B1 / temperature)
        ctx.save_for_backward(slope_SBK)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        (slope_SBK,) = ctx.saved_tensors
        return slope_SBK * above.to(slope_SBK.dtype), None, None, None, None


def koleo_loss(vectors_BD: Tensor) -> Tensor:
    """Spreads vectors out: minus the mean log distance to the nearest other vector on the unit sphere.

    vectors_BD: CLS tokens of B different images, of any length and float type; scalar, float32.
    Zero for fewer than two vectors; duplicates count as a distance of 1e-8 and have no gradient. DINOv2's code adds
    1e-8 to each coordinate's difference and to the distance, so that its floor is 1e-8 (1 + sqrt D).
    Sablayrolles et al. (arXiv 1806.03198), section 3; DINOv2, section 4.
    """
    if len(vectors_BD) < 2:
        return _float32(vectors_BD).sum() * 0.0
    # Nearest neighbors differ by less than bfloat16 can represent.
    with torch.autocast(vectors_BD.device.type, enabled=False):
        unit_BD = F.normalize(_float32(vectors_BD), dim=-1)
        with torch.no_grad():
            cosine_BB = unit_BD @ unit_BD.T
            nearest_B = cosine_BB.fill_diagonal_(-2.0).argmax(-1)
        gap_B = (unit_BD - unit_BD[nearest_B]).square().sum(-1)
        return -0.5 * torch.log(gap_B.clamp_min(1e-16)).mean()


def contrast_loss(student_GBD: Tensor, teacher_TAD: Tensor, first: int, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy of telling a study's teacher crops from those of all other studies, by the CLS tokens.

    student_GBD: CLS tokens of the student's global crops, the teacher's own first; teacher_TAD: those of the teacher's
    crops of the whole batch, whose study first + b is the student's b; of any length and float type. No gradient flows
    into the teacher. With s and t a crop each and cosines divided by the temperature: the mean over b and all pairs
    s != t of `-log softmax_a(cos(student_sb, teacher_ta) / temperature)` at a = first + b. Scalar, float32; zero
    without such pairs or for one study.

    InfoNCE (van den Oord et al., arXiv 1807.03748, equation 4) with the EMA teacher as in MoCo (arXiv 1911.05722,
    equation 1), on the tokens themselves, without a head.
    """
    crops, studies, _ = student_GBD.shape
    teachers, everyone, _ = teacher_TAD.shape
    is_other_GT = ~torch.eye(crops, teachers, dtype=torch.bool, device=student_GBD.device)
    if everyone < 2 or not is_other_GT.any():
        return _float32(student_GBD).sum() * 0.0
    with torch.autocast(student_GBD.device.type, enabled=False):
        student = F.normalize(_float32(student_GBD), dim=-1)
        teacher = F.normalize(_float32(teacher_TAD.detach()), dim=-1)
        log_p_GTBA = (torch.einsum("gbd,tad->gtba", student, teacher) / temperature).log_softmax(-1)
        match_GTB = log_p_GTBA[..., first : first + studies].diagonal(dim1=-2, dim2=-1)
        return -match_GTB[is_other_GT].mean()


def koleo_part(part_BD: Tensor, all_AD: Tensor, first: int) -> Tensor:
    """`koleo_loss` of a whole batch, with gradient for one part of it: a micro-batch, or a rank's share.

    all_AD: the vectors of the whole batch, without gradient; part_BD: those of this part, which replace rows
    first..first + B. Every part returns the loss of the whole batch, and the SUM of the parts' gradients is its
    gradient: if gradients are averaged over n parts, multiply this one's by n.
    """
    rest_AD = all_AD.detach().to(part_BD.dtype)
    return koleo_loss(torch.cat([rest_AD[:first], part_BD, rest_AD[first + len(part_BD) :]]))


class Centering(nn.Module):
    """Teacher targets by centering and sharpening: softmax((logits - center) / temperature).

    The center is an exponential moving average of the mean logits of all ranks, with momentum 0.9. DINO
    (arXiv 2104.14294), section 3.1, equation 4.
    """

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.centre_K: Tensor  # saved in checkpoints under this name
        self.register_buffer("centre_K", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Targets (N, K) float32 from the teacher's logits and the center of the steps before, which stays."""
        return torch.softmax((_float32(logits_NK) - self.centre_K) / temperature, dim=-1)

    @torch.no_grad()
    def update(self, logits_NK: Tensor) -> None:
        """Move the center towards the mean of this step's logits over all ranks; without any logits it stays."""
        total_K = torch.cat([logits_NK.float().sum(0), logits_NK.new_full((1,), len(logits_NK)).float()])
        sum_over_ranks(total_K)
        self.centre_K.lerp_(total_K[:-1] / total_K[-1].clamp_min(1), (1 - self.momentum) * (total_K[-1] > 0))


class Sinkhorn(nn.Module):
    """Teacher targets by Sinkhorn-Knopp: every prototype gets an equal share of the batch of all ranks.

    Three alternating normalizations of the columns and rows of exp(logits / temperature), in logarithms: no row
    or column is lost to underflow or overflow.
    SwAV (arXiv 2006.09882), appendix A; DINOv2, section 4.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Targets (N, K) float32 from the teacher's logits; each row sums to one. All ranks call this together;
        a rank may have no rows."""
        log_share_NK = _float32(logits_NK) / temperature
        for _ in range(self.iterations):
            log_share_NK -= _logsumexp_over_ranks(log_share_NK)
            log_share_NK -= torch.logsumexp(log_share_NK, -1, keepdim=True)
        return log_share_NK.exp_()

    def update(self, logits_NK: Tensor) -> None:
        """Nothing is kept from step to step."""


def entropy(target_NK: Tensor) -> Tensor:
    """Mean entropy of the targets in nats; ln K means that they are uniform."""
    return -(target_NK * target_NK.clamp_min(1e-12).log()).sum(-1).mean()


def _float32(value: Tensor) -> Tensor:
    """float32, or float64 if it was that already."""
    return value if value.dtype == torch.float64 else value.float()


def _logsumexp_over_ranks(value_NK: Tensor) -> Tensor:
    """logsumexp of each column over the rows of all ranks: (K,)."""
    peak_K = value_NK.amax(0) if len(value_NK) else value_NK.new_full(value_NK.shape[1:], -torch.inf)
    max_over_ranks(peak_K)
    total_K = (value_NK - peak_K).exp_().sum(0)
    sum_over_ranks(total_K)
    return peak_K + total_K.log_()
