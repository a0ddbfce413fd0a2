"""k-NN probe: evaluate the teacher's backbone on held-out patients while the training runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ...platform.data.joined import JoinedIndex
from ...platform.data.rows import label_matrix, view_counts
from ...platform.measure.metrics import auroc, average_precision, macro
from ...platform.measure.neighbors import GRAIN, nearest, vote
from ...platform.models.backbone import Backbone
from ...platform.models.convnet import ConvNet
from ...platform.models.letterbox import letterboxed
from ...platform.training.ranks import rank_and_world_size
from .config import ProbeConfig
from .spread import effective_rank, mean_cosine

# N studies in the bank, M queries, V views, D width, F findings, P studies of two views, S side in pixels.


class ProbeStudies:
    """Some studies of a split, given by their rows, as images of the backbone's side, made once.

    Each worker keeps the images of its share of the studies, `[rank::world]`, and the labels of all.
    """

    def __init__(
        self, index: JoinedIndex, rows: Sequence[int], views: int, side: int, findings: Sequence[str]
    ) -> None:
        rank, world = rank_and_world_size()
        known = index.rows.take(list(rows))
        self.patients = set(known["patient"].to_pylist())
        self.labels_NF = label_matrix(known, findings).astype(np.float64)
        self.counts_N = view_counts(known).clip(max=views)
        """Views of each study."""
        images = [
            letterboxed(view.decode().pixels, side)
            for row in rows[rank::world]
            for view in index.load(row).views[:views]
        ]
        self.images_VSS = np.stack(images) if images else np.zeros((0, side, side), np.uint8)

    def __len__(self) -> int:
        return len(self.counts_N)

    def __repr__(self) -> str:
        return f"ProbeStudies({len(self)} studies, {self.images_VSS.nbytes / 1e6:.1f} MB here)"

    def view_vectors(self, backbone: Backbone | ConvNet, batch: int = 64) -> np.ndarray:
        """Unit CLS of every view, study by study: (V, D) float32; all workers call this together."""
        _, world = rank_and_world_size()
        mine = np.zeros((len(self.images_VSS), backbone.width), np.float32)
        for start in range(0, len(mine), batch):
            gray = torch.from_numpy(self.images_VSS[start : start + batch])[:, None]
            cls = backbone.tokens(backbone.normalize(gray)).cls
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

    def study_vectors(self, vectors_VD: np.ndarray) -> np.ndarray:
        """Study vectors (N, D): the normalized mean of the views' unit vectors."""
        first_N = np.cumsum(self.counts_N) - self.counts_N
        total_ND = np.add.reduceat(vectors_VD, first_N) if len(first_N) else vectors_VD
        return total_ND / np.linalg.norm(total_ND, axis=1, keepdims=True).clip(1e-12)

    def view_pairs(self, vectors_VD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second views of the studies that have two: twice (P, D)."""
        first_P = (np.cumsum(self.counts_N) - self.counts_N)[self.counts_N > 1]
        return vectors_VD[first_P], vectors_VD[first_P + 1]


class Probe:
    """A bank of training studies, and queries of other patients from the validation split.

    shards: folders of shards; of each the first studies are taken, by weight, and where it has fewer the others make
    up for it. findings: of all folders; where a folder does not know one, its studies count as unknown.
    """

    def __init__(
        self,
        shards: Sequence[str],
        config: ProbeConfig,
        findings: Sequence[str],
        weights: Sequence[int] = (1,),
    ) -> None:
        self.config, self.weights = config, tuple(weights)
        self.findings = tuple(findings)
        self.splits = JoinedIndex(shards, "train"), JoinedIndex(shards, "val")
        self.studies: tuple[ProbeStudies, ...] = ()
        """Bank and queries, once they are read."""

    @property
    def has_studies(self) -> bool:
        """Whether both splits have studies."""
        return all(len(split) for split in self.splits)

    def evaluate(self, backbone: Backbone | ConvNet, autocast: torch.autocast) -> dict[str, float]:
        """Metrics by name: k-NN over findings, recall across views, spread; all workers call this together.

        Macro AP and AUROC if there are findings, cross-view recall if studies have two views; nothing if vectors are
        not finite.
        """
        bank, queries = self.studies = self.studies or self._read_studies(backbone.side)
        with autocast:
            views = bank.view_vectors(backbone), queries.view_vectors(backbone)
        if not all(np.isfinite(vectors_VD).all() for vectors_VD in views):
            return {}
        bank_ND, queries_MD = bank.study_vectors(views[0]), queries.study_vectors(views[1])
        metrics = {
            "probe/effective_rank": effective_rank(bank_ND),
            "probe/mean_cosine": mean_cosine(bank_ND),
        }
        if self.findings:
            scores_MK, rows_MK = nearest(bank_ND, queries_MD, self.config.k)
            voted_MF = vote(scores_MK, bank.labels_NF[rows_MK])
            metrics["probe/auroc_macro"] = macro(auroc(queries.labels_NF, voted_MF))
            metrics["probe/ap_macro"] = macro(average_precision(queries.labels_NF, voted_MF))
        first_PD, second_PD = queries.view_pairs(views[1])
        if len(first_PD):
            metrics["probe/cross_view_recall"] = cross_view_recall(first_PD, second_PD)
        return metrics

    def _read_studies(self, side: int) -> tuple[ProbeStudies, ProbeStudies]:
        most = self.config.bank, self.config.queries
        bank, queries = (
            ProbeStudies(
                split, first_rows(split.counts, count, self.weights), self.config.views, side, self.findings
            )
            for split, count in zip(self.splits, most, strict=True)
        )
        assert not bank.patients & queries.patients, "the splits divide patients"
        return bank, queries


def first_rows(counts: Sequence[int], most: int, weights: Sequence[int]) -> list[int]:
    """Rows of at most so many studies of a `JoinedIndex`, of each part the first ones, by weight.

    counts: studies of each part. The numbers are Sainte-Lague's of the weights; what a part lacks the others give.

    >>> first_rows([5, 5], 4, [3, 1]), first_rows([2, 9], 4, [3, 1])
    ([0, 1, 2, 5], [0, 1, 2, 3])
    """
    taken = [0] * len(counts)
    for _ in range(min(most, sum(counts))):
        left = [part for part, count in enumerate(counts) if taken[part] < count]
        taken[max(left, key=lambda part: weights[part] / (2 * taken[part] + 1))] += 1
    first = np.cumsum([0, *counts])
    return [int(row) for part, count in enumerate(taken) for row in range(first[part], first[part] + count)]


def cross_view_recall(first_PD: np.ndarray, second_PD: np.ndarray, k: int = 10) -> float:
    """Share of views that have the other view of their study among their k nearest other views of all studies.

    first_PD, second_PD: unit vectors of two views a study, in the same order; both directions count. Chance gives
    k / P. Ties count as nearer, so that vectors that are all alike find nothing.

    >>> cross_view_recall(np.eye(3), np.eye(3), k=1), cross_view_recall(np.ones((3, 1)), np.ones((3, 1)), k=1)
    (1.0, 0.0)
    """
    cosine_PP = first_PD @ second_PD.T
    matching_P = cosine_PP.diagonal()
    # The matching view itself is counted, too, hence `<= k` and not `< k`.
    forth_P = (cosine_PP >= matching_P[:, None] - GRAIN).sum(1) <= k
    back_P = (cosine_PP >= matching_P - GRAIN).sum(0) <= k
    return float((forth_P.mean() + back_P.mean()) / 2)
