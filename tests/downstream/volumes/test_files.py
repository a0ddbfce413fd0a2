"""NIfTI files, pictures and labels: what is read and what is refused."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.platform.data.picture_files import png_file
from vetdino.downstream.volumes.files import (
    StackGeometry,
    file_kind,
    read_geometry,
    read_image,
    read_labels,
)
from vetdino.downstream.volumes.grid import (
    axes_of,
    voxel_sizes,
)
from vetdino.downstream.volumes.label_values import LabelValues
from vetdino.platform.core.errors import DataError

PLAIN = StackGeometry()


def test_a_nifti_file_gives_its_values_and_affine(tmp_path, save_nifti):
    values, affine = np.random.default_rng(0).normal(size=(3, 4, 5)), np.diag([-2.0, 2, 5, 1])
    result = read_image(save_nifti(tmp_path / "a.nii.gz", values, affine), PLAIN)
    np.testing.assert_allclose(result.values, values, rtol=1e-6)
    np.testing.assert_array_equal(result.affine, affine)
    assert result.values.dtype == np.float32


def test_the_slope_of_a_nifti_file_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "a.nii")
    stored = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii", PLAIN).values, 2 * stored - 1024)


def test_a_last_axis_of_one_is_left_away_with_a_note(tmp_path, save_nifti):
    result = read_image(save_nifti(tmp_path / "a.nii", np.ones((3, 4, 5, 1))), PLAIN)
    assert result.values.shape == (3, 4, 5)
    assert result.notes == ("3x4x5x1: axes of 1 were left away",)


def test_several_volumes_in_one_file_are_refused(tmp_path, save_nifti):
    with pytest.raises(DataError, match=r"4 axes .*several volumes"):
        read_image(save_nifti(tmp_path / "a.nii", np.ones((3, 4, 5, 2))), PLAIN)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_refused(tmp_path, bad, save_nifti):
    values = np.zeros((3, 4, 5))
    values[0, 0, :2] = bad
    with pytest.raises(DataError, match=r"^2 voxels are NaN or infinite"):
        read_image(save_nifti(tmp_path / "a.nii", values), PLAIN)


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_a_nifti_file_that_ends_early_is_refused_in_one_line(tmp_path, keep, save_nifti):
    path = save_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable NIfTI file") as error:
        read_image(path, PLAIN)
    assert "\n" not in str(error.value)


def test_colours_are_no_scan(tmp_path, save_nifti):
    colors = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match="not a readable NIfTI"):
        read_image(save_nifti(tmp_path / "a.nii", colors), PLAIN)


def test_an_affine_that_cannot_be_undone_is_refused(tmp_path, save_nifti):
    path = save_nifti(tmp_path / "a.nii", np.ones((3, 4, 5)))
    content = bytearray(path.read_bytes())
    content[312:328] = bytes(16)  # srow_z of the header
    path.write_bytes(content)
    with pytest.raises(DataError, match="affine that cannot be undone"):
        read_image(path, PLAIN)


def test_a_value_too_large_for_four_bytes_is_no_number(tmp_path, save_nifti):
    with pytest.raises(DataError, match="1 voxels are NaN or infinite"):
        read_image(save_nifti(tmp_path / "a.nii", np.r_[1e300, np.zeros(23)].reshape(2, 3, 4)), PLAIN)


def test_a_folder_of_organs_becomes_one_label_map(tmp_path, save_nifti):
    liver, spleen = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    liver[0], spleen[2] = True, True
    save_nifti(tmp_path / "liver.nii.gz", liver)
    save_nifti(tmp_path / "spleen.nii.gz", spleen)
    save_nifti(tmp_path / "rib.nii.gz", spleen)
    result = read_labels(tmp_path, PLAIN, LabelValues({"liver": 7, "spleen": 2}))
    np.testing.assert_array_equal(result.values, 7 * liver + 2 * spleen)


def test_a_folder_of_pictures_is_a_stack_in_natural_order(tmp_path, save_picture):
    for number in (10, 9, 2):
        save_picture(tmp_path / f"{number}.png", np.full((4, 6), number, np.uint8))
    result = read_image(tmp_path, StackGeometry((5.0, 1.0, 1.0), "SAL"))
    assert result.values[:, 0, 0].tolist() == [2, 9, 10]
    assert (axes_of(result.affine), voxel_sizes(result.affine)) == ("SAL", (5, 1, 1))
    assert result.in_mm
    assert not result.placed


def test_a_tall_picture_is_divided_by_its_card(tmp_path, save_picture):
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    save_picture(tmp_path / "image_7.png", values.reshape(12, 6))
    card = {"7": {"Z": 3, "H": 4, "W": 6, "spacing_xyz": [1.5, 2, 8], "axes": "SAL"}}
    (tmp_path / "meta.json").write_text(json.dumps(card))
    result = read_image(tmp_path / "image_7.png", PLAIN)
    np.testing.assert_array_equal(result.values, values)
    assert (axes_of(result.affine), voxel_sizes(result.affine)) == ("SAL", (8, 2, 1.5))


def test_a_tall_picture_of_another_size_than_its_card_is_refused(tmp_path, save_picture):
    save_picture(tmp_path / "image_7.png", np.zeros((13, 6), np.uint8))
    (tmp_path / "meta.json").write_text('{"7": {"Z": 3, "H": 4, "W": 6}}')
    with pytest.raises(DataError, match=r"13x6 pixels, but meta.json says 3 slices of 4x6"):
        read_image(tmp_path / "image_7.png", PLAIN)


def test_sixteen_bits_of_a_picture_are_kept(tmp_path, save_picture):
    save_picture(tmp_path / "0.png", np.array([[0, 40000]], np.uint16))
    assert read_image(tmp_path, PLAIN).values.max() == 40000


def test_a_palette_gives_label_numbers_not_colors(tmp_path):
    picture = Image.fromarray(np.array([[0, 3]], np.uint8), "L").convert("P")
    picture.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 200, 10, 10] + [0] * 756)
    picture.save(tmp_path / "0.png")
    assert read_labels(tmp_path, PLAIN, LabelValues()).values.tolist() == [[[0, 3]]]


def test_a_turned_slice_lies_as_its_turned_labels(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (4, 4), dtype=np.uint8)
    for name, orientation in (("scan", 6), ("labels", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png_file(values, orientation=orientation))
    scan, labels = (
        read_image(tmp_path / "scan", PLAIN),
        read_labels(tmp_path / "labels", PLAIN, LabelValues()),
    )
    np.testing.assert_array_equal(scan.values, labels.values)


def test_labels_of_four_bits_are_not_stretched(tmp_path):
    (tmp_path / "0.png").write_bytes(png_file(np.array([[0, 1, 2, 15]]), depth=4))
    assert read_labels(tmp_path, PLAIN, LabelValues()).values.tolist() == [[[0, 1, 2, 15]]]


def test_a_tiff_of_several_slices_is_refused_rather_than_cut_to_its_first(tmp_path):
    first = Image.fromarray(np.zeros((4, 4), np.uint8))
    first.save(tmp_path / "0.tif", save_all=True, append_images=[first, first])
    with pytest.raises(DataError, match="3 pictures in one file"):
        read_image(tmp_path, PLAIN)


def test_white_is_class_one(tmp_path, save_picture):
    save_picture(tmp_path / "0.png", np.array([[0, 255]], np.uint8))
    result = read_labels(tmp_path, PLAIN, LabelValues())
    assert result.values.tolist() == [[[0, 1]]]
    assert "class 1" in result.notes[0]


def test_labels_in_colour_or_as_jpeg_are_refused(tmp_path, save_picture):
    save_picture(tmp_path / "a" / "0.png", np.zeros((4, 4, 3), np.uint8))
    save_picture(tmp_path / "b" / "0.jpg", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="labels in color"):
        read_labels(tmp_path / "a", PLAIN, LabelValues())
    with pytest.raises(DataError, match="labels as JPEG"):
        read_labels(tmp_path / "b", PLAIN, LabelValues())


def test_a_folder_is_what_lies_directly_in_it(tmp_path, save_picture, save_series, hounsfield):
    save_series(tmp_path / "dicom", hounsfield(shape=(1, 4, 4)))
    save_picture(tmp_path / "dicom" / "preview.png", np.zeros((4, 4), np.uint8))
    save_picture(tmp_path / "stack" / "0.png", np.zeros((4, 4), np.uint8))
    assert [file_kind(tmp_path / name) for name in ("dicom", "stack", "", "none")] == [
        "dicom",
        "stack",
        "",
        "",
    ]


@pytest.mark.parametrize("spacing", [[1.5, 2, 0], [-1, 2, 8], [1, 2, float("nan")], [1, 2]])
def test_a_spacing_of_a_tall_picture_that_is_none_is_refused(tmp_path, spacing, save_picture):
    save_picture(tmp_path / "image_7.png", np.zeros((12, 6), np.uint8))
    (tmp_path / "meta.json").write_text(json.dumps({"7": {"Z": 3, "H": 4, "W": 6, "spacing_xyz": spacing}}))
    with pytest.raises(DataError, match="spacing_xyz"):
        read_image(tmp_path / "image_7.png", PLAIN)


def test_white_is_class_one_in_nifti_too_unless_255_is_a_class(tmp_path, save_nifti):
    path = save_nifti(tmp_path / "a.nii", np.int16([0, 255, 255, 0]).reshape(1, 1, 4))
    result = read_labels(path, PLAIN, LabelValues())
    assert result.values.tolist() == [[[0, 1, 1, 0]]]
    assert result.notes == ("white (255) is taken as class 1",)
    assert read_labels(path, PLAIN, LabelValues(white=False)).values.max() == 255


def test_the_geometry_of_files_with_a_header_is_known_without_their_voxels(
    tmp_path, save_nifti, save_picture, save_series, hounsfield
):
    save_series(tmp_path / "dicom", hounsfield())
    save_nifti(tmp_path / "organs" / "liver.nii.gz", np.ones((3, 4, 5)))
    save_picture(tmp_path / "stack" / "0.png", np.zeros((4, 4), np.uint8))
    assert read_geometry(tmp_path / "organs") is None
    assert read_geometry(tmp_path / "organs" / "liver.nii.gz").shape == (3, 4, 5)
    assert read_geometry(tmp_path / "stack") is None
    dicom, whole = read_geometry(tmp_path / "dicom"), read_image(tmp_path / "dicom", PLAIN)
    assert dicom.shape == whole.shape
    np.testing.assert_array_equal(dicom.affine, whole.affine)
