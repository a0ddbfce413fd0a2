"""Superpixels, augmentations and which slices are drawn, on small drawn scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.fewshot.learn.config import EpisodeConfig
from vetdino.downstream.fewshot.learn.episodes import Episodes, Shelf, superpixels, two_looks
from vetdino.downstream.fewshot.method.slices import body_of, standardised
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import ConfigError, DataError

SMALL = EpisodeConfig(min_size=40)
STILL = {
    "rotation": 0.0,
    "shift": 0.0,
    "shear": 0.0,
    "zoom": (1.0, 1.0),
    "elastic_alpha": 0.0,
    "gamma": (1.0, 1.0),
}


def scan(seed: int = 0, labelled: bool = True) -> Volume:
    """A speckled body on black; organ 1 in slices 1 and 2, organ 2 in slices 2 and 3, of six."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :64, :64]
    labels = np.zeros(z.shape, np.uint8)
    labels[(np.hypot(y - 24, x - 24) < 9) & (z > 0) & (z < 3)] = 1
    labels[(np.hypot(y - 42, x - 40) < 6) & (z > 1) & (z < 4)] = 2
    body = np.hypot(y - 32, x - 32) < 26
    image = body * (70 + 60.0 * (labels == 1) + 110 * (labels == 2) + random.normal(0, 10, z.shape))
    image = np.clip(image.round(), 0, 255).astype(np.float32)
    return Volume(f"s{seed}", image, labels if labelled else None, (5.0, 1.5, 1.5), "mri", None)


class Held:
    """Scans in memory that are read as a prepared folder is."""

    folder = Path("held")

    def __init__(self, *scans: Volume) -> None:
        self._scans = {one.name: one for one in scans}
        self.names = tuple(self._scans)
        self.classes = {1: "liver", 2: "spleen"}

    def load(self, name: str) -> Volume:
        return self._scans[name]


def episodes(*scans: Volume, seed: Sequence[int] = (0,), config: EpisodeConfig = SMALL, **more) -> Episodes:
    held = Held(*(scans or (scan(0), scan(1))))
    return Episodes(Shelf(held, config), held.names, seed, **more)


# Superpixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_superpixels_lie_in_the_body_and_the_background_is_none(seed):
    slice_HW = scan(seed).image_ZHW[2]
    parts_HW = superpixels(slice_HW, SMALL)
    assert parts_HW.max() >= 5
    assert not parts_HW[~body_of(slice_HW)].any()
    assert parts_HW[body_of(slice_HW)].astype(bool).mean() > 0.8


def test_superpixels_are_numbered_without_gaps_and_none_is_a_sliver():
    sizes = np.bincount(superpixels(scan().image_ZHW[2], SMALL).ravel())[1:]
    assert sizes.min() >= SMALL.min_size / 2


def test_superpixels_of_at_least_400_pixels_are_cut_from_a_slice_of_usual_size():
    large_HW = np.kron(scan().image_ZHW[2], np.ones((4, 4), np.float32))
    parts_HW = superpixels(large_HW)
    assert 5 <= parts_HW.max() <= parts_HW.astype(bool).sum() / 200


def test_an_organ_is_not_one_superpixel_with_the_air_around_the_body():
    volume = scan()
    within = superpixels(volume.image_ZHW[2], SMALL)[volume.labels_ZHW[2] == 1]
    assert (within > 0).mean() > 0.9


def test_a_slice_of_one_value_has_no_superpixel():
    assert not superpixels(np.full((64, 64), 7.0), SMALL).any()


# Augmentation ------------------------------------------------------------------------------------


def blob(y: float = 30, x: float = 34, radius: float = 9, side: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - y, columns - x) < radius


def middle(mask_HW: np.ndarray) -> np.ndarray:
    return np.argwhere(mask_HW).mean(axis=0)


def test_two_looks_are_independent_and_follow_from_the_seed():
    mask_HW = blob()
    image_HW = mask_HW * 100.0
    first = two_looks(image_HW, mask_HW, None, np.random.default_rng(1))
    again = two_looks(image_HW, mask_HW, None, np.random.default_rng(1))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert not np.array_equal(first[0].mask, first[1].mask)
    assert not np.array_equal(first[0].image, first[1].image)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_image_and_mask_move_together(seed):
    mask_HW = blob()
    for look in two_looks(mask_HW * 100.0, mask_HW, None, np.random.default_rng(seed)):
        assert look.image.dtype == np.float32
        assert look.mask.dtype == bool
        bright = look.image > 50.0 ** (1 if look.image.max() <= 100 else 2)
        both, either = (bright & look.mask).sum(), (bright | look.mask).sum()
        # The gamma shifts where a blurred edge crosses one half.
        assert both / either > 0.8


def test_settings_of_no_change_change_nothing():
    image_HW = np.random.default_rng(0).normal(0, 1, (64, 48)).astype(np.float32)
    mask_HW = np.zeros((64, 48), bool)
    mask_HW[10:20, 5:9] = True
    for look in two_looks(image_HW, mask_HW, EpisodeConfig(**STILL), np.random.default_rng(0)):
        np.testing.assert_allclose(look.image, image_HW, atol=1e-5)
        np.testing.assert_array_equal(look.mask, mask_HW)


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_moves_by_at_most_so_many_pixels_and_does_move(seed):
    config = EpisodeConfig(**STILL | {"shift": 5.0})
    look, _ = two_looks(blob() * 1.0, blob(), config, np.random.default_rng(seed))
    moved = np.abs(middle(look.mask) - middle(blob()))
    assert 0 < moved.max() <= 5.5


def test_zoom_turn_and_shear_are_about_the_middle_and_do_what_they_say():
    centred = blob(31.5, 31.5, 12)
    big, _ = two_looks(
        centred * 1.0, centred, EpisodeConfig(**STILL | {"zoom": (1.2, 1.2)}), np.random.default_rng(0)
    )
    assert big.mask.sum() == pytest.approx(1.44 * centred.sum(), rel=0.03)
    np.testing.assert_allclose(middle(big.mask), [31.5, 31.5], atol=0.1)
    aside = blob(31.5, 51.5, 5)
    for name in ("rotation", "shear"):
        turned, _ = two_looks(
            aside * 1.0, aside, EpisodeConfig(**STILL | {name: 30.0}), np.random.default_rng(3)
        )
        y, x = middle(turned.mask) - 31.5
        if name == "rotation":
            assert np.hypot(y, x) == pytest.approx(20, abs=0.3)
            assert abs(y) > 1
        else:
            assert turned.mask.sum() == pytest.approx(aside.sum(), rel=0.06), "a slant keeps areas"
            assert abs(y) < 0.3


def test_the_elastic_field_bends_by_less_than_its_factor():
    config = EpisodeConfig(**STILL | {"elastic_alpha": 100.0, "elastic_sigma": 3.0})
    stripe = np.zeros((64, 64), bool)
    stripe[30:34] = True
    look, _ = two_looks(stripe * 1.0, stripe, config, np.random.default_rng(0))
    tops = look.mask.argmax(axis=0)
    assert tops.std() > 0.5, "the stripe is no longer straight"


def test_gamma_keeps_order_and_range_of_greys():
    image_HW = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    config = EpisodeConfig(**STILL | {"gamma": (0.5, 0.5)})
    look, _ = two_looks(image_HW, blob(), config, np.random.default_rng(0))
    assert (look.image.min(), look.image.max()) == pytest.approx((image_HW.min(), image_HW.max()), abs=1e-5)
    np.testing.assert_array_equal(look.image.ravel().argsort(), image_HW.ravel().argsort())
    span = np.ptp(image_HW)
    expected = image_HW.min() + span * ((image_HW - image_HW.min()) / span) ** 0.5
    np.testing.assert_allclose(look.image, expected, atol=1e-4)


def test_neighbours_move_as_their_slice_does():
    image_HW = blob() * 100.0
    together = two_looks(np.stack([0 * image_HW, image_HW, image_HW]), blob(), None, np.random.default_rng(5))
    alone = two_looks(image_HW, blob(), None, np.random.default_rng(5))
    for one, other in zip(together, alone, strict=True):
        assert one.image.shape == (3, 64, 64)
        for place in (1, 2):
            np.testing.assert_array_equal(one.image[place], other.image)
        assert not one.image[0].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), corner=st.sampled_from([(0, 0), (0, 63), (63, 63), (2, 40)]))
def test_a_mask_is_never_moved_out_of_the_slice(seed, corner):
    mask_HW = np.zeros((64, 64), bool)
    mask_HW[corner] = True
    config = EpisodeConfig(shift=30.0)
    assert all(
        look.mask.any() for look in two_looks(mask_HW * 1.0, mask_HW, config, np.random.default_rng(seed))
    )


def test_an_empty_mask_and_another_shape_are_refused():
    random = np.random.default_rng(0)
    with pytest.raises(DataError, match="empty mask"):
        two_looks(np.zeros((8, 8)), np.zeros((8, 8)), None, random)
    with pytest.raises(DataError, match="do not fit"):
        two_looks(np.zeros((8, 8)), np.ones((8, 9)), None, random)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("zoom", (0.0, 1.0)), ("gamma", (2.0, 1.0)), ("shift", -1.0), ("min_size", 0), ("rotation", 90.0)],
)
def test_settings_that_cannot_be_are_refused(setting, value):
    with pytest.raises(ConfigError, match=setting):
        EpisodeConfig(**{setting: value})


# Which slices are drawn --------------------------------------------------------------------------


def test_an_episode_follows_from_seed_and_number_alone():
    long = episodes()
    for number in (0, 1, 2, 7):
        late = long[number]
    fresh = episodes()[7]
    assert (late.scan, late.slice, late.superpixel) == (fresh.scan, fresh.slice, fresh.superpixel)
    for one, other in ((late.support, fresh.support), (late.query, fresh.query)):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
    other_seed = episodes(seed=(1,))[7]
    assert not np.array_equal(other_seed.query.image, fresh.query.image)


def test_an_episode_shows_its_superpixel_in_its_standardised_slice():
    volume = scan()
    still = EpisodeConfig(min_size=40, **STILL)
    for number in range(5):
        episode = episodes(volume, config=still)[number]
        parts_HW = superpixels(volume.image_ZHW[episode.slice], still)
        for look in (episode.support, episode.query):
            np.testing.assert_array_equal(look.mask, parts_HW == episode.superpixel)
            np.testing.assert_allclose(look.image[0], standardised(volume)[episode.slice], atol=1e-4)


def test_setting_2_never_draws_a_slice_with_a_test_organ():
    without_liver, without_both = episodes(never=[1]), episodes(never=[1, 2])
    assert {without_liver[number].slice for number in range(60)} == {0, 3, 4, 5}
    assert {without_both[number].slice for number in range(40)} == {0, 4, 5}


def test_setting_1_draws_all_slices_of_all_scans():
    drawn = episodes()
    assert {(drawn[n].scan, drawn[n].slice) for n in range(120)} == {
        (f"s{s}", z) for s in (0, 1) for z in range(6)
    }


def test_a_scan_that_nobody_labelled_is_seen_in_setting_1_alone():
    two = scan(0), scan(1, labelled=False)
    assert {name for name, _ in episodes(*two).places} == {"s0", "s1"}
    assert {name for name, _ in episodes(*two, never=[1]).places} == {"s0"}


def test_each_slice_is_cut_once():
    shelf = Shelf(Held(scan()), SMALL)
    first = shelf.superpixels("s0", 2)
    assert shelf.superpixels("s0", 2) is first
    np.testing.assert_array_equal(first, superpixels(scan().image_ZHW[2], SMALL))


def test_slices_without_superpixels_are_passed_over_and_scans_without_any_are_refused():
    volume = scan()
    volume.image_ZHW[:5] = 0
    drawn = episodes(volume)
    assert {drawn[number].slice for number in range(10)} == {5}
    with pytest.raises(DataError, match="without a superpixel"):
        episodes(volume, config=EpisodeConfig(min_size=6000))[0]


def test_where_every_slice_shows_a_test_organ_the_group_is_named():
    volume = scan()
    volume.labels_ZHW[:, 5, 5] = 2
    with pytest.raises(DataError, match="is without liver, spleen"):
        episodes(volume, never=[1, 2])
