"""Prepares one scan: reads it, joins its labels, turns, normalizes and resamples it to slices of one size."""

# Z, H, W slices, rows and columns.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...platform.core.errors import DataError
from .alignment import align_labels, flip_doubt
from .config import Modality, PrepareConfig
from .discovery import ScanFiles
from .files import StackGeometry, read_image, read_labels
from .grid import Grid, Voxels, plan_grid, resample_to_grid, restore_from_grid, to_canonical

AIR = -500.0
"""A scan with values below this holds air in Hounsfield units: it is CT."""


def prepare_scan(
    scan: ScanFiles, config: PrepareConfig, organs: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """(image uint8, labels uint8 or None, card) of a scan, (Z, side, side) both. Raises DataError.

    organs: class number by name of file, for labels of one file per organ. The card holds modality, shape, spacing,
    grid, and for each class its voxels (counts) and slices.
    """
    geometry = StackGeometry(config.stack_spacing, config.stack_axes)
    image = read_image(scan.image, geometry)
    modality, guessed = _modality(scan, image, config)
    labels_ZHW, notes = None, image.notes
    if scan.label is None:
        notes += ("no label",)
    else:
        labels = _read_labels(scan.label, scan.label_shown_as, geometry, organs)
        labels_ZHW, label_notes = align_labels(image, labels)
        notes += label_notes
    border, spacing = (
        (config.ct_border, config.ct_spacing) if modality == "ct" else (config.mri_border, config.mri_spacing)
    )
    grid = plan_grid(
        image.shape, image.affine, side=config.side, border=border, spacing=spacing, known=image.spaced
    )
    if grid.prepared[0] < config.min_slices:
        raise DataError(f"{grid.prepared[0]} slices, {config.min_slices} are needed; lower --min-slices")
    gray, doubts = _to_gray(image, modality, config)
    resampled_ZHW = resample_to_grid(to_canonical(gray, grid.axes), grid, nearest=False)
    image_ZHW = np.rint(resampled_ZHW).astype(np.uint8)
    if labels_ZHW is not None:
        whole_ZHW, labels_ZHW = labels_ZHW, resample_to_grid(labels_ZHW, grid, nearest=True)
        doubts += _loss_doubts(whole_ZHW, labels_ZHW, grid)
        doubts += [doubt] if (doubt := flip_doubt(image_ZHW, labels_ZHW)) else []
    card = {
        "modality": modality,
        "guessed": guessed,
        "labelled": labels_ZHW is not None,
        "shape": list(grid.prepared),
        "spacing": [round(size, 6) for size in grid.spacing],
        "axes": grid.axes,
        "grid": grid.card(),
        **_class_counts(labels_ZHW),
        "notes": list(notes),
        "doubts": doubts,
    }
    return image_ZHW, labels_ZHW, card


def _read_labels(path: Path, shown_as: str, geometry: StackGeometry, organs: Mapping[str, int]) -> Voxels:
    """Raises DataError where labels cannot be read or are empty."""
    try:
        labels = read_labels(path, geometry, organs)
    except DataError as reason:
        raise DataError(f"its label {shown_as}: {reason}") from None
    if not labels.values.any():
        raise DataError(f"its label {shown_as}: empty, no voxel above 0")
    return labels


def _modality(scan: ScanFiles, image: Voxels, config: PrepareConfig) -> tuple[Modality, bool]:
    """(modality of a scan, whether it was guessed from its values)."""
    stated = scan.modality or (config.modality if config.modality != "guess" else "") or image.modality
    if stated:
        return cast(Modality, stated), False
    return ("ct" if image.values.min() < AIR else "mri"), True


def _to_gray(image: Voxels, modality: Modality, config: PrepareConfig) -> tuple[np.ndarray, list[str]]:
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
    gray = np.clip((image.values - low) * np.float32(255 / max(high - low, 1e-12)), 0, 255)
    if gray.min() == gray.max():
        raise DataError("all voxels have one value once clipped; nothing can be seen")
    return gray, doubts


def _loss_doubts(whole_ZHW: np.ndarray, prepared_ZHW: np.ndarray, grid: Grid) -> list[str]:
    """What cropping and resampling took from the labels."""
    doubts = []
    inside_ZHW = to_canonical(restore_from_grid(np.ones(grid.prepared, np.uint8), grid), grid.axes) > 0
    outside = np.count_nonzero(whole_ZHW[~inside_ZHW]) / np.count_nonzero(whole_ZHW)
    if outside > 0:
        doubts.append(f"{100 * outside:.2g} % of the labelled voxels lie beyond the prepared slices")
    lost = sorted(set(_class_numbers(whole_ZHW)) - set(_class_numbers(prepared_ZHW)))
    if lost:
        doubts.append(f"class {', '.join(map(str, lost))} is labelled but not on the prepared slices")
    return doubts


def _class_counts(labels_ZHW: np.ndarray | None) -> dict[str, dict[str, int]]:
    """Class number -> its voxels (`counts`), and class number -> the slices that show it (`slices`)."""
    masks = {} if labels_ZHW is None else {str(n): labels_ZHW == n for n in _class_numbers(labels_ZHW)}
    return {
        "counts": {number: int(np.count_nonzero(mask_ZHW)) for number, mask_ZHW in masks.items()},
        "slices": {number: int(mask_ZHW.any(axis=(1, 2)).sum()) for number, mask_ZHW in masks.items()},
    }


def _class_numbers(labels: np.ndarray) -> list[int]:
    """Class numbers that occur in uint8 labels, without background."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return [int(number) for number in np.flatnonzero(counts) if number]
