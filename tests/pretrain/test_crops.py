"""Pairs and crops are functions of (seed, epoch, study)."""

from random import Random

import numpy as np
import pytest

from vetdino.platform.errors import ConfigError
from vetdino.platform.study import Study, View, pair_of
from vetdino.pretrain.crops import CropConfig, crops_of, plan_of

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
    config = CropConfig(
        **{name: getattr(PLAIN, name) for name in PLAIN.__dataclass_fields__ if name != "p_multiview"},
        p_multiview=0.0,
    )
    for number in range(20):
        crops = crops_of(study_of(50, 200, key=str(number)), config, seed=0, epoch=0)
        assert not crops.is_pair
        assert greys(crops)[0] == greys(crops)[1]


def test_a_study_of_one_view_falls_back_to_a_single_view():
    crops = crops_of(study_of(70), PLAIN, seed=0, epoch=0)
    assert not crops.is_pair
    assert greys(crops) == [70.0, 70.0]


def test_pairs_begin_where_the_schedule_says():
    from dataclasses import replace

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
