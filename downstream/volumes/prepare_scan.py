"""Prepares one scan: reads it, joins its labels, turns, normalizes and resamples it to slices of one size."""

# Z, H, W slices, rows and columns.

from __future__ import annotations

from typing import Any, cast

import numpy as np

from ...platform.core.errors import DataError
from .acquisition import choose_plane, shear_doubt, to_orthogonal
from .alignment import align_labels, flip_doubt
from .config import Modality, Plane, PrepareConfig
from .discovery import ScanFiles
from .files import StackGeometry, read_geometry, read_image, read_labels
from .grid import Grid, Voxels, plan_grid, resample_to_grid, restore_from_grid, to_canonical
from .label_values import LabelValues

AIR = -500.0
"""A scan with values below this holds air in Hounsfield units: it is CT."""


def check_scan(scan: ScanFiles, config: PrepareConfig) -> None:
    """Raises DataError for what the headers of a scan and its label tell, before any voxel is read.

    Pictures have no header that tells where they lie, and are not looked at.
    """
    image = read_geometry(scan.image)
    if image is None:
        return
    plane, _ = choose_plane(image, config.plane)
    if scan.label is not None:
        try:
            labels = read_geometry(scan.label)
        except DataError as reason:
            raise DataError(f"its label {scan.label_shown_as}: {reason}") from None
        if labels is not None:
            align_labels(image, labels, plane)
    if modality := _stated_modality(scan, image, config):
        _plan(image, modality, plane, config)


def prepare_scan(
    scan: ScanFiles, config: PrepareConfig, values: LabelValues
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """(image uint8, labels uint8 or None, card) of a scan, (Z, side, side) both. Raises DataError.

    The card holds modality, shape, spacing (None where it is not known in mm), grid, and for each class its voxels
    (counts) and slices.
    """
    geometry = StackGeometry(scan.spacing or config.stack_spacing, scan.axes or config.stack_axes)
    image = read_image(scan.image, geometry)
    modality, guessed = _modality(scan, image, config)
    plane, doubt = choose_plane(image, config.plane)
    labels_ZHW, label_notes, doubts = _aligned_labels(scan, image, geometry, values, plane)
    doubts += (*image.doubts, doubt, shear_doubt(image))
    if config.orthogonal and shear_doubt(image):
        image, labels_ZHW = to_orthogonal(image, labels_ZHW, plane)
        doubts = doubts[:-1]
    grid = _plan(image, modality, plane, config)
    gray, gray_doubts = _to_gray(image, modality, config)
    resampled_ZHW = resample_to_grid(to_canonical(gray, grid.axes, plane), grid, nearest=False)
    image_ZHW = np.rint(resampled_ZHW).astype(np.uint8)
    doubts += gray_doubts
    if labels_ZHW is not None:
        whole_ZHW, labels_ZHW = labels_ZHW, resample_to_grid(labels_ZHW, grid, nearest=True)
        doubts += (*_loss_doubts(whole_ZHW, labels_ZHW, grid), flip_doubt(image_ZHW, labels_ZHW, plane))
    card = {
        "modality": modality,
        "guessed": guessed,
        "labelled": labels_ZHW is not None,
        "shape": list(grid.prepared),
        "in_mm": image.in_mm,
        "spacing": [round(size, 6) for size in grid.spacing] if image.in_mm else None,
        "axes": grid.axes,
        "grid": grid.card(),
        **_class_counts(labels_ZHW),
        "notes": [
            *dict.fromkeys((*image.notes, *label_notes)),
            *([f"sliced {plane}"] if plane != "axial" else []),
        ],
        "doubts": [text for text in doubts if text],
    }
    return image_ZHW, labels_ZHW, card


def _aligned_labels(
    scan: ScanFiles, image: Voxels, geometry: StackGeometry, values: LabelValues, plane: Plane
) -> tuple[np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    """(labels (Z, H, W) on the image's voxels or None, notes, doubts). Raises DataError."""
    if scan.label is None:
        return None, ("no label",), ()
    try:
        labels = read_labels(scan.label, geometry, values)
    except DataError as reason:
        raise DataError(f"its label {scan.label_shown_as}: {reason}") from None
    if not labels.values.any():
        raise DataError(f"its label {scan.label_shown_as}: empty, no voxel above 0")
    return align_labels(image, labels, plane)


def _plan(image: Voxels, modality: Modality, plane: Plane, config: PrepareConfig) -> Grid:
    """The grid of a scan. Raises DataError where it has too few slices or too many voxels."""
    border, spacing = (
        (config.ct_border, config.ct_spacing) if modality == "ct" else (config.mri_border, config.mri_spacing)
    )
    grid = plan_grid(
        image.shape,
        image.affine,
        side=config.side,
        border=border,
        spacing=spacing,
        in_mm=image.in_mm,
        plane=plane,
    )
    if grid.prepared[0] < config.min_slices:
        raise DataError(f"{grid.prepared[0]} slices, {config.min_slices} are needed; lower --min-slices")
    return grid


def _stated_modality(scan: ScanFiles, image: Voxels, config: PrepareConfig) -> Modality | None:
    stated = scan.modality or (config.modality if config.modality != "guess" else "") or image.modality
    return cast(Modality, stated) if stated else None


def _modality(scan: ScanFiles, image: Voxels, config: PrepareConfig) -> tuple[Modality, bool]:
    """(modality of a scan, whether it was guessed from its values)."""
    if stated := _stated_modality(scan, image, config):
        return stated, False
    return ("ct" if image.values.min() < AIR else "mri"), True


def _to_gray(image: Voxels, modality: Modality, config: PrepareConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    """(values 0 to 255 float32 on the stored grid, doubts). Raises DataError for a scan without contrast."""
    low, high = float(image.values.min()), float(image.values.max())
    doubt = ""
    if not image.placed and low >= 0 and high <= 255:
        low, high = 0.0, 255.0  # pictures of 8 bits were windowed or clipped when they were written
    elif modality == "mri":
        high = float(np.percentile(image.values, 100 - config.mri_top))
    else:
        if low > config.ct_window[0]:
            doubt = f"a CT whose least value is {low:g}: are these Hounsfield units?"
        low, high = config.ct_window
    gray = np.clip((image.values - low) * np.float32(255 / max(high - low, 1e-12)), 0, 255)
    if gray.min() == gray.max():
        raise DataError("all voxels have one value once clipped; nothing can be seen")
    return gray, (doubt,)


def _loss_doubts(whole_ZHW: np.ndarray, prepared_ZHW: np.ndarray, grid: Grid) -> list[str]:
    """What cropping and resampling took from the labels."""
    doubts = []
    restored = restore_from_grid(np.ones(grid.prepared, np.uint8), grid)
    inside_ZHW = to_canonical(restored, grid.axes, grid.plane) > 0
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
