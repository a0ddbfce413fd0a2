"""The plane of the slices, sheared grids, and what is said about both."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK

from vetdino.downstream.fewshot.method.protocol import hd95
from vetdino.downstream.volumes.acquisition import choose_plane, shear_doubt, to_orthogonal
from vetdino.downstream.volumes.config import PrepareConfig
from vetdino.downstream.volumes.grid import Voxels, affine_of, axes_of, shear, voxel_volume
from vetdino.downstream.volumes.prepare import prepare
from vetdino.downstream.volumes.volume import load_volumes, save_mask

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)


def scan(shape, spacing, axes="LPS", **more) -> Voxels:
    return Voxels(np.zeros(shape, np.float32), affine_of(axes, spacing), **more)


@pytest.mark.parametrize(
    ("shape", "spacing", "axes", "plane"),
    [
        ((512, 512, 90), (0.8, 0.8, 3.0), "LPS", "axial"),
        ((512, 512, 900), (0.8, 0.8, 0.6), "LPS", "axial"),  # thin slices: no axis is longer than both others
        ((176, 256, 256), (1.0, 1.0, 1.0), "LPS", "axial"),
        ((19, 256, 256), (4.0, 0.9, 0.9), "RIP", "sagittal"),
        ((256, 256, 30), (0.9, 0.9, 6.0), "LSA", "coronal"),
        ((1, 256, 256), (1.0, 1.0, 1.0), "RIP", "sagittal"),
    ],
)
def test_the_plane_is_across_the_largest_spacing(shape, spacing, axes, plane):
    image = scan(shape, spacing, axes)
    assert choose_plane(image, "acquired")[0] == plane
    assert choose_plane(image, "axial") == ("axial", "")


def test_a_choice_that_changes_the_count_much_is_doubted():
    doubt = choose_plane(scan((19, 256, 256), (4.0, 0.9, 0.9), "RIP"), "acquired")[1]
    assert doubt == "sliced as it was acquired, sagittal: 19 slices; axial would be 256; --plane chooses"
    assert choose_plane(scan((200, 256, 256), (1.3, 0.9, 0.9), "RIP"), "acquired") == ("sagittal", "")
    assert choose_plane(scan((19, 256, 256), (4.0, 0.9, 0.9), "RIP"), "sagittal") == ("sagittal", "")


def test_pictures_are_slices_whatever_their_spacing():
    stack = {"placed": False, "slices_first": True}
    assert (
        choose_plane(scan((20, 256, 256), (1, 1, 1), "LIP", in_mm=False, **stack), "acquired")[0]
        == "sagittal"
    )
    assert choose_plane(scan((20, 256, 256), (0.5, 0.9, 0.9), "LIP", **stack), "acquired")[0] == "sagittal"
    assert choose_plane(scan((20, 256, 256), (1, 1, 1), "SPL", in_mm=False, **stack), "acquired") == (
        "axial",
        "",
    )


def tilted(degrees: float, shape=(24, 24, 10), spacing=(1.0, 1.0, 3.0)) -> np.ndarray:
    """The affine of slices that a tilted gantry has moved against each other."""
    affine = np.diag([*spacing, 1.0])
    affine[1, 2] = np.sin(np.radians(degrees)) * spacing[2]
    affine[2, 2] = np.cos(np.radians(degrees)) * spacing[2]
    return affine


def ball(affine, shape, center, radius) -> np.ndarray:
    index = np.moveaxis(np.indices(shape), 0, -1)
    return np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - center, axis=-1) <= radius


def test_the_volume_and_distances_of_a_sheared_scan_are_true(tmp_path, save_nifti):
    shape, affine = (24, 24, 12), tilted(29)
    center = affine[:3, :3] @ [11.5, 11.5, 5.5]
    mask = ball(affine, shape, center, 9)
    values = np.where(mask, 100, -1000 * (np.indices(shape)[0] < 2)).astype(np.int16)
    save_nifti(tmp_path / "images" / "1.nii.gz", values, affine)
    save_nifti(tmp_path / "labels" / "1.nii.gz", mask, affine)
    config = PrepareConfig(side=24, ct_border=0.0, modality="ct")
    out = prepare(tmp_path, tmp_path / "out", config)
    [volume] = load_volumes(out)
    true_ml = mask.sum() * abs(np.linalg.det(affine)) / 1000
    assert volume.voxel_ml * (volume.labels_ZHW == 1).sum() == pytest.approx(true_ml, rel=1e-6)
    assert true_ml == pytest.approx(4 / 3 * np.pi * 9**3 / 1000, rel=0.03)
    assert true_ml < 0.9 * mask.sum() * 3 / 1000  # what the product of the spacings gives
    shifted = np.roll(volume.labels_ZHW, 1, axis=0) == 1
    assert np.linalg.norm(volume.steps[0]) == pytest.approx(np.linalg.norm(affine[:3, 2]))
    assert volume.steps[0] @ volume.steps[1] == pytest.approx(-(affine[:3, 2] @ affine[:3, 1]))
    assert 0 < hd95(shifted, volume.labels_ZHW == 1, volume.steps) <= np.linalg.norm(volume.steps[0]) + 1e-9
    [doubt] = volume_doubts(out)
    assert "sheared by 29 degrees" in doubt
    path = save_mask(tmp_path / "mask.nii.gz", volume.labels_ZHW, volume)
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(path))


def volume_doubts(out) -> list[str]:
    [card] = load_volumes(out).cards.values()
    return card["doubts"]


def test_hd95_of_two_voxels_of_a_sheared_scan_is_how_far_they_lie_apart():
    affine = tilted(25, spacing=(1.5, 1.2, 4.0))
    steps = affine[:3, :3].T[::-1]
    single, double = np.zeros((4, 6, 5), bool), np.zeros((4, 6, 5), bool)
    single[0, 2, 2] = double[3, 4, 1] = True
    expected = np.linalg.norm(affine[:3, :3] @ np.array([-1, 2, 3]))
    assert hd95(single, double, steps) == pytest.approx(expected)


def test_a_sheared_scan_is_resampled_so_that_itk_opens_its_mask(tmp_path, save_nifti):
    shape, affine = (24, 24, 12), tilted(25)
    center = affine[:3, :3] @ [11.5, 11.5, 5.5]
    mask = ball(affine, shape, center, 9)
    values = np.where(mask, 100, -1000 * (np.indices(shape)[0] < 2)).astype(np.int16)
    save_nifti(tmp_path / "images" / "1.nii.gz", values, affine)
    save_nifti(tmp_path / "labels" / "1.nii.gz", mask, affine)
    config = PrepareConfig(side=48, ct_border=0.0, modality="ct", orthogonal=True, ct_spacing=(3.0, 1.0, 1.0))
    out = prepare(tmp_path, tmp_path / "out", config)
    assert volume_doubts(out) == []
    [volume] = load_volumes(out)
    path = save_mask(tmp_path / "mask.nii.gz", volume.labels_ZHW, volume)
    theirs = SimpleITK.ReadImage(str(path))
    voxels = SimpleITK.GetArrayFromImage(theirs)
    true_ml = 4 / 3 * np.pi * 9**3 / 1000
    assert voxels.sum() * np.prod(theirs.GetSpacing()) / 1000 == pytest.approx(true_ml, rel=0.05)
    places = np.argwhere(np.asarray(nibabel.load(path).dataobj))
    middle = nibabel.affines.apply_affine(nibabel.load(path).affine, places).mean(axis=0)
    np.testing.assert_allclose(middle, center, atol=0.6)


@pytest.mark.parametrize("axes", ["LPS", "SPL", "RIP", "ALS"])
def test_an_orthogonal_grid_keeps_what_lies_where(axes):
    shape = (9, 10, 11)
    affine = affine_of(axes, (2.0, 1.5, 1.0))
    affine[:3, 0] += 0.3 * affine[:3, 1]
    affine[:3, 3] = 5, -7, 30
    random = np.random.default_rng(0)
    smooth = (
        np.add.outer(np.add.outer(np.arange(9.0), 2 * np.arange(10)), 3 * np.arange(11)) + random.random()
    )
    image = Voxels(smooth.astype(np.float32), affine)
    result, none = to_orthogonal(image, None, "axial")
    assert none is None
    assert shear(result.affine) < 1e-12
    assert shear_doubt(image)
    assert shear_doubt(result) == ""
    index = np.moveaxis(np.indices(result.shape), 0, -1).reshape(-1, 3)
    to_old = np.linalg.inv(affine) @ result.affine
    old = index @ to_old[:3, :3].T + to_old[:3, 3]
    inside = ((old >= 0) & (old <= np.array(shape) - 1)).all(axis=1)
    expected = old @ [1, 2, 3] + smooth.min()  # linear values are interpolated exactly
    np.testing.assert_allclose(result.values.reshape(-1)[inside], expected[inside], rtol=1e-4, atol=1e-3)
    assert axes_of(result.affine) == "SPL"
    assert voxel_volume(result.affine[:3, :3].T) == pytest.approx(abs(np.linalg.det(affine)), rel=0.1)
