"""Prepared scans are read back, and masks are written over the original scan."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.downstream.volumes.prepare import prepare
from vetdino.downstream.volumes.volume import Volume, load_volumes, save_mask, to_original
from vetdino.platform.core.errors import DataError

SMALL = PrepareConfig(side=32, ct_border=0.0, classes="1=liver,2=spleen")


def test_masks_are_written_over_the_scan_as_it_was_stored(tmp_path, archive):
    source = archive(tmp_path / "src", 1)
    [volume] = load_volumes(prepare(source, tmp_path / "out", replace(SMALL, side=64)))
    path = save_mask(tmp_path / "mask.nii.gz", volume.labels_ZHW, volume)
    mask, truth = nibabel.load(path), nibabel.load(source / "labels" / "1.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(truth.dataobj))
    np.testing.assert_array_equal(mask.affine, truth.affine)
    assert mask.get_data_dtype() == np.uint8
    assert path.read_bytes() == save_mask(tmp_path / "again.nii.gz", volume.labels_ZHW, volume).read_bytes()


def test_a_mask_of_a_volume_without_a_grid_is_refused():
    volume = Volume("7", np.zeros((3, 4, 4), np.float32), None, (5.0, 1.0, 1.0), "ct", None)
    with pytest.raises(DataError, match="original grid"):
        to_original(np.zeros((3, 4, 4), np.uint8), volume)


def test_a_folder_without_scans_or_of_another_version_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no volumes.json here"):
        load_volumes(tmp_path)
    (tmp_path / "volumes.json").write_text('{"version": 0}')
    with pytest.raises(DataError, match="version 0, this vetdino reads 1"):
        load_volumes(tmp_path)
    (tmp_path / "volumes.json").write_text("[")
    with pytest.raises(DataError, match="damaged"):
        load_volumes(tmp_path)


def test_a_damaged_or_unknown_scan_is_refused(tmp_path, archive):
    volumes = load_volumes(prepare(archive(tmp_path / "src", 1), tmp_path / "out", SMALL))
    with pytest.raises(DataError, match="no scan '7'; there are 1"):
        volumes.load("7")
    path = tmp_path / "out" / "volumes" / "1.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        volumes.load("1")
