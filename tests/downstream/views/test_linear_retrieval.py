"""A linear map fitted on train studies finds views that the vectors as they lie do not."""

import numpy as np
import pytest
from scipy.linalg import eigh

from vetdino.downstream.views.intervals import PatientBootstrap
from vetdino.downstream.views.linear_retrieval import _fitted, linear_retrieval
from vetdino.downstream.views.retrieval import ranks_by_row, retrieval


def bootstrap():
    return PatientBootstrap("ours", 100, 0)


def hidden(make_views, count, seed, first=0):
    """Studies whose views agree in 4 of 12 dimensions; the others are louder and say nothing."""
    random = np.random.default_rng(seed)
    own = np.repeat(random.normal(size=(count, 4)), 2, axis=0) + 0.1 * random.normal(size=(2 * count, 4))
    vectors = np.concatenate([own, 2 * random.normal(size=(2 * count, 8))], axis=1)
    keys = [f"{first + number:04d}" for number in range(count) for _ in range(2)]
    return make_views(vectors, keys, ["VD", "LLAT"] * count)


@pytest.fixture
def splits(make_views):
    return {
        "train": hidden(make_views, 80, 1),
        "val": hidden(make_views, 20, 2, 100),
        "test": hidden(make_views, 60, 3, 200),
    }


def test_a_linear_map_finds_what_louder_directions_hide(splits, by_name):
    plain = by_name(retrieval(splits["test"], bootstrap()))
    measured = linear_retrieval(splits, bootstrap())
    linear = by_name(measured)
    assert plain["recall_at_10", "all"].value < 0.4
    assert linear["recall_at_10_linear", "all"].value > 0.9
    assert not any("chance" in metric for metric, _ in linear)
    assert measured.facts["linear_train_studies"] == 80


def test_the_maps_first_direction_is_that_of_the_generalized_eigenproblem(splits):
    train = splits["train"]
    vectors, keys = train.features.vectors.astype(np.float64), np.asarray(train.features.keys)
    centered = np.concatenate(
        [vectors[keys == key] - vectors[keys == key].mean(0) for key in np.unique(keys)]
    )
    within = centered.T @ centered / len(vectors)
    within = 0.7 * within + 0.3 * np.trace(within) / len(within) * np.eye(len(within))
    total = np.cov(vectors.T, bias=True)
    # scikit-learn shrinks the total scatter, too, which adds another multiple of the identity to `between`.
    total = 0.7 * total + 0.3 * np.trace(total) / len(total) * np.eye(len(total))
    _, directions = eigh(total - within, within)
    found = _fitted(train, 0.3).scalings_[:, 0]
    cosine = found @ directions[:, -1] / np.linalg.norm(found) / np.linalg.norm(directions[:, -1])
    assert abs(cosine) == pytest.approx(1, abs=1e-2)


def test_the_validation_split_chooses_and_test_views_change_nothing(splits, make_views):
    chosen = linear_retrieval(splits, bootstrap()).facts["linear_shrinkage"]
    other = linear_retrieval(splits | {"test": hidden(make_views, 30, 9, 300)}, bootstrap())
    assert other.facts["linear_shrinkage"] == chosen


def test_without_train_studies_of_two_projections_it_is_left_out(splits, make_views):
    few = hidden(make_views, 9, 1)
    measured = linear_retrieval(splits | {"train": few}, bootstrap())
    assert not measured.values
    assert measured.left_out == {"linear retrieval": "fewer than 10 train studies have two projections"}


def test_without_validation_studies_the_default_shrinkage_serves(splits, make_views):
    empty = hidden(make_views, 0, 2)
    assert linear_retrieval(splits | {"val": empty}, bootstrap()).facts["linear_shrinkage"] == 0.3


def test_the_same_queries_are_ranked_as_without_the_map(splits, by_name):
    ranks = ranks_by_row(splits["test"])["all"]
    linear = by_name(linear_retrieval(splits, bootstrap()))["mrr_linear", "all"]
    assert linear.known == len(ranks.rank) == 120
