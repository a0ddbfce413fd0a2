"""Views as tokens and pictures, whole studies within a limit; pairs follow from seed, epoch and keys alone."""

import statistics

import numpy as np
import pytest
import torch

from vetdino.downstream.views.pairs import (
    SYNTHESIZED,
    ViewTensors,
    epoch_pairs,
    load_view_tensors,
    mean_pictures,
    median_pictures,
    study_pairs,
)
from vetdino.platform.core.errors import FeaturesError, ShardError
from vetdino.platform.data.shards import read
from vetdino.platform.data.study import StoredView, Study, View
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.letterbox import letterbox_region, letterboxed


def test_pairs_join_two_projections_of_one_study(tmp_path, bars):
    folder = bars.shards(
        tmp_path,
        [
            bars.study(0, projections=("VD", "VD", "LLAT")),
            bars.study(1, projections=("RLAT", "RLAT")),
            bars.study(2, projections=("DV", "VD")),
        ],
    )
    views = load_view_tensors(random_backbone(bars.TINY, 0), folder, "train", most=10, side=16, batch=4)
    assert sorted(set(views.keys)) == ["k0", "k2"]
    pairs = sorted(
        (views.keys[i], SYNTHESIZED[views.projection[i]], SYNTHESIZED[views.projection[j]])
        for i, j in study_pairs(views).tolist()
    )
    assert pairs == [
        ("k0", "LLAT", "VD"),
        ("k0", "LLAT", "VD"),
        ("k0", "VD", "LLAT"),
        ("k0", "VD", "LLAT"),
        ("k2", "DV", "VD"),
        ("k2", "VD", "DV"),
    ]
    assert all(views.keys[i] == views.keys[j] for i, j in study_pairs(views).tolist())


@pytest.mark.slow
def test_the_pairs_of_an_epoch_follow_from_seed_epoch_and_key_wherever_the_studies_lie(tmp_path, bars):
    studies = [bars.study(number, projections=SYNTHESIZED) for number in range(12)]
    model = random_backbone(bars.TINY, 0)

    def pairs_of(name, order, seed, epoch):
        folder = bars.shards(tmp_path / name, order)
        views = load_view_tensors(model, folder, "train", most=1000, side=16, batch=8)
        pairs = epoch_pairs(views, study_pairs(views), seed, epoch)
        return [
            (views.keys[i], int(views.projection[i]), int(views.projection[j])) for i, j in pairs.tolist()
        ]

    first = pairs_of("a", studies, 0, 0)
    assert sorted(key for key, _, _ in first) == sorted(one.key for one in studies)
    assert pairs_of("b", studies[::-1], 0, 0) == first
    assert pairs_of("c", studies, 0, 1) != first != pairs_of("d", studies, 1, 0)
    # A study that comes in changes nothing about the others' pairs.
    more = pairs_of("e", [*studies, bars.study(50, projections=SYNTHESIZED)], 0, 0)
    assert [one for one in more if one[0] != "k50"] == first


def test_tokens_and_pictures_are_those_of_the_views_within_the_bound(place, bars):
    model = random_backbone(bars.TINY, 1)
    views = load_view_tensors(model, place, "train", most=31, side=16, batch=7)
    whole = load_view_tensors(model, place, "train", most=10_000, side=16, batch=64)
    assert (len(views), len(whole)) == (30, 200)
    assert views.keys == whole.keys[:30]
    studies = {one.key: one for one in read(place, "train")}
    for row in range(0, 30, 7):
        (view,) = (
            one.decode()
            for one in studies[views.keys[row]].views
            if one.projection == SYNTHESIZED[views.projection[row]]
        )
        tokens = model.tokens(model.prepare(view.pixels)[None])
        torch.testing.assert_close(views.tokens[row].float(), tokens.patches[0], atol=5e-3, rtol=1e-2)
        torch.testing.assert_close(views.cls[row], tokens.cls[0], atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(views.pictures[row], letterboxed(view.pixels, 16))
        top, left, rows, columns = letterbox_region(*view.pixels.shape, 16)
        assert views.inside[row].sum() == rows * columns
        assert views.inside[row, top : top + rows, left : left + columns].all()


def test_views_with_nothing_to_compare_are_passed_over(tmp_path, bars):
    good = bars.study(0, projections=("VD", "LLAT")).views
    blank = View(np.full((32, 24), 9, np.uint8), "RLAT")
    thin = View(np.random.default_rng(0).integers(0, 255, (64, 8)).astype(np.uint8), "DV")
    studies = [Study("k0", "p0", (*good, blank, thin)), Study("k1", "p1", (good[0], blank))]
    views = load_view_tensors(
        random_backbone(bars.TINY, 0), bars.shards(tmp_path, studies), "train", most=9, side=16, batch=4
    )
    assert views.keys == ("k0", "k0")
    assert sorted(views.projection.tolist()) == [SYNTHESIZED.index("VD"), SYNTHESIZED.index("LLAT")]


def test_mean_and_median_pictures_are_those_of_what_the_letterboxes_show():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (9, 8, 8)).astype(np.uint8)
    inside = random.random((9, 8, 8)) < 0.3
    projection = np.array([0, 1, 0, 1, 1, 0, 0, 1, 1])
    views = ViewTensors(
        keys=tuple("abcdefghi"),
        patients=tuple("abcdefghi"),
        projection=torch.from_numpy(projection),
        tokens=torch.zeros(9, 1, 1),
        cls=torch.zeros(9, 1),
        pictures=torch.from_numpy(pictures),
        inside=torch.from_numpy(inside),
    )
    for ours, typical in (
        (mean_pictures(views), statistics.fmean),
        (median_pictures(views), statistics.median_low),
    ):
        for number in (0, 1):
            rows = np.flatnonzero(projection == number)
            everything = np.concatenate([pictures[row][inside[row]] for row in rows]) / 255
            for y in range(8):
                for x in range(8):
                    seen = [pictures[row, y, x] / 255 for row in rows if inside[row, y, x]]
                    expected = typical(seen or everything.tolist())
                    assert ours[number, y, x].item() == pytest.approx(expected, abs=1e-6)
        assert not ours[2:].any()


def test_a_backbone_that_answers_with_nan_is_refused(place, bars):
    broken = random_backbone(bars.TINY, 0)
    with torch.no_grad():
        broken.vit.norm.weight[0] = float("nan")
    with pytest.raises(FeaturesError, match="views of train"):
        load_view_tensors(broken, place, "train", most=10, side=16, batch=4)


def test_a_view_that_is_no_picture_is_refused_by_its_study(tmp_path, bars):
    spoilt = Study("k9", "p9", (bars.drawn(9, "VD"), StoredView(b"\x89PNG no", "LLAT")), {}, "train")
    with pytest.raises(ShardError, match="study k9: view 1 is no picture"):
        load_view_tensors(
            random_backbone(bars.TINY, 0), bars.shards(tmp_path, [spoilt]), "train", most=9, side=16, batch=4
        )
