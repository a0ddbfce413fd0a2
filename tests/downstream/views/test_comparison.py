"""Baselines of the decoder come from other patients and from the nearest train study."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from vetdino.downstream.views.comparison import (
    BASELINES,
    COLUMNS,
    Comparison,
    nearest_targets,
    other_patients,
    pair_rows,
)
from vetdino.downstream.views.decoder import Decoder
from vetdino.downstream.views.pairs import load_view_tensors, median_pictures, study_pairs
from vetdino.platform.models.backbone import random_backbone


@pytest.fixture(scope="module")
def views(place, bars):
    """Some views of train and of test."""
    model = random_backbone(bars.TINY, 0)
    return [load_view_tensors(model, place, split, most=24, side=16, batch=16) for split in ("train", "test")]


@pytest.fixture(scope="module")
def comparison(views):
    """An untrained decoder, which gives its base, beside the baselines."""
    train, test = views
    pairs = study_pairs(test)
    torch.manual_seed(0)
    decoder = Decoder(train.tokens, median_pictures(train), width=16, layers=1, heads=2)
    neighbors = nearest_targets(train, test, study_pairs(train), pairs)
    return Comparison(decoder, train, test, pairs, neighbors, other_patients(test, pairs))


def test_the_neighbor_is_the_target_of_the_nearest_train_source(views):
    train, test = views
    train_pairs, test_pairs = study_pairs(train), study_pairs(test)
    found = nearest_targets(train, test, train_pairs, test_pairs)
    train_rows = pair_rows(train, train_pairs)
    unit = lambda vector: vector / vector.norm()
    for row, (source, _), target in zip(
        pair_rows(test, test_pairs), test_pairs.tolist(), found.tolist(), strict=True
    ):
        candidates = [
            pair for pair, name in zip(train_pairs.tolist(), train_rows, strict=True) if name == row
        ]
        cosines = [float(unit(train.cls[one]) @ unit(test.cls[source])) for one, _ in candidates]
        assert target == candidates[int(np.argmax(cosines))][1]


def test_an_untrained_decoder_equals_the_median_picture_and_values_are_differences(comparison):
    (pictures,) = comparison.pictures(batch=1000)
    assert tuple(pictures.predictions) == ("decoder", *BASELINES)
    torch.testing.assert_close(pictures.predictions["decoder"], pictures.predictions["median_image"])
    torch.testing.assert_close(pictures.predictions["decoder"], pictures.predictions["stranger"])
    values = dict(zip(COLUMNS, pictures.values().T, strict=True))
    np.testing.assert_allclose(values["psnr_minus_stranger"], 0, atol=1e-4)
    np.testing.assert_allclose(values["ssim_minus_mean_image"], values["ssim"] - values["ssim_mean_image"])
    pair = 3
    inside = pictures.inside[pair].numpy()
    truth, mean = (x[pair].numpy()[inside] for x in (pictures.truth, pictures.predictions["mean_image"]))
    assert values["psnr_mean_image"][pair] == pytest.approx(
        peak_signal_noise_ratio(truth, mean, data_range=1.0), abs=1e-3
    )


def test_batches_do_not_change_the_values(comparison):
    (whole,) = comparison.pictures(batch=1000)
    parts = [pictures.values() for pictures in comparison.pictures(batch=5)]
    np.testing.assert_allclose(np.concatenate(parts), whole.values(), atol=1e-4)


@pytest.mark.slow
def test_the_panel_has_a_line_for_each_row_at_most(comparison):
    heights = []
    for most in (1, 2):
        with Image.open(io.BytesIO(comparison.panel(most, "tiny"))) as picture:
            assert (picture.format, picture.width) == ("PNG", 1100)
            heights.append(picture.height)
    assert heights[0] < heights[1]
    assert set(replace(comparison, pairs=comparison.pairs[:0]).rows) == set()


def test_strangers_are_other_patients_of_the_same_projection_wherever_the_studies_lie(tmp_path, bars):
    def strangers(name, order):
        folder = bars.shards(tmp_path / name, order)
        views = load_view_tensors(random_backbone(bars.TINY, 0), folder, "test", most=1000, side=16, batch=16)
        pairs = study_pairs(views)
        found = other_patients(views, pairs)
        matched = list(zip(pairs[:, 0].tolist(), found.tolist(), strict=True))
        for source, stranger in matched:
            assert views.patients[source] != views.patients[stranger]
            assert views.projection[source] == views.projection[stranger]
        return {(views.keys[one], int(views.projection[one]), views.keys[other]) for one, other in matched}

    studies = [bars.study(number, "test") for number in range(9)]
    assert strangers("a", studies) == strangers("b", studies[::-1])
