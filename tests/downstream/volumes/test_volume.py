"""Prepared scans are read back, and masks are written over the original scan."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.downstream.volumes.grid import affine_of, plan_grid
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
    with pytest.raises(DataError, match="version 0, this vetdino reads 1 and 2"):
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


def as_version_1(out) -> None:
    """Turns a prepared folder into one of the earlier version: no plane and no `in_mm` in its cards."""
    manifest = json.loads((out / "volumes.json").read_text())
    manifest["version"] = 1
    for name in manifest["volumes"]:
        path = out / "volumes" / f"{name}.npz"
        with np.load(path) as file:
            arrays = dict(file)
        card = json.loads(str(arrays.pop("card")))
        del card["in_mm"], card["grid"]["plane"]
        np.savez_compressed(path, card=json.dumps(card), **arrays)
    (out / "volumes.json").write_text(json.dumps(manifest))


def test_a_folder_of_the_earlier_version_is_read_with_a_warning(tmp_path, caplog, archive, save_picture):
    [now] = load_volumes(prepare(archive(tmp_path / "src", 1), tmp_path / "out", SMALL))
    for z in range(4):
        save_picture(tmp_path / "stack" / "s" / f"{z}.png", np.eye(32, dtype=np.uint8) * 100)
    prepare(tmp_path / "stack", tmp_path / "pictures", SMALL)
    assert not caplog.records
    as_version_1(tmp_path / "out")
    as_version_1(tmp_path / "pictures")
    [then] = load_volumes(tmp_path / "out")
    assert "prepare` again to have them checked" in caplog.text
    np.testing.assert_array_equal(then.image_ZHW, now.image_ZHW)
    assert (then.in_mm, then.plane, then.spacing) == (True, "axial", now.spacing)
    [pictures] = load_volumes(tmp_path / "pictures")
    assert not pictures.in_mm


def test_a_mask_of_unknown_spacing_says_so(tmp_path):
    grid = plan_grid((3, 4, 4), affine_of("SPL", (1.0, 1.0, 1.0)), side=4, border=0, spacing=(0, 0, 0))
    image = np.zeros((3, 4, 4), np.float32)
    volume = Volume("7", image, None, grid.spacing, "ct", grid.affine, grid, in_mm=False)
    header = nibabel.load(save_mask(tmp_path / "mask.nii", image.astype(np.uint8), volume)).header
    assert bytes(header["descrip"]).startswith(b"spacing unknown")


def test_label_values_above_255_fit_in_a_mask(tmp_path):
    grid = plan_grid((3, 4, 4), affine_of("SPL", (1.0, 1.0, 1.0)), side=4, border=0, spacing=(0, 0, 0))
    volume = Volume("7", np.zeros((3, 4, 4), np.float32), None, grid.spacing, "ct", grid.affine, grid)
    path = save_mask(tmp_path / "mask.nii", np.full((3, 4, 4), 600, np.uint16), volume)
    assert np.asarray(nibabel.load(path).dataobj).max() == 600
