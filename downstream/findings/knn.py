"""k-NN on frozen features: predict a study's findings from its nearest neighbors among other patients.

Protocol of DINO (2104.14294, appendix on k-NN), for several findings at a time: unit vectors, cosine, the k
nearest rows of the bank vote with weight exp(cosine / temperature). The bank is the training split. k is chosen
where there are more studies: on the validation split, or on the bank itself with each patient left out in turn.
The test split is used once.

N rows of the bank, M queries, F findings, K neighbors, J candidates for the number of neighbors, P patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...platform.core.device import DeviceChoice
from ...platform.core.errors import FeaturesError
from ...platform.core.seeds import stable_hash
from ...platform.measure.features import Features
from ...platform.measure.metrics import auroc, macro
from ...platform.measure.neighbors import nearest, vote
from ...platform.measure.predictions import Predictions
from ...platform.measure.texts import common_count, group_starts, text_codes, text_count
from .config import KnnConfig
from .protocol import task_splits

BLOCK = 4_000_000
"""Most neighbor labels in memory at a time; 32 MB in float64."""

CHOOSING = 20_000
"""Rows of the bank that k is chosen with, at most; each is compared with all of the bank."""


def knn(
    features: Features,
    config: KnnConfig | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    device: DeviceChoice = "auto",
) -> Predictions:
    """Scores of the test split by neighbors in the training split, one row for each study.

    features: by study or by view. fraction: of the train patients, drawn by seed; below 1, k is chosen on them, too.
    device: where neighbors are searched for; it does not change them.
    Findings that cannot be measured are named in `left_out`. Raises FeaturesError as `task_splits` does.
    """
    config = config or KnnConfig()
    splits = task_splits(features, fraction, seed)
    bank, test = splits.train, splits.test
    # With few labels for training there would be few for choosing k, too.
    k, reason = _chosen_k(bank, splits.val if fraction == 1 else splits.val.rows([]), config, device)
    scores_MF = knn_scores(bank, test, k, config.temperature, device)
    first = _first_rows(test)
    return Predictions(
        findings=test.findings,
        patients=tuple(test.patients[row] for row in first),
        truth=test.labels[first],
        scores=_study_means(test, scores_MF),
        left_out=splits.left_out,
        facts={"k": k, "k_chosen": reason, "rows_by": features.level, **splits.facts},
    )


def knn_scores(
    bank: Features, queries: Features, k: int, temperature: float = 0.07, device: DeviceChoice = "auto"
) -> np.ndarray:
    """Score of each finding for each query, (M, F) in [0, 1], from the k nearest rows of the bank.

    k is clipped to the size of the bank. A query whose neighbors' labels are all unknown gets the prevalence in the
    bank. Raises FeaturesError where a patient is in both, or the two come from different backbones or findings.
    """
    both = common_count(bank.patients, queries.patients)
    if both:
        raise FeaturesError(
            f"{both} patients are in the bank and among the queries, which would find themselves; "
            "split by patient with `vetdino ingest`"
        )
    if bank.backbone != queries.backbone or bank.findings != queries.findings:
        raise FeaturesError(
            "the bank and the queries come from different backbones or findings; extract both"
        )
    cosine_MK, row_MK = nearest(bank.vectors, queries.vectors, k, device)
    prevalence_F = _prevalence(*(counts_NF.sum(axis=0) for counts_NF in _present_and_known(bank.labels)))
    prevalence_MF = np.broadcast_to(prevalence_F, (len(queries), len(bank.findings)))
    return _voted(bank, cosine_MK, row_MK, [cosine_MK.shape[1]], temperature, prevalence_MF)[0]


def leave_patient_out_scores(
    bank: Features,
    ks: Sequence[int],
    temperature: float = 0.07,
    rows: np.ndarray | None = None,
    device: DeviceChoice = "auto",
) -> np.ndarray:
    """Scores of rows of the bank, (J, M, F), from their k nearest rows of other patients, for each k of `ks`.

    Exactly as if each patient in turn were taken out of the bank and used as queries, but with a single search.
    rows: (M,) of the bank; None takes all.
    """
    queries = bank if rows is None else bank.rows(rows)
    patient_N = np.unique(text_codes(bank.patients), return_inverse=True)[1]
    patient_M = patient_N if rows is None else patient_N[rows]
    most_rows = int(np.bincount(patient_N).max())
    cosine_MK, row_MK = nearest(bank.vectors, queries.vectors, max(ks) + most_rows, device)
    same_MK = patient_N[row_MK] == patient_M[:, None]
    order_MK = np.argsort(same_MK, axis=1, kind="stable")[:, : max(ks)]
    # Where fewer than k other rows are left, rows of the same patient get no weight.
    cosine_MK = np.take_along_axis(np.where(same_MK, -np.inf, cosine_MK), order_MK, 1)
    counts_2PF = np.zeros((2, patient_N.max() + 1, len(bank.findings)))
    for counts_PF, counts_NF in zip(counts_2PF, _present_and_known(bank.labels), strict=True):
        np.add.at(counts_PF, patient_N, counts_NF)
    present_MF, known_MF = (counts_PF.sum(axis=0) - counts_PF[patient_M] for counts_PF in counts_2PF)
    row_MK = np.take_along_axis(row_MK, order_MK, 1)
    return _voted(bank, cosine_MK, row_MK, ks, temperature, _prevalence(present_MF, known_MF))


def _voted(
    bank: Features,
    cosine_MK: np.ndarray,
    row_MK: np.ndarray,
    ks: Sequence[int],
    temperature: float,
    prevalence_MF: np.ndarray,
) -> np.ndarray:
    """(J, M, F): the votes of the k nearest for each k; the prevalence where all their labels are unknown."""
    score_JMF = np.empty((len(ks), *prevalence_MF.shape))
    size = max(1, BLOCK // max(1, row_MK.shape[1] * bank.labels.shape[1]))
    for start in range(0, len(row_MK), size):
        block = slice(start, start + size)
        label_MKF = bank.labels[row_MK[block]]
        for j, k in enumerate(ks):
            score_JMF[j, block] = vote(
                cosine_MK[block, :k], label_MKF[:, :k], temperature, prevalence_MF[block]
            )
    return score_JMF


def _present_and_known(label_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(present, known), 1 or 0 each."""
    return np.nan_to_num(label_NF), (~np.isnan(label_NF)).astype(np.float64)


def _prevalence(present: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Present over known labels, 0 where none is known."""
    return present / np.maximum(known, 1)


def _chosen_k(bank: Features, val: Features, config: KnnConfig, device: DeviceChoice) -> tuple[int, str]:
    """The k of best macro AUROC, and how it was chosen."""
    # Of equal values the smallest k wins: it is cheaper, and few neighbors can be looked at.
    ks = sorted({min(k, len(bank)) for k in config.ks})
    given = min(config.k, len(bank))
    if not ks or not bank.findings:
        return given, "given"
    bank_studies, val_studies = text_count(bank.keys), text_count(val.keys)
    if bank_studies > val_studies and text_count(bank.patients) > 1:
        rows = _choosing_rows(bank)
        queries = bank if rows is None else bank.rows(rows)
        score_JMF = leave_patient_out_scores(bank, ks, config.temperature, rows, device)
        some = "" if rows is None else f"{text_count(queries.keys)} of "
        where = f"{some}{bank_studies} train studies, each patient left out in turn"
    elif val_studies:
        queries = val
        score_JMF = np.stack([knn_scores(bank, val, k, config.temperature, device) for k in ks])
        where = f"{val_studies} val studies"
    else:
        return given, "given"
    truth_MF = queries.labels[_first_rows(queries)]
    auroc_J = [macro(auroc(truth_MF, _study_means(queries, score_MF))) for score_MF in score_JMF]
    if np.isnan(auroc_J).any():
        return given, f"given, as no finding has both classes in {where}"
    return ks[int(np.argmax(auroc_J))], f"best of {ks} on {where}"


def _choosing_rows(bank: Features) -> np.ndarray | None:
    """The rows that k is chosen with: None for all, or those of patients whose hashes come first."""
    if len(bank) <= CHOOSING:
        return None
    patients, patient_N = np.unique(text_codes(bank.patients), return_inverse=True)
    names = dict(zip(text_codes(bank.patients).tolist(), bank.patients, strict=True))
    order = sorted(range(len(patients)), key=lambda place: stable_hash(names[int(patients[place])]))
    rows_P = np.bincount(patient_N)[order]
    chosen = order[: max(1, int((rows_P.cumsum() <= CHOOSING).sum()))]
    return np.flatnonzero(np.isin(patient_N, chosen))


def _first_rows(features: Features) -> list[int]:
    """The first row of each study, in order."""
    return group_starts(features.keys).tolist()


def _study_means(features: Features, score_MF: np.ndarray) -> np.ndarray:
    """The mean score of each study's rows, which are adjacent."""
    first = _first_rows(features)
    count_N1 = np.diff([*first, len(features)])[:, None]
    return np.add.reduceat(score_MF, first, axis=0) / count_N1
