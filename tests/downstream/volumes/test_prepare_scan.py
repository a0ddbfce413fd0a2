"""From files to slices: orientation, intensities, and what cropping takes away."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.downstream.volumes.discovery import find_scans
from vetdino.downstream.volumes.grid import affine_of
from vetdino.downstream.volumes.prepare import prepare
from vetdino.downstream.volumes.prepare_scan import check_scan
from vetdino.downstream.volumes.volume import load_volumes
from vetdino.platform.core.errors import DataError

SMALL = PrepareConfig(side=32, ct_border=0.0, classes="1=liver,2=spleen")


def report(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "report.csv").open() as file:
        return {row["file"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}


def test_a_scan_and_its_label_stored_in_different_ways_come_out_alike(tmp_path, body, save_scan):
    hu, labels = body()
    for name, ways in {"a": ("RAS", "RAS"), "b": ("LPS", "SAR"), "c": ("PIR", "PIR")}.items():
        save_scan(tmp_path / "images" / f"{name}.nii.gz", hu, ways[0])
        save_scan(tmp_path / "labels" / f"{name}.nii.gz", labels, ways[1])
    volumes = load_volumes(prepare(tmp_path, tmp_path / "out", SMALL))
    first = volumes.load("a")
    for volume in volumes:
        np.testing.assert_array_equal(volume.image_ZHW, first.image_ZHW)
        np.testing.assert_array_equal(volume.labels_ZHW, first.labels_ZHW)
        assert volume.spacing == first.spacing
    assert first.labels_ZHW[3, 16, 9] == 1  # the liver lies at the patient's right, the picture's left
    assert "joined by their affines" in report(tmp_path / "out")["images/b.nii.gz"][1]


def test_the_window_of_a_ct_becomes_0_to_255(tmp_path, save_scan):
    hu = np.zeros((3, 32, 32))
    hu[:] = np.repeat(np.repeat(np.array([[-1000, -125], [75, 300]]), 16, 0), 16, 1)
    save_scan(tmp_path / "image.nii.gz", hu)
    config = replace(SMALL, ct_spacing=(5.0, 2.0, 1.5))
    [volume] = load_volumes(prepare(tmp_path, tmp_path / "out", config))
    assert volume.modality == "ct"
    assert [volume.image_ZHW[0, y, x] for y, x in ((4, 4), (4, 28), (28, 4), (28, 28))] == [0, 0, 128, 255]


def test_the_brightest_half_percent_of_an_mri_is_clipped(tmp_path, save_scan):
    values = np.random.default_rng(0).permutation(10 * 20 * 50).reshape(10, 20, 50).astype(float)
    save_scan(tmp_path / "image.nii.gz", values)
    config = replace(SMALL, side=50, mri_spacing=(5.0, 2.0, 1.5))
    [volume] = load_volumes(prepare(tmp_path, tmp_path / "out", config))
    top = np.percentile(values, 99.5)
    expected = np.rint(np.minimum(values, top) * 255 / top)
    assert volume.modality == "mri"
    assert abs(volume.image_ZHW[:, 15:35] - expected).max() <= 1  # two roundings of one half
    assert (volume.image_ZHW == 255).sum() >= 50


@pytest.mark.parametrize("modality", ["ct", "mri"])
def test_pictures_of_eight_bits_pass_unchanged(tmp_path, modality):
    pixels = np.random.default_rng(0).integers(0, 200, (4, 32, 32), dtype=np.uint8)
    pixels[0, :2, :5] = 250
    for z, slice_HW in enumerate(pixels):
        (tmp_path / "s1").mkdir(exist_ok=True)
        Image.fromarray(slice_HW).save(tmp_path / "s1" / f"{z}.png")
    [volume] = load_volumes(prepare(tmp_path, tmp_path / "out", replace(SMALL, modality=modality)))
    np.testing.assert_array_equal(volume.image_ZHW, pixels)


def test_labels_that_are_cut_away_are_reported(tmp_path, archive):
    source = archive(tmp_path / "src", 1)
    out = prepare(source, tmp_path / "out", replace(SMALL, ct_border=0.3))
    assert "of the labelled voxels lie beyond the prepared slices" in report(out)["images/1.nii.gz"][1]


def test_a_ct_without_air_is_doubted(tmp_path, body, save_scan):
    save_scan(tmp_path / "image.nii.gz", body()[0] + 1024)
    out = prepare(tmp_path, tmp_path / "out", replace(SMALL, modality="ct"))
    assert "are these Hounsfield units?" in report(out)["image.nii.gz"][1]


def test_a_sagittal_scan_is_sliced_as_it_was_acquired_with_a_doubt(tmp_path, save_nifti):
    values = np.random.default_rng(0).integers(0, 200, (5, 32, 32)).astype(np.int16)
    affine = affine_of("LIP", (4.0, 1.0, 1.0))
    save_nifti(tmp_path / "images" / "1.nii.gz", values, affine)
    save_nifti(tmp_path / "labels" / "1.nii.gz", values > 150, affine)
    config = replace(SMALL, modality="mri", mri_spacing=(0.0, 0.0, 0.0), mri_top=0.0)
    out = prepare(tmp_path, tmp_path / "out", config)
    [volume] = load_volumes(out)
    assert (volume.plane, volume.image_ZHW.shape, volume.spacing) == ("sagittal", (5, 32, 32), (4, 1, 1))
    np.testing.assert_array_equal(volume.labels_ZHW, values > 150)
    state, reason = report(out)["images/1.nii.gz"]
    assert state == "doubtful"
    assert "sagittal: 5 slices; axial would be 32" in reason
    axial = prepare(tmp_path, tmp_path / "axial", replace(config, plane="axial", mri_spacing=(1.0, 1.0, 1.0)))
    [volume] = load_volumes(axial)
    assert (volume.plane, volume.image_ZHW.shape) == ("axial", (32, 32, 32))
    assert report(axial)["images/1.nii.gz"][0] == "prepared"


def test_pictures_without_spacing_have_no_volume(tmp_path, save_picture):
    for z in range(4):
        save_picture(
            tmp_path / "s1" / f"{z}.png", np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
        )
    [volume] = load_volumes(prepare(tmp_path, tmp_path / "out", SMALL))
    assert (volume.in_mm, volume.steps, volume.voxel_ml) == (False, None, None)
    assert load_volumes(tmp_path / "out").cards["s1"]["spacing"] is None
    known = prepare(tmp_path, tmp_path / "known", replace(SMALL, stack_spacing=(5.0, 1.0, 2.0), side=64))
    [volume] = load_volumes(known)
    assert volume.in_mm
    assert volume.voxel_ml * volume.image_ZHW.size == pytest.approx(4 * 32 * 64 * 5 * 1 * 2 / 1000, rel=1.1)


def test_a_table_gives_each_stack_of_pictures_its_spacing(tmp_path, save_picture):
    for name in ("a", "b"):
        for z in range(4):
            save_picture(
                tmp_path / name / f"{z}.png",
                np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8),
            )
    table = tmp_path / "scans.csv"
    table.write_text("image,spacing\na,5x1x1\nb,2x0.5x0.5\n")
    config = replace(SMALL, modality="ct")
    first, second = load_volumes(prepare(table, tmp_path / "out", config))
    assert (first.spacing, second.spacing) == ((5, 1, 1), (2, 0.5, 0.5))


def test_headers_tell_what_cannot_be_prepared_before_a_voxel_is_read(tmp_path, save_nifti, monkeypatch):
    save_nifti(tmp_path / "image_1.nii.gz", np.zeros((4, 4, 4)))
    save_nifti(tmp_path / "label_1.nii.gz", np.zeros((4, 4, 5)))
    monkeypatch.setattr("vetdino.downstream.volumes.prepare_scan.read_image", None)
    [scan] = find_scans(tmp_path)[0]
    with pytest.raises(DataError, match="its label 4x4x5"):
        check_scan(scan, SMALL)
    save_nifti(tmp_path / "label_1.nii.gz", np.zeros((4, 4, 4)))
    check_scan(scan, SMALL)
    with pytest.raises(DataError, match="4 slices, 9 are needed"):
        check_scan(scan, replace(SMALL, modality="ct", min_slices=9))
