"""Finished queries are kept on disk and read back as they were; damaged or foreign ones are not."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from vetdino.downstream.fewshot.finished import FinishedQueries, QueryResults
from vetdino.downstream.fewshot.results import ExampleSlices, ScanScore


def results(scan: str, dice: float = 1 / 3) -> QueryResults:
    score = ScanScore(
        "pixels", "pixels", "ours", "n", 1, 0, scan, "s9", "liver", 3, dice, 0.1, math.nan, True
    )
    slices = np.random.default_rng(0).integers(0, 255, (2, 4, 5), dtype=np.uint8)
    example = ExampleSlices(scan, (1, 6), slices, slices // 2, slices // 3)
    report = {"scan": scan, "organ": "liver", "first_loss": math.nan, "drift": 0.1 + 0.2}
    return QueryResults((score,), example, {"pixels": 1.5}, {"x": "no labels"}, {3: [report]})


def test_nothing_is_kept_before_the_first_query(tmp_path):
    assert FinishedQueries(tmp_path / "out", {}).load(0, "a") is None
    assert not (tmp_path / "out").exists()


def test_a_query_comes_back_bit_for_bit(tmp_path):
    kept = results("a")
    FinishedQueries(tmp_path, {"seed": 0}).save(0, kept)
    again = FinishedQueries(tmp_path, {"seed": 0}).load(0, "a")
    assert again is not None
    assert repr(again.scores) == repr(kept.scores)
    assert (again.example.scan, again.example.slices) == ("a", (1, 6))
    for name in ("image_nHW", "predicted_nHW", "truth_nHW"):
        np.testing.assert_array_equal(getattr(again.example, name), getattr(kept.example, name))
        assert getattr(again.example, name).dtype == np.uint8
    assert (again.seconds, again.left_out) == (kept.seconds, kept.left_out)
    assert repr(again.reports) == repr(kept.reports)


def test_the_scores_so_far_are_a_table(tmp_path):
    finished = FinishedQueries(tmp_path, {})
    finished.save(0, results("a"))
    continued = FinishedQueries(tmp_path, {})
    continued.load(0, "a")
    continued.save(1, results("b", 0.5))
    lines = list(csv.DictReader((continued.folder / "scans.csv").read_text().splitlines()))
    assert [(line["scan"], float(line["dice"])) for line in lines] == [("a", 1 / 3), ("b", 0.5)]


@pytest.mark.parametrize("other", [{"seed": 1}, {}])
def test_queries_of_other_settings_are_not_read_and_stay(tmp_path, other):
    FinishedQueries(tmp_path, {"seed": 0}).save(0, results("a"))
    finished = FinishedQueries(tmp_path, other)
    assert finished.load(0, "a") is None
    finished.save(0, results("a"))
    assert FinishedQueries(tmp_path, {"seed": 0}).load(0, "a") is not None


def test_a_damaged_query_is_measured_again(tmp_path):
    finished = FinishedQueries(tmp_path, {})
    finished.save(0, results("a"))
    path = finished.folder / "0-a.npz"
    path.write_bytes(path.read_bytes()[:-300])
    assert finished.load(0, "a") is None
