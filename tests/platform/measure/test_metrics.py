"""AP and AUROC are scikit-learn's; intervals draw patients, and differences are paired."""

import math
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.measure.metrics import (
    Answers,
    auroc,
    average_precision,
    bootstrap_interval,
    difference,
    estimate,
    figures_of,
    macro,
)

METRICS = [(average_precision, average_precision_score), (auroc, roc_auc_score)]


def scored(items=120, findings=3, seed=0, decimals=1):
    """Truth, and scores that know a little of it, with many ties."""
    random = np.random.default_rng(seed)
    truth_NF = (random.random((items, findings)) < 0.3).astype(float)
    return truth_NF, np.round(random.normal(size=truth_NF.shape) + truth_NF, decimals)


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
    for spread in (few, many):
        low, high = spread.interval()
        assert low[0] < spread.values[0] < high[0]
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
    gap = difference(auroc, truth_NF, score_NF, other_NF, patients)
    low, high = gap.interval()
    alone_low, alone_high = estimate(auroc, truth_NF, score_NF, patients).interval()
    np.testing.assert_allclose(gap.values, auroc(truth_NF, score_NF) - auroc(truth_NF, other_NF))
    assert (high - low < (alone_high - alone_low) / 2).all()
    same = difference(auroc, truth_NF, score_NF, score_NF, patients)
    assert same.interval() == (pytest.approx(0), pytest.approx(0))


def test_a_finding_that_most_resamples_lose_has_no_interval():
    truth_NF = np.full((40, 2), np.nan)
    truth_NF[:, 0] = np.arange(40) % 2
    truth_NF[:2, 1] = [0, 1]  # both patients are in 40 % of the resamples
    score_NF = np.random.default_rng(0).normal(size=(40, 2))
    spread = estimate(auroc, truth_NF, score_NF, [str(row) for row in range(40)])
    low, high = spread.interval()
    assert np.isfinite(spread.values).all()
    assert low[0] < high[0]
    assert np.isnan([low[1], high[1]]).all()


def test_a_finding_without_a_value_stays_out_of_the_macro_and_its_spread():
    truth_NF, score_NF = scored(100, 3)
    truth_NF[:, 1] = 0
    spread = estimate(auroc, truth_NF, score_NF, [str(row) for row in range(100)], n=50)
    whole = spread.macro()
    assert whole.values[0] == pytest.approx(np.delete(auroc(truth_NF, score_NF), 1).mean())
    np.testing.assert_allclose(whole.samples[:, 0], np.delete(spread.samples, 1, axis=1).mean(axis=1))
    assert np.isnan(spread.interval()[0][1])


def test_a_thousand_resamples_of_ten_findings_and_two_thousand_items_take_seconds():
    truth_NF, score_NF = scored(2000, 10, decimals=6)
    began = time.process_time()
    estimate(average_precision, truth_NF, score_NF, [f"p{row // 2}" for row in range(2000)], n=1000)
    assert time.process_time() - began < 10


def answers(seed, patients=None):
    truth_NF, _ = scored(80, 2)
    score_NF = np.random.default_rng(seed).normal(size=(80, 2)) + truth_NF * seed
    return Answers(("mass", "stones"), tuple(patients or map(str, range(80))), truth_NF, score_NF)


def test_figures_name_every_metric_finding_and_source_with_the_labels_they_rest_on():
    figures = figures_of({"backbone": answers(2), "random": answers(0)}, n=100)
    named = {(one.metric, one.finding, one.source): one for one in figures}
    assert len(named) == len(figures) == 2 * 3 * 3
    gap = named["AUROC", "mass", "backbone - random"]
    alone = [named["AUROC", "mass", source].value for source in ("backbone", "random")]
    assert gap.value == pytest.approx(alone[0] - alone[1])
    assert gap.low > 0
    assert gap.present == answers(0).truth[:, 0].sum()
    assert named["AP", "macro", "random"].known == 160


def test_sources_of_other_patients_or_without_findings_are_refused():
    with pytest.raises(FeaturesError, match="other studies"):
        figures_of({"backbone": answers(1), "random": answers(0, ["x"] * 80)})
    nothing = Answers(
        (), ("p",), np.empty((1, 0)), np.empty((1, 0)), {"mass": "0 present and 5 absent in test"}
    )
    with pytest.raises(FeaturesError, match="mass: 0 present"):
        figures_of({"backbone": nothing})
