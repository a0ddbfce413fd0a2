"""Pairs and crops are functions of (seed, epoch, study)."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pretrain.batches.grey_studies import PLAIN, SMALL, study_of
from vetdino.platform.data.study import Study, View
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.crop_plan import crop_extents, crop_plan, crop_transforms, planned_study
from vetdino.pretrain.batches.crops import cut_crops, study_crops


def greys(crops) -> list[float]:
    return [float(np.median(crops.globals_VGSS[view])) for view in (0, 1)]


def test_crops_have_the_shapes_that_were_asked_for():
    crops = study_crops(study_of(50, 200), SMALL, seed=0, epoch=0)
    assert crops.globals_VGSS.shape == (2, 2, 32, 32)
    assert crops.locals_VLSS.shape == (2, 3, 16, 16)
    assert crops.globals_VGSS.dtype == np.uint8
    assert crops.is_pair


def test_the_same_seed_epoch_and_study_give_the_same_crops_and_another_epoch_gives_others():
    study = Study("k", "p", (View(np.random.default_rng(0).integers(0, 256, (80, 60), np.uint8), "VD"),))
    one, two = (study_crops(study, SMALL, seed=3, epoch=5) for _ in range(2))
    other = study_crops(study, SMALL, seed=3, epoch=6)
    assert np.array_equal(one.globals_VGSS, two.globals_VGSS)
    assert np.array_equal(one.locals_VLSS, two.locals_VLSS)
    assert not np.array_equal(one.globals_VGSS, other.globals_VGSS)


def test_either_view_is_the_teachers_in_about_half_of_the_draws():
    first = [greys(study_crops(study_of(50, 200, key=str(n)), PLAIN, seed=0, epoch=0))[0] for n in range(60)]
    assert set(first) == {50.0, 200.0}
    assert 15 < first.count(50.0) < 45


def test_without_multiview_both_halves_come_from_one_radiograph():
    config = replace(PLAIN, p_multiview=0.0)
    for number in range(20):
        crops = study_crops(study_of(50, 200, key=str(number)), config, seed=0, epoch=0)
        assert not crops.is_pair
        assert greys(crops)[0] == greys(crops)[1]


def test_a_study_of_one_view_falls_back_to_a_single_view():
    crops = study_crops(study_of(70), PLAIN, seed=0, epoch=0)
    assert not crops.is_pair
    assert greys(crops) == [70.0, 70.0]


def test_a_crop_without_augmentation_shows_the_area_that_the_plan_names():
    ramp = np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1))
    config = CropConfig(
        global_side=64, local_side=16, locals_per_view=0, globals_per_view=1, global_area=(0.25, 0.25),
        aspect=(1, 1), rotation=0, flip=0, brightness=0, contrast=0, gamma=0, noise=0, blur=0,
    )  # fmt: skip
    study = Study("k", "p", (View(ramp, "VD"),))
    crop = study_crops(study, config, seed=0, epoch=0).globals_VGSS[0, 0]
    # A quarter of the area is half of the width: 64 columns into 64 pixels, so the slope stays 2 a pixel.
    assert np.allclose(np.diff(crop.astype(int), axis=1), 2, atol=1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**63))
def test_equal_plans_cut_equal_crops_and_another_noise_seed_changes_the_grain_alone(seed):
    study = Study("k", "p", (View(np.random.default_rng(0).integers(60, 200, (80, 60), np.uint8)),))
    config = replace(SMALL, noise=0.1)
    whole = planned_study(study, config, seed=seed, epoch=0)
    one, two = cut_crops(whole, config), cut_crops(whole, config)
    assert np.array_equal(one.globals_VGSS, two.globals_VGSS)
    other = tuple(replace(cuts, keys=cuts.keys ^ np.uint32(1)) for cuts in whole.transforms)
    grainy = cut_crops(replace(whole, transforms=other), config)
    silent = tuple(replace(cuts, noise=0 * cuts.noise) for cuts in whole.transforms)
    clean = cut_crops(replace(whole, transforms=silent), config)
    assert not np.array_equal(one.globals_VGSS, grainy.globals_VGSS)
    for crops in (one, grainy):
        grain = crops.globals_VGSS.astype(int) - clean.globals_VGSS
        assert abs(grain).max() <= np.ceil(3.7 * max(cuts.noise.max() for cuts in whole.transforms))


def test_a_crop_is_the_view_at_the_places_that_the_plan_tells():
    picture = np.random.default_rng(1).integers(0, 256, (50, 41)).astype(np.uint8)
    config = replace(PLAIN, rotation=30, locals_per_view=0, globals_per_view=6, global_area=(0.05, 0.3))
    whole = planned_study(Study("k", "p", (View(picture),)), config, seed=0, epoch=0)
    plan = crop_plan(config, np.random.default_rng(4))
    cuts = crop_transforms(plan, picture.shape, config)
    assert not cuts.level.any()
    crops = cut_crops(replace(whole, transforms=(cuts, cuts)), config).globals_VGSS[0]
    crop_h, crop_w = crop_extents(plan, picture.shape)
    for index, crop in enumerate(crops):
        turn = np.deg2rad(plan.angle[index])
        for row, column in ((0, 0), (3, 30), (16, 15), (31, 31)):
            across = (column + 0.5 - 16) * crop_w[index] / 32 * (-1 if plan.flip[index] else 1)
            down = (row + 0.5 - 16) * crop_h[index] / 32
            x = crop_w[index] / 2 + plan.center[index, 0] * (41 - crop_w[index])
            y = crop_h[index] / 2 + plan.center[index, 1] * (50 - crop_h[index])
            x += across * np.cos(turn) - down * np.sin(turn)
            y += across * np.sin(turn) + down * np.cos(turn)
            # Older OpenCV rounds places to 1/32 pixel: up to 1/32 of the step between two greys each way.
            assert abs(int(crop[row, column]) - bilinear(picture, x - 0.5, y - 0.5)) < 9


def bilinear(picture: np.ndarray, x: float, y: float) -> float:
    """The grey at a place between four pixels; outside is black."""
    gray = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                gray += (1 - abs(x - column)) * (1 - abs(y - row)) * picture[row, column]
    return gray


def test_fine_patterns_become_grey_and_do_not_alias():
    board = np.indices((513, 387)).sum(axis=0).astype(np.uint8) % 2 * 255
    config = replace(PLAIN, global_area=(0.3, 1.0))
    crops = study_crops(Study("k", "p", (View(board),)), config, seed=0, epoch=0).globals_VGSS
    assert abs(crops.astype(int) - 128).max() <= 1


def test_noise_is_normal_and_of_the_planned_strength():
    config = replace(PLAIN, global_side=256, noise=0.05)
    # A view that no crop enlarges: where one does, its outermost pixels lie half in the black around the view.
    flat = Study("k", "p", (View(np.full((600, 600), 128, np.uint8)),))
    whole = planned_study(flat, config, seed=0, epoch=0)
    globals_VGSS = cut_crops(whole, config).globals_VGSS.astype(float) - 128
    for view, cuts in enumerate(whole.transforms):
        for crop in range(2):
            grain = globals_VGSS[view, crop] / cuts.noise[crop]
            assert abs(grain.mean()) < 0.02
            assert abs(grain.std() - np.hypot(1, 1 / np.sqrt(12) / cuts.noise[crop])) < 0.02
            assert abs((grain**4).mean() / grain.var() ** 2 - 3) < 0.15
            for shift in (1, 2, 256 // 2):
                rows, columns = np.roll(grain, shift, axis=0), np.roll(grain, shift, axis=1)
                assert max(abs((grain * rows).mean()), abs((grain * columns).mean())) < 0.02
    assert abs(np.corrcoef(globals_VGSS.reshape(4, -1)) - np.eye(4)).max() < 0.02
