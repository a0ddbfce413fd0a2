"""Reads one NIfTI file: its values, and where its voxels lie in mm.

Errors are DataErrors that hold the reason alone, no path, as in `files`.
"""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import DataError
from ..common.shapes import shape_text
from .grid import Voxels, axes_of, voxel_sizes

MM_OF_UNIT = {0: ("", 1.0), 1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
"""Spatial code of `xyzt_units` -> its unit and mm in it; a file that names none (0) means mm, as ITK reads it too."""

EXTENT = (2.0, 5000.0)
"""mm: a scan that is smaller as a whole is doubted, one that is larger is refused."""

MAX_SIZE_DIFFERENCE = 0.01
"""Voxel sizes by the affine and by `pixdim` may differ by this part."""

GZIP = b"\x1f\x8b"


def read_nifti(path: Path, *, header_only: bool = False) -> Voxels:
    """The volume in a .nii or .nii.gz file, values float32, its affine in mm whatever unit the header names.

    header_only: values are zeros that take no memory. Raises DataError.
    """
    import nibabel

    try:
        image, notes = _load(path)
        with np.errstate(all="ignore"):  # an overflow becomes infinite, and is refused as that
            values = (
                np.broadcast_to(np.float32(0), image.shape)
                if header_only
                else image.get_fdata(dtype=np.float32)
            )
            affine, header = image.affine, image.header
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        MemoryError,  # a damaged header can name any shape
        TypeError,  # RGB and complex values
    ) as error:
        raise DataError(f"not a readable NIfTI file ({type(error).__name__}); is it whole?") from None
    values, shape_notes = _with_three_axes(values)
    if affine is None or not np.isfinite(affine).all():
        raise DataError("an affine that cannot be undone; set the header's sform or qform")
    affine, unit_notes = _in_mm(np.asarray(affine, float), header)
    volume, box = abs(np.linalg.det(affine[:3, :3])), float(np.prod(voxel_sizes(affine)))
    if volume <= 1e-6 * box:  # also where both are 0
        raise DataError("an affine that cannot be undone; set the header's sform or qform")
    notes += shape_notes + unit_notes
    codes = _codes(header)
    if codes and not any(codes):
        notes += ("the header does not say how the patient lies (sform and qform are 0); guessed",)
    doubts = _extent_doubts(values.shape, affine) + _header_doubts(image, affine)
    return Voxels(values, affine, notes=notes, doubts=doubts)


def label_bits(path: Path) -> int:
    """Bits of a stored value, 0 where the header cannot be read or scales its values."""
    with suppress(Exception):  # reading proper says what is wrong
        header = _load(path)[0].header
        slope, intercept = header.get_slope_inter()
        if (slope, intercept) in ((None, None), (1.0, 0.0)):
            return 8 * int(header.get_data_dtype().itemsize)
    return 0


def _load(path: Path) -> tuple[Any, tuple[str, ...]]:
    """(the image, notes) of a file, compressed or not, whatever its name says."""
    import nibabel

    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    if packed == path.name.lower().endswith(".gz"):
        return nibabel.load(path), ()
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    # The size of the header, 348 or 540 in either byte order, tells the two versions apart.
    second = content[:4] in ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
    kind: Any = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    note = (
        "compressed, though its name does not end in .gz"
        if packed
        else "not compressed, though it ends in .gz"
    )
    return kind.from_bytes(content), (note,)


def _with_three_axes(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The array with three axes, and a note where axes of 1 were dropped. Raises DataError."""
    shape = values.shape
    if 0 in shape or len(shape) < 2:
        raise DataError(f"an array of {shape_text(shape) or 'one number'}; a scan has three axes")
    if any(count > 1 for count in shape[3:]):
        raise DataError(f"{len(shape)} axes ({shape_text(shape)}): several volumes in one file; give one")
    if len(shape) > 3:
        return values.reshape(shape[:3]), (f"{shape_text(shape)}: axes of 1 were left away",)
    return (values[..., None] if len(shape) == 2 else values), ()


def _codes(header: Any) -> list[int]:
    """sform_code and qform_code, where the header has them."""
    return [int(header[code]) for code in ("sform_code", "qform_code") if code in header]


def _mm(header: Any) -> tuple[str, float]:
    """(unit, mm in it) that a header names; mm where it names none that is known."""
    code = int(header["xyzt_units"]) & 7 if "xyzt_units" in header else 0
    return MM_OF_UNIT.get(code, (f"unknown unit {code}", 1.0))


def _in_mm(affine: np.ndarray, header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine in mm, and a note where the header names another unit."""
    unit, mm = _mm(header)
    if unit in ("", "mm"):
        return affine, ()
    note = f"spacing in {unit}s, brought to mm" if mm != 1 else f"{unit} of the header taken as mm"
    return np.diag([mm, mm, mm, 1.0]) @ affine, (note,)


def _extent_doubts(shape: tuple[int, ...], affine: np.ndarray) -> tuple[str, ...]:
    """Doubts a scan of no size that a body has. Raises DataError where it is too large to be one."""
    sizes = voxel_sizes(affine)
    extent = max(count * size for count, size in zip(shape, sizes, strict=True))
    text = f"voxels of {'x'.join(f'{size:.3g}' for size in sizes)} mm, the scan is {extent:.3g} mm long"
    if extent > EXTENT[1]:
        raise DataError(f"{text}; correct the unit (xyzt_units) or the spacing of its header")
    return (f"{text}: is the unit of its header right?",) if extent < EXTENT[0] else ()


def _header_doubts(image: Any, affine: np.ndarray) -> tuple[str, ...]:
    """Where sform, qform and pixdim of one header contradict each other: programs differ in which they believe."""
    header, codes = image.header, _codes(image.header)
    if not codes or not codes[0]:
        return ()
    doubts = []
    sizes = np.array(voxel_sizes(affine))
    named = np.abs(np.array(header["pixdim"][1:4], float)) * _mm(header)[1]
    if not np.allclose(named, sizes, rtol=MAX_SIZE_DIFFERENCE):
        texts = ("x".join(f"{size:.4g}" for size in triple) for triple in (sizes, named))
        doubts.append("its sform has voxels of {} mm, its pixdim of {} mm: the sform is taken".format(*texts))
    with suppress(Exception):  # a qform that cannot be read contradicts nothing
        other = axes_of(header.get_qform()) if codes[1] else axes_of(affine)
        if other != axes_of(affine):
            doubts.append(f"its sform says {axes_of(affine)}, its qform {other}: the sform is taken")
    return tuple(doubts)
