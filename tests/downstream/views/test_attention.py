"""Attention inside organs is measured exactly; the best head is chosen on other patients."""

import numpy as np
import pytest

from vetdino.downstream.views.attention import OrganOverlap, attention_figures, best_heads, organ_overlap
from vetdino.downstream.views.intervals import PatientBootstrap
from vetdino.downstream.views.tokenized import TokenizedView

pytestmark = pytest.mark.slow

BOOTSTRAP = PatientBootstrap("ours", 200, 0)


def look(laid, tokens=None, attention=None):
    view, _, patches = laid
    tokens = np.eye(len(patches.points), dtype=np.float32) if tokens is None else tokens
    return TokenizedView(view, patches, tokens, attention)


def overlap(view):
    """(auc, lift) of a view."""
    found = organ_overlap("k0", "p0", view)
    assert (found.key, found.patient, found.projection) == ("k0", "p0", view.projection)
    return found.auc, found.lift


def test_even_attention_prefers_no_organ(laid):
    _, truth, _ = laid[0]
    auc, lift = overlap(look(laid[0], attention=np.full((2, 64), 1 / 70, np.float32)))
    shown = ~np.isnan(auc[:, 0])
    assert auc.shape == lift.shape == (len(truth.organs), 2)
    assert shown.any()
    np.testing.assert_allclose(auc[shown], 0.5)
    np.testing.assert_allclose(lift[shown], 1.0, rtol=1e-6)


def test_overlap_is_that_of_slow_loops(laid):
    _, truth, patches = laid[0]
    attention = np.random.default_rng(2).random((2, 64)).astype(np.float32)
    auc, lift = overlap(look(laid[0], attention=attention))
    k, head = truth.organs.index("liver"), 1
    won = pairs = inside = mass = 0.0
    for one in range(64):
        organ = float(min(patches.organs[k, one], patches.animal[one]))
        inside, mass = (
            inside + attention[head, one] * organ,
            mass + attention[head, one] * patches.animal[one],
        )
        for other in range(64):
            outside = float(patches.animal[other] - min(patches.organs[k, other], patches.animal[other]))
            a, b = attention[head, one], attention[head, other]
            won += organ * outside * ((a > b) + 0.5 * (a == b))
            pairs += organ * outside
    area = patches.organs[k].sum() / patches.animal.sum()
    assert auc[k, head] == pytest.approx(won / pairs, abs=1e-6)
    assert lift[k, head] == pytest.approx(inside / mass / area, rel=1e-5)


def test_a_head_that_looks_at_an_organ_is_found_out(laid):
    _, truth, patches = laid[0]
    k = truth.organs.index("lung")
    attention = np.stack([patches.organs[k] + 0.01, np.full(64, 0.01)]).astype(np.float32)
    auc, lift = overlap(look(laid[0], attention=attention))
    assert auc[k, 0] > 0.8
    assert lift[k, 0] > 1.5


def overlaps(auc_of, count=24):
    """Studies of a VD and an RLAT; auc_of: (projection, number) -> heads' AUC of the heart."""
    return [
        OrganOverlap(
            f"k{number}",
            f"p{number}",
            projection,
            ("body", "heart"),
            np.array([[0.9] * 3, auc]),
            np.ones((2, 3)),
        )
        for number in range(count)
        for projection in ("VD", "RLAT")
        for auc in [auc_of(projection, number)]
    ]


def test_one_head_for_one_organ_is_stable_from_above_and_beside(by_name):
    figures = by_name(attention_figures(overlaps(lambda *_: [0.5, 0.8, 0.6]), BOOTSTRAP))
    assert figures["attention_auc", "heart"].value == pytest.approx(0.8)
    assert figures["attention_auc_heads", "heart"].value == pytest.approx(1.9 / 3)
    assert figures["attention_best_head", "heart"].value == 1
    assert figures["attention_same_head", "heart"].value == 1
    assert figures["attention_head_correlation", "heart"].value == pytest.approx(1)
    assert not any(row == "body" for _, row in figures)


def test_choosing_the_best_of_heads_that_know_nothing_does_not_flatter(by_name):
    random = np.random.default_rng(0)
    noise = overlaps(lambda *_: (0.5 + 0.2 * random.normal(size=3)).tolist(), count=60)
    one = by_name(attention_figures(noise, BOOTSTRAP))["attention_auc", "heart"]
    assert one.low < 0.5 < one.high


def test_an_organ_of_one_half_of_the_patients_is_named():
    few = overlaps(lambda *_: [0.5, 0.8, 0.6], count=1)
    measured = attention_figures(few, BOOTSTRAP)
    assert measured.left_out["attention heart"] == "shown to one half of the patients or to none"
    np.testing.assert_array_equal(best_heads(np.full((2, 1, 3), np.nan)), [-1])
