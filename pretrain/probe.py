"""Watch the representation, not the loss: k-NN over held-out patients while the training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ..platform.backbone import Backbone
from ..platform.metrics import auroc, average_precision, macro
from ..platform.neighbours import nearest, vote
from ..platform.shards import StudyIndex
from ..platform.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """How the teacher's backbone is tried during training."""

    every: int = 500
    """Steps between two trials; 0 for none. The last step is tried always."""
    bank: int = 1000
    """Most training studies that are looked among."""
    queries: int = 500
    """Most validation studies that are asked for."""
    k: int = 20
    """Neighbours that vote."""


class Probe:
    """A bank of training studies and queries of other patients, from the validation split."""

    def __init__(self, shards: str, config: ProbeConfig, findings: Sequence[str]) -> None:
        self.config = config
        self.findings = tuple(findings)
        bank, queries = StudyIndex(shards, "train"), StudyIndex(shards, "val")
        self.bank = [bank.load(row) for row in range(min(len(bank), config.bank))]
        self.queries = [queries.load(row) for row in range(min(len(queries), config.queries))]

    @property
    def useful(self) -> bool:
        """Whether there are findings and studies to try anything on."""
        return bool(self.findings and self.bank and self.queries)

    def measure(self, backbone: Backbone, autocast: torch.autocast) -> dict[str, float]:
        """Macro AP and AUROC, and how spread out the vectors are; all workers call this together."""
        with autocast:
            bank_ND, queries_MD = (vectors_of(backbone, studies) for studies in (self.bank, self.queries))
        scores_MK, rows_MK = nearest(bank_ND, queries_MD, self.config.k)
        voted_MF = vote(scores_MK, self._labels(self.bank)[rows_MK])
        truth_MF = self._labels(self.queries)
        return {
            "probe/auroc_macro": macro(auroc(truth_MF, voted_MF)),
            "probe/ap_macro": macro(average_precision(truth_MF, voted_MF)),
            "probe/effective_rank": effective_rank(bank_ND),
            "probe/mean_cosine": mean_cosine(bank_ND),
        }

    def _labels(self, studies: Sequence[Study]) -> np.ndarray:
        rows = [[study.labels.get(name, np.nan) for name in self.findings] for study in studies]
        return np.array(rows, np.float64)


def vectors_of(backbone: Backbone, studies: Sequence[Study], batch: int = 64) -> np.ndarray:
    """Study vectors (N, D) float32: the mean of the views' unit CLS, made unit; divided among the workers."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = studies[rank::world]
    owner = [row for row, study in enumerate(mine) for _ in study.views]
    views = [view for study in mine for view in study.views]
    total = np.zeros((len(mine), backbone.width), np.float32)
    for start in range(0, len(views), batch):
        images = backbone.prepare_many([view.decode().pixels for view in views[start : start + batch]])
        cls = F.normalize(backbone.tokens(images).cls.float(), dim=-1).cpu().numpy()
        np.add.at(total, owner[start : start + batch], cls)
    parts: list[np.ndarray] = [total]
    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, total)
    vectors = np.empty((len(studies), backbone.width), np.float32)
    for worker, part in enumerate(parts):
        vectors[worker::world] = part
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def effective_rank(vectors_ND: np.ndarray) -> float:
    """Exponential of the entropy of the singular values' shares. Roy and Vetterli, EUSIPCO 2007, section 2.

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
