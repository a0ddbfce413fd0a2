"""The summary of an audit, against numbers counted by hand."""

from __future__ import annotations

import pytest

from vetdino.downstream.fewshot.audits.config import AuditConfig
from vetdino.downstream.fewshot.audits.scores import SliceScore
from vetdino.downstream.fewshot.audits.summary import MEAN, audit_summary

QUICK = AuditConfig(resamples=10)


def score(row: str, scan: str, z: int, overlap: int, organ: str = "liver") -> SliceScore:
    """A slice with 10 predicted and 10 true pixels."""
    return SliceScore(row, 0, scan, organ, z, 1, 1, 10, 10, overlap, 2 * overlap / 20)


def test_change_and_fraction_of_slices_harmed():
    scores = [
        score("before", "a", 0, 5),
        score("before", "a", 1, 5),
        score("before", "b", 0, 5),
        score("after", "a", 0, 8),
        score("after", "a", 1, 4),
        score("after", "b", 0, 4),
    ]
    lines = audit_summary(scores, {"before": "before", "after": "before"}, ["liver"], QUICK)
    by_row = {line["row"]: line for line in lines if line["organ"] == "liver"}
    assert by_row["before"]["dice"] == pytest.approx(0.5)
    assert by_row["before"]["worse"] == by_row["before"]["better"] == by_row["before"]["change"] == 0
    after = by_row["after"]
    assert after["dice"] == pytest.approx((2 * 12 / 40 + 2 * 4 / 20) / 2)
    assert after["change"] == pytest.approx(after["dice"] - 0.5)
    assert after["worse"] == pytest.approx((1 / 2 + 1) / 2)
    assert after["better"] == pytest.approx((1 / 2 + 0) / 2)
    assert (after["scans"], after["slices"]) == (2, 3)


def test_the_mean_is_over_organs_and_a_missing_organ_does_not_count():
    scores = [
        score("all", "a", 0, 10),
        score("all", "a", 0, 0, organ="spleen"),
        score("all", "b", 0, 10),
    ]
    lines = audit_summary(scores, {"all": "all"}, ["liver", "spleen"], QUICK)
    assert [line["dice"] for line in lines] == [1.0, 0.0, 0.5]
    assert [line["scans"] for line in lines] == [2, 1, 2]
    assert lines[-1]["organ"] == MEAN


def test_slices_with_several_components_are_counted():
    two = SliceScore("all", 0, "a", "liver", 1, 2, 1, 10, 10, 10, 1.0)
    line = audit_summary([score("all", "a", 0, 10), two], {"all": "all"}, ["liver"], QUICK)[0]
    assert (line["parts"], line["several"]) == (1.5, 0.5)
