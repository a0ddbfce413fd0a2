"""How spread out vectors are: mean cosine and effective rank, in NumPy for a table and in torch for a batch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# B or N vectors, D width.


def effective_rank(vectors_ND: np.ndarray) -> float:
    """Exponential of the entropy of the singular values' shares, after centering. Roy and Vetterli, EUSIPCO 2007,
    section 2.

    >>> round(effective_rank(np.eye(4) - 0.25), 2)
    3.0
    """
    values = np.linalg.svd(vectors_ND - vectors_ND.mean(0), compute_uv=False)
    share = values / max(values.sum(), 1e-12)
    return float(np.exp(-(share * np.log(share.clip(1e-12))).sum()))


def mean_cosine(vectors_ND: np.ndarray) -> float:
    """Mean cosine between two different unit vectors; near 1 they have collapsed.

    >>> mean_cosine(np.array([[1.0, 0.0], [0.0, 1.0]]))
    0.0
    """
    count = len(vectors_ND)
    total = float(np.square(vectors_ND.sum(0, dtype=np.float64)).sum())
    return (total - count) / max(count * (count - 1), 1)


def cosine_and_rank(vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
    """`mean_cosine` and `effective_rank` of a batch's vectors, made unit: two float32 scalars on their device.

    The rank comes from the small Gram matrix, whose eigenvalues are the squares of the singular values. Fewer than
    two vectors give 0 and 1. On CUDA the eigenvalues make the host wait for the device (their convergence is
    checked): call this at a record, where it waits anyway.
    """
    unit_BD = F.normalize(vectors_BD.detach().double(), dim=-1)
    count = len(unit_BD)
    cosine = (unit_BD.sum(0).square().sum() - count) / max(count * (count - 1), 1)
    centered_BD = unit_BD - unit_BD.mean(0)
    values_B = torch.linalg.eigvalsh(centered_BD @ centered_BD.T).clamp_min(0).sqrt()
    share_B = values_B / values_B.sum().clamp_min(1e-12)
    rank = torch.exp(-(share_B * share_B.clamp_min(1e-12).log()).sum())
    return cosine.float(), rank.float()
