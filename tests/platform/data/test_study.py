"""Views, studies and the choice of a pair."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vetdino.platform.data.study import PROJECTIONS, StoredView, Study, View, pair_of


def study_of(*projections: str) -> Study:
    return Study("4f2a", "9c01", tuple(View(np.zeros((4, 6), np.uint8), name) for name in projections))


def test_one_view_is_paired_with_itself():
    assert pair_of(study_of("VD"), Random(0)) == (0, 0)
    assert pair_of(study_of("VD"), Random(0), "distinct") == (0, 0)


@given(st.lists(st.sampled_from(PROJECTIONS), min_size=2, max_size=8), st.integers(0, 2**32))
def test_a_pair_never_holds_the_same_view_twice(projections, seed):
    study = study_of(*projections)
    for policy in ("uniform", "distinct"):
        left, right = pair_of(study, Random(seed), policy)
        assert left != right
        assert {left, right} <= set(range(len(projections)))


@given(st.lists(st.sampled_from(["VD", "LLAT"]), min_size=2, max_size=6), st.integers(0, 2**32))
def test_distinct_pairs_differ_in_projection_wherever_two_do(projections, seed):
    left, right = pair_of(study_of(*projections), Random(seed), "distinct")
    assert (projections[left] != projections[right]) == (len(set(projections)) == 2)


def sided(*views: tuple[str, str]) -> Study:
    pixels = np.zeros((4, 6), np.uint8)
    return Study("4f2a", "9c01", tuple(View(pixels, projection, side) for projection, side in views))


@given(
    st.lists(
        st.tuples(st.sampled_from(["CC", "MLO"]), st.sampled_from(["L", "R", ""])), min_size=1, max_size=5
    ),
    st.integers(0, 2**32),
)
def test_same_side_never_pairs_two_sides_or_one_projection_with_itself(views, seed):
    left, right = pair_of(sided(*views), Random(seed), "same_side")
    (projection, side), (other_projection, other_side) = views[left], views[right]
    allowed = any(
        one[0] != other[0] and not (one[1] and other[1] and one[1] != other[1])
        for one in views
        for other in views
    )
    if allowed:
        assert projection != other_projection
        assert not (side and other_side and side != other_side)
    else:
        assert left == right


def test_same_side_draws_every_pair_of_both_breasts():
    study = sided(("CC", "L"), ("MLO", "L"), ("CC", "R"), ("MLO", "R"))
    random = Random(0)
    assert {pair_of(study, random, "same_side") for _ in range(200)} == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert len({pair_of(study, random, "distinct") for _ in range(400)}) == 8


def test_every_ordered_pair_is_drawn_about_equally_often():
    random, study = Random(0), study_of("VD", "LLAT", "RLAT")
    drawn = [pair_of(study, random) for _ in range(6000)]
    counts = [drawn.count(pair) for pair in set(drawn)]
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts) < 120  # four standard deviations of a fair draw


def test_a_stored_view_decodes_to_the_view_that_was_stored():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    stored = StoredView(encoded, "LLAT", "L", "DX", (0.1, 0.2), {"voi": "window"})
    view = stored.decode()
    assert np.array_equal(view.pixels, pixels)
    assert (view.projection, view.laterality, view.modality) == ("LLAT", "L", "DX")
    assert (view.spacing, view.facts) == ((0.1, 0.2), {"voi": "window"})
    assert view.decode() is view


def test_a_study_introduces_itself_without_numbers_or_names():
    assert repr(study_of("VD", "LLAT")) == "Study(4f2a, 2 views: VD LLAT)"


def test_a_view_of_a_study_is_decoded():
    encoded = cv2.imencode(".png", np.full((2, 3), 7, np.uint8))[1].tobytes()
    study = Study("4f2a", "9c01", (View(np.zeros((4, 6), np.uint8)), StoredView(encoded, "VD")))
    assert study.view(0) is study.views[0]
    assert np.array_equal(study.view(1).pixels, np.full((2, 3), 7))
