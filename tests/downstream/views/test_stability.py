"""A head that keeps its organ from above to the side is stable."""

import math

import numpy as np
import pytest

from vetdino.downstream.views.intervals import PatientBootstrap
from vetdino.downstream.views.stability import head_stability, organ_rows, rank_correlation

BOOTSTRAP = PatientBootstrap("ours", 200, 0)


def stability(auc_of, count=24, projections=("VD", "RLAT")):
    """Figures and reasons for studies of these views, of one organ; auc_of: projection -> AUC of the heads."""
    views = [(f"k{n}", f"p{n}", projection) for n in range(count) for projection in projections]
    auc = np.array([[auc_of(projection)] for _, _, projection in views], float)
    measured = head_stability(views, ["heart"], auc, BOOTSTRAP)
    return {(one.metric, one.finding): one.value for one in measured.values}, measured.left_out


def test_heads_that_keep_their_organ_are_stable():
    figures, left_out = stability(lambda _: [0.5, 0.8, 0.6])
    assert figures["attention_same_head", "heart"] == figures["attention_same_head", "all"] == 1
    assert figures["attention_head_correlation", "heart"] == pytest.approx(1)
    assert left_out == {}


def test_heads_that_change_places_from_the_side_are_not_stable():
    figures, _ = stability(lambda projection: [0.5, 0.8, 0.6] if projection == "VD" else [0.8, 0.5, 0.6])
    assert figures["attention_same_head", "heart"] == 0
    assert figures["attention_head_correlation", "heart"] == pytest.approx(-1)


def test_what_cannot_be_compared_is_named():
    assert "one head" in stability(lambda _: [0.5])[1]["attention_same_head"]
    two, left_out = stability(lambda _: [0.5, 0.6])
    assert two["attention_same_head", "all"] == 1
    assert "two heads" in left_out["attention_head_correlation"]
    _, left_out = stability(lambda _: [0.5, 0.8, 0.6], projections=("VD", "DV"))
    assert "from the side" in left_out["attention_same_head"]


def test_rows_are_the_mean_over_known_organs_and_each_organ():
    rows = {name: pick(np.array([[0.2, np.nan, 0.4]])) for name, pick in organ_rows(["a", "b", "c"])}
    assert rows["all"] == pytest.approx(0.3)
    assert list(rows) == ["all", "a", "b", "c"]
    assert math.isnan(rows["b"][0])


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    one, other = np.random.default_rng(0).integers(0, 5, (2, 4, 7)).astype(float)
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), expected)
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))
