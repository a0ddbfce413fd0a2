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
    labels_ZHW, _ = align_labels(image, read_labels(tmp_path / "ground", PLAIN, {}))
    assert labels_ZHW[:, 0, 0].tolist() == [5, 4, 3, 2, 1]


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
