"""Intervals are over patients; one patient has none."""

import math

import numpy as np
import pytest

from vetdino.downstream.views.intervals import PatientBootstrap, mean_known, merged
from vetdino.platform.measure.results import Measurements, measured_values

BOOTSTRAP = PatientBootstrap("ours", 200, 0)


def test_an_interval_weighs_each_patient_as_often_as_it_was_drawn():
    random = np.random.default_rng(0)
    patients = [f"p{number}" for number in random.integers(0, 8, 40)]
    values = random.random(40)
    values[3] = np.nan
    (mean,) = BOOTSTRAP.means("row", {"m": values}, patients)
    (median,) = BOOTSTRAP.medians("row", {"m": np.nan_to_num(values)}, patients)
    assert mean.value == pytest.approx(np.nanmean(values))
    assert median.value == np.sort(np.nan_to_num(values))[19]
    names = np.unique(patients)
    draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)
    means, medians = [], []
    for draw in draws:
        rows = [row for row, name in enumerate(patients) for _ in range(draw[list(names).index(name)])]
        means.append(np.nanmean(values[rows]))
        medians.append(np.sort(np.nan_to_num(values)[rows])[(len(rows) - 1) // 2])
    np.testing.assert_allclose((mean.low, mean.high), np.quantile(means, (0.025, 0.975)))
    np.testing.assert_allclose((median.low, median.high), np.quantile(medians, (0.025, 0.975)))
    assert (mean.present, mean.known) == (8, 39)


def test_one_patient_has_no_interval_and_nothing_known_no_figure():
    (only,) = BOOTSTRAP.means("row", {"m": np.array([1.0, 0.0]), "n": np.full(2, np.nan)}, ["p", "p"])
    assert only.value == 0.5
    assert math.isnan(only.low)
    assert math.isnan(only.high)


def test_the_mean_of_known_values_is_numpys():
    values = np.random.default_rng(0).random((5, 4))
    values[1, 2] = values[3, 0] = np.nan
    np.testing.assert_allclose(mean_known(values), np.nanmean(values, axis=0))
    np.testing.assert_allclose(mean_known(values, axis=-1), np.nanmean(values, axis=1))
    assert np.isnan(mean_known(np.full((2, 1), np.nan))).all()


def test_merged_measurements_keep_everything_in_order():
    one = Measurements((), {"a": "no truth"}, {"heads": 3}, {"a.png": b"1"})
    other = Measurements((), {"b": "no heads"}, {"views": 4}, {"b.png": b"2"})
    both = merged([one, other])
    assert both.left_out == {"a": "no truth", "b": "no heads"}
    assert list(both.facts.items()) == [("heads", 3), ("views", 4)]
    assert both.pictures == {"a.png": b"1", "b.png": b"2"}


def test_two_sources_are_compared_on_the_same_resamples():
    random = np.random.default_rng(1)
    patients = [f"p{number}" for number in random.integers(0, 9, 60)]
    one, two = random.random(60), random.random(60)
    measured = {}
    for name, values in (("a", one), ("b", two)):
        bootstrap = PatientBootstrap(name, 300, 0)
        figures = tuple(bootstrap.means("row", {"m": values, "m_chance": values}, patients))
        measured[name] = Measurements(figures, resamples=bootstrap.kept)
    (difference,) = [value for value in measured_values(measured) if value.source == "a - b"]
    (expected,) = PatientBootstrap("d", 300, 0).means("row", {"m": one - two}, patients)
    assert difference.metric == "m"
    assert difference.value == pytest.approx(expected.value)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert len([value for value in measured_values(measured) if " - " not in value.source]) == 4


def test_sources_of_other_patients_are_not_compared():
    measured = {}
    for name, patients in (("a", ["p", "q"]), ("b", ["p", "r"])):
        bootstrap = PatientBootstrap(name, 20, 0)
        figures = tuple(bootstrap.means("row", {"m": np.array([0.0, 1.0])}, patients))
        measured[name] = Measurements(figures, resamples=bootstrap.kept)
    assert {value.source for value in measured_values(measured)} == {"a", "b"}
