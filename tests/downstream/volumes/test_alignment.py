"""Labels lie on their image, or are refused or doubted."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest

from vetdino.downstream.volumes.alignment import align_labels, flip_doubt
from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.downstream.volumes.files import (
    StackGeometry,
    read_image,
    read_labels,
)
from vetdino.downstream.volumes.label_values import LabelValues
from vetdino.downstream.volumes.prepare import prepare

PLAIN = StackGeometry()


def report(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "report.csv").open() as file:
        return {row["file"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}


SMALL = PrepareConfig(side=32, ct_border=0.0, classes="1=liver,2=spleen")


def test_label_pictures_follow_the_names_of_the_slices(tmp_path, save_picture, save_series, hounsfield):
    hu = hounsfield()
    image = read_image(save_series(tmp_path / "dicom", hu), PLAIN)
    for number in range(1, 6):  # file IM1 is the highest slice
        save_picture(tmp_path / "ground" / f"{number}.png", np.full((6, 7), number, np.uint8))
    labels_ZHW, _, doubts = align_labels(image, read_labels(tmp_path / "ground", PLAIN, LabelValues()))
    assert labels_ZHW[:, 0, 0].tolist() == [5, 4, 3, 2, 1]
    assert doubts == ()


def joined(tmp_path, image_folder, names, save_picture):
    """Labels 1, 2, 3 … as pictures of the given names, joined to the scan: (labels by slice, doubts)."""
    for number, name in enumerate(names, start=1):
        save_picture(tmp_path / "ground" / name, np.full((6, 7), number, np.uint8))
    labels = read_labels(tmp_path / "ground", PLAIN, LabelValues())
    labels_ZHW, _, doubts = align_labels(read_image(image_folder, PLAIN), labels)
    return labels_ZHW[:, 0, 0].tolist(), doubts


def test_labels_named_by_instance_number_follow_it_where_slices_are_named_by_uid(
    tmp_path, save_series, hounsfield, save_picture
):
    folder = save_series(tmp_path / "dicom", hounsfield(), InstanceNumber=lambda z: z + 1)
    for file in list(folder.iterdir()):  # IM5 is the lowest slice: names in an order of their own
        file.rename(folder / f"1.2.840.{(7 * int(file.name[2:])) % 11 + 50}")
    result = joined(tmp_path, folder, [f"mask_{number}.png" for number in range(1, 6)], save_picture)
    assert result == ([1, 2, 3, 4, 5], ())


def test_labels_that_begin_at_0_are_joined_in_the_order_of_instance_number_with_a_doubt(
    tmp_path, save_series, hounsfield, save_picture
):
    folder = save_series(tmp_path / "dicom", hounsfield(), InstanceNumber=lambda z: 5 - z)
    for file in list(folder.iterdir()):
        file.rename(folder / f"1.2.840.{(7 * int(file.name[2:])) % 11 + 50}")
    order, [doubt] = joined(tmp_path, folder, [f"{number}.png" for number in range(5)], save_picture)
    assert order == [5, 4, 3, 2, 1]
    assert "in the order of InstanceNumber" in doubt


def test_numbers_in_names_that_contradict_instance_number_are_doubted(
    tmp_path, save_series, hounsfield, save_picture
):
    folder = save_series(tmp_path / "dicom", hounsfield(), InstanceNumber=lambda z: z + 1)
    order, [doubt] = joined(tmp_path, folder, [f"{number}.png" for number in range(1, 6)], save_picture)
    assert order == [5, 4, 3, 2, 1]
    assert "in another order than InstanceNumber" in doubt


def test_equal_names_need_no_number_and_no_doubt(tmp_path, save_series, hounsfield, save_picture):
    folder = save_series(tmp_path / "dicom", hounsfield(), InstanceNumber=lambda z: z + 1)
    for file in list(folder.iterdir()):
        file.rename(folder / f"{file.name}.dcm")
    names = [f"IM{number}.png" for number in range(1, 6)]
    assert joined(tmp_path, folder, names, save_picture) == ([5, 4, 3, 2, 1], ())


def test_stacks_of_one_length_and_other_names_are_doubted(tmp_path, save_picture):
    for name in ("a1", "a2", "a3"):
        save_picture(tmp_path / "scan" / f"{name}.png", np.zeros((6, 7), np.uint8))
    assert joined(tmp_path, tmp_path / "scan", ["b1.png", "b2.png", "b3.png"], save_picture)[1] == ()
    for file in list((tmp_path / "ground").iterdir()):
        file.unlink()
    order, [doubt] = joined(tmp_path, tmp_path / "scan", ["b2.png", "b3.png", "b4.png"], save_picture)
    assert order == [1, 2, 3]
    assert "no name of its label's files is that of a slice" in doubt


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.diag([1.0, 1, 2, 1]), "spacing"),
        (np.diag([-1.0, 1, 1, 1]), "flipped left-right: stored RAS, its label LAS"),
        (np.diag([1.0, -1, 1, 1]), "flipped front-back"),
        (np.array([[1.0, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "lies up to 9 mm away"),
    ],
)
def test_labels_that_lie_elsewhere_are_refused(tmp_path, change, said, body, stored, archive):
    source = archive(tmp_path / "src", 2)
    array, affine = stored(body(1)[1], "RAS")
    nibabel.save(nibabel.Nifti1Image(array, change @ affine), source / "labels" / "1.nii.gz")
    out = prepare(source, tmp_path / "out", SMALL)
    assert said in report(out)["images/1.nii.gz"][1]


@pytest.mark.parametrize(("axis", "word"), [(2, "left and right"), (1, "front and back")])
def test_labels_drawn_on_a_mirrored_scan_are_doubted(tmp_path, capsys, axis, word, body, save_scan, archive):
    source = archive(tmp_path / "src", 2)
    save_scan(source / "labels" / "1.nii.gz", np.flip(body(1)[1], axis))
    out = prepare(source, tmp_path / "out", SMALL)
    state, reason = report(out)["images/1.nii.gz"]
    assert state == "doubtful"
    assert f"with {word} exchanged" in reason
    assert report(out)["images/2.nii.gz"][0] == "prepared"
    assert f"look at: 1: {reason}" in capsys.readouterr().err


def test_true_labels_raise_no_doubt(body):
    for seed in range(5):
        hu, labels = body(seed)
        assert flip_doubt(np.clip(hu, -125, 275), labels) == ""
