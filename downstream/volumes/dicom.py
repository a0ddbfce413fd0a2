"""Reads a folder of DICOM slices of one series: sorted by position, in Hounsfield units where it is CT.

Errors are DataErrors that hold the reason alone, no path and no value that could name a patient.
"""

# Z slices, H, W rows and columns of a slice.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import DataError, DicomError
from ..common.shapes import shape_text
from .grid import Voxels
from .names import first_few, natural_key, stem

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_UNEVEN = 0.05
"""Gaps between slices may differ by this part of the typical gap."""

MAX_JITTER = 0.15
"""Slices may lie this part of their gap beside an even grid: 4 % to either side makes gaps differ by 8 %."""

MAX_DRIFT = 0.5
"""A slice that is moved by more than this part of a pixel in its plane, beside a straight line, is doubted."""

MAX_ASKEW = 1e-3
"""Direction cosines may differ by this much between slices of one series."""


def is_slice(file: Path) -> bool:
    """Whether a file seems to be DICOM: by its content, unless its ending is that of another kind."""
    from ...platform.dicom.header import is_dicom

    if file.name == "DICOMDIR" or file.name.startswith(".") or stem(file.name) != file.name:
        return False
    with suppress(OSError), file.open("rb") as stream:
        return is_dicom(stream.read(132))
    return False


def read_series(folder: Path, *, header_only: bool = False) -> Voxels:
    """The slices of one series sorted along their normal, rescaled (HU for CT); axes are slice, row, column.

    Positions and directions follow PS3.3 C.7.6.2.1.1 (LPS) and are turned to RAS. header_only: pixels are not decoded,
    values are zeros. Raises DataError where the files are not one evenly spaced volume.
    """
    files = sorted(
        (file for file in folder.iterdir() if is_slice(file)), key=lambda file: natural_key(file.name)
    )
    slices = [_read_slice(file, header_only) for file in files]
    series = {one.series for one in slices}
    if len(series) > 1:
        raise DataError(f"{len(series)} series in one folder; give each its own folder")
    for field in ("shape", "modality"):
        values = {getattr(one, field) for one in slices}
        if len(values) > 1:
            raise DataError(f"slices of several kinds, {field} {first_few(sorted(values))}; keep one kind")
    directions = np.stack([one.directions for one in slices])
    if np.abs(directions - directions[0]).max() > MAX_ASKEW:
        raise DataError(
            "slices of different directions (a localizer among them?); keep those of one direction"
        )
    spacings = np.array([one.spacing for one in slices])
    if np.abs(spacings - spacings[0]).max() > MAX_ASKEW * spacings[0].min():
        raise DataError("slices of different PixelSpacing; keep those of one")
    positions = np.stack([one.position for one in slices])
    order, step, notes = _slice_order(positions, directions[0], slices[0].thickness or 1.0)
    first = slices[order[0]]
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = first.directions[0] * first.spacing[1]
    affine[:3, 3] = first.position
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS -> RAS
    values_ZHW = (
        np.broadcast_to(np.float32(0), (len(slices), *first.values.shape))
        if header_only
        else np.stack([slices[place].values for place in order])
    )
    modality = {"CT": "ct", "MR": "mri"}.get(first.modality, "")
    return Voxels(
        values_ZHW,
        affine,
        in_mm=len(slices) > 1 or first.thickness is not None,
        slices_first=True,
        slice_names=tuple(slices[place].name for place in order),
        slice_numbers=_distinct([slices[place].number for place in order]),
        modality=modality,
        notes=(*notes, *dict.fromkeys(doubt for one in slices for doubt in one.doubts)),
        doubts=_drift_doubts(positions[order], step, min(first.spacing)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _DicomSlice:
    """One DICOM file: values (H, W) float32, directions (2, 3) along a row and down a column, spacing (y, x).

    number: InstanceNumber, None where there is none.
    """

    name: str
    number: int | None
    values: np.ndarray
    position: np.ndarray
    directions: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    modality: str
    series: str
    doubts: tuple[str, ...]

    @property
    def shape(self) -> str:
        return shape_text(self.values.shape)


def _read_slice(file: Path, header_only: bool = False) -> _DicomSlice:
    """Reads one file. Raises DataError where it is not a gray slice with a position."""
    from ...platform.dicom.header import read_header
    from ...platform.dicom.pixels import raw_pixels
    from ...platform.dicom.tags import quiet

    try:
        dataset = read_header(file.read_bytes())
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise DataError("a file of several frames; export single frames or NIfTI")
        if dataset.PhotometricInterpretation != "MONOCHROME2":
            raise DataError(f"pixels are {dataset.PhotometricInterpretation}; a slice is MONOCHROME2")
        values, doubts = _no_values(dataset), tuple[str, ...]()
        if not header_only:
            raw = raw_pixels(dataset)
            with quiet():
                values, doubts = _rescaled(raw, dataset), _doubts(raw, dataset)
    except DicomError as error:
        raise DataError(f"a slice that cannot be decoded ({error})") from None
    except OSError as error:
        raise DataError(f"a slice that cannot be read ({type(error).__name__})") from None
    with quiet():
        y, x = _numbers(dataset, "PixelSpacing", 2)
        thickness = dataset.get("SliceThickness")
        return _DicomSlice(
            name=file.name,
            number=_instance_number(dataset),
            values=values,
            position=_numbers(dataset, "ImagePositionPatient", 3),
            directions=_numbers(dataset, "ImageOrientationPatient", 6).reshape(2, 3),
            spacing=(float(y), float(x)),
            thickness=float(thickness) if thickness else None,
            modality=str(dataset.get("Modality") or ""),
            series=str(dataset.get("SeriesInstanceUID") or ""),
            doubts=doubts,
        )


def _rescaled(raw: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values through the modality LUT or slope and intercept, float32: HU for CT (PS3.3 C.11.1.1.2).

    Padding that is brighter than everything else becomes as dark as the darkest.
    """
    from ...platform.dicom.luts import modality_values
    from ...platform.dicom.stored import padding_range

    values = modality_values(dataset, raw).astype(np.float32)
    padding = padding_range(dataset)
    if padding is not None:
        is_padding = (raw >= padding[0]) & (raw <= padding[1])
        others = values[~is_padding]
        if is_padding.any() and others.size and values[is_padding].min() > others.max():
            values[is_padding] = others.min()
    return values


def _doubts(raw: np.ndarray, dataset: Dataset) -> tuple[str, ...]:
    """Where a slice's header contradicts its pixels or says nothing about their unit."""
    from ...platform.dicom.luts import rescale_doubt
    from ...platform.dicom.stored import bits_doubt

    doubts = [bits_doubt(dataset, raw), rescale_doubt(dataset)]
    if dataset.get("Modality") == "CT" and not {"RescaleIntercept", "ModalityLUTSequence"} & set(
        dataset.dir()
    ):
        doubts.append("no RescaleIntercept: stored values are taken as Hounsfield units")
    return tuple(filter(None, doubts))


def _no_values(dataset: Dataset) -> np.ndarray:
    """Zeros of the shape that the header names, which take no memory."""
    return np.broadcast_to(np.float32(0), (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)))


def _instance_number(dataset: Dataset) -> int | None:
    with suppress(Exception):  # pydicom converts late, and a damaged value can raise anything
        return int(dataset.get("InstanceNumber"))
    return None


def _distinct(numbers: Sequence[int | None]) -> tuple[int, ...]:
    """The numbers where all are known and no two the same, else none."""
    known = tuple(number for number in numbers if number is not None)
    return known if len(set(known)) == len(numbers) else ()


def _numbers(dataset: Dataset, name: str, count: int) -> np.ndarray:
    """The values of a tag of `count` finite numbers, (count,) float64. Raises DataError."""
    with suppress(Exception):  # pydicom converts late, and a damaged value can raise anything
        values = np.array([float(one) for one in dataset.get(name)])
        if values.shape == (count,) and np.isfinite(values).all():
            return values
    raise DataError(f"a slice without a usable {name}, which must say where it lies")


def _slice_order(
    positions_Z3: np.ndarray, directions: np.ndarray, thickness: float
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(order of the slices (Z,) int, step from one to the next in mm (3,), notes). Raises DataError for uneven gaps."""
    normal = np.cross(directions[0], directions[1])
    depths = positions_Z3 @ normal
    order = np.argsort(depths, kind="stable")
    if len(order) == 1:
        return order, normal * thickness, ()
    gaps = np.diff(depths[order])
    typical = float(np.median(gaps))
    if gaps.min() < MAX_UNEVEN * max(typical, 1e-6):
        raise DataError("two slices at the same place (several phases or echoes?); keep one of them")
    worst = float(gaps[np.argmax(np.abs(gaps - typical))])
    step = (positions_Z3[order[-1]] - positions_Z3[order[0]]) / (len(order) - 1)
    if abs(worst - typical) <= MAX_UNEVEN * typical:
        return order, step, ()
    even = depths[order[0]] + np.arange(len(order)) * (step @ normal)
    jitter = float(np.abs(depths[order] - even).max() / (step @ normal))
    if jitter > MAX_JITTER or max(worst / typical, typical / worst) >= 1.5:
        raise DataError(
            f"a gap of {worst:.4g} mm between slices that lie {typical:.4g} mm apart; is one missing?"
        )
    note = f"slices lie up to {100 * jitter:.2g} % of their gap ({typical:.4g} mm) beside an even grid; taken as even"
    return order, step, (note,)


def _drift_doubts(positions_Z3: np.ndarray, step: np.ndarray, pixel: float) -> tuple[str, ...]:
    """Doubts a series whose slices, sorted, are moved against each other in their plane, beside a straight line."""
    aside_Z3 = positions_Z3 - positions_Z3[0] - np.arange(len(positions_Z3))[:, None] * step
    along = step / np.linalg.norm(step)
    moved = float(np.linalg.norm(aside_Z3 - np.outer(aside_Z3 @ along, along), axis=1).max())
    if moved <= MAX_DRIFT * pixel:
        return ()
    return (f"slices are moved by up to {moved:.3g} mm in their plane, which is not corrected",)
