"""NIfTI headers: units, shear, contradictions and compression, against SimpleITK and nibabel, or a clear refusal."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat

from vetdino.downstream.volumes.acquisition import shear_doubt
from vetdino.downstream.volumes.files import StackGeometry, read_image
from vetdino.downstream.volumes.grid import MAX_SHEAR, plan_grid, shear, voxel_volume
from vetdino.downstream.volumes.nifti import EXTENT, label_bits, read_nifti
from vetdino.downstream.volumes.volume import ITK_SHEAR, Volume, save_mask
from vetdino.platform.core.errors import DataError

PLAIN = StackGeometry()

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)


def in_unit(path, code: int, mm: float):
    """A scan of 40 x 30 x 20 voxels of 0.7 x 0.7 x 3 mm, in a unit of `mm` millimeters."""
    image = nibabel.Nifti1Image(np.ones((40, 30, 20), np.int16), np.diag([0.7 / mm, 0.7 / mm, 3 / mm, 1]))
    image.header["xyzt_units"] = code
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("code", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1), (1 + 16, 1000)])
def test_every_unit_gives_the_same_millimeters(tmp_path, code, mm):
    result = read_image(in_unit(tmp_path / "a.nii", code, mm), PLAIN)
    np.testing.assert_allclose(result.affine, np.diag([0.7, 0.7, 3, 1]), rtol=1e-6)
    theirs = SimpleITK.ReadImage(str(tmp_path / "a.nii")).GetSpacing()
    np.testing.assert_allclose(np.diag(result.affine)[:3], theirs, rtol=1e-6)
    assert any("brought to mm" in note for note in result.notes) == (mm != 1)


def test_a_unit_of_another_kind_is_named_and_taken_as_mm(tmp_path):
    result = read_image(in_unit(tmp_path / "a.nii", 5, 1), PLAIN)
    np.testing.assert_allclose(np.diag(result.affine)[:3], (0.7, 0.7, 3), rtol=1e-6)
    assert "unknown unit 5 of the header taken as mm" in result.notes


def test_millimeters_that_are_called_meters_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"the scan is 6e\+04 mm long; correct the unit"):
        read_image(in_unit(tmp_path / "a.nii", 1, 1), PLAIN)


def test_meters_without_a_unit_are_doubted(tmp_path):
    [doubt] = read_image(in_unit(tmp_path / "a.nii", 0, 1000), PLAIN).doubts
    assert "0.06 mm long: is the unit of its header right?" in doubt


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_file_is_read_by_its_content_whatever_its_name_says(tmp_path, kind):
    values = np.random.default_rng(0).integers(-9, 9, (9, 8, 7)).astype(np.int16)
    image = kind(values, np.diag([-2.0, 2, 3, 1]))
    (tmp_path / "packed.nii").write_bytes(gzip.compress(image.to_bytes()))
    (tmp_path / "plain.nii.gz").write_bytes(image.to_bytes())
    for name, note in (("packed.nii", "compressed, though"), ("plain.nii.gz", "not compressed, though")):
        result = read_image(tmp_path / name, PLAIN)
        np.testing.assert_array_equal(result.values, values)
        np.testing.assert_array_equal(result.affine, image.affine)
        assert result.notes[0].startswith(note)
        assert label_bits(tmp_path / name) == 16


def test_a_header_alone_tells_shape_and_place(tmp_path, save_nifti):
    path = save_nifti(tmp_path / "a.nii.gz", np.ones((4, 5, 6, 1)), np.diag([2.0, 2, 5, 1]))
    result = read_nifti(path, header_only=True)
    assert result.values.shape == (4, 5, 6)
    assert not result.values.any()
    np.testing.assert_array_equal(result.affine, read_nifti(path).affine)


def test_sform_and_pixdim_of_other_sizes_are_doubted(tmp_path):
    image = nibabel.Nifti1Image(np.ones((9, 8, 7), np.int16), np.diag([1.4, 0.7, 3, 1]))
    image.header["pixdim"][1] = 0.7
    nibabel.save(image, tmp_path / "a.nii")
    [doubt] = read_image(tmp_path / "a.nii", PLAIN).doubts
    assert "voxels of 1.4x0.7x3 mm, its pixdim of 0.7x0.7x3 mm" in doubt


def test_sform_and_qform_that_mirror_each_other_are_doubted(tmp_path):
    image = nibabel.Nifti1Image(np.ones((9, 8, 7), np.int16), np.diag([1.0, 1, 3, 1]))
    image.set_qform(np.diag([-1.0, 1, 3, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    [doubt] = read_image(tmp_path / "a.nii", PLAIN).doubts
    assert doubt == "its sform says RAS, its qform LAS: the sform is taken"


# Any header --------------------------------------------------------------------------------------

signs = st.tuples(*[st.sampled_from((1, -1))] * 3)
sizes = st.tuples(*[st.floats(-4, 3).map(lambda power: 10**power)] * 3)
cosines = st.one_of(st.just(0.0), st.floats(-6, -0.3).map(lambda power: 10**power))


@st.composite
def headers(draw):
    """A NIfTI image of any geometry: (image, stored bytes may be compressed, whether its name says so)."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    turn = euler2mat(*draw(st.tuples(*[st.floats(-np.pi, np.pi)] * 3))) if draw(st.booleans()) else np.eye(3)
    steps = np.diag(np.array(draw(sizes)) * draw(signs))
    tilt = np.eye(3)
    tilt[draw(st.sampled_from([(1, 2), (0, 2), (0, 1)]))] = draw(cosines)
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ steps
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.int32, np.float32]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, shape).astype(dtype)
    kind = draw(st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti1Image, nibabel.Nifti2Image]))
    image = kind(values, affine)
    image.set_sform(affine, code=draw(st.sampled_from((0, 1, 1, 2, 4))))
    qform = affine if draw(st.booleans()) else np.diag([*draw(sizes), 1.0])
    try:
        image.set_qform(qform, code=draw(st.sampled_from((0, 1, 2))), strip_shears=True)
    except ValueError:  # nibabel cannot write some half turns
        reject()
    image.header["xyzt_units"] = draw(st.integers(0, 7)) + 8 * draw(st.integers(0, 3))
    image.header.set_slope_inter(*draw(st.sampled_from([(None, None), (1, 0), (2, -1024), (-0.5, 3)])))
    return image, draw(st.booleans()), draw(st.booleans())


def check_header(folder, image, packed: bool, named: bool) -> None:
    """The file gives the values and the volume that SimpleITK and nibabel give, or a doubt or refusal says why not."""
    content = image.to_bytes()
    path = folder / ("a.nii.gz" if named else "a.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    plain = folder / "plain.nii"
    plain.write_bytes(content)
    loaded = nibabel.load(plain)
    unit = {1: 1000.0, 3: 0.001}.get(int(loaded.header["xyzt_units"]) & 7, 1.0)
    expected_mm3 = abs(np.linalg.det(loaded.affine[:3, :3])) * unit**3
    lengths = np.linalg.norm(loaded.affine[:3, :3], axis=0) * unit * image.shape
    if abs(lengths.max() - EXTENT[1]) < 0.01:
        return  # either, by rounding
    if lengths.max() > EXTENT[1]:
        with pytest.raises(DataError, match="correct the unit"):
            read_image(path, PLAIN)
        return
    result = read_image(path, PLAIN)
    voxel = voxel_volume(result.affine[:3, :3].T)
    np.testing.assert_allclose(voxel, expected_mm3, rtol=1e-6)
    np.testing.assert_allclose(result.values, loaded.get_fdata(), rtol=1e-5, atol=1e-6)
    grid = plan_grid(result.values.shape, result.affine, side=4, border=0, spacing=(0, 0, 0))
    total = voxel_volume(grid.steps) * np.prod(grid.resized)
    np.testing.assert_allclose(total, voxel * result.values.size, rtol=2 * MAX_SHEAR)
    if isinstance(image, nibabel.Nifti2Image):
        return  # ITK does not know this version
    try:
        theirs = SimpleITK.ReadImage(str(plain))
    except RuntimeError:
        theirs = None
    if theirs is None:
        assert shear(result.affine) > ITK_SHEAR or result.doubts
        return
    agree = np.isclose(np.prod(theirs.GetSpacing()), voxel, rtol=1e-3)
    assert agree or result.doubts or shear_doubt(result), (theirs.GetSpacing(), result.affine)
    np.testing.assert_allclose(
        SimpleITK.GetArrayFromImage(theirs).T.reshape(result.values.shape),
        result.values,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=headers())
def test_any_header_gives_the_volumes_of_independent_readers_or_says_why_not(tmp_path, header):
    check_header(tmp_path, *header)


@pytest.mark.parametrize("cosine", [0.0, 5e-6, 3e-5, 9e-4])
def test_itk_opens_the_mask_of_every_scan_that_is_not_called_sheared(tmp_path, cosine):
    affine = np.diag([0.7, 0.7, 3, 1.0])
    affine[1, 2] = 3 * cosine
    grid = plan_grid((9, 8, 7), affine, side=9, border=0, spacing=(0, 0, 0))
    volume = Volume("a", np.zeros(grid.prepared, np.float32), None, grid.spacing, "ct", affine, grid)
    path = save_mask(tmp_path / "mask.nii.gz", np.ones(grid.prepared, np.uint8), volume)
    assert shear(affine) <= MAX_SHEAR
    np.testing.assert_allclose(SimpleITK.ReadImage(str(path)).GetSpacing(), (0.7, 0.7, 3), rtol=1e-5)
    assert ITK_SHEAR < MAX_SHEAR
