"""Watch the representation, not the loss: k-NN over held-out patients while the training runs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ...platform.data.shards import StudyIndex
from ...platform.measure.metrics import auroc, average_precision, macro
from ...platform.measure.neighbors import GRAIN, nearest, vote
from ...platform.models.backbone import Backbone, letterboxed
from .config import ProbeConfig

# N studies in the bank, M queries, V views, D width, F findings, P studies of two views, S side in pixels.


class Album:
    """Some studies of a split as the backbone is shown them: pictures of one side, made once.

    Each worker keeps the pictures of its share of the studies, `[rank::world]`, and the labels of all.
    """

    def __init__(self, index: StudyIndex, most: int, views: int, side: int, findings: Sequence[str]) -> None:
        rank, world = _rank_and_world()
        pictures, counts, labels, self.patients = [], [], [], set()
        for row in range(min(most, len(index))):
            study = index.load(row)
            shown = study.views[:views]
            counts.append(len(shown))
            labels.append([study.labels.get(name, np.nan) for name in findings])
            self.patients.add(study.patient)
            if row % world == rank:
                pictures += [letterboxed(view.decode().pixels, side) for view in shown]
        self.labels_NF = np.array(labels, np.float64).reshape(len(counts), len(findings))
        self.counts_N = np.array(counts, np.int64)
        """Views of each study."""
        self.pictures_VSS = np.stack(pictures) if pictures else np.zeros((0, side, side), np.uint8)

    def __len__(self) -> int:
        return len(self.counts_N)

    def __repr__(self) -> str:
        return f"Album({len(self)} studies, {self.pictures_VSS.nbytes / 1e6:.1f} MB here)"

    def vectors(self, backbone: Backbone, batch: int = 64) -> np.ndarray:
        """Unit CLS of every view, study by study: (V, D) float32; all workers call this together."""
        _, world = _rank_and_world()
        mine = np.zeros((len(self.pictures_VSS), backbone.width), np.float32)
        for start in range(0, len(mine), batch):
            grey = torch.from_numpy(self.pictures_VSS[start : start + batch])[:, None]
            cls = backbone.tokens(backbone.normalised(grey)).cls
            mine[start : start + batch] = F.normalize(cls.float(), dim=-1).cpu().numpy()
        parts: list[np.ndarray] = [mine]
        if world > 1:
            parts = [mine] * world
            dist.all_gather_object(parts, mine)
        study_V = np.repeat(np.arange(len(self)), self.counts_N)
        vectors_VD = np.empty((len(study_V), backbone.width), np.float32)
        for worker, part in enumerate(parts):
            vectors_VD[study_V % world == worker] = part
        return vectors_VD

    def studies(self, vectors_VD: np.ndarray) -> np.ndarray:
        """Study vectors (N, D): the mean of the views' unit vectors, made unit."""
        first_N = np.cumsum(self.counts_N) - self.counts_N
        total_ND = np.add.reduceat(vectors_VD, first_N) if len(first_N) else vectors_VD
        return total_ND / np.linalg.norm(total_ND, axis=1, keepdims=True).clip(1e-12)

    def pairs(self, vectors_VD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second views of the studies that have two: twice (P, D)."""
        first_P = (np.cumsum(self.counts_N) - self.counts_N)[self.counts_N > 1]
        return vectors_VD[first_P], vectors_VD[first_P + 1]


class Probe:
    """A bank of training studies and queries of other patients, from the validation split."""

    def __init__(self, shards: str, config: ProbeConfig, findings: Sequence[str]) -> None:
        self.config = config
        self.findings = tuple(findings)
        self.splits = StudyIndex(shards, "train"), StudyIndex(shards, "val")
        self.albums: tuple[Album, ...] = ()
        self.seconds = 0.0
        """What the newest trial took; the first one decodes the images as well."""

    @property
    def useful(self) -> bool:
        """Whether there are studies to try anything on."""
        return all(len(split) for split in self.splits)

    def measure(self, backbone: Backbone, autocast: torch.autocast) -> dict[str, float]:
        """How near studies of the same findings lie, and the views of one study, and how spread out all are.

        Macro AP and AUROC where there are findings, cross-view recall where studies have two views; nothing where
        vectors are no finite numbers. All workers call this together.
        """
        began = time.monotonic()
        bank, queries = self.albums = self.albums or self._albums(backbone.side)
        with autocast:
            views = bank.vectors(backbone), queries.vectors(backbone)
        if not all(np.isfinite(vectors_VD).all() for vectors_VD in views):
            return {}
        bank_ND, queries_MD = bank.studies(views[0]), queries.studies(views[1])
        told = {
            "probe/effective_rank": effective_rank(bank_ND),
            "probe/mean_cosine": mean_cosine(bank_ND),
        }
        if self.findings:
            scores_MK, rows_MK = nearest(bank_ND, queries_MD, self.config.k)
            voted_MF = vote(scores_MK, bank.labels_NF[rows_MK])
            told["probe/auroc_macro"] = macro(auroc(queries.labels_NF, voted_MF))
            told["probe/ap_macro"] = macro(average_precision(queries.labels_NF, voted_MF))
        first_PD, second_PD = queries.pairs(views[1])
        if len(first_PD):
            told["probe/cross_view_recall"] = cross_view_recall(first_PD, second_PD)
        self.seconds = time.monotonic() - began
        return told

    def _albums(self, side: int) -> tuple[Album, Album]:
        most = self.config.bank, self.config.queries
        bank, queries = (
            Album(split, count, self.config.views, side, self.findings)
            for split, count in zip(self.splits, most, strict=True)
        )
        assert not bank.patients & queries.patients, "the splits divide patients"
        return bank, queries


def cross_view_recall(first_PD: np.ndarray, second_PD: np.ndarray, k: int = 10) -> float:
    """Share of studies of which one view finds the other among its k nearest other views of all studies.

    Unit vectors of two views a study, in the same order; both directions count. k / P is what chance gives.
    What ties counts as nearer, so that vectors that are all alike find nothing.

    >>> cross_view_recall(np.eye(3), np.eye(3), k=1), cross_view_recall(np.ones((3, 1)), np.ones((3, 1)), k=1)
    (1.0, 0.0)
    """
    cosine_PP = first_PD @ second_PD.T
    own_P = cosine_PP.diagonal()
    # Each study's own other view is among those counted, so fewer than k + 1 stands for fewer than k others.
    forth_P = (cosine_PP >= own_P[:, None] - GRAIN).sum(1) <= k
    back_P = (cosine_PP >= own_P - GRAIN).sum(0) <= k
    return float((forth_P.mean() + back_P.mean()) / 2)


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


def _rank_and_world() -> tuple[int, int]:
    on = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if on else (0, 1)
