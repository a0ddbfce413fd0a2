"""Generated abdominal scans: organs where they belong and as large as they are, and bytes that repeat."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from vetdino.infra import cli
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.phantom import implicit
from vetdino.platform.phantom.abdomen import cut
from vetdino.platform.phantom.abdomen.abdomen import LAYERS, Grid
from vetdino.platform.phantom.abdomen.archive import Scan, scan_of, write_volumes
from vetdino.platform.phantom.abdomen.cut import CLASSES, Tissue
from vetdino.platform.phantom.abdomen.scanner import HOUNSFIELD, T2
from vetdino.platform.phantom.config import SonogramConfig, TorsoConfig
from vetdino.platform.phantom.limb.archive import write_sonograms

SMALL = TorsoConfig(side=64, scans=1, seed=2, workers=1)
NUMBER = {name: number for number, name in CLASSES.items()}
EIGHT = [(modality, number) for modality in ("ct", "mri") for number in range(1, 5)]

LITRES = {
    "liver": (0.6, 3.0),
    "right kidney": (0.06, 0.32),
    "left kidney": (0.06, 0.32),
    "spleen": (0.05, 0.5),
    "gallbladder": (0.006, 0.09),
    "aorta": (0.03, 0.25),
    "spine": (0.12, 0.7),
}
"""Adults' organs; aorta and spine as far as a scan holds them."""


@cache
def scan(modality: str, number: int, side: int = 96) -> Scan:
    return scan_of(replace(SMALL, side=side), modality, number)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("torso") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def centre(of: Scan, organ: str) -> np.ndarray:
    """mm in RAS+ of an organ's middle."""
    z, y, x = np.argwhere(of.labels_ZHW == NUMBER[organ]).mean(0)
    return (of.affine @ (x, y, z, 1))[:3]


def median(of: Scan, organ: str) -> float:
    return float(np.median(of.image_ZHW[of.labels_ZHW == NUMBER[organ]]))


# Forms --------------------------------------------------------------------------------------------


def test_the_field_of_a_ball_or_a_tube_is_the_distance_to_its_surface():
    random = np.random.default_rng(0)
    x, y, z = random.uniform(-20, 20, (3, 500)).astype(np.float32)
    ball = implicit.ellipsoid(x, y, z, (1, 2, 3), (5, 5, 5))
    assert ball == pytest.approx(np.sqrt((x - 1) ** 2 + (y - 2) ** 2 + (z - 3) ** 2) - 5, abs=1e-4)
    rod = implicit.tube(x, y, z, [(0, 0, -100, 4), (0, 0, 100, 4)])
    assert rod == pytest.approx(np.hypot(x, y) - 4, abs=1e-4)
    round_wall = implicit.superellipse(x, y, (7, 7), 2)
    assert round_wall == pytest.approx(np.hypot(x, y) - 7, abs=1e-4)


def test_smooth_noise_has_unit_variance_and_is_alike_nearby_alone():
    axes = tuple(np.arange(0, size, 2, dtype=np.float32) for size in (200, 160, 240))
    noise = implicit.smooth_noise(np.random.default_rng(0), axes, 10)
    assert noise.shape == (100, 80, 120)
    assert noise.std() == pytest.approx(1, abs=0.1)
    near, far = (np.mean(noise[:-lag] * noise[lag:]) for lag in (1, 30))
    assert near > 0.9
    assert abs(far) < 0.1


def test_a_grids_pixels_share_their_edges_with_its_cells_and_layers_surround_their_slice():
    grid = Grid(64, 5.0, 10, 6.0, 90.0, (3.0, -2.0))
    (z, y, x), (_, coarse, _) = grid.axes(64), grid.axes(16)
    assert y.reshape(16, 4).mean(1) == pytest.approx(coarse)
    assert (x.mean(), y.mean()) == pytest.approx((3.0, -2.0), abs=1e-4)
    assert z.reshape(10, LAYERS).mean(1) == pytest.approx(90 - 6.0 * np.arange(10)[::-1])
    assert np.diff(z) == pytest.approx(2.0, abs=1e-4)


def test_both_scanners_know_every_tissue():
    assert set(HOUNSFIELD) == set(T2) == set(Tissue)


# Anatomy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", EIGHT, ids=str)
def test_every_organ_is_there_whole_and_of_human_size(which):
    made = scan(*which)
    assert made.labels_ZHW.dtype == np.uint8
    assert set(np.unique(made.labels_ZHW)) == {0, *CLASSES}
    voxel = made.grid.pixel**2 * made.grid.thickness
    for number, name in CLASSES.items():
        organ = made.labels_ZHW == number
        low, high = LITRES[name]
        assert low < organ.sum() * voxel / 1e6 < high, name
        if name != "spine":
            assert ndimage.label(organ)[1] == 1, name


@pytest.mark.parametrize("which", EIGHT, ids=str)
def test_right_is_right_and_left_is_left(which):
    at = {name: centre(scan(*which), name) for name in NUMBER}
    assert at["right kidney"][0] > at["spine"][0] + 30  # RAS+: x grows to the patient's right
    assert at["left kidney"][0] < at["spine"][0] - 30
    assert at["liver"][0] > at["spine"][0] + 15
    assert at["spleen"][0] < at["left kidney"][0]
    assert at["aorta"][0] < at["spine"][0]
    assert at["gallbladder"][0] > at["spine"][0]
    assert at["spine"][1] < min(at[name][1] for name in NUMBER if name != "spine")
    assert at["gallbladder"][1] > at["right kidney"][1]
    assert at["right kidney"][2] < min(at["liver"][2], at["spleen"][2])


def test_two_patients_differ_in_form_place_and_grid():
    ones = [scan(*which) for which in EIGHT]
    assert len({one.grid for one in ones}) == len({one.patient for one in ones}) == len(EIGHT)
    assert len({one.image_ZHW.shape for one in ones}) > 4
    assert len({one.stored for one in ones}) > 1
    middles = np.array([centre(one, "right kidney") for one in ones])
    assert (middles.std(0) > 2).all()
    assert all(24 <= one.grid.slices <= 40 and 5.5 <= one.grid.thickness <= 8 for one in ones)


def test_organs_touch():
    """Somewhere in these scans the liver lies against the right kidney and the spleen against the left one."""
    for organ, other in (("liver", "right kidney"), ("spleen", "left kidney")):
        gaps = []
        for which in EIGHT:
            made = scan(*which)
            far = ndimage.distance_transform_edt(
                made.labels_ZHW != NUMBER[other], (made.grid.thickness, made.grid.pixel, made.grid.pixel)
            )
            gaps.append(far[made.labels_ZHW == NUMBER[organ]].min() / made.grid.pixel)
        assert min(gaps) < 2.1, organ


def test_crumbs_of_an_organ_become_fat_and_its_largest_piece_stays():
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[:, :4, :4] = 1
    labels[1, 7, 7] = 1
    labels[0, 6, 0] = labels[0, 6, 5] = 7
    tissue = np.repeat(np.where(labels == 1, Tissue.LIVER, Tissue.MUSCLE).astype(np.uint8), LAYERS, axis=0)
    before = tissue.copy()
    cut._one_piece(tissue, labels)
    assert labels[1, 7, 7] == 0
    assert (labels == 1).sum() == 32
    assert (labels == 7).sum() == 2
    assert (np.argwhere(tissue != before) == [[3, 7, 7], [4, 7, 7], [5, 7, 7]]).all()
    assert (tissue[3:, 7, 7] == Tissue.FAT).all()


def test_a_vessel_tree_holds_all_its_points_and_thickens_towards_its_root():
    random = np.random.default_rng(0)
    points = random.uniform(0, 100, (60, 3)).astype(np.float32)
    spots, radii = cut._tree(points, 1.0, random)
    gaps = np.sqrt(np.square(points[:, None] - spots[None]).sum(-1)).min(1)
    assert gaps.max() < 1e-3
    at_root = np.sqrt(np.square(spots - points[0]).sum(1)) < 1e-3
    cubes = (radii[at_root] ** 3).sum()  # Murray: what hangs on the root, a twig for each other point
    assert cubes == pytest.approx(59, rel=1e-6)
    assert radii.min() == pytest.approx(1.0)


# Appearance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 5))
def test_a_ct_scan_is_in_hounsfield_units(number):
    made = scan("ct", number)
    grey = {name: median(made, name) for name in NUMBER}
    assert made.image_ZHW.dtype == np.int16
    assert made.image_ZHW.min() >= -1024
    assert np.median(made.image_ZHW[:, 0]) == pytest.approx(-1000, abs=15)
    assert 48 < grey["liver"] < 76
    assert 38 < grey["spleen"] < grey["liver"]
    assert -25 < grey["gallbladder"] < grey["spleen"]
    assert min(grey["right kidney"], grey["left kidney"], grey["aorta"]) > grey["liver"] + 20
    assert grey["spine"] > 130
    inner = ndimage.binary_dilation(made.labels_ZHW > 0, iterations=6) & (made.labels_ZHW == 0)
    fat = made.image_ZHW[inner & (np.abs(made.image_ZHW + 100) < 40)]
    assert fat.size > 500
    assert np.median(fat) == pytest.approx(-98, abs=15)
    assert (made.image_ZHW[ndimage.binary_dilation(made.labels_ZHW > 0, iterations=25)] < -700).sum() > 50


@pytest.mark.parametrize("number", range(1, 5))
def test_an_mri_scan_has_the_greys_of_t2_without_fat(number):
    made = scan("mri", number)
    grey = {name: median(made, name) for name in NUMBER}
    assert made.image_ZHW.dtype == np.int16
    assert made.image_ZHW.min() >= 0
    assert grey["gallbladder"] > 1.15 * grey["spleen"]
    assert grey["spleen"] > 1.3 * grey["liver"]
    assert min(grey["right kidney"], grey["left kidney"]) > 1.3 * grey["liver"]
    assert grey["spine"] < grey["liver"]
    corner = made.image_ZHW[:, :6, :6].astype(float)
    assert 0 < corner.mean() < 0.2 * grey["liver"]
    assert corner.mean() / corner.std() == pytest.approx(1.91, abs=0.25)  # Rayleigh: Rician with no signal


def test_slices_of_an_mri_scan_differ_in_gain():
    made = scan("mri", 1)
    liver = made.labels_ZHW == NUMBER["liver"]
    means = np.array([made.image_ZHW[z][liver[z]].mean() for z in np.flatnonzero(liver.sum((1, 2)) > 60)])
    wobble = np.abs(np.diff(means, 2)) / means[1:-1]
    assert 0.02 < np.median(wobble) < 0.4


def test_vessels_stand_out_in_the_liver():
    made = scan("mri", 2, 128)
    liver = ndimage.binary_erosion(made.labels_ZHW == NUMBER["liver"], np.ones((1, 5, 5)))
    ratios = [made.image_ZHW[z][liver[z]] / np.median(made.image_ZHW[z][liver[z]]) for z in range(6, 18)]
    assert 0.005 < (np.concatenate(ratios) > 1.3).mean() < 0.12


# Chance and files ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_scan_and_another_seed_another_anatomy():
    one, two, other = (scan_of(replace(SMALL, seed=seed), "ct", 1) for seed in (2, 2, 3))
    assert one.image_ZHW.tobytes() == two.image_ZHW.tobytes()
    assert one.labels_ZHW.tobytes() == two.labels_ZHW.tobytes()
    assert one.patient != other.patient
    assert one.labels_ZHW.shape != other.labels_ZHW.shape or (one.labels_ZHW != other.labels_ZHW).any()


def test_the_folder_holds_nifti_pairs_of_one_grid_the_classes_and_the_table(written):
    with (written / "scans.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == ["ct_001", "mri_001"]
    assert [row["modality"] for row in table] == ["ct", "mri"]
    assert json.loads((written / "classes.json").read_text()) == {str(n): name for n, name in CLASSES.items()}
    assert json.loads((written / "phantom.json").read_text())["kind"] == "volume"
    for row in table:
        image, label = nibabel.load(written / row["image"]), nibabel.load(written / row["label"])
        made = scan_of(SMALL, row["modality"], 1)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert (image.affine == label.affine).all()
        assert "".join(nibabel.aff2axcodes(image.affine)) == made.stored
        assert image.header.get_zooms() == pytest.approx((made.grid.pixel,) * 2 + (made.grid.thickness,))
        assert image.header.get_xyzt_units()[0] == "mm"
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
        upright = nibabel.as_closest_canonical(image).get_fdata()
        assert (upright == made.image_ZHW.transpose(2, 1, 0)[::-1, ::-1]).all()


@pytest.mark.parametrize("modality", ["ct", "mri"])
def test_in_the_file_too_the_right_kidney_is_at_the_right(written, modality):
    label = nibabel.load(written / "labels" / f"{modality}_001.nii.gz")
    values = np.asarray(label.dataobj)
    right, left, spine = (
        nibabel.affines.apply_affine(label.affine, np.argwhere(values == NUMBER[name]).mean(0))
        for name in ("right kidney", "left kidney", "spine")
    )
    assert right[0] > spine[0] > left[0]
    assert min(right[1], left[1]) > spine[1]


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


def test_a_run_that_was_cut_short_goes_on_and_keeps_what_is_finished(tmp_path):
    config = replace(SMALL, modality="ct")
    out = write_volumes(tmp_path / "out", config)
    whole, kept = contents(out), (out / "labels" / "ct_001.nii.gz").stat().st_mtime_ns
    write_volumes(out, config)
    assert (out / "labels" / "ct_001.nii.gz").stat().st_mtime_ns == kept
    (out / "images" / "ct_001.nii.gz").unlink()  # its labels were written, itself not yet
    (out / "scans.csv").unlink()
    assert contents(write_volumes(out, config)) == whole


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "words"), [({"scans": 0}, "scans is 0"), ({"side": 32}, "side is 32")])
def test_settings_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **wrong)


def test_a_folder_of_other_settings_or_of_another_kind_is_refused(written):
    with pytest.raises(ConfigError, match="scans of other settings"):
        write_volumes(written, replace(SMALL, seed=4))
    with pytest.raises(ConfigError, match="scans of other settings"):
        write_volumes(written, replace(SMALL, modality="ct"))
    with pytest.raises(ConfigError, match="of kind volume"):
        write_sonograms(written, SonogramConfig(frames=1, domains=1, side=64))


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_volumes(tmp_path / "file" / "out", SMALL)


# The verb -----------------------------------------------------------------------------------------


def test_the_verb_writes_volumes(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--kind", "volume", "--scans", "1", "--modality", "ct", "--side", "64", "--workers", "1"]
    assert cli.main(["phantom", str(out), *words]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert len(list(out.rglob("*.nii.gz"))) == 2


def test_the_kind_has_its_own_help_and_refuses_what_is_no_modality(capsys):
    assert cli.main(["phantom", "--kind", "volume", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--modality" in said
    assert "--frames" not in said
    assert cli.main(["phantom", "out", "--kind", "volume", "--modality", "pet"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "'ct'" in line
