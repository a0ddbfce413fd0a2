"""One scan's way from its files to slices of 256 x 256: read, joined with its labels, turned, normalised, resampled."""

# Z, H, W slices, rows and columns.

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from .checks import flip_doubt, labels_on
from .files import Stacked, image_of, kind_of, labels_of, organ_files
from .grid import Grid, Voxels, affine_of, oriented, placed, planned, unplaced
from .names import stem
from .pairs import Found

AIR = -500.0
"""A scan with values below this holds air in Hounsfield units: it is CT."""

Modality = Literal["ct", "mri"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """How scans become slices; the defaults are the published benchmarks' (arXiv 2403.03273, section 4.1)."""

    modality: Literal["guess", "ct", "mri"] = "guess"
    """What the scans are. guess: by a table's column, a DICOM tag, or else CT where values lie below -500."""
    side: int = 256
    """Side of a prepared slice, in pixels."""
    ct_window: tuple[float, float] = (-125.0, 275.0)
    """Hounsfield units that become 0 and 255."""
    ct_border: float = 0.0625
    """Part of a slice cut from each edge: 32 of 512 pixels."""
    ct_spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """mm (z, y, x) to resample to; 0 keeps the slices, or in the plane scales them to fill the square."""
    mri_top: float = 0.5
    """Percent of the brightest voxels that are clipped; pictures of 8 bits keep their values."""
    mri_border: float = 0.0
    """Part of a slice cut from each edge."""
    mri_spacing: tuple[float, float, float] = (7.7, 1.25, 1.25)
    """mm (z, y, x) to resample to, before the centre is cropped or filled up; 0 as for CT."""
    stack_spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """mm (z, y, x) of scans that are folders of pictures; 0: not known, so nothing is resampled to mm."""
    stack_axes: str = "SPL"
    """Where slices, rows and columns of pictures run: S or I, A or P, L or R (SPL: upwards, to the back, to the
    patient's left, as radiologists look at them)."""
    classes: str = ""
    """Names of classes: `1=liver,2=spleen`, or a JSON or CSV file; empty: SRC/classes.json or SRC/dataset.json
    where there is one."""
    min_slices: int = 3
    """Scans with fewer prepared slices are left out; three parts need 3, single pictures 1."""

    def __post_init__(self) -> None:
        for name in ("side", "min_slices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("ct_border", "mri_border"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ConfigError(f"{name} is {getattr(self, name)}; a part of a side, from 0 to below 0.5")
        for name in ("ct_spacing", "mri_spacing", "stack_spacing"):
            if not all(0 <= size < float("inf") for size in getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)}; give mm, or 0")
        if not self.ct_window[0] < self.ct_window[1]:
            raise ConfigError(f"ct_window is {self.ct_window}; the first must lie below the second")
        if not 0 <= self.mri_top < 100:
            raise ConfigError(f"mri_top is {self.mri_top}; give percent, from 0 to below 100")
        try:
            affine_of(self.stack_axes, (1.0, 1.0, 1.0))
        except DataError as error:
            raise ConfigError(f"stack_axes: {error}") from None


def class_names(text: str, source: Path) -> dict[int, str]:
    """Number -> name from `1=liver,2=spleen`, a JSON or CSV file, or what lies in the source; background left away.

    JSON: {"1": "liver"} or {"liver": 1}, plain or under "labels" (dataset.json of nnU-Net); CSV: number,name.
    Raises ConfigError where it cannot be read.
    """
    if not text:
        folder = source if source.is_dir() else source.parent
        usual = [folder / name for name in ("classes.json", "dataset.json") if (folder / name).is_file()]
        if not usual:
            return {}
        text = str(usual[0])
    try:
        if text.lower().endswith(".json"):
            told = json.loads(Path(text).read_text())
            told = told.get("labels", told)
            pairs = [(value, key) if isinstance(value, int) else (key, value) for key, value in told.items()]
        elif text.lower().endswith(".csv"):
            with Path(text).open(newline="", encoding="utf-8-sig") as file:
                pairs = [(row[0], row[1]) for row in csv.reader(file) if row and row[0].strip().isdecimal()]
        else:
            pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
        named = {int(number): str(name).strip() for number, name in pairs}
    except (OSError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise ConfigError(
            f"classes '{text}' cannot be read ({type(error).__name__}); write 1=liver,2=spleen"
        ) from None
    wrong = [number for number, name in named.items() if not 0 <= number <= 255 or not name]
    if wrong:
        raise ConfigError(
            f"classes '{text}': number {wrong[0]}; classes are numbered 1 to 255, each with a name"
        )
    named.pop(0, None)
    return named


def organs_of(labels: Sequence[Path | None], names: Mapping[int, str]) -> dict[str, int]:
    """Organ -> class number, for labels that are folders of one NIfTI file an organ (TotalSegmentator's).

    With names, only the organs that they name count; without, all of them, numbered in the order of the alphabet.
    Raises DataError for more than 255.
    """
    folders = [folder for folder in labels if folder is not None and kind_of(folder) == "organs"]
    organs = sorted({stem(file.name) for folder in folders for file in organ_files(folder)})
    if names:
        return {name: number for number, name in names.items() if name in organs}
    if len(organs) > 255:
        raise DataError(f"{len(organs)} organs, 255 classes at most; name those wanted with --classes")
    return {organ: number for number, organ in enumerate(organs, start=1)}


def scan_of(
    scan: Found, config: PrepareConfig, organs: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """(image uint8, labels uint8 or None, card) of a scan, (Z, side, side) both. Raises DataError with the reason.

    The card holds modality, shape, spacing, grid, and for each class its voxels (counts) and slices.
    """
    stacked = Stacked(config.stack_spacing, config.stack_axes)
    image = image_of(scan.image, stacked)
    modality, guessed = _modality(scan, image, config)
    labels_ZHW, notes = None, image.notes
    if scan.label is None:
        notes += ("no label",)
    else:
        labels_ZHW, more = labels_on(image, _labels(scan, stacked, organs))
        notes += more
    grid = _grid(image, modality, config)
    if grid.prepared[0] < config.min_slices:
        raise DataError(f"{grid.prepared[0]} slices, {config.min_slices} are needed; lower --min-slices")
    grey, doubts = _grey(image, modality, config)
    image_ZHW = np.rint(placed(oriented(grey, grid.axes), grid, nearest=False)).astype(np.uint8)
    if labels_ZHW is not None:
        before_ZHW, labels_ZHW = labels_ZHW, placed(labels_ZHW, grid, nearest=True)
        doubts += _lost(before_ZHW, labels_ZHW, grid)
        doubts += [doubt] if (doubt := flip_doubt(image_ZHW, labels_ZHW)) else []
    card = {
        "modality": modality,
        "guessed": guessed,
        "labelled": labels_ZHW is not None,
        "shape": list(grid.prepared),
        "spacing": [round(size, 6) for size in grid.spacing],
        "axes": grid.axes,
        "grid": grid.card(),
        **_counted(labels_ZHW),
        "notes": list(notes),
        "doubts": doubts,
    }
    return image_ZHW, labels_ZHW, card


def _grid(image: Voxels, modality: Modality, config: PrepareConfig) -> Grid:
    border, spacing = (
        (config.ct_border, config.ct_spacing) if modality == "ct" else (config.mri_border, config.mri_spacing)
    )
    return planned(
        image.values.shape, image.affine, side=config.side, border=border, spacing=spacing, known=image.spaced
    )


def _labels(scan: Found, stacked: Stacked, organs: Mapping[str, int]) -> Voxels:
    """Raises DataError where they cannot be read or are empty."""
    try:
        labels = labels_of(scan.label, stacked, organs)
    except DataError as reason:
        raise DataError(f"its label {scan.label_told}: {reason}") from None
    if not labels.values.any():
        raise DataError(f"its label {scan.label_told}: empty, no voxel above 0")
    return labels


def _modality(scan: Found, image: Voxels, config: PrepareConfig) -> tuple[Modality, bool]:
    """(what a scan is, whether that was guessed by its values)."""
    told = scan.modality or (config.modality if config.modality != "guess" else "") or image.modality
    return (told, False) if told else ("ct" if image.values.min() < AIR else "mri", True)


def _grey(image: Voxels, modality: Modality, config: PrepareConfig) -> tuple[np.ndarray, list[str]]:
    """(values 0 to 255 float32 on the stored grid, doubts). Raises DataError for a scan without contrast."""
    low, high = float(image.values.min()), float(image.values.max())
    doubts = []
    if not image.placed and low >= 0 and high <= 255:
        low, high = 0.0, 255.0  # pictures of 8 bits were windowed or clipped when they were written
    elif modality == "mri":
        high = float(np.percentile(image.values, 100 - config.mri_top))
    else:
        if low > config.ct_window[0]:
            doubts = [f"a CT whose least value is {low:g}: are these Hounsfield units?"]
        low, high = config.ct_window
    grey = np.clip((image.values - low) * np.float32(255 / max(high - low, 1e-12)), 0, 255)
    if grey.min() == grey.max():
        raise DataError("all voxels have one value once clipped; nothing can be seen")
    return grey, doubts


def _lost(before_ZHW: np.ndarray, after_ZHW: np.ndarray, grid: Grid) -> list[str]:
    """What cutting and resampling took from the labels, as doubts."""
    doubts = []
    inside_ZHW = oriented(unplaced(np.ones(grid.prepared, np.uint8), grid), grid.axes) > 0
    outside = np.count_nonzero(before_ZHW[~inside_ZHW]) / np.count_nonzero(before_ZHW)
    if outside > 0:
        doubts.append(f"{100 * outside:.2g} % of the labelled voxels lie beyond the prepared slices")
    gone = sorted(set(_numbers(before_ZHW)) - set(_numbers(after_ZHW)))
    if gone:
        doubts.append(f"class {', '.join(map(str, gone))} is labelled but not on the prepared slices")
    return doubts


def _counted(labels_ZHW: np.ndarray | None) -> dict[str, dict[str, int]]:
    """Class number -> its voxels, and the slices on which it is seen."""
    numbers = [] if labels_ZHW is None else _numbers(labels_ZHW)
    found = {number: labels_ZHW == number for number in numbers}
    return {
        "counts": {str(number): int(np.count_nonzero(mask_ZHW)) for number, mask_ZHW in found.items()},
        "slices": {str(number): int(mask_ZHW.any(axis=(1, 2)).sum()) for number, mask_ZHW in found.items()},
    }


def _numbers(labels: np.ndarray) -> list[int]:
    """Class numbers that occur in uint8 labels, background left away."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return [int(number) for number in np.flatnonzero(counts) if number]
