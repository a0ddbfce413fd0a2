"""AP and AUROC are scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.platform.measure.scored import scored
from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.measure.metrics import auroc, average_precision, macro

METRICS = [(average_precision, average_precision_score), (auroc, roc_auc_score)]


@pytest.mark.parametrize(("ours", "theirs"), METRICS)
def test_the_metric_is_scikit_learns_ties_and_weights_included(ours, theirs):
    truth_NF, score_NF = scored()
    weight_RN = np.random.default_rng(1).integers(0, 4, (5, len(truth_NF))).astype(float)
    plain = [theirs(truth_NF[:, f], score_NF[:, f]) for f in range(3)]
    np.testing.assert_allclose(ours(truth_NF, score_NF), plain, atol=1e-9)
    weighted = [
        [theirs(truth_NF[:, f], score_NF[:, f], sample_weight=weight) for f in range(3)]
        for weight in weight_RN
    ]
    np.testing.assert_allclose(ours(truth_NF, score_NF, weight_RN), weighted, atol=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), METRICS)
def test_unknown_labels_are_left_out(ours, theirs):
    truth_NF, score_NF = scored(findings=1)
    truth_NF[::3] = np.nan
    known = ~np.isnan(truth_NF[:, 0])
    assert ours(truth_NF, score_NF)[0] == pytest.approx(theirs(truth_NF[known, 0], score_NF[known, 0]))


@pytest.mark.parametrize("metric", [average_precision, auroc])
def test_one_class_or_a_nan_score_gives_no_number(metric):
    truth_NF = np.array([[1, 0, np.nan, 1], [1, 0, np.nan, 0]])
    score_NF = np.array([[0.1, 0.2, 0.3, np.nan], [0.3, 0.2, 0.1, 0.5]])
    assert np.isnan(metric(truth_NF, score_NF)).all()
    assert math.isnan(macro(metric(truth_NF, score_NF)))


def test_shapes_that_differ_are_refused():
    with pytest.raises(FeaturesError, match="both must be"):
        auroc(np.zeros((3, 2)), np.zeros((3, 1)))
