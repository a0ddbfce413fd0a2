"""Crop plans are functions of (seed, epoch, study); their crops lie inside the view and have the planned size."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pretrain.batches.grey_studies import PLAIN, SMALL, study_of
from vetdino.pretrain.batches.crop_plan import crop_extents, crop_plan, crop_transforms, planned_study
from vetdino.pretrain.batches.crops import cut_crops, study_crops


def test_pairs_begin_where_the_schedule_says():
    config = replace(PLAIN, multiview_from=0.5)
    assert not study_crops(study_of(1, 9), config, seed=0, epoch=0, progress=0.49).is_pair
    assert study_crops(study_of(1, 9), config, seed=0, epoch=0, progress=0.5).is_pair


def test_plans_do_not_depend_on_the_views_content():
    one, two = (crop_plan(SMALL, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one.center, two.center)
    assert one.noise_seed == two.noise_seed


sizes = st.tuples(st.integers(8, 700), st.integers(8, 700))


seeds = st.integers(0, 2**63)


areas = st.lists(st.floats(0.02, 1), min_size=2, max_size=2).map(lambda ends: tuple(sorted(ends)))


@settings(deadline=None)
@given(sizes, seeds, areas, areas)
def test_crops_lie_inside_the_view_before_they_are_turned(size, seed, global_area, local_area):
    config = replace(SMALL, rotation=0, global_area=global_area, local_area=local_area)
    cuts = crop_transforms(crop_plan(config, np.random.default_rng(seed)), size, config)
    for level, matrix_23, side in zip(cuts.level, cuts.matrix, [32] * 2 + [16] * 3, strict=True):
        # The outer edges of the first and the last pixel, in the whole view's pixels.
        edges = matrix_23 @ [[-0.5, side - 0.5], [-0.5, side - 0.5], [1, 1]]
        x, y = (edges + 0.5) * 2.0**level
        assert 0 <= round(min(x), 6) < max(x) <= size[1] + 1e-6
        assert 0 <= round(min(y), 6) < max(y) <= size[0] + 1e-6


@settings(deadline=None)
@given(sizes, seeds, areas, areas)
def test_crops_cover_the_area_that_was_asked_for_and_less_only_in_narrow_views(
    size, seed, global_area, local_area
):
    config = replace(SMALL, global_area=global_area, local_area=local_area)
    plan = crop_plan(config, np.random.default_rng(seed))
    cuts, (crop_h, crop_w) = crop_transforms(plan, size, config), crop_extents(plan, size)
    for index, side in enumerate([32] * 2 + [16] * 3):
        scale = abs(np.linalg.det(cuts.matrix[index, :, :2])) * 4.0 ** cuts.level[index]
        share = scale * side**2 / (size[0] * size[1])
        low, high = global_area if index < 2 else local_area
        assert share <= high + 1e-9
        narrow = np.isclose(crop_h[index], size[0]) or np.isclose(crop_w[index], size[1])
        assert narrow or share >= low - 1e-9


@settings(deadline=None)
@given(sizes, seeds)
def test_no_crop_shrinks_its_level_by_two_or_more(size, seed):
    cuts = crop_transforms(crop_plan(SMALL, np.random.default_rng(seed)), size, SMALL)
    steps = np.linalg.norm(cuts.matrix[:, :, :2], axis=1).min(axis=1)
    assert (steps < 2).all()
    assert (steps[cuts.level > 0] >= 1 - 1e-9).all()


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 99), st.integers(0, 9))
def test_plans_and_crops_do_not_depend_on_the_order_of_studies(order, seed, epoch):
    studies = [study_of(10 * n, 90, 150, key=f"k{n}") for n in range(6)]
    one = [planned_study(study, SMALL, seed=seed, epoch=epoch) for study in studies]
    two = {n: planned_study(studies[n], SMALL, seed=seed, epoch=epoch) for n in order}
    for number, whole in enumerate(one):
        for left, right in zip(whole.transforms, two[number].transforms, strict=True):
            assert all(map(np.array_equal, astuple(left), astuple(right)))
        crops = study_crops(studies[number], SMALL, seed=seed, epoch=epoch)
        assert np.array_equal(cut_crops(two[number], SMALL).locals_VLSS, crops.locals_VLSS)


def test_the_curve_is_gamma_then_contrast_then_a_shift():
    plan = crop_plan(SMALL, np.random.default_rng(3))
    curve = crop_transforms(plan, (60, 60), SMALL).curve
    for crop in range(5):
        for grey in (0, 1, 77, 128, 254, 255):
            bent = (grey / 255) ** plan.gamma[crop]
            expected = 255 * ((bent - 0.5) * plan.contrast[crop] + 0.5 + plan.brightness[crop])
            assert abs(curve[crop, grey] - min(255, max(0, expected))) <= 0.5001


def test_what_is_planned_introduces_itself_without_arrays():
    whole = planned_study(study_of(1, 2), SMALL, seed=0, epoch=0)
    assert repr(whole) == "PlannedStudy(ab12, 80x60 80x60)"
    assert repr(whole.transforms[0]) == "CropTransforms(5 crops)"
