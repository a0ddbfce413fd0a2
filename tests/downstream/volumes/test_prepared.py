"""Prepared scans: whatever way a body was stored it comes out the same, and masks find their way back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from PIL import Image

from vetdino.downstream.volumes.checks import flip_doubt
from vetdino.downstream.volumes.grid import (
    CANONICAL,
    Grid,
    affine_of,
    axes_of,
    grid_of_card,
    oriented,
    oriented_affine,
    placed,
    planned,
    unplaced,
)
from vetdino.downstream.volumes.prepared import (
    PrepareConfig,
    Volume,
    prepare,
    save_mask,
    to_original,
    volumes_of,
)
from vetdino.downstream.volumes.scan import class_names, organs_of
from vetdino.platform.core.errors import ConfigError, DataError

AXES = ["".join(axes) for pairs in permutations(("LR", "PA", "IS")) for axes in product(*pairs)]
SPACING = {"S": 5.0, "P": 2.0, "L": 1.5}
SMALL = PrepareConfig(side=32, ct_border=0.0, classes="1=liver,2=spleen")

nice = settings(deadline=None, max_examples=60)


def body(seed: int = 0, shape=(6, 24, 32)) -> tuple[np.ndarray, np.ndarray]:
    """(HU, labels) of a drawn body, axes SPL: a large liver at the right, a small spleen behind at the left."""
    random = np.random.default_rng(seed)
    _, height, width = shape
    y, x = np.mgrid[:height, :width]
    hu, labels = np.full(shape, -1000.0), np.zeros(shape, np.uint8)
    inside = ((y - height / 2) / (0.45 * height)) ** 2 + ((x - width / 2) / (0.45 * width)) ** 2 < 1
    hu[:, inside] = -80
    liver = (y - 0.45 * height) ** 2 + (x - 0.3 * width) ** 2 < (0.2 * height) ** 2
    spleen = (y - 0.65 * height) ** 2 + (x - 0.75 * width) ** 2 < (0.1 * height) ** 2
    for z in range(1, shape[0] - 1):
        labels[z, liver] = 1
        labels[z, spleen if z > 2 else spleen & False] = 2
    hu[labels == 1], hu[labels == 2] = 110, 170
    return np.round(hu + random.normal(0, 5, shape)), labels


def stored(array_ZHW: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """(array, affine) of the same body with its axes stored another way, turned by nibabel."""
    turn = ornt_transform(axcodes2ornt(CANONICAL), axcodes2ornt(axes))
    turned = apply_orientation(array_ZHW, turn)
    here = affine_of(CANONICAL, tuple(SPACING.values()))
    return turned, here @ nibabel.orientations.inv_ornt_aff(turn, array_ZHW.shape)


def save(path: Path, array_ZHW: np.ndarray, axes: str = "RAS") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array, affine = stored(array_ZHW, axes)
    kind = np.int16 if array.dtype == float else array.dtype
    nibabel.save(nibabel.Nifti1Image(array.astype(kind), affine), path)
    return path


def archive(root: Path, scans: int = 3) -> Path:
    for number in range(1, scans + 1):
        hu, labels = body(number)
        save(root / "images" / f"{number}.nii.gz", hu)
        save(root / "labels" / f"{number}.nii.gz", labels)
    return root


def report(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "report.csv").open() as file:
        return {row["file"]: (row["state"], row["reason"]) for row in csv.DictReader(file)}


# The grid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", AXES)
def test_any_of_the_48_ways_to_store_a_body_gives_the_same_slices(axes):
    array_ZHW = np.random.default_rng(0).normal(size=(3, 4, 5))
    array, affine = stored(array_ZHW, axes)
    assert axes_of(affine) == axes
    np.testing.assert_array_equal(oriented(array, axes_of(affine)), array_ZHW)
    expected = affine_of(CANONICAL, tuple(SPACING.values()))
    np.testing.assert_allclose(oriented_affine(affine, array.shape), expected, atol=1e-9)


@nice
@given(
    axes=st.sampled_from(AXES),
    shape=st.tuples(*[st.integers(3, 20)] * 3),
    side=st.integers(2, 40),
    border=st.sampled_from((0.0, 0.0625, 0.2)),
    spacing=st.sampled_from(((0.0, 0.0, 0.0), (7.7, 1.25, 1.25), (2.0, 3.0, 1.0))),
)
def test_orientation_never_shows_on_the_prepared_grid(axes, shape, side, border, spacing):
    array_ZHW = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = []
    for way in ("SPL", axes):
        array, affine = stored(array_ZHW, way)
        grid = planned(array.shape, affine, side=side, border=border, spacing=spacing)
        found.append((placed(oriented(array, grid.axes), grid, nearest=False), grid.spacing))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1])


@nice
@given(axes=st.sampled_from(AXES), shape=st.tuples(*[st.integers(1, 12)] * 3), seed=st.integers(0, 9))
def test_a_mask_on_a_finer_grid_comes_back_voxel_by_voxel(axes, shape, seed):
    labels_ZHW = np.random.default_rng(seed).integers(0, 4, shape, dtype=np.uint8)
    array, affine = stored(labels_ZHW, axes)
    # A square that holds everything at a finer spacing: nothing is lost.
    grid = planned(array.shape, affine, side=64, border=0, spacing=(3.0, 0.5, 0.7))
    assert max(grid.resized[1:]) <= 64
    prepared = placed(oriented(array, axes), grid, nearest=True)
    np.testing.assert_array_equal(unplaced(prepared, grid), array)


@nice
@given(
    axes=st.sampled_from(AXES),
    shape=st.tuples(*[st.integers(4, 16)] * 3),
    side=st.integers(2, 24),
    border=st.sampled_from((0.0, 0.1)),
    spacing=st.sampled_from(((0.0, 0.0, 0.0), (9.0, 4.0, 2.5), (2.0, 1.0, 1.0))),
)
def test_a_mask_comes_back_to_where_its_voxels_lie_in_mm(axes, shape, side, border, spacing):
    """Against a slow loop: each stored voxel, by its affine, in the prepared voxel that its centre falls into."""
    array, affine = stored(np.zeros(shape, np.uint8), axes)
    grid = planned(array.shape, affine, side=side, border=border, spacing=spacing)
    mask = np.random.default_rng(2).integers(1, 200, grid.prepared, dtype=np.uint8)
    back = unplaced(mask, grid)
    canonical = np.linalg.inv(oriented_affine(affine, array.shape))
    cut = (0, *grid.border)
    for index in np.ndindex(array.shape):
        place = np.rint((canonical @ affine @ [*index, 1])[:3]).astype(int)  # z, y, x before the cut
        kept = [count - 2 * lost for count, lost in zip(grid.oriented, cut, strict=True)]
        inner = [
            (2 * (at - lost) + 1) * n // (2 * k)
            for at, lost, n, k in zip(place, cut, grid.resized, kept, strict=True)
        ]
        inside = all(0 <= at - lost < k for at, lost, k in zip(place, cut, kept, strict=True))
        for axis in (1, 2):
            spare = grid.side - grid.resized[axis]
            inner[axis] += spare // 2 if spare >= 0 else -(-spare // 2)
            inside &= 0 <= inner[axis] < grid.side
        assert back[index] == (mask[tuple(inner)] if inside else 0)


def test_the_same_grid_changes_nothing():
    array = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.float32)
    grid = planned(
        array.shape, affine_of("SPL", (7.7, 1.25, 1.25)), side=8, border=0, spacing=(7.7, 1.25, 1.25)
    )
    np.testing.assert_array_equal(placed(array, grid, nearest=False), array)


def test_pixels_that_become_fewer_are_averaged():
    array = np.arange(64.0).reshape(1, 8, 8)
    grid = planned(array.shape, affine_of("SPL", (5, 1, 1)), side=4, border=0, spacing=(0, 0, 0))
    np.testing.assert_allclose(
        placed(array, grid, nearest=False)[0], array.reshape(4, 2, 4, 2).mean(axis=(1, 3)), rtol=1e-6
    )
    assert grid.spacing == (5, 2, 2)


def test_the_published_ct_grid_is_448_of_512_pixels_on_256():
    grid = planned(
        (512, 512, 90), np.diag([-0.8, -0.8, 3.0, 1.0]), side=256, border=0.0625, spacing=(0, 0, 0)
    )
    assert (grid.border, grid.resized) == ((32, 32), (90, 256, 256))
    np.testing.assert_allclose(grid.spacing, (3, 1.4, 1.4))


def test_the_published_mri_grid_is_the_centre_at_a_quarter_more_than_a_millimetre():
    grid = planned(
        (320, 320, 36), np.diag([-1.25, -1.25, 7.7, 1.0]), side=256, border=0, spacing=(7.7, 1.25, 1.25)
    )
    array = np.zeros((36, 320, 320), np.float32)
    array[:, 32, 32], array[:, 287, 287], array[:, 31, 31] = 1, 2, 3
    prepared = placed(array, grid, nearest=False)
    assert prepared.shape == (36, 256, 256)
    assert (prepared[0, 0, 0], prepared[0, -1, -1], prepared.max()) == (1, 2, 2)


def test_pixels_that_are_not_square_keep_their_proportions():
    grid = planned((4, 100, 50), affine_of("SPL", (5, 1.0, 1.0)), side=50, border=0, spacing=(0, 0, 0))
    assert grid.resized == (4, 50, 25)


def test_a_grid_survives_its_card():
    grid = planned((4, 5, 6), affine_of("LPS", (1, 2, 3)), side=8, border=0.2, spacing=(0, 0, 0))
    again = grid_of_card(json.loads(json.dumps(grid.card())))
    assert again.card() == grid.card()
    assert isinstance(again, Grid)


def test_a_mask_of_another_shape_is_refused():
    grid = planned((4, 5, 6), np.eye(4), side=8, border=0, spacing=(0, 0, 0))
    with pytest.raises(DataError, match="4x8x8 does not lie on slices of 6x8x8"):
        unplaced(np.zeros((4, 8, 8), np.uint8), grid)


# From files to slices ----------------------------------------------------------------------------


def test_a_scan_and_its_label_stored_in_different_ways_come_out_alike(tmp_path):
    hu, labels = body()
    for name, ways in {"a": ("RAS", "RAS"), "b": ("LPS", "SAR"), "c": ("PIR", "PIR")}.items():
        save(tmp_path / "images" / f"{name}.nii.gz", hu, ways[0])
        save(tmp_path / "labels" / f"{name}.nii.gz", labels, ways[1])
    volumes = volumes_of(prepare(tmp_path, tmp_path / "out", SMALL))
    first = volumes.load("a")
    for volume in volumes:
        np.testing.assert_array_equal(volume.image_ZHW, first.image_ZHW)
        np.testing.assert_array_equal(volume.labels_ZHW, first.labels_ZHW)
        assert volume.spacing == first.spacing
    assert first.labels_ZHW[3, 16, 9] == 1  # the liver lies at the patient's right, the picture's left
    assert "joined by their affines" in report(tmp_path / "out")["images/b.nii.gz"][1]


def test_the_window_of_a_ct_becomes_0_to_255(tmp_path):
    hu = np.zeros((3, 32, 32))
    hu[:] = np.repeat(np.repeat(np.array([[-1000, -125], [75, 300]]), 16, 0), 16, 1)
    save(tmp_path / "image.nii.gz", hu)
    config = replace(SMALL, ct_spacing=(5.0, 2.0, 1.5))
    [volume] = volumes_of(prepare(tmp_path, tmp_path / "out", config))
    assert volume.modality == "ct"
    assert [volume.image_ZHW[0, y, x] for y, x in ((4, 4), (4, 28), (28, 4), (28, 28))] == [0, 0, 128, 255]


def test_the_brightest_half_percent_of_an_mri_is_clipped(tmp_path):
    values = np.random.default_rng(0).permutation(10 * 20 * 50).reshape(10, 20, 50).astype(float)
    save(tmp_path / "image.nii.gz", values)
    config = replace(SMALL, side=50, mri_spacing=(5.0, 2.0, 1.5))
    [volume] = volumes_of(prepare(tmp_path, tmp_path / "out", config))
    top = np.percentile(values, 99.5)
    expected = np.rint(np.minimum(values, top) * 255 / top)
    assert volume.modality == "mri"
    assert abs(volume.image_ZHW[:, 15:35] - expected).max() <= 1  # two roundings of one half
    assert (volume.image_ZHW == 255).sum() >= 50


@pytest.mark.parametrize("modality", ["ct", "mri"])
def test_pictures_of_eight_bits_pass_unchanged(tmp_path, modality):
    pixels = np.random.default_rng(0).integers(0, 200, (4, 32, 32), dtype=np.uint8)
    pixels[0, :2, :5] = 250
    for z, slice_HW in enumerate(pixels):
        (tmp_path / "s1").mkdir(exist_ok=True)
        Image.fromarray(slice_HW).save(tmp_path / "s1" / f"{z}.png")
    [volume] = volumes_of(prepare(tmp_path, tmp_path / "out", replace(SMALL, modality=modality)))
    np.testing.assert_array_equal(volume.image_ZHW, pixels)


def test_masks_are_written_over_the_scan_as_it_was_stored(tmp_path):
    source = archive(tmp_path / "src", 1)
    [volume] = volumes_of(prepare(source, tmp_path / "out", replace(SMALL, side=64)))
    path = save_mask(tmp_path / "mask.nii.gz", volume.labels_ZHW, volume)
    mask, truth = nibabel.load(path), nibabel.load(source / "labels" / "1.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(truth.dataobj))
    np.testing.assert_array_equal(mask.affine, truth.affine)
    assert mask.get_data_dtype() == np.uint8
    assert path.read_bytes() == save_mask(tmp_path / "again.nii.gz", volume.labels_ZHW, volume).read_bytes()


def test_a_volume_that_does_not_know_its_origin_says_so():
    volume = Volume("7", np.zeros((3, 4, 4), np.float32), None, (5.0, 1.0, 1.0), "ct", None)
    with pytest.raises(DataError, match="does not know its original grid"):
        to_original(np.zeros((3, 4, 4), np.uint8), volume)


# What is kept, and what is left out --------------------------------------------------------------


def test_the_prepared_folder_tells_what_it_holds(tmp_path):
    out = prepare(archive(tmp_path / "src"), tmp_path / "out", SMALL)
    volumes = volumes_of(out)
    assert volumes.classes == {1: "liver", 2: "spleen"}
    assert volumes.names == ("1", "2", "3")
    volume, card = volumes.load("2"), volumes.cards["2"]
    assert (volume.image_ZHW.dtype, volume.labels_ZHW.dtype) == (np.float32, np.uint8)
    assert card["counts"]["1"] == (volume.labels_ZHW == 1).sum()
    assert card["slices"] == {"1": 4, "2": 2}
    assert card["doubts"] == []
    overlay = cv2.imread(str(out / "overlays" / "2.png"))
    assert (overlay.max(axis=2).astype(int) - overlay.min(axis=2)).max() > 100  # the outlines have colours


def test_preparing_again_writes_the_same_bytes(tmp_path):
    source = archive(tmp_path / "src", 2)
    one, other = (prepare(source, tmp_path / name, SMALL) for name in ("a", "b"))
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


def test_running_again_does_only_what_is_missing_or_changed(tmp_path):
    source, out = archive(tmp_path / "src"), tmp_path / "out"
    prepare(source, out, SMALL)
    before = {path: path.stat().st_mtime_ns for path in (out / "volumes").iterdir()}
    (out / "volumes" / "1.npz").write_bytes(b"damaged")
    save(source / "labels" / "2.nii.gz", body(9)[1])
    save(source / "images" / "2.nii.gz", body(9)[0])
    prepare(source, out, SMALL)
    changed = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {"1.npz", "2.npz"}
    assert volumes_of(out).load("1").labels_ZHW.any()


def test_other_settings_are_prepared_anew(tmp_path):
    source, out = archive(tmp_path / "src", 1), tmp_path / "out"
    prepare(source, out, SMALL)
    first = volumes_of(out)
    prepare(source, out, replace(SMALL, side=16))
    assert volumes_of(out).load("1").image_ZHW.shape == (6, 16, 16)
    assert volumes_of(out).digest != first.digest


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


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_scan_is_left_out_with_one_line_and_the_rest_goes_on(tmp_path, capsys, fault):
    source = archive(tmp_path / "src", 2)
    spoil, said = BROKEN[fault]
    hu, labels = spoil(*body(5))
    save(source / "images" / "1.nii.gz", hu)
    save(source / "labels" / "1.nii.gz", labels)
    out = prepare(source, tmp_path / "out", SMALL)
    assert volumes_of(out).names == ("2",)
    state, reason = report(out)["images/1.nii.gz"]
    assert state == "left out"
    assert said in reason
    assert volumes_of(out).left_out == {"images/1.nii.gz": reason}
    lines = capsys.readouterr().err.splitlines()
    assert f"left out: images/1.nii.gz: {reason}" in lines
    assert lines[-1].startswith("1 scans prepared (6 slices), 1 left out, 0 doubtful")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.diag([1.0, 1, 2, 1]), "spacing"),
        (np.diag([-1.0, 1, 1, 1]), "flipped left-right: stored RAS, its label LAS"),
        (np.diag([1.0, -1, 1, 1]), "flipped front-back"),
        (np.array([[1.0, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "lies up to 9 mm away"),
    ],
)
def test_labels_that_lie_elsewhere_are_refused(tmp_path, change, said):
    source = archive(tmp_path / "src", 2)
    array, affine = stored(body(1)[1], "RAS")
    nibabel.save(nibabel.Nifti1Image(array, change @ affine), source / "labels" / "1.nii.gz")
    out = prepare(source, tmp_path / "out", SMALL)
    assert said in report(out)["images/1.nii.gz"][1]


@pytest.mark.parametrize(("axis", "word"), [(2, "left and right"), (1, "front and back")])
def test_labels_drawn_on_a_mirrored_scan_are_doubted(tmp_path, capsys, axis, word):
    source = archive(tmp_path / "src", 2)
    save(source / "labels" / "1.nii.gz", np.flip(body(1)[1], axis))
    out = prepare(source, tmp_path / "out", SMALL)
    state, reason = report(out)["images/1.nii.gz"]
    assert state == "doubtful"
    assert f"with {word} exchanged" in reason
    assert report(out)["images/2.nii.gz"][0] == "prepared"
    assert f"look at: 1: {reason}" in capsys.readouterr().err


def test_true_labels_raise_no_doubt():
    for seed in range(5):
        hu, labels = body(seed)
        assert flip_doubt(np.clip(hu, -125, 275), labels) == ""


def test_a_class_that_some_scans_lack_is_told(tmp_path, capsys):
    source = archive(tmp_path / "src", 2)
    save(source / "labels" / "1.nii.gz", np.where(body(1)[1] == 1, 1, 0).astype(np.uint8))
    out = prepare(source, tmp_path / "out", SMALL)
    assert report(out)["images/1.nii.gz"] == ("prepared", "without spleen")
    assert "classes not in all of 2 labelled scans: spleen in 1" in capsys.readouterr().err


def test_labels_that_are_cut_away_are_told(tmp_path):
    source = archive(tmp_path / "src", 1)
    out = prepare(source, tmp_path / "out", replace(SMALL, ct_border=0.3))
    assert "of the labelled voxels lie beyond the prepared slices" in report(out)["images/1.nii.gz"][1]


def test_a_ct_without_air_is_doubted(tmp_path):
    save(tmp_path / "image.nii.gz", body()[0] + 1024)
    out = prepare(tmp_path, tmp_path / "out", replace(SMALL, modality="ct"))
    assert "are these Hounsfield units?" in report(out)["image.nii.gz"][1]


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path):
    save(tmp_path / "image.nii.gz", body()[0][:1])
    with pytest.raises(DataError, match=r"no scan can be prepared; image.nii.gz: 1 slices"):
        prepare(tmp_path, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "volumes.json").exists()


def test_what_is_guessed_is_said(tmp_path, capsys):
    prepare(archive(tmp_path / "src", 2), tmp_path / "out", SMALL)
    assert "modality guessed from values: 2 ct" in capsys.readouterr().err


def test_a_folder_without_scans_or_of_another_version_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no volumes.json here"):
        volumes_of(tmp_path)
    (tmp_path / "volumes.json").write_text('{"version": 0}')
    with pytest.raises(DataError, match="version 0, this vetdino reads 1"):
        volumes_of(tmp_path)
    (tmp_path / "volumes.json").write_text("[")
    with pytest.raises(DataError, match="damaged"):
        volumes_of(tmp_path)


def test_a_damaged_or_unknown_scan_is_told(tmp_path):
    volumes = volumes_of(prepare(archive(tmp_path / "src", 1), tmp_path / "out", SMALL))
    with pytest.raises(DataError, match="no scan '7'; there are 1"):
        volumes.load("7")
    path = tmp_path / "out" / "volumes" / "1.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        volumes.load("1")


# Names of classes and settings -------------------------------------------------------------------


def test_names_of_classes_come_from_text_json_or_csv(tmp_path):
    expected = {1: "liver", 4: "left kidney"}
    texts = {
        "a.json": '{"0": "background", "1": "liver", "4": "left kidney"}',
        "b.json": '{"labels": {"background": 0, "liver": 1, "left kidney": 4}}',
        "c.csv": "number,name\n0,background\n1,liver\n4,left kidney\n",
    }
    assert class_names("1=liver,4=left kidney", tmp_path) == expected
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert class_names(str(tmp_path / name), tmp_path) == expected
    assert class_names("", tmp_path) == {}
    (tmp_path / "dataset.json").write_text(texts["b.json"])
    assert class_names("", tmp_path) == expected


@pytest.mark.parametrize("text", ["liver", "x=liver", "300=liver", "1=", "nowhere.json"])
def test_names_of_classes_that_cannot_be_read_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="classes"):
        class_names(text, tmp_path)


def test_organs_are_numbered_by_the_alphabet_or_by_their_names(tmp_path):
    for organ in ("spleen", "liver", "aorta"):
        save(tmp_path / "segmentations" / f"{organ}.nii.gz", body()[1])
    folder = tmp_path / "segmentations"
    assert organs_of([folder, None], {}) == {"aorta": 1, "liver": 2, "spleen": 3}
    assert organs_of([folder], {1: "spleen", 9: "heart"}) == {"spleen": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": 0},
        {"ct_border": 0.5},
        {"mri_spacing": (7.7, -1.0, 1.0)},
        {"ct_window": (10.0, 10.0)},
        {"mri_top": 100.0},
        {"stack_axes": "SPX"},
        {"stack_axes": "SIL"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PrepareConfig(**wrong)
