"""How a scan was acquired: in which plane its slices lie, and whether a tilted gantry has sheared its grid."""

# Z, H, W slices, rows and columns of the chosen plane.

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np

from ...platform.core.errors import DataError
from ..common.shapes import shape_text
from .config import Plane, world_axes
from .grid import (
    MAX_SHEAR,
    MAX_VOXELS,
    Triple,
    Voxels,
    axes_of,
    canonical_affine,
    shear,
    to_canonical,
    voxel_sizes,
)

MIN_ANISOTROPY = 1.2
"""Slices lie across the axis whose spacing is this many times the next one."""

MAX_COUNT_RATIO = 1.5
"""Where another plane gives this many times more or fewer slices than the axial one, the choice is doubted."""

PLANE_ACROSS: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
"""Plane across each axis of the world: left-right, front-back, feet-head."""


def choose_plane(image: Voxels, wanted: Literal["acquired"] | Plane) -> tuple[Plane, str]:
    """(plane in which a scan is sliced, a doubt or empty).

    acquired: across the axis with the largest spacing, or the only one with a single voxel; pictures are slices
    themselves; where spacings are nearly equal: axial.
    """
    if wanted != "acquired":
        return wanted, ""
    axes = world_axes(axes_of(image.affine))
    across = _slice_axis(image)
    plane = "axial" if across is None else PLANE_ACROSS[axes[across]]
    if across is None or plane == "axial":
        return "axial", ""
    count, axial = image.shape[across], image.shape[axes.index(2)]
    if max(count / axial, axial / count) < MAX_COUNT_RATIO:
        return plane, ""
    return (
        plane,
        f"sliced as it was acquired, {plane}: {count} slices; axial would be {axial}; --plane chooses",
    )


def _slice_axis(image: Voxels) -> int | None:
    """The stored axis from slice to slice; None where the spacings do not tell."""
    if not image.placed:
        return 0
    single = [axis for axis, count in enumerate(image.shape) if count == 1]
    if len(single) == 1:
        return single[0]
    sizes = voxel_sizes(image.affine)
    *_, second, largest = sorted(range(3), key=sizes.__getitem__)
    if sizes[largest] < MIN_ANISOTROPY * sizes[second] or (image.slices_first and largest != 0):
        return None
    return largest


def shear_doubt(image: Voxels) -> str:
    """Says that the grid of a scan is sheared, and what follows; empty where it is not."""
    cosine = shear(image.affine)
    if cosine <= MAX_SHEAR:
        return ""
    degrees = math.degrees(math.asin(min(cosine, 1.0)))
    return (
        f"its grid is sheared by {degrees:.3g} degrees (a tilted gantry?): volumes and distances follow it, but ITK "
        "and what is built on it cannot open its mask; --orthogonal resamples it"
    )


def to_orthogonal(
    image: Voxels, labels_ZHW: np.ndarray | None, plane: Plane
) -> tuple[Voxels, np.ndarray | None]:
    """A sheared scan and its labels on the smallest orthogonal grid that holds it; slices stay where they are.

    labels_ZHW: as slices of the plane. The image is interpolated linearly, labels take the nearest value; outside the
    scan are its lowest value and 0. Raises DataError where the grid would be too large.
    """
    from scipy.ndimage import affine_transform

    image_ZHW = to_canonical(image.values, axes_of(image.affine), plane)
    old = canonical_affine(image.affine, image.shape, plane)
    new, shape = _orthogonal_grid(old, cast(Triple, image_ZHW.shape))
    to_old = np.linalg.inv(old) @ new
    matrix, offset = to_old[:3, :3], to_old[:3, 3]
    lowest = float(image_ZHW.min())
    values = affine_transform(image_ZHW, matrix, offset, output_shape=shape, order=1, cval=lowest)
    if labels_ZHW is not None:
        labels_ZHW = affine_transform(labels_ZHW, matrix, offset, output_shape=shape, order=0, cval=0)
        labels_ZHW = to_canonical(labels_ZHW, axes_of(new), plane)
    note = "resampled from a sheared grid to an orthogonal one"
    return (
        Voxels(
            values,
            new,
            placed=image.placed,
            in_mm=image.in_mm,
            modality=image.modality,
            notes=(*image.notes, note),
            doubts=image.doubts,
        ),
        labels_ZHW,
    )


def _orthogonal_grid(affine: np.ndarray, shape: Triple) -> tuple[np.ndarray, Triple]:
    """(affine, shape) of an orthogonal grid around a sheared one of slices, rows and columns, in the slices' planes."""
    slices, rows, columns = affine[:3, :3].T
    x = columns / np.linalg.norm(columns)
    y = rows - (rows @ x) * x
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    z *= np.sign(z @ slices)
    axes = np.stack([z, y, x])
    sizes = np.array([z @ slices, y @ rows, x @ columns])
    corners = np.array(
        [[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)]
    )
    places = (corners @ affine.T)[:, :3] @ axes.T / sizes
    low, high = places.min(axis=0), places.max(axis=0)
    count = tuple(int(number) for number in np.ceil(high - low - 1e-6) + 1)
    if math.prod(count) > MAX_VOXELS:
        raise DataError(
            f"an orthogonal grid around it would have {shape_text(count)} voxels; is its affine right?"
        )
    new = np.eye(4)
    new[:3, :3] = axes.T * sizes
    new[:3, 3] = axes.T @ (low * sizes)
    return new, cast(Triple, count)
