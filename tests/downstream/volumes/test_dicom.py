"""DICOM slices: sorted by position, placed in millimeters, refused where they are not one volume."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from tests.platform.ingest.radiographs import lut_item
from vetdino.downstream.volumes.files import (
    StackGeometry,
    read_image,
)
from vetdino.downstream.volumes.grid import (
    axes_of,
    voxel_sizes,
)
from vetdino.platform.core.errors import DataError

PLAIN = StackGeometry()


def test_dicom_slices_are_sorted_by_position_not_by_name(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    result = read_image(save_series(tmp_path, hu), PLAIN)
    np.testing.assert_array_equal(result.values, hu)
    assert axes_of(result.affine) == "SPL"
    assert result.modality == "ct"


def test_the_spacing_of_a_series_is_that_of_its_positions(tmp_path, save_series, hounsfield):
    result = read_image(save_series(tmp_path, hounsfield()), PLAIN)
    np.testing.assert_allclose(voxel_sizes(result.affine), (4, 0.8, 0.7))
    # Row 2, column 3 of slice 1, in LPS by PS3.3 C.7.6.2.1.1, turned to RAS.
    np.testing.assert_allclose(result.affine @ [1, 2, 3, 1], [30 - 3 * 0.7, 40 - 2 * 0.8, 104, 1])


def test_a_sagittal_series_knows_how_it_lies(tmp_path, save_series, hounsfield):
    turned = {
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        "ImagePositionPatient": lambda z: [10 + 4 * z, 0, 0],
    }
    assert axes_of(read_image(save_series(tmp_path, hounsfield(), **turned), PLAIN).affine) == "RIP"


def test_bits_above_those_stored_are_no_pixels(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    folder = save_series(
        tmp_path / "a", hu, PixelData=lambda z: ((hu[z] + 1024) | 0x8000).astype("<u2").tobytes()
    )
    np.testing.assert_array_equal(read_image(folder, PLAIN).values, hu)


def test_left_justified_slices_have_their_values(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    words = {"HighBit": 15, "PixelData": lambda z: ((hu[z] + 1024) << 4).astype("<u2").tobytes()}
    result = read_image(save_series(tmp_path, hu, **words), PLAIN)
    np.testing.assert_array_equal(result.values, hu)
    assert result.notes == ("HighBit is not BitsStored 12 - 1",)


def test_slices_of_more_bits_than_bits_stored_keep_them_with_a_note(tmp_path, save_series):
    ramp = np.add.outer(np.arange(5), np.add.outer(np.arange(40) * 90, np.arange(40) * 70))
    words = {"PixelData": lambda z: (ramp[z] + 1024).astype("<u2").tobytes()}
    result = read_image(save_series(tmp_path, ramp, **words), PLAIN)
    np.testing.assert_array_equal(result.values, ramp)
    assert "BitsStored 12" in result.notes[0]


def test_empty_rescale_tags_leave_the_stored_values_with_a_note(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    result = read_image(save_series(tmp_path, hu, RescaleSlope="", RescaleIntercept=""), PLAIN)
    np.testing.assert_array_equal(result.values, hu + 1024)
    assert result.notes == ("RescaleSlope and RescaleIntercept without a usable number",)


def test_a_ct_without_rescale_tags_is_noted(tmp_path, save_series, hounsfield):
    folder = save_series(tmp_path, hounsfield())
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.save_as(file)
    assert "Hounsfield" in read_image(folder, PLAIN).notes[0]


def test_an_intercept_without_a_slope_is_applied(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    result = read_image(save_series(tmp_path, hu, RescaleSlope=None), PLAIN)
    np.testing.assert_array_equal(result.values, hu)


def test_a_modality_lut_of_twelve_bits_is_applied(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    item = lut_item(np.arange(4096)[::-1], bits=12)
    result = read_image(save_series(tmp_path, hu, ModalityLUTSequence=[item]), PLAIN)
    np.testing.assert_array_equal(result.values, 4095 - (hu + 1024))


def test_padding_brighter_than_everything_becomes_dark(tmp_path, save_series, hounsfield):
    hu = hounsfield()
    words = (hu + 1024).astype("<u2")
    words[:, 0] = 63536  # BitsStored is 12
    changes = {"PixelPaddingValue": 63536, "PixelData": lambda z: words[z].tobytes()}
    result = read_image(save_series(tmp_path, hu, **changes), PLAIN)
    np.testing.assert_array_equal(result.values[:, 1:], hu[:, 1:])
    np.testing.assert_array_equal(result.values[:, 0], hu[:, 1:].min((1, 2))[:, None] + np.zeros(7))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ImagePositionPatient": lambda z: [0, 0, 4 * z + 4 * (z > 2)]}, "a gap of 8 mm .* 4 mm apart"),
        ({"ImagePositionPatient": lambda z: [0, 0, 4 * (z // 2)]}, "two slices at the same place"),
        ({"ImageOrientationPatient": lambda z: [1, 0, 0, 0, z > 0, z == 0]}, "different directions"),
        ({"PixelSpacing": None}, "without a usable PixelSpacing"),
        ({"Modality": lambda z: "CT" if z else "MR"}, "several kinds"),
        ({"SeriesInstanceUID": lambda z: f"1.2.{z}"}, "5 series in one folder"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"PixelData": b"\0\0"}, "cannot be decoded"),
    ],
)
def test_a_series_that_is_no_volume_is_refused_without_a_name(
    tmp_path, changes, said, save_series, hounsfield
):
    folder = save_series(tmp_path / "Doe^Jane", hounsfield(), **changes)
    with pytest.raises(DataError, match=said) as error:
        read_image(folder, PLAIN)
    assert "Doe" not in str(error.value)


def test_positions_that_jitter_by_4_percent_are_taken_as_even_and_said(tmp_path, save_series, hounsfield):
    hu = hounsfield(shape=(12, 6, 7))
    jitter = [0, 0.16, -0.16, 0.1, -0.16, 0.16, 0, 0.05, -0.1, 0.16, -0.16, 0]
    folder = save_series(tmp_path, hu, ImagePositionPatient=lambda z: [-30, -40, 100 + 4 * z + jitter[z]])
    result = read_image(folder, PLAIN)
    np.testing.assert_array_equal(result.values, hu)
    np.testing.assert_allclose(voxel_sizes(result.affine), (4, 0.8, 0.7))
    [note] = result.notes
    assert note.startswith("slices lie up to 4 % of their gap (4.05 mm) beside an even grid")


def test_slices_that_are_moved_in_their_plane_are_doubted(tmp_path, save_series, hounsfield):
    moved = save_series(tmp_path / "a", hounsfield(), ImagePositionPatient=lambda z: [3 * (z == 2), 0, 4 * z])
    [doubt] = read_image(moved, PLAIN).doubts
    assert "moved by up to 3 mm in their plane" in doubt
    tilted = save_series(tmp_path / "b", hounsfield(), ImagePositionPatient=lambda z: [0, 1.5 * z, 4 * z])
    assert read_image(tilted, PLAIN).doubts == ()


def test_slices_of_different_pixel_spacing_are_refused(tmp_path, save_series, hounsfield):
    folder = save_series(tmp_path, hounsfield(), PixelSpacing=lambda z: [0.8, 0.7 if z else 0.9])
    with pytest.raises(DataError, match="different PixelSpacing"):
        read_image(folder, PLAIN)


def test_one_slice_without_thickness_has_no_known_spacing(tmp_path, save_series, hounsfield):
    hu = hounsfield(shape=(1, 6, 7))
    assert read_image(save_series(tmp_path / "a", hu), PLAIN).in_mm
    assert not read_image(save_series(tmp_path / "b", hu, SliceThickness=None), PLAIN).in_mm


def test_slices_know_their_names_and_instance_numbers(tmp_path, save_series, hounsfield):
    result = read_image(save_series(tmp_path / "a", hounsfield(), InstanceNumber=lambda z: 3 * z), PLAIN)
    assert result.slice_names == ("IM5", "IM4", "IM3", "IM2", "IM1")
    assert result.slice_numbers == (0, 3, 6, 9, 12)
    assert read_image(save_series(tmp_path / "b", hounsfield(), InstanceNumber=1), PLAIN).slice_numbers == ()
