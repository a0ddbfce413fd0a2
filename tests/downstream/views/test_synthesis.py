"""View synthesis measures how far the decoder is above its baselines, and names what it leaves out."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vetdino.downstream.common.sources import SourceFactory
from vetdino.downstream.views.comparison import COLUMNS, MIRRORED
from vetdino.downstream.views.config import SynthesisConfig
from vetdino.downstream.views.synthesis import synthesis
from vetdino.platform.core.errors import ConfigError, FeaturesError, TrainingError
from vetdino.platform.data.shards import read
from vetdino.platform.models.letterbox import letterbox_region, letterboxed

pytestmark = pytest.mark.slow

SMALL = SynthesisConfig(
    side=16,
    train_views=240,
    val_views=40,
    test_views=80,
    width=32,
    layers=1,
    heads=2,
    dropout=0.0,
    epochs=50,
    patience=50,
    batch=8,
    lr=3e-3,
)


@pytest.fixture(scope="module")
def measured(source, place):
    return synthesis(source, place, SMALL, resamples=200, seed=5)


def found(measured, metric, row):
    return next(one for one in measured.values if (one.metric, one.finding) == (metric, row))


def as_source(folder, tmp_path, backbone):
    return SourceFactory(folder, tmp_path / "tables").backbone("tiny", backbone)


def gray(view, side):
    return letterboxed(view.pixels, side).astype(np.float64) / 255


def test_the_decoder_beats_its_baselines_where_one_view_tells_the_other(measured):
    assert not set(measured.left_out) & {"VD-LLAT", "LLAT-VD"}
    for row in ("all", "crossed", "VD-LLAT", "LLAT-VD"):
        for metric in ("psnr", "ssim"):
            value, gap = found(measured, metric, row), found(measured, f"{metric}_minus_mean_image", row)
            assert value.low <= value.value <= value.high
            assert gap.low > 0
            baseline = found(measured, f"{metric}_mean_image", row)
            assert gap.value == pytest.approx(value.value - baseline.value)
            assert found(measured, f"{metric}_minus_median_image", row).low > 0
            assert found(measured, f"{metric}_minus_stranger", row).low > 0
        # A neighbor's bar lies on the true one or beside it: its decibels spread too widely for 16 patients.
        assert found(measured, "ssim_minus_neighbour", row).low > 0
    assert {one.finding for one in measured.values} == {"all", "crossed", "VD-LLAT", "LLAT-VD"}
    assert {one.metric for one in measured.values} == set(COLUMNS)
    assert {one.source for one in measured.values} == {"tiny"}
    assert found(measured, "psnr", "VD-LLAT").known == 32
    assert measured.facts["test_patients"] == 16
    assert (measured.facts["train_studies"], measured.facts["test_pairs"]) == (100, 64)


def test_the_baselines_are_those_of_a_slow_loop_with_scikit_image(measured, source, place):
    model, side = source.backbone, SMALL.side
    train, test = list(read(place, "train")), list(read(place, "test"))

    def view(one, projection):
        return next(view.decode() for view in one.views if view.projection == projection)

    def cls(one, projection):
        vector = model.tokens(model.prepare(view(one, projection).pixels)[None]).cls[0].numpy()
        return vector / np.linalg.norm(vector)

    def inside(view):
        top, left, rows, columns = letterbox_region(*view.pixels.shape, side)
        return np.s_[top : top + rows, left : left + columns]

    for given, wanted in (("VD", "LLAT"), ("LLAT", "VD")):
        targets = [view(one, wanted) for one in train]
        mean = np.mean([gray(target, side) for target in targets], axis=0)  # one letterbox for all here
        median = np.quantile([gray(target, side) for target in targets], 0.5, axis=0, method="lower")
        bank = np.stack([cls(one, given) for one in train])
        values = []
        for one in test:
            truth = view(one, wanted)
            box = inside(truth)
            neighbor = targets[int(np.argmax(bank @ cls(one, given)))]
            for said in (mean, median, gray(neighbor, side)):
                values += [
                    peak_signal_noise_ratio(gray(truth, side)[box], said[box], data_range=1.0),
                    structural_similarity(gray(truth, side)[box], said[box], data_range=1.0),
                ]
        expected = np.reshape(values, (len(test), 6)).mean(axis=0)
        for column, metric in enumerate(
            f"{metric}_{baseline}"
            for baseline in ("mean_image", "median_image", "neighbour")
            for metric in ("psnr", "ssim")
        ):
            ours = found(measured, metric, f"{given}-{wanted}").value
            assert ours == pytest.approx(expected[column], abs=1e-5), metric


def test_where_one_view_tells_nothing_of_the_other_the_decoder_is_no_better_than_on_a_stranger(
    tmp_path, backbone, bars
):
    def unrelated(number, split):
        return replace(
            bars.study(number, split), views=(bars.drawn(number, "VD"), bars.drawn(number + 1000, "LLAT"))
        )

    splits = ["train"] * 40 + ["val"] * 8 + ["test"] * 32
    folder = bars.shards(tmp_path / "s", [unrelated(number, split) for number, split in enumerate(splits)])
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, replace(SMALL, patience=3, panels=0))
    gap = found(measured, "psnr_minus_stranger", "all")
    assert gap.low < 0 < gap.high


def test_equal_arguments_give_equal_figures_and_leave_the_random_state_alone(measured, source, place):
    torch.manual_seed(77)
    before = torch.get_rng_state()
    again = synthesis(source, place, SMALL, resamples=200, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.values == measured.values
    assert again.facts == measured.facts
    assert again.pictures == measured.pictures
    other = synthesis(source, place, replace(SMALL, epochs=1, panels=0), resamples=20, seed=6)
    assert found(other, "psnr", "all").value != found(measured, "psnr", "all").value
    assert found(other, "psnr_neighbour", "all").value == found(measured, "psnr_neighbour", "all").value
    assert other.pictures == {}


def test_the_picture_is_a_png_with_a_line_for_each_row(measured):
    (name,), (content,) = measured.pictures, measured.pictures.values()
    assert name == "synthesis_tiny.png"
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1100
        assert 400 < picture.height < 700


def test_mirrored_pairs_have_rows_of_their_own_and_are_not_among_the_crossed(tmp_path, backbone, bars):
    folder = bars.shards(tmp_path / "s", bars.many(20, 4, 8, ("VD", "DV", "LLAT")))
    config = replace(SMALL, epochs=1, min_pairs=5)
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20)
    rows = {one.finding: one.known for one in measured.values if one.metric == "psnr"}
    assert {"VD-DV", "DV-VD"} <= set(rows)
    assert (rows["all"], rows["crossed"]) == (48, 32)
    assert rows["crossed"] == sum(count for row, count in rows.items() if "-" in row and row not in MIRRORED)
    assert list(measured.left_out) == [
        "VD-RLAT",
        "DV-RLAT",
        "LLAT-RLAT",
        "RLAT-VD",
        "RLAT-DV",
        "RLAT-LLAT",
    ]


def test_rows_with_too_few_pairs_are_named_and_not_measured(tmp_path, backbone, bars):
    studies = [*bars.many(20, 4, 8), *(bars.study(100 + i, "train", ("VD", "DV")) for i in range(20))]
    folder = bars.shards(tmp_path / "s", [*studies, bars.study(200, "test", ("VD", "DV"))])
    config = replace(SMALL, epochs=1, min_pairs=5, panels=1)
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20)
    assert measured.left_out["VD-DV"] == "20 pairs in train and 1 in test, 5 are needed in each"
    assert found(measured, "psnr", "all").known == 16


def test_studies_of_one_projection_give_no_figure_and_say_why(tmp_path, backbone, bars):
    folder = bars.shards(tmp_path / "s", bars.many(6, 2, 4, ("VD",)))
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, SMALL)
    assert (measured.values, dict(measured.pictures)) == ((), {})
    assert len(measured.left_out) == 12
    assert measured.left_out["VD-LLAT"] == "0 pairs in train and 0 in test, 10 are needed in each"
    assert measured.facts["test_studies"] == 0


def test_a_row_of_one_patient_has_no_stranger_and_is_left_out(tmp_path, backbone, bars):
    test = [bars.study(300 + i, "test", patient="alone") for i in range(6)]
    folder = bars.shards(tmp_path / "s", [*bars.many(20, 4, 0), *test])
    config = replace(SMALL, epochs=1, min_pairs=5)
    measured = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20)
    assert measured.values == ()
    assert measured.left_out["VD-LLAT"] == "1 patient in test, 2 are needed"


def test_without_val_training_runs_to_its_end_and_says_so(tmp_path, backbone, bars):
    folder = bars.shards(tmp_path / "s", bars.many(20, 0, 8))
    config = replace(SMALL, epochs=3, patience=1, min_pairs=5, panels=0)
    facts = synthesis(as_source(folder, tmp_path, backbone), folder, config, resamples=20).facts
    assert (facts["epochs"], facts["kept_epoch"]) == (3, 3)
    assert facts["kept_because"] == "the last, as val has no pairs"


def test_a_training_that_runs_away_is_stopped_and_says_what_to_change(source, place):
    with pytest.raises(TrainingError, match=r"synthesis\.lr"):
        synthesis(source, place, replace(SMALL, lr=1e36))


def test_a_source_without_a_backbone_is_refused_by_name(tmp_path, place):
    with pytest.raises(ConfigError, match="source 'pixels' has no backbone"):
        synthesis(SourceFactory(place, tmp_path).pixels(), place, SMALL)


def test_a_patient_in_two_splits_is_refused(tmp_path, backbone, bars):
    folder = bars.shards(tmp_path / "s", [*bars.many(20, 4, 8), bars.study(300, "test", patient="p0")])
    with pytest.raises(FeaturesError, match="1 patients are in both train and test"):
        synthesis(as_source(folder, tmp_path, backbone), folder, SMALL)
