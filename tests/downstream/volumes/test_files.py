"""Files of scans: what is read, how DICOM slices are put together, which labels belong to which image."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from vetdino.downstream.volumes.checks import labels_on
from vetdino.downstream.volumes.files import Stacked, image_of, kind_of, labels_of, whole_numbers
from vetdino.downstream.volumes.grid import axes_of, voxel_sizes
from vetdino.downstream.volumes.pairs import pairs_of
from vetdino.platform.core.errors import DataError

PLAIN = Stacked()


def save_nifti(path: Path, values, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def save_picture(path: Path, pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)
    return path


def save_series(folder: Path, hu_ZHW: np.ndarray, *, patient: str = "Doe^Jane", **changes) -> Path:
    """A CT series as scanners write it: HU + 1024 stored, slices every 4 mm, names that do not follow the position.

    changes: tag -> value, or a function of the slice number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=[str(folder)])
    for z, hu_HW in enumerate(hu_ZHW):
        one = pydicom.Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=[str(folder), str(z)])
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = uid
        one.SeriesInstanceUID, one.Modality, one.PatientName, one.PatientID = series, "CT", patient, "P-17"
        one.Rows, one.Columns = hu_HW.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 5
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [-30, -40, 100 + 4 * z]
        one.PixelData = (hu_HW + 1024).astype("<u2").tobytes()
        for tag, value in changes.items():
            setattr(one, tag, value(z) if callable(value) else value)
        one.save_as(folder / f"IM{len(hu_ZHW) - z}", enforce_file_format=True)
    return folder


def hounsfield(seed: int = 0, shape=(5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape)


# NIfTI -------------------------------------------------------------------------------------------


def test_a_nifti_file_gives_its_values_and_affine(tmp_path):
    values, affine = np.random.default_rng(0).normal(size=(3, 4, 5)), np.diag([-2.0, 2, 5, 1])
    found = image_of(save_nifti(tmp_path / "a.nii.gz", values, affine), PLAIN)
    np.testing.assert_allclose(found.values, values, rtol=1e-6)
    np.testing.assert_array_equal(found.affine, affine)
    assert found.values.dtype == np.float32


def test_the_slope_of_a_nifti_file_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nibabel.save(image, tmp_path / "a.nii")
    stored = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(image_of(tmp_path / "a.nii", PLAIN).values, 2 * stored - 1024)


def test_a_last_axis_of_one_is_left_away_with_a_note(tmp_path):
    found = image_of(save_nifti(tmp_path / "a.nii", np.ones((3, 4, 5, 1))), PLAIN)
    assert found.values.shape == (3, 4, 5)
    assert found.notes == ("3x4x5x1: axes of 1 were left away",)


def test_several_volumes_in_one_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"4 axes .*several volumes"):
        image_of(save_nifti(tmp_path / "a.nii", np.ones((3, 4, 5, 2))), PLAIN)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_refused(tmp_path, bad):
    values = np.zeros((3, 4, 5))
    values[0, 0, :2] = bad
    with pytest.raises(DataError, match=r"^2 voxels are NaN or infinite"):
        image_of(save_nifti(tmp_path / "a.nii", values), PLAIN)


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_a_nifti_file_that_ends_early_is_refused_in_one_line(tmp_path, keep):
    path = save_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable NIfTI file") as error:
        image_of(path, PLAIN)
    assert "\n" not in str(error.value)


def test_colours_are_no_scan(tmp_path):
    colours = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match="not a readable NIfTI"):
        image_of(save_nifti(tmp_path / "a.nii", colours), PLAIN)


def test_an_affine_that_cannot_be_undone_is_refused(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.ones((3, 4, 5)))
    content = bytearray(path.read_bytes())
    content[312:328] = bytes(16)  # srow_z of the header
    path.write_bytes(content)
    with pytest.raises(DataError, match="affine that cannot be undone"):
        image_of(path, PLAIN)


def test_a_value_too_large_for_four_bytes_is_no_number(tmp_path):
    with pytest.raises(DataError, match="1 voxels are NaN or infinite"):
        image_of(save_nifti(tmp_path / "a.nii", np.r_[1e300, np.zeros(23)].reshape(2, 3, 4)), PLAIN)


# Labels ------------------------------------------------------------------------------------------


def test_dust_of_a_slope_does_not_spoil_labels():
    np.testing.assert_array_equal(whole_numbers(np.float32([0, 0.9999, 2.00001])), [0, 1, 2])


@pytest.mark.parametrize(
    ("values", "said"),
    [([0, 0.5, 1], "no whole numbers"), ([-1, 0], "from -1 to 0"), ([0, 300], "to 300"), ([np.nan], "NaN")],
)
def test_labels_that_are_no_class_numbers_are_refused(values, said):
    with pytest.raises(DataError, match=said):
        whole_numbers(np.float32(values))


def test_a_folder_of_organs_becomes_one_label_map(tmp_path):
    liver, spleen = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    liver[0], spleen[2] = True, True
    save_nifti(tmp_path / "liver.nii.gz", liver)
    save_nifti(tmp_path / "spleen.nii.gz", spleen)
    save_nifti(tmp_path / "rib.nii.gz", spleen)
    found = labels_of(tmp_path, PLAIN, {"liver": 7, "spleen": 2})
    np.testing.assert_array_equal(found.values, 7 * liver + 2 * spleen)


# DICOM -------------------------------------------------------------------------------------------


def test_dicom_slices_are_sorted_by_position_not_by_name(tmp_path):
    hu = hounsfield()
    found = image_of(save_series(tmp_path, hu), PLAIN)
    np.testing.assert_array_equal(found.values, hu)
    assert axes_of(found.affine) == "SPL"
    assert found.modality == "ct"


def test_the_spacing_of_a_series_is_that_of_its_positions(tmp_path):
    found = image_of(save_series(tmp_path, hounsfield()), PLAIN)
    np.testing.assert_allclose(voxel_sizes(found.affine), (4, 0.8, 0.7))
    # Row 2, column 3 of slice 1, in LPS by PS3.3 C.7.6.2.1.1, turned to RAS.
    np.testing.assert_allclose(found.affine @ [1, 2, 3, 1], [30 - 3 * 0.7, 40 - 2 * 0.8, 104, 1])


def test_a_sagittal_series_knows_how_it_lies(tmp_path):
    turned = {
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        "ImagePositionPatient": lambda z: [10 + 4 * z, 0, 0],
    }
    assert axes_of(image_of(save_series(tmp_path, hounsfield(), **turned), PLAIN).affine) == "RIP"


def test_bits_above_those_stored_are_no_pixels(tmp_path):
    hu = hounsfield()
    folder = save_series(
        tmp_path / "a", hu, PixelData=lambda z: ((hu[z] + 1024) | 0x8000).astype("<u2").tobytes()
    )
    np.testing.assert_array_equal(image_of(folder, PLAIN).values, hu)


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
def test_a_series_that_is_no_volume_is_refused_without_a_name(tmp_path, changes, said):
    folder = save_series(tmp_path / "Doe^Jane", hounsfield(), **changes)
    with pytest.raises(DataError, match=said) as error:
        image_of(folder, PLAIN)
    assert "Doe" not in str(error.value)


def test_label_pictures_follow_the_names_of_the_slices(tmp_path):
    hu = hounsfield()
    image = image_of(save_series(tmp_path / "dicom", hu), PLAIN)
    for number in range(1, 6):  # file IM1 is the highest slice
        save_picture(tmp_path / "ground" / f"{number}.png", np.full((6, 7), number, np.uint8))
    labels_ZHW, _ = labels_on(image, labels_of(tmp_path / "ground", PLAIN, {}))
    assert labels_ZHW[:, 0, 0].tolist() == [5, 4, 3, 2, 1]


# Pictures ----------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_a_stack_in_natural_order(tmp_path):
    for number in (10, 9, 2):
        save_picture(tmp_path / f"{number}.png", np.full((4, 6), number, np.uint8))
    found = image_of(tmp_path, Stacked((5.0, 1.0, 1.0), "SAL"))
    assert found.values[:, 0, 0].tolist() == [2, 9, 10]
    assert (axes_of(found.affine), voxel_sizes(found.affine)) == ("SAL", (5, 1, 1))
    assert found.spaced
    assert not found.placed


def test_a_tall_picture_is_divided_by_its_card(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 6), dtype=np.uint8)
    save_picture(tmp_path / "image_7.png", values.reshape(12, 6))
    card = {"7": {"Z": 3, "H": 4, "W": 6, "spacing_xyz": [1.5, 2, 8], "axes": "SAL"}}
    (tmp_path / "meta.json").write_text(json.dumps(card))
    found = image_of(tmp_path / "image_7.png", PLAIN)
    np.testing.assert_array_equal(found.values, values)
    assert (axes_of(found.affine), voxel_sizes(found.affine)) == ("SAL", (8, 2, 1.5))


def test_a_tall_picture_of_another_size_than_its_card_is_refused(tmp_path):
    save_picture(tmp_path / "image_7.png", np.zeros((13, 6), np.uint8))
    (tmp_path / "meta.json").write_text('{"7": {"Z": 3, "H": 4, "W": 6}}')
    with pytest.raises(DataError, match=r"13x6 pixels, but meta.json says 3 slices of 4x6"):
        image_of(tmp_path / "image_7.png", PLAIN)


def test_sixteen_bits_of_a_picture_are_kept(tmp_path):
    save_picture(tmp_path / "0.png", np.array([[0, 40000]], np.uint16))
    assert image_of(tmp_path, PLAIN).values.max() == 40000


def test_a_palette_gives_label_numbers_not_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 3]], np.uint8), "L").convert("P")
    picture.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 200, 10, 10] + [0] * 756)
    picture.save(tmp_path / "0.png")
    assert labels_of(tmp_path, PLAIN, {}).values.tolist() == [[[0, 3]]]


def test_white_is_class_one(tmp_path):
    save_picture(tmp_path / "0.png", np.array([[0, 255]], np.uint8))
    found = labels_of(tmp_path, PLAIN, {})
    assert found.values.tolist() == [[[0, 1]]]
    assert "class 1" in found.notes[0]


def test_labels_in_colour_or_as_jpeg_are_refused(tmp_path):
    save_picture(tmp_path / "a" / "0.png", np.zeros((4, 4, 3), np.uint8))
    save_picture(tmp_path / "b" / "0.jpg", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="labels in colour"):
        labels_of(tmp_path / "a", PLAIN, {})
    with pytest.raises(DataError, match="labels as JPEG"):
        labels_of(tmp_path / "b", PLAIN, {})


def test_a_folder_is_what_lies_directly_in_it(tmp_path):
    save_series(tmp_path / "dicom", hounsfield(shape=(1, 4, 4)))
    save_picture(tmp_path / "dicom" / "preview.png", np.zeros((4, 4), np.uint8))
    save_picture(tmp_path / "stack" / "0.png", np.zeros((4, 4), np.uint8))
    assert [kind_of(tmp_path / name) for name in ("dicom", "stack", "", "none")] == ["dicom", "stack", "", ""]


# Pairs -------------------------------------------------------------------------------------------


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def paired(source: Path) -> dict[str, tuple[str, str | None]]:
    root = source if source.is_dir() else source.parent
    return {
        scan.name: tuple(path and path.relative_to(root).as_posix() for path in (scan.image, scan.label))
        for scan in pairs_of(source).scans
    }


@pytest.mark.parametrize(
    ("image", "label", "name"),
    [
        ("images/a 1.nii.gz", "labels/a 1.nii.gz", "a_1"),
        ("images/img0001.nii.gz", "masks/label0001.nii.gz", "0001"),
        ("imagesTr/liver_03_0000.nii.gz", "labelsTr/liver_03.nii.gz", "liver_03"),
        ("imagesTr/prostate_0012.nii.gz", "labelsTr/prostate_0012.nii.gz", "prostate_0012"),
        ("image_13.nii", "label_13.nii", "13"),
        ("volume-4.nii", "segmentation-4.nii", "4"),
        ("ct_007.nii.gz", "ct_007_seg.nii.gz", "ct_007"),
        ("s1/image.nii.gz", "s1/label.nii.gz", "s1"),
        ("s1/ct.nii.gz", "s1/labels.nii.gz", "s1"),
        ("s1/t2/a.nii.gz", "s1/ground/b.nii.gz", "s1"),
        ("s1/images/0.png", "s1/masks/0.png", "s1"),
    ],
)
def test_common_layouts_are_joined_by_name(tmp_path, image, label, name):
    [(found, places)] = paired(touch(tmp_path, image, label)).items()
    assert found == name
    assert [place.split(".png")[0].removesuffix("/0") for place in places] == [
        path.removesuffix("/0.png") for path in (image, label)
    ]


def test_scans_come_in_natural_order(tmp_path):
    touch(tmp_path, *(f"images/{number}.nii" for number in (10, 9, 1)))
    assert list(paired(tmp_path)) == ["1", "9", "10"]


def test_a_label_without_an_image_is_left_out_and_an_image_without_label_stays(tmp_path):
    touch(tmp_path, "images/1.nii", "images/2.nii", "labels/1.nii", "labels/3.nii")
    found = pairs_of(tmp_path)
    assert [(scan.name, scan.label is not None) for scan in found.scans] == [("1", True), ("2", False)]
    assert found.left_out == {"labels/3.nii": "a label without an image of its name"}


def test_two_labels_of_one_name_are_no_pair(tmp_path):
    touch(tmp_path, "images/1.nii", "labels/1.nii", "labels/1.nii.gz", "images/2.nii")
    assert "2 labels of its name" in pairs_of(tmp_path).left_out["images/1.nii"]


def test_a_further_channel_is_left_out(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii", "imagesTr/a_0001.nii", "labelsTr/a.nii")
    assert pairs_of(tmp_path).left_out == {"imagesTr/a_0001.nii": "a further image or channel of its scan"}


def test_a_folder_of_organs_is_one_label(tmp_path):
    touch(tmp_path, "s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s1/segmentations/spleen.nii.gz")
    assert paired(tmp_path) == {"s1": ("s1/ct.nii.gz", "s1/segmentations")}


def test_a_table_joins_what_names_do_not(tmp_path):
    touch(tmp_path, "x.nii", "y.nii", "z.nii")
    table = tmp_path / "scans.csv"
    table.write_text("image,label,name,modality\nx.nii,y.nii,first,CT\nz.nii,,,MR\nw.nii,,,\n")
    assert paired(table) == {"first": ("x.nii", "y.nii"), "z": ("z.nii", None)}
    assert [scan.modality for scan in pairs_of(table).scans] == ["ct", "mri"]
    assert pairs_of(table).left_out == {"scans.csv, line 4": "no file w.nii"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without rows"),
        ("label\na.nii\n", "no column 'image'"),
        ("image,modality\nx.nii,US\n", "modality 'us'"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, said):
    touch(tmp_path, "x.nii")
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        pairs_of(tmp_path / "a.csv")


def test_dicom_scans_are_numbered_and_no_path_is_told(tmp_path):
    for patient in ("Doe^Jane", "Abel^Adam"):
        save_series(tmp_path / patient / "study" / "DICOM_anon", hounsfield(shape=(1, 4, 4)))
    save_picture(tmp_path / "Doe^Jane" / "study" / "Ground" / "0.png", np.ones((4, 4), np.uint8))
    found = pairs_of(tmp_path)
    assert [(scan.name, scan.told, scan.image.parts[-3]) for scan in found.scans] == [
        ("dicom-1", "dicom-1", "Abel^Adam"),
        ("dicom-2", "dicom-2", "Doe^Jane"),
    ]
    assert [scan.label is not None for scan in found.scans] == [False, True]


def test_two_series_and_a_label_are_not_guessed_and_not_named(tmp_path):
    for series in ("a", "b"):
        save_series(tmp_path / "Doe^Jane" / series, hounsfield(shape=(1, 4, 4)))
    save_nifti(tmp_path / "Doe^Jane" / "label.nii", np.ones((4, 4, 1)))
    save_nifti(tmp_path / "other" / "image.nii", np.ones((4, 4, 1)))
    [(file, reason)] = pairs_of(tmp_path).left_out.items()
    assert (file, reason[:22]) == ("DICOM folder 1", "2 images and 1 labels,")


def test_an_empty_folder_and_a_place_that_is_not_there_are_told(tmp_path):
    with pytest.raises(DataError, match="no scan here"):
        pairs_of(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        pairs_of(tmp_path / "nowhere")


def test_two_scans_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "x.nii", "y.nii")
    (tmp_path / "a.csv").write_text("image,name\nx.nii,one\ny.nii,one\n")
    with pytest.raises(DataError, match="several scans are called 'one'"):
        pairs_of(tmp_path / "a.csv")
