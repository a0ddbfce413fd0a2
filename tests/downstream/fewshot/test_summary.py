"""Means, intervals and paired tests of few-shot scores, against loops."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from vetdino.downstream.fewshot.config import FewshotConfig
from vetdino.downstream.fewshot.method.predictors import copy_predictor
from vetdino.downstream.fewshot.methods import Method
from vetdino.downstream.fewshot.results import FewshotResults, ScanScore
from vetdino.downstream.fewshot.summary import MEAN, few_scans_note, paired_p, row_scores, summary_lines

ORGANS = {1: "liver", 2: "spleen"}


def results(dice: dict[str, np.ndarray]) -> FewshotResults:
    """dice: row -> (scans, organs), NaN for what a scan does not show."""
    scores = [
        ScanScore(row, row, "ours", "n", 1, 0, f"s{scan}", "s9", organ, 3, value, value / 2, 10 * value)
        for row, values in dice.items()
        for scan, own in enumerate(values)
        for organ, value in zip(ORGANS.values(), own, strict=True)
        if not np.isnan(value)
    ]
    methods = {row: Method(row, "ours", copy_predictor, ("n",)) for row in dice}
    return FewshotResults(ORGANS, tuple(scores), (), {}, {}, methods)


def test_a_scan_of_unknown_spacing_has_no_hd95_and_is_not_missed():
    [full, empty] = results({"one": np.full((1, 2), 0.5)}).scores
    scores = (replace(full, volume_hd95=np.nan), replace(empty, volume_hd95=np.nan, missed=True))
    one = replace(results({"one": np.full((1, 2), 0.5)}), scores=scores)
    liver, spleen, mean = summary_lines(one, FewshotConfig(resamples=10))
    assert np.isnan(liver["volume_hd95"])
    assert [line["missed"] for line in (liver, spleen, mean)] == [0, 1, 1]


def lines_of(dice: dict[str, np.ndarray], against: dict[str, str] | None = None):
    config = FewshotConfig(resamples=200)
    return {(line["row"], line["organ"]): line for line in summary_lines(results(dice), config, against)}


def by_flipping_signs(differences: np.ndarray) -> float:
    """Share of all signs of the ranks whose sum is as far from the middle as the one seen."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    middle = ranks.sum() / 2
    seen = abs(ranks[differences > 0].sum() - middle)
    sums = [abs(np.dot(signs, ranks) - middle) for signs in product((0, 1), repeat=len(ranks))]
    return float(np.mean(np.array(sums) >= seen - 1e-9))


@pytest.mark.parametrize("count", [6, 9])
def test_the_paired_test_is_that_of_all_signs(count):
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    assert paired_p(differences) == pytest.approx(by_flipping_signs(differences))
    assert paired_p(np.append(differences, [np.nan, 0.0])) == pytest.approx(by_flipping_signs(differences))


def test_there_is_no_test_of_five_scans_and_no_difference_is_no_evidence():
    assert np.isnan(paired_p(np.arange(1.0, 6.0)))
    assert np.isnan(paired_p(np.array([])))
    assert paired_p(np.zeros(8)) == 1


def test_rows_are_compared_with_the_first_or_the_one_named():
    random = np.random.default_rng(0)
    dice = {row: random.uniform(0.3, 0.9, (8, 2)) for row in ("one", "two", "three")}
    lines = lines_of(dice, {"three": "two"})
    for row, reference in (("one", "one"), ("two", "one"), ("three", "two")):
        apart = dice[row] - dice[reference]
        for organ, value in (
            ("liver", apart[:, 0].mean()),
            ("spleen", apart[:, 1].mean()),
            (MEAN, apart.mean()),
        ):
            line = lines[row, organ]
            assert line["against"] == reference
            assert line["delta"] == pytest.approx(value)
            assert line["delta_low"] <= line["delta"] <= line["delta_high"]
    assert lines["two", MEAN]["p"] == pytest.approx(
        by_flipping_signs((dice["two"] - dice["one"]).mean(axis=1))
    )
    assert lines["one", MEAN]["p"] == 1


def test_an_organ_of_few_scans_says_so_and_has_no_interval():
    dice = np.random.default_rng(1).uniform(0.3, 0.9, (8, 2))
    dice[3:, 1] = np.nan
    lines = lines_of({"one": dice})
    assert lines["one", "spleen"]["scans"] == 3
    assert lines["one", "spleen"]["note"] == few_scans_note(3) == "3 scans: too few for an interval"
    assert np.isnan(lines["one", "spleen"]["dice_low"])
    assert lines["one", "spleen"]["dice"] == pytest.approx(dice[:3, 1].mean())
    assert lines["one", "liver"]["note"] == ""
    assert not np.isnan(lines["one", "liver"]["dice_low"])


def test_differences_are_over_the_scans_that_both_rows_have():
    dice = {"one": np.full((7, 2), 0.5), "two": np.full((7, 2), 0.6)}
    dice["one"][0] = np.nan
    dice["two"][1, 0] = np.nan
    lines = lines_of(dice)
    assert lines["two", "liver"]["delta"] == pytest.approx(0.1)
    assert lines["two", "liver"]["scans"] == 6
    assert lines["one", MEAN]["scans"] == 6
    assert row_scores(results(dice).scores, "one", ["liver", "spleen"]).scans == tuple(
        f"s{n}" for n in range(1, 7)
    )


def test_a_row_without_a_score_has_no_line():
    lines = lines_of({"none": np.full((6, 2), np.nan), "one": np.full((6, 2), 0.5)})
    assert {row for row, _ in lines} == {"one"}
