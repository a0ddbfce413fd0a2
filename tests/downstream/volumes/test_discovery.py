"""Which labels belong to which image, in the layouts that data come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.volumes.discovery import find_scans
from vetdino.platform.core.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def paired(source: Path) -> dict[str, tuple[str, str | None]]:
    root = source if source.is_dir() else source.parent
    return {
        scan.name: tuple(path and path.relative_to(root).as_posix() for path in (scan.image, scan.label))
        for scan in find_scans(source)[0]
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
    [(result, places)] = paired(touch(tmp_path, image, label)).items()
    assert result == name
    assert [place.split(".png")[0].removesuffix("/0") for place in places] == [
        path.removesuffix("/0.png") for path in (image, label)
    ]


def test_scans_come_in_natural_order(tmp_path):
    touch(tmp_path, *(f"images/{number}.nii" for number in (10, 9, 1)))
    assert list(paired(tmp_path)) == ["1", "9", "10"]


def test_a_label_without_an_image_is_left_out_and_an_image_without_label_stays(tmp_path):
    touch(tmp_path, "images/1.nii", "images/2.nii", "labels/1.nii", "labels/3.nii")
    scans, left_out = find_scans(tmp_path)
    assert [(scan.name, scan.label is not None) for scan in scans] == [("1", True), ("2", False)]
    assert left_out == {"labels/3.nii": "a label without an image of its name"}


def test_two_labels_of_one_name_are_no_pair(tmp_path):
    touch(tmp_path, "images/1.nii", "labels/1.nii", "labels/1.nii.gz", "images/2.nii")
    assert "2 labels of its name" in find_scans(tmp_path)[1]["images/1.nii"]


def test_a_further_channel_is_left_out(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii", "imagesTr/a_0001.nii", "labelsTr/a.nii")
    assert find_scans(tmp_path)[1] == {"imagesTr/a_0001.nii": "a further image or channel of its scan"}


def test_a_folder_of_organs_is_one_label(tmp_path):
    touch(tmp_path, "s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s1/segmentations/spleen.nii.gz")
    assert paired(tmp_path) == {"s1": ("s1/ct.nii.gz", "s1/segmentations")}


def test_a_table_joins_what_names_do_not(tmp_path):
    touch(tmp_path, "x.nii", "y.nii", "z.nii")
    table = tmp_path / "scans.csv"
    table.write_text("image,label,name,modality\nx.nii,y.nii,first,CT\nz.nii,,,MR\nw.nii,,,\n")
    assert paired(table) == {"first": ("x.nii", "y.nii"), "z": ("z.nii", None)}
    assert [scan.modality for scan in find_scans(table)[0]] == ["ct", "mri"]
    assert find_scans(table)[1] == {"scans.csv, line 4": "no file w.nii"}


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
        find_scans(tmp_path / "a.csv")


def test_dicom_scans_are_numbered_and_no_path_is_shown(tmp_path, save_picture, save_series, hounsfield):
    for patient in ("Doe^Jane", "Abel^Adam"):
        save_series(tmp_path / patient / "study" / "DICOM_anon", hounsfield(shape=(1, 4, 4)))
    save_picture(tmp_path / "Doe^Jane" / "study" / "Ground" / "0.png", np.ones((4, 4), np.uint8))
    scans, _ = find_scans(tmp_path)
    assert [(scan.name, scan.shown_as, scan.image.parts[-3]) for scan in scans] == [
        ("dicom-1", "dicom-1", "Abel^Adam"),
        ("dicom-2", "dicom-2", "Doe^Jane"),
    ]
    assert [scan.label is not None for scan in scans] == [False, True]


def test_two_series_and_a_label_are_not_guessed_and_not_named(tmp_path, save_nifti, save_series, hounsfield):
    for series in ("a", "b"):
        save_series(tmp_path / "Doe^Jane" / series, hounsfield(shape=(1, 4, 4)))
    save_nifti(tmp_path / "Doe^Jane" / "label.nii", np.ones((4, 4, 1)))
    save_nifti(tmp_path / "other" / "image.nii", np.ones((4, 4, 1)))
    [(file, reason)] = find_scans(tmp_path)[1].items()
    assert (file, reason[:22]) == ("DICOM folder 1", "2 images and 1 labels,")


def test_an_empty_folder_and_a_place_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="no scan here"):
        find_scans(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_scans(tmp_path / "nowhere")


def test_two_scans_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "x.nii", "y.nii")
    (tmp_path / "a.csv").write_text("image,name\nx.nii,one\ny.nii,one\n")
    with pytest.raises(DataError, match="several scans are called 'one'"):
        find_scans(tmp_path / "a.csv")


def test_a_table_gives_each_stack_its_spacing_and_axes(tmp_path, save_picture):
    for name in ("a", "b", "c"):
        save_picture(tmp_path / name / "0.png", np.zeros((4, 4), np.uint8))
    table = tmp_path / "scans.csv"
    table.write_text("image,spacing,axes\na,5x0.8x0.8,\nb,3 1 1.5,lip\nc,,\n")
    scans = find_scans(table)[0]
    assert [scan.spacing for scan in scans] == [(5, 0.8, 0.8), (3, 1, 1.5), None]
    assert [scan.axes for scan in scans] == ["", "LIP", ""]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,5x0.8,", "give mm of slice, row and column"),
        ("a,5x0.8x0,", "give mm"),
        ("a,5x0.8xnan,", "give mm"),
        ("a,,XYZ", "three letters"),
        ("z.nii,5x1x1,", "this file has its own"),
    ],
)
def test_a_spacing_that_is_none_or_for_another_file_is_refused(tmp_path, row, said, save_picture):
    save_picture(tmp_path / "a" / "0.png", np.zeros((4, 4), np.uint8))
    touch(tmp_path, "z.nii")
    table = tmp_path / "scans.csv"
    table.write_text(f"image,spacing,axes\n{row}\n")
    with pytest.raises(DataError, match=f"line 2: .*{said}"):
        find_scans(table)
