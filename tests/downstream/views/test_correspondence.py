"""Patches are matched to the same place of the animal, beside chance, position and an oracle."""

from itertools import combinations

import numpy as np
import pytest

from vetdino.downstream.views.correspondence import COLUMNS, PatchMatches, patch_figures, patch_matches
from vetdino.downstream.views.intervals import PatientBootstrap
from vetdino.downstream.views.tokenized import TokenizedView


def look(laid, tokens=None, attention=None):
    view, _, patches = laid
    tokens = np.eye(len(patches.points), dtype=np.float32) if tokens is None else tokens
    return TokenizedView(view, patches, tokens, attention)


def matched(one, other, radius=3.0, most=1000, seed=0):
    return patch_matches(one, other, radius=radius, most=most, random=np.random.default_rng(seed))


def test_tokens_that_know_their_patch_find_it_in_the_same_view(laid):
    same = look(laid[0])
    found = matched(same, same)
    assert tuple(found.columns) == COLUMNS
    assert found.answerable == found.foreground == len(laid[0][2].inside)
    assert found.columns["patch_hit_at_1"].all()
    assert found.columns["patch_hit_oracle"].all()
    np.testing.assert_array_equal(found.columns["patch_error_cm"], found.columns["patch_error_cm_oracle"])


def test_columns_are_those_of_slow_loops(laid):
    random = np.random.default_rng(1)
    one, other = (look(part, random.normal(size=(64, 6)).astype(np.float32)) for part in laid[:2])
    radius, here, there = 3.0, laid[0][2], laid[1][2]
    found = matched(one, other, radius)
    every = there.truth.points[np.isfinite(there.truth.points[..., 0])]
    rows = []
    for patch in here.inside:
        point = here.points[patch]
        if min(np.linalg.norm(every - point, axis=1)) > radius:
            continue
        wanted = there.truth.frame[:2] @ (point - there.truth.center)
        error = {int(m): float(np.hypot(*(there.centers[m] - wanted))) for m in there.inside}
        token = one.tokens[patch]
        near = sorted(error, key=lambda m: -cosine(token, other.tokens[m]))
        chance = [any(error[m] <= radius for m in five) for five in combinations(error, 2)]
        misses, count = sum(value > radius for value in error.values()), len(error)
        missed = np.prod([(misses - drawn) / (count - drawn) if misses > drawn else 0 for drawn in range(5)])
        assert 1 - misses * (misses - 1) / (count * (count - 1)) == pytest.approx(np.mean(chance))
        rows.append(
            {
                "patch_hit_at_1": error[near[0]] <= radius,
                "patch_hit_at_5": min(error[m] for m in near[:5]) <= radius,
                "patch_error_cm": error[near[0]],
                "patch_hit_at_1_chance": 1 - misses / count,
                "patch_hit_at_5_chance": 1 - missed,
                "patch_error_cm_chance": np.median(list(error.values())),
                "patch_hit_oracle": min(error.values()) <= radius,
                "patch_error_cm_oracle": min(error.values()),
            }
        )
    assert 0 < len(rows) == found.answerable < found.foreground
    for name in rows[0]:
        np.testing.assert_allclose(found.columns[name], [row[name] for row in rows], rtol=1e-6, err_msg=name)


def cosine(one, other):
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_position_beats_chance_and_never_the_oracle(laid):
    flat = [look(part, np.ones((64, 2), np.float32)) for part in laid]
    for one, other in combinations(flat, 2):
        columns = matched(one, other).columns
        assert np.median(columns["patch_error_cm_position"]) < np.median(columns["patch_error_cm_chance"])
        assert (columns["patch_error_cm_oracle"] <= columns["patch_error_cm_position"]).all()


def test_few_patches_are_drawn_and_a_view_of_nothing_answers_nothing(laid):
    one, other = look(laid[0]), look(laid[1])
    few = matched(one, other, most=3).columns
    assert len(few["patch_error_cm"]) == 3
    np.testing.assert_array_equal(
        few["patch_error_cm"], matched(one, other, most=3).columns["patch_error_cm"]
    )
    assert matched(one, other, radius=1e-9).columns == {}


def test_figures_are_means_of_hits_and_medians_of_errors_by_pair():
    def matches(hits, errors):
        columns = {name: np.array(hits if "hit" in name else errors, float) for name in COLUMNS}
        return PatchMatches(columns, foreground=10, answerable=len(hits))

    nothing = PatchMatches({}, foreground=4, answerable=0)
    measured = patch_figures(
        {
            "VD-LLAT": [("p0", matches([1, 0], [1.0, 5.0])), ("p1", matches([1], [2.0])), ("p1", nothing)],
            "VD-DV": [("p0", nothing)],
            "VD-VD": [("p0", matches([0], [9.0]))],
        },
        PatientBootstrap("ours", 50, 0),
    )
    values = {(one.metric, one.finding): one.value for one in measured.values}
    assert values["patch_hit_at_1", "VD-LLAT"] == values["patch_hit_at_1", "all"] == pytest.approx(2 / 3)
    assert values["patch_error_cm", "all"] == 2.0
    assert values["patch_answerable", "VD-LLAT"] == pytest.approx(3 / 24)
    assert values["patch_answerable", "all"] == pytest.approx(3 / 28)
    assert set(measured.left_out) == {"patches VD-DV"}
