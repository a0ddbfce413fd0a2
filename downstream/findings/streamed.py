"""Logistic regressions fitted from blocks of rows, for tables that the exact solver would need to copy several times.

The same objective as scikit-learn's: C x the (weighted) sum of losses + half the squared weights, the bias free. Every
step of L-BFGS is one pass over the rows for all findings together. Weights are sought in coordinates in which the
curvature at zero weights is the identity, so that a few dozen passes are enough at any penalty.

n rows, D dimensions, K outputs, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 16_384
"""Rows of a block: as many are in memory as float32 at a time."""

TOLERANCE = 1e-5
"""Largest slope at which the solver stops, in the coordinates that it works in."""

MEMORY = 20
"""Steps that L-BFGS remembers."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Standardization of the rows, and the principal axes of what it gives.

    mean_D, scale_D: float64; scale is infinite where a dimension hardly varies. axes_DD: eigenvectors of the
    covariance of standardized rows as columns; variance_D: along them.
    """

    mean_D: np.ndarray
    scale_D: np.ndarray
    axes_DD: np.ndarray
    variance_D: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class RowBlocks:
    """Chosen rows of a table of vectors, read as blocks on a device.

    vectors_ND: of any float type, may be mapped from a file. rows_n: int64, rising.
    """

    vectors_ND: np.ndarray
    rows_n: np.ndarray
    device: torch.device

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(places among the chosen rows, their vectors (B, D) float32)."""
        import torch

        for start in range(0, len(self.rows_n), BLOCK):
            place = slice(start, min(start + BLOCK, len(self.rows_n)))
            rows_B = self.rows_n[place]
            first, last = int(rows_B[0]), int(rows_B[-1])
            # A slice of neighboring rows is read without an index.
            whole = last - first + 1 == len(rows_B)
            block_BD = self.vectors_ND[first : last + 1] if whole else self.vectors_ND[rows_B]
            yield place, torch.from_numpy(np.array(block_BD)).to(self.device).float()

    def scaling(self) -> Scaling:
        """Two passes: the mean, then the covariance around it."""
        import torch

        width, count = self.vectors_ND.shape[1], len(self.rows_n)
        total_D = torch.zeros(width, dtype=torch.float64, device=self.device)
        for _, block_BD in self.blocks():
            total_D += block_BD.double().sum(dim=0)
        mean_D = total_D / count
        covariance_DD = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        for _, block_BD in self.blocks():
            centered_BD = block_BD - mean_D.float()
            covariance_DD += (centered_BD.T @ centered_BD).double()
        covariance = (covariance_DD / count).cpu().numpy()
        std_D = np.sqrt(np.diag(covariance))
        scale_D = np.where(std_D > 1e-6, std_D, np.inf)
        variance_D, axes_DD = np.linalg.eigh(covariance / scale_D[:, None] / scale_D)
        return Scaling(mean_D.cpu().numpy(), scale_D, axes_DD, np.maximum(variance_D, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class LabelColumns:
    """What is learned. class_nK: (n, K) float32, 1 or 0. weight_nK: (n, K) float32, 0 where the class is unknown.

    exclusive: one softmax over the K outputs instead of a sigmoid for each; the weights of a row are then all equal.
    """

    class_nK: np.ndarray
    weight_nK: np.ndarray
    exclusive: bool

    def totals(self) -> np.ndarray:
        """(K,) float64: sum of the weights."""
        return self.weight_nK.sum(axis=0, dtype=np.float64)

    def curvatures(self) -> np.ndarray:
        """(K,) mean of p (1 - p), where p is the share of each class; exclusive classes have one in common."""
        share_K = (self.class_nK * self.weight_nK).sum(axis=0, dtype=np.float64) / self.totals()
        curvature_K = np.maximum(share_K * (1 - share_K), 1e-6)
        return np.full_like(curvature_K, curvature_K.mean()) if self.exclusive else curvature_K


@dataclass(frozen=True, slots=True, eq=False)
class StreamedFit:
    """weight_KD, bias_K: float64, on standardized vectors. converged: whether the slope became small enough."""

    weight_KD: np.ndarray
    bias_K: np.ndarray
    converged: bool


def fit_streamed(
    rows: RowBlocks,
    scaling: Scaling,
    targets: LabelColumns,
    c: float,
    steps: int,
    start: StreamedFit | None = None,
) -> StreamedFit:
    """The regressions at one penalty. start: the solution at another, to begin with."""
    from scipy.optimize import minimize

    total_K, curvature_K = targets.totals(), targets.curvatures()
    penalty_K = 1 / (c * total_K)
    # Along an axis of the rows, a finding's loss bends by variance x p (1 - p), and its penalty by 1 / (C n).
    bend_KD = np.sqrt(scaling.variance_D * curvature_K[:, None] + penalty_K[:, None])
    bend_K1 = np.sqrt(curvature_K)[:, None]

    def to_weights(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        solution = flat.reshape(len(total_K), -1)
        if (
            targets.exclusive
        ):  # what all classes have in common changes no probability, and the penalty forbids it
            solution = solution - solution.mean(axis=0)
        return (solution[:, :-1] / bend_KD) @ scaling.axes_DD.T, solution[:, -1] / bend_K1[:, 0]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight_KD, bias_K = to_weights(flat)
        loss_K, slope_KD, slope_K = _pass(rows, scaling, targets, weight_KD, bias_K)
        value_K = loss_K / total_K + 0.5 * penalty_K * (weight_KD**2).sum(axis=1)
        slope_KD = slope_KD / total_K[:, None] + penalty_K[:, None] * weight_KD
        bent_KD = (slope_KD @ scaling.axes_DD) / bend_KD
        bent = np.hstack([bent_KD, (slope_K / total_K)[:, None] / bend_K1])
        return float(value_K.sum()), (bent - bent.mean(axis=0) if targets.exclusive else bent).ravel()

    first = np.zeros((len(total_K), len(scaling.mean_D) + 1))
    if start is not None:
        first[:, :-1] = (start.weight_KD @ scaling.axes_DD) * bend_KD
        first[:, -1] = start.bias_K * bend_K1[:, 0]
    options = {"maxiter": steps, "gtol": TOLERANCE, "ftol": 0.0, "maxcor": MEMORY}
    result = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    # The line search ends early where float32 shows no descent any more; the slope then says how near it came.
    return StreamedFit(*to_weights(result.x), bool(np.abs(result.jac).max() <= 10 * TOLERANCE))


def _pass(
    rows: RowBlocks, scaling: Scaling, targets: LabelColumns, weight_KD: np.ndarray, bias_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over all rows: loss (K,), its slope by weights (K, D) and by biases (K,), float64."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

    device = rows.device
    as_float = lambda array: torch.from_numpy(np.asarray(array, np.float32)).to(device)
    mean_D, inverse_D = as_float(scaling.mean_D), as_float(1 / scaling.scale_D)
    weight_DK, bias_1K = as_float(weight_KD).T, as_float(bias_K)[None]
    loss_K = torch.zeros(len(bias_K), dtype=torch.float64, device=device)
    slope_KD = torch.zeros(weight_KD.shape, dtype=torch.float64, device=device)
    slope_K = torch.zeros(len(bias_K), dtype=torch.float64, device=device)
    for place, block_BD in rows.blocks():
        standard_BD = (block_BD - mean_D) * inverse_D
        logit_BK = (standard_BD @ weight_DK + bias_1K).double()
        class_BK = as_float(targets.class_nK[place])
        row_weight_BK = as_float(targets.weight_nK[place])
        if targets.exclusive:
            log_p_BK = log_softmax(logit_BK, dim=1)
            each_BK, p_BK = -class_BK * log_p_BK, log_p_BK.exp()
        else:
            each_BK = binary_cross_entropy_with_logits(logit_BK, class_BK.double(), reduction="none")
            p_BK = logit_BK.sigmoid()
        error_BK = row_weight_BK * (p_BK - class_BK)
        loss_K += (row_weight_BK * each_BK).sum(dim=0)
        slope_K += error_BK.sum(dim=0)
        slope_KD += (error_BK.float().T @ standard_BD).double()
    return loss_K.cpu().numpy(), slope_KD.cpu().numpy(), slope_K.cpu().numpy()
