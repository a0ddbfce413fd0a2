"""The distance between tokens of student and teacher, and how the teacher's tokens are standardized."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# X images, N tokens, D width of the teacher; R x C the student's grid of tokens.


def token_loss(student_XND: Tensor, teacher_XND: Tensor, kind: Literal["cosine", "smooth_l1"]) -> Tensor:
    """Mean distance of tokens (..., D): 1 - cosine, or the mean over dimensions of smooth L1 with beta 1.

    Scalar, computed in float32 whatever the autocast around it.
    """
    student, teacher = student_XND.float(), teacher_XND.float()
    if kind == "cosine":
        return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()
    return F.smooth_l1_loss(student, teacher)


def on_grid(tokens_XND: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Patch tokens of one grid on another, bilinear and antialiased: (X, R * C, D); as they are on the same grid."""
    if grid == wanted:
        return tokens_XND
    image_XDRC = tokens_XND.float().transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(image_XDRC, size=wanted, mode="bilinear", antialias=True, align_corners=False)
    return resized.flatten(2).transpose(1, 2)


class Standardization(nn.Module):
    """Shifts and scales each dimension of tokens to mean 0 and variance 1 on a sample, to which `fit` fits it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean_D: Tensor
        self.std_D: Tensor
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("std_D", torch.ones(width))

    def forward(self, tokens_XND: Tensor) -> Tensor:
        """Tokens (..., D) of any float type -> float32."""
        return (tokens_XND.float() - self.mean_D) / self.std_D

    def fit(self, tokens_XND: Tensor) -> None:
        """Take mean and deviation of tokens (..., D). A dimension that hardly varies is not blown up to noise: the
        least deviation is a hundredth of the mean one."""
        std_D, mean_D = torch.std_mean(tokens_XND.double().flatten(0, -2), dim=0, correction=0)
        self.mean_D.copy_(mean_D)
        self.std_D.copy_(std_D.clamp_min(0.01 * std_D.mean() + 1e-12))
