"""Organs of new scans from one labelled scan, as files on the new scans' own grids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.fewshot.config import FewshotSegmentConfig
from vetdino.downstream.fewshot.learn.config import AdaptConfig
from vetdino.downstream.fewshot.method.alignment import Aligner
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.protocol import dice
from vetdino.downstream.fewshot.method.support import build_support_set
from vetdino.downstream.fewshot.segment import predicted_labels, segment, segmentation_predictor
from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.platform.core.errors import ConfigError, DataError

CONFIG = FewshotSegmentConfig(
    slices=SliceConfig(grid=16),
    prepare=PrepareConfig(side=32, mri_spacing=(0.0, 0.0, 0.0), modality="mri"),
)


@pytest.fixture
def files(organ_scan, tmp_path):
    """Folder with image_0 .. image_2 and label_0 as NIfTI."""
    affine = np.diag([-1.5, -1.5, 5.0, 1.0])
    for seed in range(3):
        volume = organ_scan(seed)
        for kind, array_ZHW in (("image", volume.image_ZHW), ("label", volume.labels_ZHW)):
            image = nibabel.Nifti1Image(array_ZHW.transpose(2, 1, 0), affine)
            nibabel.save(image, tmp_path / f"{kind}_{seed}.nii.gz")
    return tmp_path


def run(files: Path, scans: list[Path], mask: Path | None = None, config: FewshotSegmentConfig = CONFIG):
    support, mask = files / "image_0.nii.gz", mask or files / "label_0.nii.gz"
    return segment(scans, support, mask, None, files / "out", config)


def test_labels_of_a_new_scan_are_those_of_its_organs(organ_scan):
    support, query = organ_scan(0), organ_scan(1)
    supports = {number: build_support_set(number, "organ", [support]) for number in (1, 2)}
    labels = predicted_labels(query, supports, segmentation_predictor(None, CONFIG)[0], CONFIG)
    assert labels.dtype == np.uint8
    for organ in (1, 2):
        assert dice(labels == organ, query.labels_ZHW == organ) > 0.6


@pytest.mark.slow
def test_masks_overlays_and_milliliters_are_written_for_every_scan(files):
    milliliters = run(files, [files / "image_1.nii.gz", files / "image_2.nii.gz"])
    assert list(milliliters) == ["image_1", "image_2"]
    out = files / "out"
    mask = nibabel.load(out / "masks" / "image_1.nii.gz")
    np.testing.assert_array_equal(mask.affine, nibabel.load(files / "image_1.nii.gz").affine)
    voxels = int((np.asarray(mask.dataobj) == 1).sum())
    assert milliliters["image_1"]["class 1"] == pytest.approx(voxels * 1.5 * 1.5 * 5 / 1000, abs=0.06)
    assert {path.name for path in (out / "overlays").iterdir()} == {"image_1.png", "image_2.png"}
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["millilitres"] == milliliters
    assert facts["backbone"] == {"digest": "", "label": "pixels"}


def test_a_new_scan_of_another_stretch_has_its_organs(organ_scan):
    support, query = organ_scan(0), organ_scan(1)
    # The query starts in the middle of the organs.
    query = replace(query, image_ZHW=query.image_ZHW[3:], labels_ZHW=query.labels_ZHW[3:])
    supports = {1: build_support_set(1, "organ", [support])}
    predictor, encoder_for = segmentation_predictor(None, CONFIG)
    guessed, matched = (
        predicted_labels(query, supports, predictor, CONFIG, aligner)
        for aligner in (None, Aligner(encoder_for))
    )
    truth = query.labels_ZHW == 1
    assert dice(matched == 1, truth) > dice(guessed == 1, truth) + 0.05


def test_what_the_support_chose_is_written(files, tiny):
    segment(
        [files / "image_1.nii.gz"],
        files / "image_0.nii.gz",
        files / "label_0.nii.gz",
        tiny,
        files / "out",
        CONFIG,
    )
    chosen = json.loads((files / "out" / "metrics.json").read_text())["chosen"]
    assert list(chosen) == ["class 1", "class 2"]
    assert all(text.startswith("layers ") for text in chosen.values())


def test_a_scan_that_cannot_be_read_is_left_out(files):
    broken = files / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    assert list(run(files, [broken, files / "image_1.nii.gz", files / "image_1.nii.gz"])) == ["image_1"]
    left_out = json.loads((files / "out" / "metrics.json").read_text())["left_out"]
    assert "a second scan called 'image_1'" in left_out["image_1.nii.gz"]
    assert "broken" in left_out["broken.nii.gz"]


def test_nothing_is_left_where_no_scan_or_no_label_can_be_used(files):
    (files / "notes.txt").write_text("no scan")
    with pytest.raises(DataError, match="none of 1 scans"):
        run(files, [files / "notes.txt"])
    empty, image = files / "empty.nii.gz", nibabel.load(files / "label_0.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    with pytest.raises(DataError, match="empty"):
        run(files, [files / "image_1.nii.gz"], empty)
    assert not (files / "out").exists()


def test_pixels_cannot_be_trained_at_test_time():
    with pytest.raises(ConfigError, match="pixels have none"):
        segmentation_predictor(None, FewshotSegmentConfig(adapt=AdaptConfig(steps=1)))


def test_pictures_without_spacing_have_masks_but_no_milliliters(organ_scan, tmp_path, caplog):
    for seed in range(2):
        for kind in ("image", "label"):
            folder = tmp_path / f"{kind}_{seed}"
            folder.mkdir()
            volume = organ_scan(seed)
            for z, slice_HW in enumerate(volume.image_ZHW if kind == "image" else volume.labels_ZHW):
                Image.fromarray(slice_HW.astype(np.uint8)).save(folder / f"{z}.png")
    result = segment(
        [tmp_path / "image_1"], tmp_path / "image_0", tmp_path / "label_0", None, tmp_path / "out", CONFIG
    )
    assert result == {"image_1": {"class 1": None, "class 2": None}}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["millilitres"] == result
    assert "its spacing is unknown" in caplog.text
    assert np.asarray(nibabel.load(tmp_path / "out" / "masks" / "image_1.nii.gz").dataobj).any()
    known = replace(CONFIG, prepare=replace(CONFIG.prepare, stack_spacing=(5.0, 1.5, 1.5)))
    result = segment(
        [tmp_path / "image_1"], tmp_path / "image_0", tmp_path / "label_0", None, tmp_path / "out", known
    )
    assert result["image_1"]["class 1"] > 0


def test_a_scan_in_another_plane_than_the_support_is_left_out(files):
    image = nibabel.load(files / "image_1.nii.gz")
    turned = np.zeros((4, 4))
    turned[0, 2], turned[1, 0], turned[2, 1], turned[3, 3] = 5, 1.5, 1.5, 1
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), turned), files / "sagittal.nii.gz")
    assert list(run(files, [files / "sagittal.nii.gz", files / "image_1.nii.gz"])) == ["image_1"]
    left_out = json.loads((files / "out" / "metrics.json").read_text())["left_out"]
    assert "sagittal slices, the support has axial ones; give --prepare.plane" in left_out["sagittal.nii.gz"]


def test_masks_carry_the_label_values_of_the_support_above_255_too(files):
    label = nibabel.load(files / "label_0.nii.gz")
    values = np.array([0, 600, 200], np.int16)[np.asarray(label.dataobj)]
    nibabel.save(nibabel.Nifti1Image(values, label.affine), files / "large.nii.gz")
    config = replace(CONFIG, prepare=replace(CONFIG.prepare, classes="200=kidneys,600=liver"))
    large = run(files, [files / "image_1.nii.gz"], files / "large.nii.gz", config)
    stored = np.asarray(nibabel.load(files / "out" / "masks" / "image_1.nii.gz").dataobj)
    assert json.loads((files / "out" / "metrics.json").read_text())["organs"] == {
        "200": "kidneys",
        "600": "liver",
    }
    plain = run(files, [files / "image_1.nii.gz"])
    mask = np.asarray(nibabel.load(files / "out" / "masks" / "image_1.nii.gz").dataobj)
    np.testing.assert_array_equal(stored, np.array([0, 600, 200])[mask])
    assert large["image_1"]["liver"] == plain["image_1"]["class 1"]
