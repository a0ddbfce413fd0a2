"""Reads one scan or label map: NIfTI, a folder of DICOM slices, a folder of pictures, or one tall picture.

Errors are DataErrors that hold the reason alone, no path: the caller knows the file, and whether its name may be
shown.
"""

# I, J, K axes as stored; for slices in files these are slice, row, column.

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import DataError
from ...platform.data import pictures
from ..common.shapes import shape_text
from .dicom import is_slice, read_series
from .grid import Spacing, Voxels, affine_of
from .names import NIFTI, PICTURES, first_few, natural_key, stem

LOSSY = (".jpg", ".jpeg")
"""Endings of pictures that do not keep their values exactly: not for labels."""

TALL = "meta.json"
"""Beside tall pictures `image_ID.png`: ID -> Z, H, W, spacing_xyz, and, where it is known, axes."""


@dataclass(frozen=True, slots=True)
class StackGeometry:
    """Assumed geometry of pictures, which hold none: mm (z, y, x), 0 where unknown, and directions of the axes."""

    spacing: Spacing = (0.0, 0.0, 0.0)
    axes: str = "SPL"


def file_kind(path: Path) -> str:
    """The kind of a file by its name or of a folder by the files directly in it; empty for anything else.

    nifti, picture: a file; dicom: a folder of DICOM files; stack: a folder of pictures; organs: a folder of NIfTI
    files.
    """
    name = path.name.lower()
    if path.is_file():
        return "nifti" if name.endswith(NIFTI) else "picture" if name.endswith(PICTURES) else ""
    if not path.is_dir():
        return ""
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    kinds = {file_kind(file) for file in files}
    if "nifti" in kinds:
        return "organs"
    if any(is_slice(file) for file in files):  # pictures beside them are previews
        return "dicom"
    return "stack" if "picture" in kinds else ""


def read_image(path: Path, geometry: StackGeometry) -> Voxels:
    """The scan in a file or folder, values float32. Raises DataError."""
    kind = file_kind(path)
    if kind == "nifti":
        image = _read_nifti(path)
    elif kind == "dicom":
        image = read_series(path)
    elif kind in ("picture", "stack"):
        image = _read_stack(path, geometry, labels=False)
    else:
        raise DataError("no NIfTI file, folder of DICOM files or folder of pictures; give one of these")
    bad = int(np.count_nonzero(~np.isfinite(image.values)))
    if bad:
        raise DataError(f"{bad} voxels are NaN or infinite; replace them by a number")
    return image


def read_labels(path: Path, geometry: StackGeometry, organs: Mapping[str, int]) -> Voxels:
    """The label map in a file or folder, values uint8, 0 for background. Raises DataError.

    organs: class number of each file by its stem, where the folder holds one file per organ.
    """
    kind = file_kind(path)
    if kind == "organs":
        return _read_organs(path, organs)
    if kind == "nifti":
        labels = _read_nifti(path)
    elif kind in ("picture", "stack"):
        labels = _read_stack(path, geometry, labels=True)
    else:
        raise DataError("no NIfTI file or folder of pictures; give one of these as label")
    values = to_class_numbers(labels.values)
    if kind != "nifti" and values.any() and not np.any((values > 0) & (values < 255)):
        return replace(labels, values=values // 255, notes=(*labels.notes, "white (255) is taken as class 1"))
    return replace(labels, values=values)


def organ_files(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, sorted by name, without hidden ones."""
    return sorted(
        file for file in folder.iterdir() if file_kind(file) == "nifti" and not file.name.startswith(".")
    )


def _read_organs(folder: Path, organs: Mapping[str, int]) -> Voxels:
    """One label map of a folder of masks; where two overlap, the higher class number stays. Raises DataError."""
    files = {organs[stem(file.name)]: file for file in organ_files(folder) if stem(file.name) in organs}
    merged: Voxels | None = None
    for number, file in sorted(files.items()):
        mask = _read_nifti(file)
        if merged is None:
            merged = replace(mask, values=np.zeros(mask.values.shape, np.uint8))
        elif mask.shape != merged.shape or not np.allclose(mask.affine, merged.affine, atol=1e-3):
            raise DataError(f"{file.name} lies on another grid than the other organs")
        merged.values[to_class_numbers(mask.values) > 0] = number
    if merged is None:
        raise DataError("none of its files is one of the classes")
    return merged


def to_class_numbers(values: np.ndarray) -> np.ndarray:
    """Label values as uint8. Raises DataError for values other than whole numbers from 0 to 255."""
    if values.dtype == np.uint8:
        return values
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise DataError(f"{bad} voxels of the label are NaN or infinite; labels are whole numbers")
    rounded = np.rint(values)
    fractions = np.abs(values - rounded) > 1e-3  # a stored slope may leave rounding errors on a whole number
    if fractions.any():
        examples = first_few(np.unique(values[fractions]))
        raise DataError(f"label values that are no whole numbers ({examples}); was it resampled? use nearest")
    low, high = rounded.min(), rounded.max()
    if low < 0 or high > 255:
        raise DataError(f"label values from {low:g} to {high:g}; classes are numbered 0 to 255")
    return rounded.astype(np.uint8)


# NIfTI -------------------------------------------------------------------------------------------


def _read_nifti(path: Path) -> Voxels:
    import gzip
    import zlib

    import nibabel

    try:
        image: Any = nibabel.load(path)
        with np.errstate(all="ignore"):  # an overflow becomes infinite, and is refused as that
            values, affine, header = image.get_fdata(dtype=np.float32), image.affine, image.header
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        TypeError,  # RGB and complex values
    ) as error:
        raise DataError(f"not a readable NIfTI file ({type(error).__name__}); is it whole?") from None
    values, notes = _with_three_axes(values)
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError("an affine that cannot be undone; set the header's sform or qform")
    codes = [int(header[code]) for code in ("sform_code", "qform_code") if code in header]
    if codes and not any(codes):
        notes += ("the header does not say how the patient lies (sform and qform are 0); guessed",)
    return Voxels(values, np.asarray(affine, float), notes=notes)


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


# Pictures ----------------------------------------------------------------------------------------


def _read_stack(path: Path, geometry: StackGeometry, *, labels: bool) -> Voxels:
    """A folder of pictures by name, a tall picture, or one picture as a single slice; (Z, H, W)."""
    card = tall_cards(path.parent).get(path.stem.partition("_")[2]) if path.is_file() else None
    files = [path] if path.is_file() else sorted(_pictures(path), key=lambda file: natural_key(file.name))
    if labels and any(file.name.lower().endswith(LOSSY) for file in files):
        raise DataError("labels as JPEG, which does not keep numbers; give PNG")
    read = pictures.read_labels if labels else pictures.read_gray
    slices = [read(file) for file in files]
    shapes = {one.shape for one in slices}
    if len(shapes) > 1:
        raise DataError(f"slices of several sizes ({first_few(sorted(map(str, shapes)))}); give one size")
    values = np.stack(slices)
    spacing, axes = geometry.spacing, geometry.axes
    if card is not None:
        values, spacing, axes = _split_tall(values[0], card, axes)
    known = min(spacing) > 0
    affine = affine_of(axes, spacing if known else (1.0, 1.0, 1.0))
    return Voxels(
        values if labels else values.astype(np.float32), affine, placed=False, spaced=known, slices_first=True
    )


def _pictures(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and file.name.lower().endswith(PICTURES)]


def tall_cards(folder: Path) -> Mapping[str, Any]:
    """ID -> card of each tall picture of a folder, from its meta.json; empty where it has none. Raises DataError."""
    file = folder / TALL
    if not file.is_file():
        return {}
    try:
        cards = json.loads(file.read_text())
    except (OSError, ValueError):
        raise DataError(f"{TALL} is no readable JSON") from None
    needed = {"Z", "H", "W"}
    if not isinstance(cards, dict) or not all(
        isinstance(card, dict) and needed <= card.keys() for card in cards.values()
    ):
        return {}
    return cards


def _split_tall(tall: np.ndarray, card: Mapping[str, Any], axes: str) -> tuple[np.ndarray, Spacing, str]:
    """((Z, H, W), mm (z, y, x), axes) of a tall picture. Raises DataError where card and picture disagree."""
    shape = tuple(card[name] for name in "ZHW")
    if not all(isinstance(count, int) and count > 0 for count in shape):
        raise DataError(f"{TALL} gives Z, H, W as {first_few(shape)}; whole numbers above 0 were expected")
    slices, height, width = shape
    if tall.shape != (slices * height, width):
        raise DataError(
            f"{tall.shape[0]}x{tall.shape[1]} pixels, but {TALL} says {slices} slices of {height}x{width}"
        )
    try:
        x, y, z = (float(size) for size in card.get("spacing_xyz", (0, 0, 0)))
    except (TypeError, ValueError):
        raise DataError(f"{TALL} gives no spacing_xyz of three numbers") from None
    return tall.reshape(shape), (z, y, x), str(card.get("axes", axes))
