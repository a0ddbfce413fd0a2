"""The other view of a study is found among those of other patients; chance is exact."""

import numpy as np
import pytest

from vetdino.downstream.views import retrieval as module
from vetdino.downstream.views.intervals import PatientBootstrap
from vetdino.downstream.views.retrieval import match_ranks, retrieval
from vetdino.platform.measure.neighbors import unit_vectors

BOOTSTRAP = PatientBootstrap("ours", 200, 0)


def two_views(make_views, count, dimensions, noise, seed=0, patients=None):
    """Studies of a VD and an LLAT whose vectors are the study's own but for noise."""
    random = np.random.default_rng(seed)
    own = random.normal(size=(count, dimensions))
    vectors = np.repeat(own, 2, axis=0) + noise * random.normal(size=(2 * count, dimensions))
    keys = [f"{number:03d}" for number in range(count) for _ in range(2)]
    patients = patients and [patients[number] for number in range(count) for _ in range(2)]
    return make_views(vectors, keys, ["VD", "LLAT"] * count, patients)


def test_ranks_and_recalls_are_those_of_slow_loops(by_name, make_views):
    views = two_views(make_views, 30, 4, noise=0.7, patients=[f"p{number // 2}" for number in range(30)])
    vectors, patients = views.features.vectors.astype(float), views.features.patients
    ranks, counts = [], []
    for query in range(60):
        own = query + 1 if query % 2 == 0 else query - 1
        others = [row for row in range(own % 2, 60, 2) if patients[row] != patients[query]]
        better = [row for row in others if vectors[query] @ vectors[row] >= vectors[query] @ vectors[own]]
        ranks.append(1 + len(better))
        counts.append(len(others))
    figures = by_name(retrieval(views, BOOTSTRAP))
    for top in (1, 5, 10):
        expected = np.mean([rank <= top for rank in ranks])
        assert figures[f"recall_at_{top}", "VD-LLAT"].value == pytest.approx(expected)
        assert figures[f"recall_at_{top}_chance", "all"].value == pytest.approx(top / 29)
    assert figures["mrr", "all"].value == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert set(counts) == {28}
    assert figures["mrr_chance", "all"].value == pytest.approx(sum(1 / rank for rank in range(1, 30)) / 29)
    assert (figures["mrr", "all"].present, figures["mrr", "all"].known) == (15, 60)


def test_chance_is_what_vectors_without_meaning_get(by_name, make_views):
    views = two_views(make_views, 300, 8, noise=50.0, seed=2)
    figures = by_name(retrieval(views, BOOTSTRAP))
    for metric in ("recall_at_10", "mrr"):
        one, chance = figures[metric, "all"], figures[f"{metric}_chance", "all"]
        assert one.low <= chance.value <= one.high


def test_equal_views_are_found_at_once_and_collapsed_ones_never(by_name, make_views):
    assert (
        by_name(retrieval(two_views(make_views, 30, 8, noise=0.0), BOOTSTRAP))["recall_at_1", "all"].value
        == 1
    )
    alike = make_views(np.ones((60, 3)), [f"{n // 2}" for n in range(60)], ["VD", "LLAT"] * 30)
    assert by_name(retrieval(alike, BOOTSTRAP))["recall_at_10", "all"].value == 0


def test_a_bank_in_blocks_gives_the_same_ranks(monkeypatch):
    random = np.random.default_rng(0)
    query, own, bank = (unit_vectors(random.normal(size=(count, 5))) for count in (9, 9, 40))
    people = [np.array([f"p{number % 7}" for number in range(count)]) for count in (9, 40)]
    whole = match_ranks(query, own, bank, *people)
    monkeypatch.setattr(module, "BLOCK", 80)
    for one, other in zip(whole, match_ranks(query, own, bank, *people), strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_of_one_projection_make_a_row_that_is_no_part_of_all(by_name, make_views):
    random = np.random.default_rng(0)
    keys = [f"{number // 3}" for number in range(60)]
    views = make_views(random.normal(size=(60, 4)), keys, ["VD", "VD", "UNKNOWN"] * 20)
    measured = retrieval(views, BOOTSTRAP)
    assert {row for _, row in by_name(measured)} == {"VD-VD"}
    assert measured.facts["views_without_projection"] == 20


def test_what_cannot_be_retrieved_is_named(make_views):
    lonely = make_views(np.eye(3), ["a", "b", "c"], ["VD"] * 3)
    assert retrieval(lonely, BOOTSTRAP).left_out == {
        "retrieval": "no test study has two views of known projection"
    }
    one = retrieval(make_views(np.eye(2), ["a", "a"], ["VD", "LLAT"]), BOOTSTRAP)
    assert one.values == ()
    assert one.left_out["retrieval VD-LLAT"] == "no other patient has such a view"
