"""A folder of scans is prepared once, with the same bytes, and what cannot be used is left out with a reason."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.downstream.volumes.grid import affine_of
from vetdino.downstream.volumes.prepare import prepare
from vetdino.downstream.volumes.volume import load_volumes
from vetdino.platform.core.errors import DataError

SMALL = PrepareConfig(side=32, ct_border=0.0, classes="1=liver,2=spleen")


def report(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "report.csv").open() as file:
        return {row["file"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}


BROKEN = {
    "shape": (lambda hu, labels: (hu, labels[:-1]), "the image is 32x24x6, its label 32x24x5"),
    "empty": (lambda hu, labels: (hu, labels * 0), "empty, no voxel above 0"),
    "nan": (
        lambda hu, labels: (np.where(labels == 2, np.nan, hu).astype(np.float32), labels),
        "voxels are NaN",
    ),
    "half": (lambda hu, labels: (hu, labels.astype(np.float32) / 2), "no whole numbers (0.5)"),
    "few": (lambda hu, labels: (hu[2:4], labels[2:4]), "2 slices, 3 are needed"),
    "flat": (lambda hu, labels: (hu * 0 - 1000, labels), "all voxels have one value"),
}


def test_the_prepared_folder_tells_what_it_holds(tmp_path, archive):
    out = prepare(archive(tmp_path / "src"), tmp_path / "out", SMALL)
    volumes = load_volumes(out)
    assert volumes.classes == {1: "liver", 2: "spleen"}
    assert volumes.names == ("1", "2", "3")
    volume, card = volumes.load("2"), volumes.cards["2"]
    assert (volume.image_ZHW.dtype, volume.labels_ZHW.dtype) == (np.float32, np.uint8)
    assert card["counts"]["1"] == (volume.labels_ZHW == 1).sum()
    assert card["slices"] == {"1": 4, "2": 2}
    assert card["doubts"] == []
    overlay = cv2.imread(str(out / "overlays" / "2.png"))
    assert (overlay.max(axis=2).astype(int) - overlay.min(axis=2)).max() > 100  # the outlines have colors


def test_preparing_again_writes_the_same_bytes(tmp_path, archive):
    source = archive(tmp_path / "src", 2)
    one, other = (prepare(source, tmp_path / name, SMALL) for name in ("a", "b"))
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


def test_running_again_does_only_what_is_missing_or_changed(tmp_path, body, save_scan, archive):
    source, out = archive(tmp_path / "src"), tmp_path / "out"
    prepare(source, out, SMALL)
    before = {path: path.stat().st_mtime_ns for path in (out / "volumes").iterdir()}
    (out / "volumes" / "1.npz").write_bytes(b"damaged")
    save_scan(source / "labels" / "2.nii.gz", body(9)[1])
    save_scan(source / "images" / "2.nii.gz", body(9)[0])
    prepare(source, out, SMALL)
    changed = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {"1.npz", "2.npz"}
    assert load_volumes(out).load("1").labels_ZHW.any()


def test_other_settings_are_prepared_anew(tmp_path, archive):
    source, out = archive(tmp_path / "src", 1), tmp_path / "out"
    prepare(source, out, SMALL)
    first = load_volumes(out)
    prepare(source, out, replace(SMALL, side=16))
    assert load_volumes(out).load("1").image_ZHW.shape == (6, 16, 16)
    assert load_volumes(out).digest != first.digest


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_scan_is_left_out_with_one_line_and_the_rest_goes_on(
    tmp_path, capsys, fault, body, save_scan, archive
):
    source = archive(tmp_path / "src", 2)
    spoil, said = BROKEN[fault]
    hu, labels = spoil(*body(5))
    save_scan(source / "images" / "1.nii.gz", hu)
    save_scan(source / "labels" / "1.nii.gz", labels)
    out = prepare(source, tmp_path / "out", SMALL)
    assert load_volumes(out).names == ("2",)
    state, reason = report(out)["images/1.nii.gz"]
    assert state == "left out"
    assert said in reason
    assert load_volumes(out).left_out == {"images/1.nii.gz": reason}
    lines = capsys.readouterr().err.splitlines()
    assert f"left out: images/1.nii.gz: {reason}" in lines
    assert lines[-1].startswith("1 scans prepared (6 slices), 1 left out, 0 doubtful")


def test_a_class_that_some_scans_lack_is_named(tmp_path, capsys, body, save_scan, archive):
    source = archive(tmp_path / "src", 2)
    save_scan(source / "labels" / "1.nii.gz", np.where(body(1)[1] == 1, 1, 0).astype(np.uint8))
    out = prepare(source, tmp_path / "out", SMALL)
    assert report(out)["images/1.nii.gz"] == ("prepared", "without spleen")
    assert "classes not in all of 2 labelled scans: spleen in 1" in capsys.readouterr().err


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path, body, save_scan):
    save_scan(tmp_path / "image.nii.gz", body()[0][:1])
    with pytest.raises(DataError, match=r"no scan can be prepared; image.nii.gz: 1 slices"):
        prepare(tmp_path, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "volumes.json").exists()


def test_what_is_guessed_is_said(tmp_path, capsys, archive):
    prepare(archive(tmp_path / "src", 2), tmp_path / "out", SMALL)
    assert "modality guessed from values: 2 ct" in capsys.readouterr().err


def test_a_source_without_a_usable_header_is_refused_before_any_scan_is_read(
    tmp_path, capsys, monkeypatch, archive, save_scan, body
):
    source = archive(tmp_path / "src")
    for number in range(1, 4):
        save_scan(source / "labels" / f"{number}.nii.gz", body(number)[1][:-1])
    monkeypatch.setattr("vetdino.downstream.volumes.prepare.prepare_scan", None)
    with pytest.raises(
        DataError, match=r"3 files and no scan can be prepared; images/1.nii.gz: the image is"
    ):
        prepare(source, tmp_path / "out", SMALL)
    assert "left out by its header: images/1.nii.gz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_label_values_above_255_become_classes_of_the_whole_folder(tmp_path, archive, body, save_scan):
    source = archive(tmp_path / "src", 2)
    values = np.array([0, 500, 200], np.int16)
    for number in (1, 2):
        save_scan(source / "labels" / f"{number}.nii.gz", values[body(number)[1]])
    only_one = np.where(body(2)[1] == 1, 500, 0).astype(np.int16)
    save_scan(source / "labels" / "2.nii.gz", only_one)
    volumes = load_volumes(prepare(source, tmp_path / "out", replace(SMALL, classes="")))
    assert volumes.classes == {1: "value 200", 2: "value 500"}
    assert set(np.unique(volumes.load("1").labels_ZHW)) == {0, 1, 2}
    assert set(np.unique(volumes.load("2").labels_ZHW)) == {0, 2}
    named = load_volumes(prepare(source, tmp_path / "named", replace(SMALL, classes="200=spleen,500=liver")))
    assert named.classes == {1: "spleen", 2: "liver"}
    np.testing.assert_array_equal(named.load("1").labels_ZHW, volumes.load("1").labels_ZHW)


def test_scans_sliced_in_several_planes_and_of_unknown_spacing_are_counted(
    tmp_path, capsys, save_nifti, save_picture
):
    values = np.random.default_rng(0).integers(0, 200, (5, 32, 32)).astype(np.int16)
    save_nifti(tmp_path / "images" / "a.nii.gz", values, affine_of("LIP", (4.0, 1.0, 1.0)))
    save_nifti(tmp_path / "images" / "b.nii.gz", values, affine_of("SPL", (4.0, 1.0, 1.0)))
    for z in range(4):
        save_picture(tmp_path / "images" / "c" / f"{z}.png", values[z].astype(np.uint8))
    prepare(tmp_path, tmp_path / "out", replace(SMALL, modality="mri"))
    err = capsys.readouterr().err
    assert "sliced in several planes: 2 axial, 1 sagittal; where they should be alike, give --plane" in err
    assert "spacing unknown of 1 scans: no volumes and distances; give --stack-spacing" in err
