"""A report adds tasks, is cut to one source, and becomes tables in which differences have a sign."""

import io

import numpy as np
import pytest
from rich.console import Console

from vetdino.downstream.results import EvaluationReport, cell, report_tables
from vetdino.platform.measure.predictions import Predictions
from vetdino.platform.measure.results import Measurements, MetricValue

SOURCES = {"mine": "my backbone", "random": "random weights", "pixels": "raw pixels"}


def value(source, value=0.8, metric="AUROC", finding="macro", low=0.7):
    return MetricValue(metric, finding, source, value, low, value + 0.1, 3, 9)


def predictions(left_out=()):
    facts = {"k": 5, "test_studies": 9, "test_patients": 4}
    return Predictions(
        ("mass",), ("p0",), np.zeros((1, 1)), np.zeros((1, 1)), dict.fromkeys(left_out, "rare"), facts
    )


@pytest.fixture
def report():
    """k-NN with all labels and with few, and a task of measurements of one source."""
    empty = EvaluationReport(labels=SOURCES, digests={name: name[0] for name in SOURCES})
    knn = [value("mine", 0.8), value("pixels", 0.6), value("mine - pixels", 0.2, low=0.1)]
    few = [value("mine", 0.5, low=float("nan"))]
    views = [value("mine", 0.3, "mrr", "VD-LLAT")]
    return (
        empty.with_task(
            "knn", {"mine": predictions(), "pixels": predictions(["lungs"])}, {"random": "not requested"}, knn
        )
        .with_task("knn_10pct", {"mine": predictions()}, {}, few)
        .with_task(
            "views", {"mine": Measurements(tuple(views), {}, {"heads": 3}, {"a.png": b"png"})}, {}, views
        )
    )


def printed(report, **options):
    console = Console(file=io.StringIO(), width=300)
    for item in report_tables(report, **options):
        console.print(item, markup=False)
    return console.file.getvalue()


def test_a_report_keeps_values_reasons_facts_predictions_and_pictures_by_task(report):
    assert list(report.values) == ["knn", "knn_10pct", "views"]
    assert report.left_out["knn"] == {"lungs, pixels": "rare", "random": "not requested"}
    assert set(report.predictions) == {"knn", "knn_10pct"}
    assert report.facts["views"] == {"mine": {"heads": 3}}
    assert report.pictures == {"a.png": b"png"}
    assert report.find("knn", "AUROC", "macro", "pixels").value == 0.6
    with pytest.raises(KeyError):
        report.find("knn", "AP", "macro", "pixels")


def test_pairs_name_task_metric_finding_and_source_with_the_interval(report):
    pairs = dict(report.pairs())
    assert pairs["knn/auroc.macro.mine"] == 0.8
    assert pairs["knn/auroc.macro.mine - pixels.low"] == 0.1
    assert pairs["views/mrr.VD-LLAT.mine.high"] == pytest.approx(0.4)


def test_the_report_of_one_source_is_as_if_it_had_been_evaluated_alone(report):
    alone = report.only("pixels", "backbone")
    assert dict(alone.labels) == {"backbone": "raw pixels"}
    assert [one.source for one in alone.values["knn"]] == ["backbone"]
    assert alone.values["views"] == []
    assert set(alone.predictions["knn"]) == set(alone.facts["knn"]) == {"backbone"}
    assert alone.pictures == {}


def test_tables_show_values_reasons_and_few_labels_in_columns(report):
    text = printed(report)
    assert "knn AUROC, my backbone, 9 test studies of 4 patients" in text
    assert "+0.200 (+0.100 +0.300)" in text
    assert "left out of knn: random (not requested)" in text
    assert "mine: heads 3" in text
    few = text[text.index("few labels") :]
    assert "0.500 (no interval)" in few
    assert "VD-LLAT" in text[: text.index("few labels")]
    assert "all, macro AUROC" not in text


def test_an_overview_has_a_row_for_each_source(report):
    overview = printed(report, overview=True)
    overview = overview[overview.index("all, macro AUROC") :]
    for name in SOURCES:
        assert name in overview
    assert "mine - it" in overview
    assert "0.600" in overview


def test_a_cell_without_interval_says_so():
    assert cell(value("a", 0.5, low=float("nan"))) == "0.500 (no interval)"
    assert cell(value("a", 0.5, low=0.4)) == "0.500 (0.400 0.600)"
