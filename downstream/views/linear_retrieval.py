"""View retrieval after a linear map: what a linear probe is to k-NN.

The nearest vectors tell how an embedding lies; a linear map fitted on train studies tells what it holds. The map is a
linear discriminant whose classes are the train studies: directions in which the views of a study agree and studies
differ count, others do not. Fisher's criterion with shrinkage (Friedman, Regularized Discriminant Analysis, JASA 1989,
equation 18), by scikit-learn.

V views, D dimensions, C components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...platform.measure.neighbors import unit_vectors
from ...platform.measure.results import Measurements, MetricValue
from .intervals import PatientBootstrap
from .retrieval import ranks_by_row, recalls
from .vectors import UNKNOWN, ViewVectors

if TYPE_CHECKING:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

FEWEST = 10
"""Fewest train studies of two different projections for a map."""

SHRINKAGES = (0.03, 0.1, 0.3, 0.6, 0.9)
"""How far the scatter within studies is drawn towards a multiple of the identity; the validation split chooses."""

DEFAULT_SHRINKAGE = 0.3
"""Where the validation split has no study of two projections."""

COMPONENTS = 64
"""Most dimensions of the mapped vectors."""


def linear_retrieval(views: Mapping[str, ViewVectors], bootstrap: PatientBootstrap) -> Measurements:
    """`recall_at_10_linear` and so on: the figures of `retrieval` with the test views mapped.

    views: by split. The validation split chooses the shrinkage by MRR over two different projections.
    """
    train = _of_two_projections(views["train"])
    if train is None:
        return Measurements(
            (), {"linear retrieval": f"fewer than {FEWEST} train studies have two projections"}
        )
    maps = {shrinkage: _fitted(train, shrinkage) for shrinkage in SHRINKAGES}
    scores = {shrinkage: _mrr(_mapped(views["val"], one)) for shrinkage, one in maps.items()}
    best = max(scores, key=scores.__getitem__) if any(scores.values()) else DEFAULT_SHRINKAGE
    figures: list[MetricValue] = []
    for row, ranks in ranks_by_row(_mapped(views["test"], maps[best])).items():
        columns = {
            f"{name}_linear": column for name, column in recalls(ranks).items() if "chance" not in name
        }
        if ranks.others.any():
            figures += bootstrap.means(row, columns, ranks.patients.tolist())
    facts = {"linear_shrinkage": best, "linear_train_studies": len(set(train.features.keys))}
    return Measurements(tuple(figures), facts=facts)


def _of_two_projections(views: ViewVectors) -> ViewVectors | None:
    """The views of known projection of the studies that have two different ones; None if these are too few."""
    seen: dict[str, set[str]] = {}
    for key, projection in zip(views.features.keys, views.projections, strict=True):
        seen.setdefault(key, set()).update({projection} - {UNKNOWN})
    rows = [
        row
        for row, (key, projection) in enumerate(zip(views.features.keys, views.projections, strict=True))
        if len(seen[key]) > 1 and projection != UNKNOWN
    ]
    features = views.features.rows(rows)
    if len(set(features.keys)) < FEWEST:
        return None
    return ViewVectors(
        features, tuple(views.projections[row] for row in rows), tuple(views.facts[row] for row in rows)
    )


def _fitted(train: ViewVectors, shrinkage: float) -> LinearDiscriminantAnalysis:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    vectors_VD = train.features.vectors.astype(np.float64)
    most = min(COMPONENTS, len(set(train.features.keys)) - 1, vectors_VD.shape[1])
    discriminant = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage, n_components=most)
    return discriminant.fit(vectors_VD, np.asarray(train.features.keys))


def _mapped(views: ViewVectors, discriminant: LinearDiscriminantAnalysis) -> ViewVectors:
    """The views with vectors of length 1 in the discriminant's directions, (V, C)."""
    if not len(views.features):
        return views
    mapped_VC = discriminant.transform(views.features.vectors.astype(np.float64)).astype(np.float32)
    return replace(views, features=replace(views.features, vectors=unit_vectors(mapped_VC, "mapped views")))


def _mrr(views: ViewVectors) -> float:
    ranks = ranks_by_row(views).get("all")
    return 0.0 if ranks is None else ranks.mrr
