"""Intervals draw patients, and differences are paired."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.platform.measure.scored import scored
from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.measure.bootstrap import bootstrap_interval, estimate
from vetdino.platform.measure.metrics import auroc, average_precision


def test_there_is_one_patient_per_item():
    with pytest.raises(FeaturesError, match="one patient per item"):
        estimate(auroc, *scored(), ["p"])


def test_resampled_values_are_those_of_the_items_repeated():
    truth_NF, score_NF = scored(items=30, findings=1)
    patients = [f"p{row // 3}" for row in range(30)]
    seen = []
    bootstrap_interval(lambda weight_RN: seen.append(weight_RN) or weight_RN[:, 0], patients, n=20)
    (weight_RN,) = seen
    assert (weight_RN.sum(axis=1) == 30).all()
    assert (weight_RN[:, 0::3] == weight_RN[:, 1::3]).all()
    samples = estimate(auroc, truth_NF, score_NF, patients, n=20).samples[:, 0]
    for weight_N, sample in zip(weight_RN, samples, strict=True):
        rows = np.repeat(np.arange(30), weight_N.astype(int))
        assert sample == pytest.approx(roc_auc_score(truth_NF[rows, 0], score_NF[rows, 0]))


def test_an_interval_holds_its_value_and_narrows_with_more_patients():
    few = estimate(auroc, *scored(60, 1), [str(row) for row in range(60)])
    many = estimate(auroc, *scored(2000, 1), [str(row) for row in range(2000)])
    for result in (few, many):
        low, high = result.interval()
        assert low[0] < result.values[0] < high[0]
    assert np.subtract(*few.interval())[0] < 2 * np.subtract(*many.interval())[0]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """200 draws of 100 patients whose true AUROC is 0.76 (two normals one apart)."""
    held = 0
    for seed in range(200):
        truth_NF, score_NF = scored(100, 1, seed, decimals=9)
        low, high = estimate(auroc, truth_NF, score_NF, [str(row) for row in range(100)], n=200).interval()
        held += low[0] <= 0.7602 <= high[0]
    assert 0.88 < held / 200 < 0.99


def test_patients_with_many_alike_studies_widen_the_interval():
    truth_NF, score_NF = (np.repeat(part, 5, axis=0) for part in scored(60, 1))
    as_patients = estimate(auroc, truth_NF, score_NF, [str(row // 5) for row in range(300)]).interval()
    as_studies = estimate(auroc, truth_NF, score_NF, [str(row) for row in range(300)]).interval()
    assert as_patients[1] - as_patients[0] > 1.5 * (as_studies[1] - as_studies[0])


def test_a_paired_difference_is_narrower_than_two_intervals():
    truth_NF, score_NF = scored(300, 2)
    other_NF = score_NF + np.random.default_rng(5).normal(scale=0.1, size=score_NF.shape)
    patients = [str(row) for row in range(300)]
    one, other = (estimate(auroc, truth_NF, scores, patients) for scores in (score_NF, other_NF))
    gap = one - other
    low, high = gap.interval()
    alone_low, alone_high = one.interval()
    np.testing.assert_allclose(gap.values, auroc(truth_NF, score_NF) - auroc(truth_NF, other_NF))
    assert (high - low < (alone_high - alone_low) / 2).all()
    assert (one - one).interval() == (pytest.approx(0), pytest.approx(0))


def test_a_finding_that_most_resamples_lose_has_no_interval():
    truth_NF = np.full((40, 2), np.nan)
    truth_NF[:, 0] = np.arange(40) % 2
    truth_NF[:2, 1] = [0, 1]  # both patients are in 40 % of the resamples
    score_NF = np.random.default_rng(0).normal(size=(40, 2))
    result = estimate(auroc, truth_NF, score_NF, [str(row) for row in range(40)])
    low, high = result.interval()
    assert np.isfinite(result.values).all()
    assert low[0] < high[0]
    assert np.isnan([low[1], high[1]]).all()


def test_a_finding_without_a_value_stays_out_of_the_macro_and_its_result():
    truth_NF, score_NF = scored(100, 3)
    truth_NF[:, 1] = 0
    result = estimate(auroc, truth_NF, score_NF, [str(row) for row in range(100)], n=50)
    whole = result.macro()
    assert whole.values[0] == pytest.approx(np.delete(auroc(truth_NF, score_NF), 1).mean())
    np.testing.assert_allclose(whole.samples[:, 0], np.delete(result.samples, 1, axis=1).mean(axis=1))
    assert np.isnan(result.interval()[0][1])


@pytest.mark.slow
def test_a_thousand_resamples_of_ten_findings_and_two_thousand_items_take_seconds():
    truth_NF, score_NF = scored(2000, 10, decimals=6)
    began = time.process_time()
    estimate(average_precision, truth_NF, score_NF, [f"p{row // 2}" for row in range(2000)], n=1000)
    assert time.process_time() - began < 10
