"""Which slices and superpixels episodes are drawn from, on small synthetic scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.downstream.fewshot.learn.speckled import scan
from vetdino.downstream.fewshot.learn.config import EpisodeConfig
from vetdino.downstream.fewshot.learn.episodes import Episodes, EpisodeScans
from vetdino.downstream.fewshot.learn.superpixels import superpixels
from vetdino.downstream.fewshot.method.slices import standardized
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import DataError

SMALL = EpisodeConfig(min_size=40)
STILL = {
    "rotation": 0.0,
    "shift": 0.0,
    "shear": 0.0,
    "zoom": (1.0, 1.0),
    "elastic_alpha": 0.0,
    "gamma": (1.0, 1.0),
}


class InMemoryVolumes:
    """Scans in memory with the interface of a prepared folder."""

    folder = Path("held")

    def __init__(self, *scans: Volume) -> None:
        self._scans = {one.name: one for one in scans}
        self.names = tuple(self._scans)
        self.classes = {1: "liver", 2: "spleen"}

    def load(self, name: str) -> Volume:
        return self._scans[name]


def episodes(*scans: Volume, seed: Sequence[int] = (0,), config: EpisodeConfig = SMALL, **more) -> Episodes:
    held = InMemoryVolumes(*(scans or (scan(0), scan(1))))
    return Episodes(EpisodeScans(held, config), held.names, seed, **more)


def test_an_episode_depends_on_seed_and_number_only():
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
        for augmented in (episode.support, episode.query):
            np.testing.assert_array_equal(augmented.mask, parts_HW == episode.superpixel)
            np.testing.assert_allclose(augmented.image[0], standardized(volume)[episode.slice], atol=1e-4)


def test_setting_2_never_draws_a_slice_with_a_test_organ():
    without_liver, without_both = episodes(exclude=[1]), episodes(exclude=[1, 2])
    assert {without_liver[number].slice for number in range(60)} == {0, 3, 4, 5}
    assert {without_both[number].slice for number in range(40)} == {0, 4, 5}


def test_setting_1_draws_all_slices_of_all_scans():
    drawn = episodes()
    assert {(drawn[n].scan, drawn[n].slice) for n in range(120)} == {
        (f"s{s}", z) for s in (0, 1) for z in range(6)
    }


def test_a_scan_without_labels_is_used_in_setting_1_only():
    two = scan(0), scan(1, labelled=False)
    assert {name for name, _ in episodes(*two).slices} == {"s0", "s1"}
    assert {name for name, _ in episodes(*two, exclude=[1]).slices} == {"s0"}


def test_each_slice_is_cut_once():
    scans = EpisodeScans(InMemoryVolumes(scan()), SMALL)
    first = scans.superpixels("s0", 2)
    assert scans.superpixels("s0", 2) is first
    np.testing.assert_array_equal(first, superpixels(scan().image_ZHW[2], SMALL))


def test_slices_without_superpixels_are_skipped_and_scans_without_any_are_refused():
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
        episodes(volume, exclude=[1, 2])
