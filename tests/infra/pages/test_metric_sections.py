"""Cells of metric values, and paired differences against the formula they stand for."""

from __future__ import annotations

import math

import pytest

from vetdino.infra.pages.config import CompareConfig
from vetdino.infra.pages.groups import run_groups, source_columns
from vetdino.infra.pages.html import Cell
from vetdino.infra.pages.metric_sections import metric_sections, value_cell
from vetdino.infra.pages.runs import read_runs
from vetdino.platform.measure.bootstrap import estimate
from vetdino.platform.measure.metrics import auroc
from vetdino.platform.measure.results import MetricValue

NAN = math.nan


def value(source: str, number: float, low: float, high: float) -> MetricValue:
    return MetricValue("AUROC", "mass", source, number, low, high, 3, 9)


@pytest.mark.parametrize(
    ("metric_value", "cell"),
    [
        (value("a", NAN, NAN, NAN), Cell("not measured")),
        (value("a", 0.5, NAN, NAN), Cell("0.500", "no interval")),
        (value("a", 0.7, 0.6, 0.8), Cell("0.700", "0.600 to 0.800")),
        (value("a - b", 0.2, 0.1, 0.3), Cell("+0.200", "+0.100 to +0.300", "better")),
        (value("a - b", -0.2, -0.3, -0.1), Cell("-0.200", "-0.300 to -0.100", "worse")),
        (value("a - b", 0.1, -0.1, 0.3), Cell("+0.100", "-0.100 to +0.300")),
    ],
)
def test_a_cell_has_three_digits_an_interval_and_a_verdict_on_differences(metric_value, cell):
    assert value_cell(metric_value) == cell


def test_no_columns_make_no_section():
    assert list(metric_sections([], [], CompareConfig())) == []


def test_the_paired_difference_is_that_of_the_bootstrap(folders):
    runs = read_runs(
        [folders.evaluation("weak", 0.3, digest="a", seed=1), folders.evaluation("strong", 3, seed=2)]
    )
    columns = source_columns(runs, [])
    html = "".join(metric_sections(columns, run_groups([], columns), CompareConfig(resamples=200)))
    weak, strong = (run.predictions("knn", "backbone").predictions for run in runs)
    difference = estimate(auroc, strong.truth, strong.scores, strong.patients, n=200, seed=0)
    difference -= estimate(auroc, weak.truth, weak.scores, weak.patients, n=200, seed=0)
    low, high = difference.interval()
    assert low[0] > 0  # otherwise the verdict would be empty
    cell = f'better">{difference.values[0]:+.3f} <span class="interval">{low[0]:+.3f} to {high[0]:+.3f}'
    assert cell in html
