"""Exact nearest neighbors by cosine, and their vote on findings.

N bank items, M queries, D dimensions, K neighbors, J candidates, F findings; B items of a block, T queries that tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..core.device import DeviceChoice, resolve_device
from ..core.errors import FeaturesError
from ..core.vectors import check_lengths, float32_rows, unit_vectors

if TYPE_CHECKING:
    import torch

GRAIN = 2e-6
"""Two float32 cosines nearer than this may be one and the same number, summed in another order."""

GATHER = 16_000_000
"""Most numbers gathered at a time when neighbors are scored again; 64 MB in float32."""

BLOCK = 2**26
"""Numbers of a bank that are in memory as float32 at a time, 256 MiB; up to so many are kept there."""

QUERIES = 16_384
"""Queries that are searched for together."""

TIED = 256
"""Queries whose last place is settled together."""

ON_GPU = 10**10
"""Products from which a search goes to a GPU."""

ON_DEVICE = 2**28
"""Cosines that are on a device at a time; 1 GiB in float32."""


def nearest(
    bank_ND: np.ndarray, queries_MD: np.ndarray, k: int, device: DeviceChoice = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """The k bank items of largest cosine for each query: scores (M, K) float32 and indices (M, K) int64.

    The larger score comes first, of equal scores the smaller index, in whatever order the search returns them.
    K is k or the size of the bank. Either array may be float16 or mapped from a file: some 256 MiB of it are in memory
    as float32 at a time. device: where many products are computed; the result is the same everywhere, since candidates
    are scored again here. Raises FeaturesError for an empty bank, k < 1, dimensions that differ, or vectors without a
    direction (NaN, infinite, zero).
    """
    bank, queries = UnitRows(bank_ND, "the bank"), UnitRows(queries_MD, "the queries")
    if not len(bank):
        raise FeaturesError("the bank of neighbors is empty; choose a split that holds studies")
    if bank.dimensions != queries.dimensions:
        raise FeaturesError(
            f"the bank has {bank.dimensions} dimensions, the queries have {queries.dimensions}; "
            "both must come from one backbone"
        )
    if k < 1:
        raise FeaturesError(f"k is {k}; ask for at least one neighbor")
    k = min(k, len(bank))
    search = _search(len(bank) * len(queries) * bank.dimensions, device)
    scores_MK = np.empty((len(queries), k), np.float32)
    indices_MK = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), QUERIES):
        part = slice(start, start + QUERIES)
        scores_MK[part], indices_MK[part] = _nearest(bank, queries.block(part), k, search)
    return scores_MK, indices_MK


Search = Callable[["UnitRows", np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(bank, queries (M, D), J) -> the J best of each by rounded cosine, (M, J) cosines and rows, best first."""


def _search(products: int, device: DeviceChoice) -> Search:
    if products >= ON_GPU and device != "cpu":
        place = resolve_device(device)
        if place.type != "cpu":
            return partial(search_on_device, device=place)
    return search_on_cpu


def _nearest(bank: UnitRows, queries_MD: np.ndarray, k: int, search: Search) -> tuple[np.ndarray, np.ndarray]:
    rough_MJ, candidates_MJ = search(bank, queries_MD, min(k + 1, len(bank)))
    scores_MK, indices_MK = _ranked(bank, queries_MD, candidates_MJ[:, :k])
    if rough_MJ.shape[1] > k:
        # The search may have kept the wrong ones of several that tie for the last place.
        tied = np.flatnonzero(rough_MJ[:, k - 1] - rough_MJ[:, k] < GRAIN)
        for first in range(0, len(tied), TIED):
            rows = tied[first : first + TIED]
            scores_MK[rows], indices_MK[rows] = _settled(
                bank, queries_MD[rows], rough_MJ[rows, k - 1] - GRAIN, k
            )
    return scores_MK, indices_MK


def search_on_cpu(bank: UnitRows, queries_MD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A `Search` by FAISS, block by block of the bank."""
    import faiss

    best: tuple[np.ndarray, np.ndarray] | None = None
    for start, block_BD in bank.blocks():
        few = min(count, len(block_BD))
        rough_MJ, rows_MJ = faiss.knn(queries_MD, block_BD, few, metric=faiss.METRIC_INNER_PRODUCT)
        rows_MJ += start
        if best is None:
            best = rough_MJ, rows_MJ
            continue
        both_MJ = np.hstack([best[0], rough_MJ])
        order_MJ = np.argsort(-both_MJ, axis=1, kind="stable")[:, :count]
        rows_MJ = np.take_along_axis(np.hstack([best[1], rows_MJ]), order_MJ, 1)
        best = np.take_along_axis(both_MJ, order_MJ, 1), rows_MJ
    assert best is not None  # the bank is not empty
    return best


def search_on_device(
    bank: UnitRows, queries_MD: np.ndarray, count: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """A `Search` by PyTorch on a device, a block of the bank and of the queries at a time.

    Products are float32, as PyTorch has them unless TF32 was switched on: its ten bits would not tell neighbors apart.
    """
    import torch

    queries = torch.from_numpy(queries_MD).to(device)
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for start, block_BD in bank.blocks():
        bank_DB = torch.from_numpy(block_BD).to(device).T
        parts = [
            (part_QD @ bank_DB).topk(min(count, len(block_BD)), dim=1)
            for part_QD in queries.split(max(1, ON_DEVICE // len(block_BD)))
        ]
        rough_MJ = torch.cat([part.values for part in parts])
        rows_MJ = torch.cat([part.indices for part in parts]) + start
        if best is not None:
            merged_MJ = torch.cat([best[0], rough_MJ], dim=1)
            rough_MJ, place_MJ = merged_MJ.topk(min(count, merged_MJ.shape[1]), dim=1)
            rows_MJ = torch.cat([best[1], rows_MJ], dim=1).gather(1, place_MJ)
        best = rough_MJ, rows_MJ
    assert best is not None  # the bank is not empty
    return best[0].cpu().numpy(), best[1].cpu().numpy()


def _settled(
    bank: UnitRows, queries_TD: np.ndarray, bound_T: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and indices (T, K) of the k best, all bank items of a rounded cosine from `bound` on considered."""
    kept = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries_TD)
    for start, block_BD in bank.blocks():
        near_TB = queries_TD @ block_BD.T >= bound_T[:, None]
        for t in np.flatnonzero(near_TB.any(axis=1)):
            rows_K = start + np.flatnonzero(near_TB[t])
            score_1K, row_1K = _ranked(bank, queries_TD[t : t + 1], rows_K[None])
            scores = np.concatenate([kept[t][0], score_1K[0, :k]])
            rows = np.concatenate([kept[t][1], row_1K[0, :k]])
            order = np.lexsort((rows, -scores))[:k]
            kept[t] = scores[order], rows[order]
    return np.stack([scores for scores, _ in kept]), np.stack([rows for _, rows in kept])


def vote(
    scores_MK: np.ndarray,
    labels_MKF: np.ndarray,
    temperature: float = 0.07,
    default_F: np.ndarray | None = None,
) -> np.ndarray:
    """The neighbors' mean label of each finding, weighted by exp(score / temperature): (M, F) float64.

    Unknown labels (NaN) have no vote. Where all are unknown the result is `default_F`, such as how common the
    finding is in the bank (None: its mean over the labels given here); NaN where no label of a finding is known. The
    weighting is that of DINO (2104.14294, appendix on k-NN), findings side by side.
    """
    below_MK = (scores_MK - scores_MK.max(axis=1, keepdims=True)).astype(np.float64)
    weight_MK1 = np.exp(below_MK / temperature)[:, :, None]
    known_MKF = ~np.isnan(labels_MKF)
    label_MKF = np.where(known_MKF, labels_MKF, 0.0)
    if default_F is None:
        default_F = _ratio(label_MKF.sum(axis=(0, 1)), known_MKF.sum(axis=(0, 1)))
    voted_MF = _ratio((weight_MK1 * label_MKF).sum(axis=1), (weight_MK1 * known_MKF).sum(axis=1))
    return np.where(np.isnan(voted_MF), default_F, voted_MF)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


class UnitRows:
    """Vectors (N, D) of any float type, of which blocks and rows are read as float32 of length 1.

    The same bits as `unit_vectors` gives for all of them. Raises FeaturesError where one has no direction.
    """

    def __init__(self, vectors_ND: np.ndarray, whose: str) -> None:
        self._stored_ND = np.asanyarray(vectors_ND)
        if self._stored_ND.ndim != 2 or self._stored_ND.size <= BLOCK:
            self._stored_ND = unit_vectors(vectors_ND, whose)
            self._length_N1 = None
        else:
            self._length_N1 = np.concatenate(
                [
                    np.linalg.norm(float32_rows(self._stored_ND[rows], whose), axis=1, keepdims=True)
                    for rows in self._slices()
                ]
            )
            check_lengths(self._length_N1, whose)

    @property
    def dimensions(self) -> int:
        """D."""
        return self._stored_ND.shape[1]

    def __len__(self) -> int:
        return len(self._stored_ND)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows) of all, some 256 MiB at a time."""
        for rows in self._slices():
            yield rows.start, self.block(rows)

    def block(self, rows: slice | np.ndarray) -> np.ndarray:
        """These rows, float32 of length 1; not to be written to."""
        if self._length_N1 is None:
            return self._stored_ND[rows]
        block_BD = np.array(self._stored_ND[rows], np.float32)
        block_BD /= self._length_N1[rows]
        return block_BD

    def _slices(self) -> Iterator[slice]:
        step = max(1, BLOCK // max(1, self.dimensions))
        yield from (slice(start, start + step) for start in range(0, len(self), step))

    def __repr__(self) -> str:
        return f"UnitRows({len(self)}, {self.dimensions} dimensions)"


def _ranked(
    bank: UnitRows, queries_MD: np.ndarray, candidates_MK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and indices of the candidates by falling score, then rising index.

    Scored again one product at a time: a matrix product sums in an order that depends on the position, so
    that the same vector at two places of the bank can differ in its last bit and would not tie.
    """
    scores_MK = np.empty(candidates_MK.shape, np.float32)
    rows = max(1, GATHER // max(1, candidates_MK.shape[1] * bank.dimensions))
    for start in range(0, len(candidates_MK), rows):
        part = slice(start, start + rows)
        row_MK = candidates_MK[part]
        bank_MKD = bank.block(row_MK.ravel()).reshape(*row_MK.shape, -1)
        scores_MK[part] = np.einsum("mkd,md->mk", bank_MKD, queries_MD[part])
    order_MK = np.lexsort((candidates_MK, -scores_MK), axis=1)
    return np.take_along_axis(scores_MK, order_MK, 1), np.take_along_axis(candidates_MK, order_MK, 1)
