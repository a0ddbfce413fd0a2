"""Reads one scan or label map of any kind: NIfTI, a folder of DICOM slices, a folder of pictures, or one tall picture.

Errors are DataErrors that hold the reason alone, no path: the caller knows the file, and whether its name may be
shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import DataError
from ...platform.data import pictures
from .dicom import is_slice, read_series
from .grid import Spacing, Voxels, affine_of
from .label_values import LabelValues, to_class_numbers
from .names import NIFTI, PICTURES, first_few, natural_key, stem
from .nifti import read_nifti

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
        image = read_nifti(path)
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


def read_geometry(path: Path) -> Voxels | None:
    """What the headers of a scan or label map tell, without its voxels, which are zeros. Raises DataError.

    None for pictures, and for a folder of organs, of which only those that are classes count.
    """
    kind = file_kind(path)
    if kind == "nifti":
        return read_nifti(path, header_only=True)
    return read_series(path, header_only=True) if kind == "dicom" else None


def read_labels(path: Path, geometry: StackGeometry, values: LabelValues) -> Voxels:
    """The label map in a file or folder, class numbers as uint8, 0 for background. Raises DataError."""
    if file_kind(path) == "organs":
        return _read_organs(path, values.organs)
    labels = stored_labels(path, geometry)
    numbers = to_class_numbers(labels.values, values.numbers)
    if values.white and numbers.any() and not np.any((numbers > 0) & (numbers < 255)):
        return replace(
            labels, values=numbers // 255, notes=(*labels.notes, "white (255) is taken as class 1")
        )
    return replace(labels, values=numbers)


def stored_labels(path: Path, geometry: StackGeometry) -> Voxels:
    """A label map of one file or of pictures, its values as stored. Raises DataError."""
    kind = file_kind(path)
    if kind == "nifti":
        return read_nifti(path)
    if kind in ("picture", "stack"):
        return _read_stack(path, geometry, labels=True)
    raise DataError("no NIfTI file or folder of pictures; give one of these as label")


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
        mask = read_nifti(file)
        if merged is None:
            merged = replace(mask, values=np.zeros(mask.values.shape, np.uint8))
        elif mask.shape != merged.shape or not np.allclose(mask.affine, merged.affine, atol=1e-3):
            raise DataError(f"{file.name} lies on another grid than the other organs")
        merged.values[to_class_numbers(mask.values) > 0] = number
    if merged is None:
        raise DataError("none of its files is one of the classes")
    return merged


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
    known = all(0 < size < float("inf") for size in spacing)
    affine = affine_of(axes, spacing if known else (1.0, 1.0, 1.0))
    names = tuple(file.name for file in files) if card is None else ()
    return Voxels(
        values if labels else values.astype(np.float32),
        affine,
        placed=False,
        in_mm=known,
        slices_first=True,
        slice_names=names,
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
    if any((z, y, x)) and not all(0 < size < float("inf") for size in (z, y, x)):
        raise DataError(f"{TALL} gives a spacing_xyz that is not above 0; give mm, or leave it out")
    return tall.reshape(shape), (z, y, x), str(card.get("axes", axes))
