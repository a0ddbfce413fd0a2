"""k-NN on frozen features: do a study's nearest neighbours among other patients share its findings?

Protocol of DINO (2104.14294, appendix on k-NN), for several findings at a time: unit vectors, cosine, the k
nearest training studies vote with weight exp(cosine / temperature). k is chosen on the validation split; the
test split is asked once.

M queries, F findings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..platform.errors import FeaturesError
from ..platform.features import Features
from ..platform.metrics import Answers, auroc, macro
from ..platform.neighbours import nearest, vote


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnConfig:
    """How neighbours vote."""

    k: int = 20
    """Neighbours that vote where the validation split cannot choose among `ks`."""
    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours tried on the validation split; empty keeps k."""
    temperature: float = 0.07
    """Of the weight exp(cosine / temperature); smaller listens to the nearest."""


def knn(features: Features, config: KnnConfig | None = None) -> Answers:
    """The test split's scores by neighbours in the training split, k chosen on the validation split.

    Only findings present and absent among the known labels of both train and test are answered; the others
    are named in `left_out`. Raises FeaturesError where train or test is empty, or where a patient of train is
    in another split.
    """
    config = config or KnnConfig()
    bank, val, test = (features.of(split) for split in ("train", "val", "test"))
    for name, part in (("train", bank), ("test", test)):
        if not len(part):
            raise FeaturesError(
                f"no studies in the {name} split; k-NN needs train and test, ingest more patients"
            )
    left_out = _left_out(bank, test)
    kept = [name for name in features.findings if name not in left_out]
    bank, val, test = (_only(part, kept) for part in (bank, val, test))
    chosen, reason = _chosen(bank, val, config)
    return Answers(
        findings=tuple(kept),
        patients=test.patients,
        truth=test.labels,
        scores=knn_scores(bank, test, chosen),
        left_out=left_out,
        facts={
            "k": min(chosen.k, len(bank)),
            "k_chosen": reason,
            "bank_studies": len(bank),
            "test_studies": len(test),
            "test_patients": len(set(test.patients)),
        },
    )


def knn_scores(bank: Features, queries: Features, config: KnnConfig) -> np.ndarray:
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
    if not bank.findings:
        return np.empty((len(queries), 0))
    known_NF = ~np.isnan(bank.labels)
    common_F = np.nansum(bank.labels, axis=0) / np.maximum(known_NF.sum(axis=0), 1)
    scores_MK, rows_MK = nearest(bank.vectors, queries.vectors, config.k)
    return vote(scores_MK, bank.labels[rows_MK], config.temperature, otherwise_F=common_F)


def _chosen(bank: Features, val: Features, config: KnnConfig) -> tuple[KnnConfig, str]:
    """The config with the k of best macro AUROC on the validation split, and how it was chosen."""
    # A smaller k comes first and wins a tie: it is cheaper and its neighbours can be looked at.
    ks = sorted({min(k, len(bank)) for k in config.ks})
    if not ks or not len(val):
        return config, "given"
    tried = {k: macro(auroc(val.labels, knn_scores(bank, val, replace(config, k=k)))) for k in ks}
    if np.isnan(list(tried.values())).any():
        return config, "given, as no finding has both classes in val"
    best = max(ks, key=lambda k: tried[k])
    return replace(config, k=best), f"best of {ks} on val"


def _left_out(bank: Features, test: Features) -> dict[str, str]:
    """finding -> why it cannot be measured."""
    reasons = {}
    for column, finding in enumerate(test.findings):
        for split, part in (("train", bank), ("test", test)):
            label_N = part.labels[:, column]
            present, absent = int((label_N == 1).sum()), int((label_N == 0).sum())
            if not (present and absent):
                reasons[finding] = f"{present} present and {absent} absent in {split}"
                break
    return reasons


def _only(features: Features, findings: list[str]) -> Features:
    """The features with these findings only."""
    columns = [features.findings.index(name) for name in findings]
    return replace(features, findings=tuple(findings), labels=features.labels[:, columns])
