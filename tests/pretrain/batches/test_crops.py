"""Pairs and crops are functions of (seed, epoch, study)."""

from dataclasses import astuple, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data.study import Study, View, pair_of
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.crops import (
    crops_from,
    crops_of,
    cuts_of,
    extent_of,
    mixed,
    plan_of,
    quantiles,
    whole_of,
)

SMALL = CropConfig(global_side=32, local_side=16, locals_per_view=3)


def study_of(*values: int, key: str = "ab12") -> Study:
    """Views of one grey each, so that a crop tells which view it came from."""
    projections = ("VD", "LLAT", "RLAT", "DV")
    views = tuple(View(np.full((80, 60), v, np.uint8), p) for v, p in zip(values, projections, strict=False))
    return Study(key, "p1", views)


PLAIN = CropConfig(
    global_side=32,
    local_side=16,
    locals_per_view=3,
    brightness=0,
    contrast=0,
    gamma=0,
    noise=0,
    blur=0,
    rotation=0,
)


def greys(crops) -> list[float]:
    return [float(np.median(crops.globals_VGSS[view])) for view in (0, 1)]


def test_a_pair_never_holds_the_same_view_twice_where_there_are_two():
    study = study_of(10, 20, 30)
    pairs = {pair_of(study, Random(seed)) for seed in range(50)}
    assert len(pairs) == 6
    assert all(left != right for left, right in pairs)


def test_distinct_pairs_prefer_other_projections():
    same = View(np.zeros((8, 8), np.uint8), "VD")
    study = Study("k", "p", (same, same, View(np.zeros((8, 8), np.uint8), "LLAT")))
    assert all(2 in pair_of(study, Random(seed), "distinct") for seed in range(20))


def test_crops_have_the_shapes_that_were_asked_for():
    crops = crops_of(study_of(50, 200), SMALL, seed=0, epoch=0)
    assert crops.globals_VGSS.shape == (2, 2, 32, 32)
    assert crops.locals_VLSS.shape == (2, 3, 16, 16)
    assert crops.globals_VGSS.dtype == np.uint8
    assert crops.is_pair


def test_the_same_seed_epoch_and_study_give_the_same_crops_and_another_epoch_gives_others():
    study = Study("k", "p", (View(np.random.default_rng(0).integers(0, 256, (80, 60), np.uint8), "VD"),))
    one, two = (crops_of(study, SMALL, seed=3, epoch=5) for _ in range(2))
    other = crops_of(study, SMALL, seed=3, epoch=6)
    assert np.array_equal(one.globals_VGSS, two.globals_VGSS)
    assert np.array_equal(one.locals_VLSS, two.locals_VLSS)
    assert not np.array_equal(one.globals_VGSS, other.globals_VGSS)


def test_either_view_is_the_teachers_in_about_half_of_the_draws():
    first = [greys(crops_of(study_of(50, 200, key=str(n)), PLAIN, seed=0, epoch=0))[0] for n in range(60)]
    assert set(first) == {50.0, 200.0}
    assert 15 < first.count(50.0) < 45


def test_without_multiview_both_halves_come_from_one_radiograph():
    config = replace(PLAIN, p_multiview=0.0)
    for number in range(20):
        crops = crops_of(study_of(50, 200, key=str(number)), config, seed=0, epoch=0)
        assert not crops.is_pair
        assert greys(crops)[0] == greys(crops)[1]


def test_a_study_of_one_view_falls_back_to_a_single_view():
    crops = crops_of(study_of(70), PLAIN, seed=0, epoch=0)
    assert not crops.is_pair
    assert greys(crops) == [70.0, 70.0]


def test_pairs_begin_where_the_schedule_says():
    config = replace(PLAIN, multiview_from=0.5)
    assert not crops_of(study_of(1, 9), config, seed=0, epoch=0, progress=0.49).is_pair
    assert crops_of(study_of(1, 9), config, seed=0, epoch=0, progress=0.5).is_pair


def test_a_crop_without_augmentation_shows_the_area_that_the_plan_names():
    ramp = np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1))
    config = CropConfig(
        global_side=64, local_side=16, locals_per_view=0, globals_per_view=1, global_area=(0.25, 0.25),
        aspect=(1, 1), rotation=0, flip=0, brightness=0, contrast=0, gamma=0, noise=0, blur=0,
    )  # fmt: skip
    study = Study("k", "p", (View(ramp, "VD"),))
    crop = crops_of(study, config, seed=0, epoch=0).globals_VGSS[0, 0]
    # A quarter of the area is half of the width: 64 columns into 64 pixels, so the slope stays 2 a pixel.
    assert np.allclose(np.diff(crop.astype(int), axis=1), 2, atol=1)


def test_plans_do_not_depend_on_the_views_content():
    one, two = (plan_of(SMALL, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one.centre, two.centre)
    assert one.noise_seed == two.noise_seed


@pytest.mark.parametrize(("name", "side"), [("global_side", 100), ("local_side", 15)])
def test_a_crop_side_that_is_no_multiple_of_the_patch_is_refused_with_the_nearest(name, side):
    config = CropConfig(**{"global_side": 112, "local_side": 56, name: side})
    with pytest.raises(ConfigError, match=rf"crops\.{name} {side} .* patch, 14; nearest is \d+"):
        config.check(14)


sizes = st.tuples(st.integers(8, 700), st.integers(8, 700))
seeds = st.integers(0, 2**63)
areas = st.lists(st.floats(0.02, 1), min_size=2, max_size=2).map(lambda ends: tuple(sorted(ends)))


@settings(deadline=None)
@given(sizes, seeds, areas, areas)
def test_crops_lie_inside_the_view_before_they_are_turned(size, seed, global_area, local_area):
    config = replace(SMALL, rotation=0, global_area=global_area, local_area=local_area)
    cuts = cuts_of(plan_of(config, np.random.default_rng(seed)), size, config)
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
    plan = plan_of(config, np.random.default_rng(seed))
    cuts, (crop_h, crop_w) = cuts_of(plan, size, config), extent_of(plan, size)
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
    cuts = cuts_of(plan_of(SMALL, np.random.default_rng(seed)), size, SMALL)
    steps = np.linalg.norm(cuts.matrix[:, :, :2], axis=1).min(axis=1)
    assert (steps < 2).all()
    assert (steps[cuts.level > 0] >= 1 - 1e-9).all()


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 99), st.integers(0, 9))
def test_plans_and_crops_do_not_depend_on_the_order_of_studies(order, seed, epoch):
    studies = [study_of(10 * n, 90, 150, key=f"k{n}") for n in range(6)]
    one = [whole_of(study, SMALL, seed=seed, epoch=epoch) for study in studies]
    two = {n: whole_of(studies[n], SMALL, seed=seed, epoch=epoch) for n in order}
    for number, whole in enumerate(one):
        for left, right in zip(whole.cuts, two[number].cuts, strict=True):
            assert all(map(np.array_equal, astuple(left), astuple(right)))
        crops = crops_of(studies[number], SMALL, seed=seed, epoch=epoch)
        assert np.array_equal(crops_from(two[number], SMALL).locals_VLSS, crops.locals_VLSS)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_equal_plans_cut_equal_crops_and_another_noise_seed_changes_the_grain_alone(seed):
    study = Study("k", "p", (View(np.random.default_rng(0).integers(60, 200, (80, 60), np.uint8)),))
    config = replace(SMALL, noise=0.1)
    whole = whole_of(study, config, seed=seed, epoch=0)
    one, two = crops_from(whole, config), crops_from(whole, config)
    assert np.array_equal(one.globals_VGSS, two.globals_VGSS)
    other = tuple(replace(cuts, keys=cuts.keys ^ np.uint32(1)) for cuts in whole.cuts)
    grainy = crops_from(replace(whole, cuts=other), config)
    silent = tuple(replace(cuts, noise=0 * cuts.noise) for cuts in whole.cuts)
    clean = crops_from(replace(whole, cuts=silent), config)
    assert not np.array_equal(one.globals_VGSS, grainy.globals_VGSS)
    for crops in (one, grainy):
        grain = crops.globals_VGSS.astype(int) - clean.globals_VGSS
        assert abs(grain).max() <= np.ceil(3.7 * max(cuts.noise.max() for cuts in whole.cuts))


def test_a_crop_is_the_view_at_the_places_that_the_plan_tells():
    picture = np.random.default_rng(1).integers(0, 256, (50, 41)).astype(np.uint8)
    config = replace(PLAIN, rotation=30, locals_per_view=0, globals_per_view=6, global_area=(0.05, 0.3))
    whole = whole_of(Study("k", "p", (View(picture),)), config, seed=0, epoch=0)
    plan = plan_of(config, np.random.default_rng(4))
    cuts = cuts_of(plan, picture.shape, config)
    assert not cuts.level.any()
    crops = crops_from(replace(whole, cuts=(cuts, cuts)), config).globals_VGSS[0]
    crop_h, crop_w = extent_of(plan, picture.shape)
    for index, crop in enumerate(crops):
        turn = np.deg2rad(plan.angle[index])
        for row, column in ((0, 0), (3, 30), (16, 15), (31, 31)):
            across = (column + 0.5 - 16) * crop_w[index] / 32 * (-1 if plan.flip[index] else 1)
            down = (row + 0.5 - 16) * crop_h[index] / 32
            x = crop_w[index] / 2 + plan.centre[index, 0] * (41 - crop_w[index])
            y = crop_h[index] / 2 + plan.centre[index, 1] * (50 - crop_h[index])
            x += across * np.cos(turn) - down * np.sin(turn)
            y += across * np.sin(turn) + down * np.cos(turn)
            # Older OpenCV rounds places to 1/32 pixel: up to 1/32 of the step between two greys each way.
            assert abs(int(crop[row, column]) - bilinear(picture, x - 0.5, y - 0.5)) < 9


def bilinear(picture: np.ndarray, x: float, y: float) -> float:
    """The grey at a place between four pixels; outside is black."""
    told = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                told += (1 - abs(x - column)) * (1 - abs(y - row)) * picture[row, column]
    return told


def test_fine_patterns_become_grey_and_do_not_alias():
    board = np.indices((513, 387)).sum(axis=0).astype(np.uint8) % 2 * 255
    config = replace(PLAIN, global_area=(0.3, 1.0))
    crops = crops_of(Study("k", "p", (View(board),)), config, seed=0, epoch=0).globals_VGSS
    assert abs(crops.astype(int) - 128).max() <= 1


def test_the_curve_is_gamma_then_contrast_then_a_shift():
    plan = plan_of(SMALL, np.random.default_rng(3))
    curve = cuts_of(plan, (60, 60), SMALL).curve
    for crop in range(5):
        for grey in (0, 1, 77, 128, 254, 255):
            bent = (grey / 255) ** plan.gamma[crop]
            told = 255 * ((bent - 0.5) * plan.contrast[crop] + 0.5 + plan.brightness[crop])
            assert abs(curve[crop, grey] - min(255, max(0, told))) <= 0.5001


def test_noise_is_normal_and_of_the_planned_strength():
    config = replace(PLAIN, global_side=256, noise=0.05)
    # A view that no crop enlarges: where one does, its outermost pixels lie half in the black around the view.
    flat = Study("k", "p", (View(np.full((600, 600), 128, np.uint8)),))
    whole = whole_of(flat, config, seed=0, epoch=0)
    globals_VGSS = crops_from(whole, config).globals_VGSS.astype(float) - 128
    for view, cuts in enumerate(whole.cuts):
        for crop in range(2):
            grain = globals_VGSS[view, crop] / cuts.noise[crop]
            assert abs(grain.mean()) < 0.02
            assert abs(grain.std() - np.hypot(1, 1 / np.sqrt(12) / cuts.noise[crop])) < 0.02
            assert abs((grain**4).mean() / grain.var() ** 2 - 3) < 0.15
            for shift in (1, 2, 256 // 2):
                rows, columns = np.roll(grain, shift, axis=0), np.roll(grain, shift, axis=1)
                assert max(abs((grain * rows).mean()), abs((grain * columns).mean())) < 0.02
    assert abs(np.corrcoef(globals_VGSS.reshape(4, -1)) - np.eye(4)).max() < 0.02


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_mixed_bits_are_the_same_in_whole_numbers_of_any_size(counter, first, second):
    one = mixed(np.array([counter], np.uint32), first, second)
    two = mixed(np.array([counter], np.int64), np.int64(first), np.int64(second))
    assert int(one[0]) == int(two[0]) == mixed(counter, first, second) < 2**32
    assert mixed(counter, first, second) != mixed(counter, first ^ 1, second)
    assert mixed(counter, first, second) != mixed(counter, first, second ^ 1)


def test_quantiles_stand_for_the_normal_distribution():
    steps = quantiles()
    assert np.allclose(steps, -steps[::-1])
    assert abs(steps.std() - 1) < 1e-3


def test_what_is_planned_introduces_itself_without_arrays():
    whole = whole_of(study_of(1, 2), SMALL, seed=0, epoch=0)
    assert repr(whole) == "WholeStudy(ab12, 80x60 80x60)"
    assert repr(whole.cuts[0]) == "Cuts(5 crops)"
