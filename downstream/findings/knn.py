"""k-NN on frozen features: do a study's nearest neighbours among other patients share its findings?

Protocol of DINO (2104.14294, appendix on k-NN), for several findings at a time: unit vectors, cosine, the k
nearest rows of the bank vote with weight exp(cosine / temperature). The bank is the training split. k is chosen
where most studies can speak: on the validation split, or on the bank itself with each patient left out in turn.
The test split is asked once.

N rows of the bank, M queries, F findings, K neighbours, J numbers of neighbours tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...platform.core.errors import FeaturesError
from ...platform.measure.features import Features, Level
from ...platform.measure.metrics import Answers, auroc, macro
from ...platform.measure.neighbors import nearest, vote
from .protocol import parts_of

BLOCK = 4_000_000
"""Most labels of neighbours in memory at a time; 32 MB in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnConfig:
    """How neighbours vote."""

    k: int = 20
    """Neighbours that vote where nobody can choose among `ks`."""
    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours tried; empty keeps k."""
    temperature: float = 0.07
    """Of the weight exp(cosine / temperature); smaller listens to the nearest."""
    level: Level = "study"
    """Who asks and votes: a study by the mean of its views, or each view for itself; a study's score is then
    the mean of its views' scores."""


def knn(features: Features, config: KnnConfig | None = None, fraction: float = 1.0, seed: int = 0) -> Answers:
    """The test split's scores by neighbours in the training split, one row for each study.

    features: by study or by view. fraction: of the train patients, drawn by seed; where they are few, they
    choose k as well. Findings that cannot be measured are named in `left_out`. Raises FeaturesError as
    `parts_of` does.
    """
    config = config or KnnConfig()
    parts = parts_of(features, fraction, seed)
    bank, test = parts.train, parts.test
    # With few labels there are few for choosing, too.
    k, reason = _chosen(bank, parts.val if fraction == 1 else parts.val.rows([]), config)
    scores_MF = knn_scores(bank, test, k, config.temperature)
    first = _firsts(test)
    return Answers(
        findings=test.findings,
        patients=tuple(test.patients[row] for row in first),
        truth=test.labels[first],
        scores=_by_study(test, scores_MF),
        left_out=parts.left_out,
        facts={"k": k, "k_chosen": reason, "rows_by": features.level, **parts.facts},
    )


def knn_scores(bank: Features, queries: Features, k: int, temperature: float = 0.07) -> np.ndarray:
    """How surely each query has each finding, (M, F) in 0..1, by the k nearest rows of the bank.

    k is clipped to the bank. A query whose neighbours' labels are all unknown gets the bank's prevalence.
    Raises FeaturesError where a patient is in both, or the two come from different backbones or findings.
    """
    both = len(set(bank.patients) & set(queries.patients))
    if both:
        raise FeaturesError(
            f"{both} patients are in the bank and among the queries, which would find themselves; "
            "split by patient with `vetdino ingest`"
        )
    if bank.backbone != queries.backbone or bank.findings != queries.findings:
        raise FeaturesError(
            "the bank and the queries come from different backbones or findings; extract both"
        )
    cosine_MK, row_MK = nearest(bank.vectors, queries.vectors, k)
    common_F = _common(*(told_NF.sum(axis=0) for told_NF in _told(bank.labels)))
    common_MF = np.broadcast_to(common_F, (len(queries), len(bank.findings)))
    return _voted(bank, cosine_MK, row_MK, [cosine_MK.shape[1]], temperature, common_MF)[0]


def scores_of_others(bank: Features, ks: Sequence[int], temperature: float = 0.07) -> np.ndarray:
    """How surely each row of the bank has each finding, (J, N, F), by its k nearest rows of other patients.

    Exact: as if each patient in turn were taken out of the bank and asked. One search serves all `ks`.
    """
    patient_N = np.unique(np.asarray(bank.patients), return_inverse=True)[1]
    own = int(np.bincount(patient_N).max())
    cosine_NK, row_NK = nearest(bank.vectors, bank.vectors, max(ks) + own)
    same_NK = patient_N[row_NK] == patient_N[:, None]
    order_NK = np.argsort(same_NK, axis=1, kind="stable")[:, : max(ks)]
    # Where fewer than k others are left, what is the patient's own has no weight.
    cosine_NK = np.take_along_axis(np.where(same_NK, -np.inf, cosine_NK), order_NK, 1)
    own_2PF = np.zeros((2, patient_N.max() + 1, len(bank.findings)))
    for part_PF, told_NF in zip(own_2PF, _told(bank.labels), strict=True):
        np.add.at(part_PF, patient_N, told_NF)
    present_NF, known_NF = (part_PF.sum(axis=0) - part_PF[patient_N] for part_PF in own_2PF)
    row_NK = np.take_along_axis(row_NK, order_NK, 1)
    return _voted(bank, cosine_NK, row_NK, ks, temperature, _common(present_NF, known_NF))


def _voted(
    bank: Features,
    cosine_MK: np.ndarray,
    row_MK: np.ndarray,
    ks: Sequence[int],
    temperature: float,
    common_MF: np.ndarray,
) -> np.ndarray:
    """(J, M, F): the votes of the k nearest, for each k; `common` where the labels of all of them are unknown."""
    score_JMF = np.empty((len(ks), *common_MF.shape))
    for part in _blocks(len(row_MK), row_MK.shape[1] * bank.labels.shape[1]):
        label_MKF = bank.labels[row_MK[part]]
        for j, k in enumerate(ks):
            score_JMF[j, part] = vote(cosine_MK[part, :k], label_MKF[:, :k], temperature, common_MF[part])
    return score_JMF


def _told(label_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(present, known), 1 or 0 each."""
    return np.nan_to_num(label_NF), (~np.isnan(label_NF)).astype(np.float64)


def _common(present: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How common a finding is, 0 where it is known of nobody."""
    return present / np.maximum(known, 1)


def _chosen(bank: Features, val: Features, config: KnnConfig) -> tuple[int, str]:
    """The k of best macro AUROC, and how it was chosen."""
    # A smaller k comes first and wins a tie: it is cheaper and its neighbours can be looked at.
    ks = sorted({min(k, len(bank)) for k in config.ks})
    if not ks or not bank.findings:
        return min(config.k, len(bank)), "given"
    studies, others = len(set(bank.keys)), len(set(val.keys))
    if studies > others and len(set(bank.patients)) > 1:
        asked, score_JMF = bank, scores_of_others(bank, ks, config.temperature)
        where = f"{studies} train studies, each patient left out in turn"
    elif others:
        asked, score_JMF = val, np.stack([knn_scores(bank, val, k, config.temperature) for k in ks])
        where = f"{others} val studies"
    else:
        return min(config.k, len(bank)), "given"
    truth_MF = asked.labels[_firsts(asked)]
    found_J = [macro(auroc(truth_MF, _by_study(asked, score_MF))) for score_MF in score_JMF]
    if np.isnan(found_J).any():
        return min(config.k, len(bank)), f"given, as no finding has both classes in {where}"
    best = int(np.argmax(found_J))
    return ks[best], f"best of {ks} on {where}"


def _firsts(features: Features) -> list[int]:
    """The first row of each study, in order."""
    return [row for row, key in enumerate(features.keys) if not row or key != features.keys[row - 1]]


def _by_study(features: Features, score_MF: np.ndarray) -> np.ndarray:
    """The mean score of each study's rows, which stand together."""
    first = _firsts(features)
    count_N1 = np.diff([*first, len(features)])[:, None]
    return np.add.reduceat(score_MF, first, axis=0) / count_N1


def _blocks(rows: int, each: int) -> Iterator[slice]:
    """Slices of rows that hold about BLOCK numbers, `each` a row."""
    size = max(1, BLOCK // max(1, each))
    return (slice(start, start + size) for start in range(0, rows, size))
