"""Generated scans on disk, and their verb on the command line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.platform.phantom.abdomen.generated import NUMBER, SMALL
from vetdino.infra import cli
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.phantom.abdomen.archive import write_volumes
from vetdino.platform.phantom.abdomen.scans import generate_scan
from vetdino.platform.phantom.abdomen.tissues import CLASSES
from vetdino.platform.phantom.config import SonogramConfig
from vetdino.platform.phantom.limb.archive import write_sonograms


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("torso") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_nifti_pairs_of_one_grid_the_classes_and_the_table(written):
    with (written / "scans.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["ct_001", "mri_001"]
    assert [row["modality"] for row in table] == ["ct", "mri"]
    assert json.loads((written / "classes.json").read_text()) == {str(n): name for n, name in CLASSES.items()}
    assert json.loads((written / "phantom.json").read_text())["kind"] == "volume"
    for row in table:
        image, label = nibabel.load(written / row["image"]), nibabel.load(written / row["label"])
        made = generate_scan(SMALL, row["modality"], 1)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert (image.affine == label.affine).all()
        assert "".join(nibabel.aff2axcodes(image.affine)) == made.stored
        assert image.header.get_zooms() == pytest.approx((made.grid.pixel,) * 2 + (made.grid.thickness,))
        assert image.header.get_xyzt_units()[0] == "mm"
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
        upright = nibabel.as_closest_canonical(image).get_fdata()
        assert (upright == made.image_ZHW.transpose(2, 1, 0)[::-1, ::-1]).all()


@pytest.mark.parametrize("modality", ["ct", "mri"])
def test_the_right_kidney_is_on_the_right_in_the_file_too(written, modality):
    label = nibabel.load(written / "labels" / f"{modality}_001.nii.gz")
    values = np.asarray(label.dataobj)
    right, left, spine = (
        nibabel.affines.apply_affine(label.affine, np.argwhere(values == NUMBER[name]).mean(0))
        for name in ("right kidney", "left kidney", "spine")
    )
    assert right[0] > spine[0] > left[0]
    assert min(right[1], left[1]) > spine[1]


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_and_more_scans_change_no_earlier_one(written, tmp_path):
    more = contents(write_volumes(tmp_path / "out", replace(SMALL, scans=2, workers=2)))
    fewer = contents(written)
    scans = {name for name in fewer if name.endswith(".nii.gz")}
    assert len(scans) == 4
    assert len([name for name in more if name.endswith(".nii.gz")]) == 8
    assert {name: more[name] for name in scans} == {name: fewer[name] for name in scans}


def test_one_modality_alone_gives_the_same_scans(written, tmp_path):
    alone = contents(write_volumes(tmp_path / "out", replace(SMALL, modality="mri")))
    name = str(Path("images") / "mri_001.nii.gz")
    assert alone[name] == contents(written)[name]
    assert not any("ct_" in name for name in alone)


def test_an_interrupted_run_continues_and_keeps_finished_scans(tmp_path):
    config = replace(SMALL, modality="ct")
    out = write_volumes(tmp_path / "out", config)
    whole, kept = contents(out), (out / "labels" / "ct_001.nii.gz").stat().st_mtime_ns
    write_volumes(out, config)
    assert (out / "labels" / "ct_001.nii.gz").stat().st_mtime_ns == kept
    (out / "images" / "ct_001.nii.gz").unlink()  # its labels were written, itself not yet
    (out / "scans.csv").unlink()
    assert contents(write_volumes(out, config)) == whole


def test_a_folder_of_other_settings_or_of_another_kind_is_refused(written):
    with pytest.raises(ConfigError, match="scans of other settings"):
        write_volumes(written, replace(SMALL, seed=4))
    with pytest.raises(ConfigError, match="scans of other settings"):
        write_volumes(written, replace(SMALL, modality="ct"))
    with pytest.raises(ConfigError, match="of kind volume"):
        write_sonograms(written, SonogramConfig(frames=1, domains=1, side=64))


def test_the_verb_writes_volumes(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--kind", "volume", "--scans", "1", "--modality", "ct", "--side", "64", "--workers", "1"]
    assert cli.main(["phantom", str(out), *words]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert len(list(out.rglob("*.nii.gz"))) == 2


def test_the_kind_has_its_own_help_and_refuses_an_unknown_modality(capsys):
    assert cli.main(["phantom", "--kind", "volume", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--modality" in said
    assert "--frames" not in said
    assert cli.main(["phantom", "out", "--kind", "volume", "--modality", "pet"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "'ct'" in line
