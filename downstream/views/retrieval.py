"""View retrieval: find the other view of a study among views of the same projection of all other patients.

Q queries, M views of the bank, D dimensions.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ...platform.measure.neighbors import BLOCK, GRAIN
from ...platform.measure.results import Measurements, MetricValue
from .intervals import PatientBootstrap
from .vectors import UNKNOWN, ViewVectors, ordered_pairs, pair_name

TOPS = (1, 5, 10)
"""Ranks at which recall is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchRanks:
    """The queries of one row: (Q,) each. rank: of a query's match, from 1. others: views of other patients."""

    rank: np.ndarray
    others: np.ndarray
    patients: np.ndarray

    @property
    def mrr(self) -> float:
        """Mean of 1 / rank."""
        return float((1 / self.rank).mean())

    def __repr__(self) -> str:
        return f"MatchRanks({len(self.rank)} queries)"


def retrieval(views: ViewVectors, bootstrap: PatientBootstrap) -> Measurements:
    """recall@1, @5, @10 and MRR of a study's other view, by pair of projections, beside chance.

    Every ordered pair of views of a study is a query: its second view is ranked among all views of the same projection
    of other patients. A tie with it counts as nearer. Chance is exact: 1 of n for recall@1, the mean of 1/rank over n
    equally likely ranks for MRR. Intervals resample the patients of the queries; the bank stays.
    """
    ranks = ranks_by_row(views)
    figures: list[MetricValue] = []
    left_out = {}
    for row, one in ranks.items():
        if one.others.any():
            figures += bootstrap.means(row, recalls(one), one.patients.tolist())
        else:
            left_out[f"retrieval {row}"] = "no other patient has such a view"
    if not ranks:
        left_out["retrieval"] = "no test study has two views of known projection"
    unknown = sum(name == UNKNOWN for name in views.projections)
    facts = {"retrieval_studies": len(_rows_by_study(views)), "views_without_projection": unknown}
    return Measurements(tuple(figures), left_out, facts)


def ranks_by_row(views: ViewVectors) -> dict[str, MatchRanks]:
    """The ranks of all queries by row: `all`, where two different projections make a query, then pairs of them."""
    vectors, patients = views.features.vectors, np.asarray(views.features.patients)
    queries: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for rows in _rows_by_study(views).values():
        for one, other in permutations(rows, 2):
            queries[views.projections[one], views.projections[other]].append((one, other))
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
    for (source, target), pairs in queries.items():
        query, match = np.array(pairs).T
        bank = np.array([row for row, name in enumerate(views.projections) if name == target])
        rank_Q, others_Q = match_ranks(
            vectors[query], vectors[match], vectors[bank], patients[query], patients[bank]
        )
        parts[pair_name(source, target)].append((rank_Q, others_Q, patients[query]))
        if source != target:
            parts["all"].append((rank_Q, others_Q, patients[query]))
    return {
        row: MatchRanks(*map(np.concatenate, zip(*parts[row], strict=True))) for row in ordered_pairs(parts)
    }


def match_ranks(
    query_QD: np.ndarray,
    match_QD: np.ndarray,
    bank_MD: np.ndarray,
    query_patients: np.ndarray,
    bank_patients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(rank, others), (Q,) each: the rank of a query's match among the bank's views of other patients, from 1, and
    how many those are. Vectors have length 1; a tie with the match counts as nearer."""
    names, codes = np.unique(np.concatenate([query_patients, bank_patients]), return_inverse=True)
    query_codes, bank_codes = codes[: len(query_patients)], codes[len(query_patients) :]
    match_Q = np.einsum("qd,qd->q", query_QD, match_QD)
    nearer_Q = np.empty(len(query_QD), np.int64)
    rows = max(1, BLOCK // len(bank_MD))
    for start in range(0, len(query_QD), rows):
        block = slice(start, start + rows)
        # The two products sum in different orders, so one and the same cosine may differ in its last bits.
        near_QM = query_QD[block] @ bank_MD.T >= match_Q[block, None] - GRAIN
        nearer_Q[block] = (near_QM & (query_codes[block, None] != bank_codes)).sum(axis=1)
    others_Q = len(bank_MD) - np.bincount(bank_codes, minlength=len(names))[query_codes]
    return 1 + nearer_Q, others_Q


def recalls(ranks: MatchRanks) -> dict[str, np.ndarray]:
    """Columns (Q,): recall at each of TOPS, MRR, and their chance; NaN where the bank has no other patient."""
    rank_Q, others_Q = ranks.rank, ranks.others
    alone_Q = others_Q == 0
    harmonic = np.cumsum(1 / np.arange(1, others_Q.max() + 2))
    columns = {f"recall_at_{top}": (rank_Q <= top).astype(float) for top in TOPS}
    columns |= {"mrr": 1 / rank_Q}
    columns |= {f"recall_at_{top}_chance": np.minimum(1.0, top / (others_Q + 1)) for top in TOPS}
    columns |= {"mrr_chance": harmonic[others_Q] / (others_Q + 1)}
    return {name: np.where(alone_Q, np.nan, column) for name, column in columns.items()}


def _rows_by_study(views: ViewVectors) -> dict[str, list[int]]:
    """The rows of the views of known projection, by study."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (key, projection) in enumerate(zip(views.features.keys, views.projections, strict=True)):
        if projection != UNKNOWN:
            rows[key].append(row)
    return rows
