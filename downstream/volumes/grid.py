"""The grid of a scan as stored and the grid it is prepared on: there for pixels and labels, and back for masks.

Prepared slices are oriented as a radiologist reads them. Axial: slice 0 lies nearest to the feet, row 0 at the front of
the body, column 0 at the patient's right; the axes of (Z, H, W) run to Superior, Posterior, Left. Coronal and sagittal
slices have row 0 at the head (`PLANES`). In the plane a scan is cropped, resized and centered on a square. A Grid keeps
all of it, so that it can be undone.
"""

# I, J, K axes as stored; Z slices, H, W rows and columns of a slice; h, w those before they are centered.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...platform.core.errors import DataError
from ..common.shapes import shape_text
from .config import PLANES, Plane, world_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

CANONICAL = PLANES["axial"]
"""Axes of axial slices: to the head, to the back, to the patient's left."""

MAX_SHEAR = 1e-3
"""Axes whose cosine is above this are not taken as perpendicular: the grid is sheared."""

MAX_VOXELS = 2**30
"""Most voxels of a resampled scan: 4 GiB as float32."""

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Voxels:
    """A scan or its labels as stored: values (I, J, K), affine (4, 4) from index to mm in RAS+."""

    values: np.ndarray
    affine: np.ndarray
    placed: bool = True
    """Whether the file says where its voxels lie; else the affine holds assumed spacing and axes."""
    in_mm: bool = True
    """Whether the spacing is known, in mm; else the affine holds 1 in its place."""
    slices_first: bool = False
    """Whether the axes are slice, row, column, as in files of slices."""
    slice_names: tuple[str, ...] = ()
    """Name of the file of each slice, where each has one."""
    slice_numbers: tuple[int, ...] = ()
    """InstanceNumber of each slice, where all have one and no two the same."""
    modality: str = ""
    """The modality that the file itself states: ct, mri or empty."""
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def shape(self) -> Triple:
        """Shape of the values."""
        return cast(Triple, self.values.shape)

    def __repr__(self) -> str:
        return f"Voxels({shape_text(self.values.shape)} {self.values.dtype})"


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """How an array (I, J, K) becomes slices (Z, side, side).

    >>> Grid((4, 6, 5), np.eye(4), (0, 1), (5, 4, 4), 8)
    Grid(4x6x5 RAS -> 5x8x8)
    """

    shape: Triple
    """Shape of the array as stored."""
    affine: np.ndarray
    """(4, 4): index of the stored array -> mm to the right, front and head (RAS+)."""
    border: tuple[int, int]
    """Rows and columns cut from each edge of the canonical slices."""
    resized: Triple
    """Z, h, w after resampling."""
    side: int
    """Side of the square on which h x w is centered: cropped where larger, padded where smaller."""
    plane: Plane = "axial"

    @property
    def axes(self) -> str:
        """Directions of the stored axes, e.g. RAS; the nearest where they are oblique."""
        return axes_of(self.affine)

    @property
    def oriented(self) -> Triple:
        """Z, H, W of the stored array in canonical orientation."""
        order, _ = _turn(self.axes, self.plane)
        return cast(Triple, tuple(self.shape[axis] for axis in order))

    @property
    def spacing(self) -> Spacing:
        """mm from slice to slice, row to row, column to column of the prepared array."""
        order, _ = _turn(self.axes, self.plane)
        sizes = [voxel_sizes(self.affine)[axis] for axis in order]
        z, y, x = (
            float(size * before / after)
            for size, before, after in zip(sizes, self._kept, self.resized, strict=True)
        )
        return z, y, x

    @property
    def steps(self) -> np.ndarray:
        """(3, 3) mm: its rows lead from a prepared voxel to the next slice, row and column.

        The diagonal of `spacing` unless the grid is sheared; where the scan lies does not count.
        """
        if shear(self.affine) <= MAX_SHEAR:
            return np.diag(self.spacing)
        stored = canonical_affine(self.affine, self.shape, self.plane)[:3, :3]
        return (stored * self._kept / self.resized).T

    @property
    def _kept(self) -> Triple:
        """Z, H, W of the canonical slices without their border."""
        slices, rows, columns = self.oriented
        return slices, rows - 2 * self.border[0], columns - 2 * self.border[1]

    @property
    def prepared(self) -> Triple:
        """Shape of the prepared array."""
        return self.resized[0], self.side, self.side

    def card(self) -> dict[str, Any]:
        """The grid as JSON types; `grid_from_card` gives an equal one back."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "border": list(self.border),
            "resized": list(self.resized),
            "side": self.side,
            "plane": self.plane,
        }

    def __repr__(self) -> str:
        return f"Grid({shape_text(self.shape)} {self.axes} -> {shape_text(self.prepared)})"


def grid_from_card(card: Mapping[str, Any]) -> Grid:
    """The grid that `Grid.card` described. Raises KeyError or ValueError for another dict."""
    return Grid(
        shape=tuple(card["shape"]),
        affine=np.array(card["affine"], float),
        border=tuple(card["border"]),
        resized=tuple(card["resized"]),
        side=card["side"],
        plane=card.get("plane", "axial"),  # earlier versions cut all scans so
    )


def axes_of(affine: np.ndarray) -> str:
    """Letters of the directions in which the three indices grow.

    >>> axes_of(np.diag([-2.0, -2.0, 5.0, 1.0]))
    'LPS'
    """
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(affine))


def affine_of(axes: str, spacing: Spacing) -> np.ndarray:
    """The (4, 4) affine of an array with the given axes and spacing, its origin at its first voxel.

    Raises DataError where the letters do not name three directions.

    >>> axes_of(affine_of("SPL", (5.0, 1.0, 1.0)))
    'SPL'
    """
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (letter, row) in enumerate(zip(axes, world_axes(axes), strict=True)):
        affine[row, column] = spacing[column] if letter in "RAS" else -spacing[column]
    return affine


def voxel_sizes(affine: np.ndarray) -> Spacing:
    """mm along each stored axis."""
    i, j, k = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return i, j, k


def shear(affine: np.ndarray) -> float:
    """The largest cosine between two axes: 0 where all are perpendicular.

    >>> round(shear(np.array([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 2, 0], [0, 0, 0, 1]])), 3)
    0.447
    """
    directions = affine[:3, :3] / voxel_sizes(affine)
    return float(np.abs(directions.T @ directions - np.eye(3))[np.triu_indices(3, 1)].max())


def voxel_volume(steps: np.ndarray) -> float:
    """mm3 of a voxel, by the steps (3, 3) in mm to its three neighbors: the absolute determinant.

    >>> voxel_volume(np.array([[5.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.5]]))
    15.0
    """
    return abs(float(np.cross(steps[0], steps[1]) @ steps[2]))


def to_canonical(array_IJK: np.ndarray, axes: str, plane: Plane = "axial") -> np.ndarray:
    """An array with the given axes, turned to slices of a plane: a view, (Z, H, W)."""
    order, flips = _turn(axes, plane)
    return np.flip(array_IJK.transpose(order), tuple(axis for axis, flip in enumerate(flips) if flip))


def canonical_affine(affine: np.ndarray, shape: Triple, plane: Plane = "axial") -> np.ndarray:
    """The affine of an array of that shape after `to_canonical`: (z, y, x) -> mm."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(affine), axcodes2ornt(PLANES[plane]))
    return affine @ inv_ornt_aff(turn, shape)


def plan_grid(
    shape: Triple,
    affine: np.ndarray,
    *,
    side: int,
    border: float,
    spacing: Spacing,
    in_mm: bool = True,
    plane: Plane = "axial",
) -> Grid:
    """The grid on which an array of that shape and affine is prepared.

    border: part of each edge that is cut away. spacing: mm (z, y, x) to resample to. Where y or x is 0, or the
    array's spacing is not known, slices are scaled until their longer side fills the square; where z is 0, slices are
    not resampled along z. Raises DataError where it would have more than `MAX_VOXELS`.
    """
    order, _ = _turn(axes_of(affine), plane)
    sizes = [voxel_sizes(affine)[axis] for axis in order]
    slices, rows, columns = oriented = tuple(shape[axis] for axis in order)
    cut = int(border * rows), int(border * columns)
    kept = rows - 2 * cut[0], columns - 2 * cut[1]
    longest = max(kept[0] * sizes[1], kept[1] * sizes[2])
    pitch = spacing[1:] if in_mm and min(spacing[1:]) > 0 else (longest / side,) * 2
    height, width = (
        max(1, round(count * size / to)) for count, size, to in zip(kept, sizes[1:], pitch, strict=True)
    )
    if in_mm and spacing[0] > 0:
        slices = max(1, round(slices * sizes[0] / spacing[0]))
    if slices * max(height * width, side**2) > MAX_VOXELS:
        raise DataError(
            f"{shape_text(oriented)} voxels of {'x'.join(f'{size:.3g}' for size in sizes)} mm would be resampled to "
            f"{shape_text((slices, height, width))}; correct its spacing, or resample to a coarser one"
        )
    return Grid(shape, affine, cut, (slices, height, width), side, plane)


def resample_to_grid(array_ZHW: np.ndarray, grid: Grid, *, nearest: bool) -> np.ndarray:
    """A canonical array on the prepared grid, same dtype where nearest, else float32; padded with 0.

    Pixels are averaged where they become fewer and interpolated linearly where they become more; labels (nearest)
    take the value of the voxel in which the new center lies.
    """
    rows, columns = grid.border
    kept = array_ZHW[:, rows : array_ZHW.shape[1] - rows, columns : array_ZHW.shape[2] - columns]
    if nearest:
        kept = _resize_nearest(kept, grid.resized)
    else:
        kept = np.ascontiguousarray(kept, np.float32)
        for axis, count in enumerate(grid.resized):
            kept = _resize_axis(kept, axis, count)
    canvas = np.zeros(grid.prepared, kept.dtype)
    on_square, on_slices = _overlap(grid)
    canvas[on_square] = kept[on_slices]
    return canvas


def restore_from_grid(mask_ZHW: np.ndarray, grid: Grid) -> np.ndarray:
    """A mask on the prepared grid, brought back onto the stored array: (I, J, K), same dtype, 0 where it was cut.

    Each stored voxel takes the value of the prepared one in which its center lies. Raises DataError where the
    mask has another shape than the grid.
    """
    if mask_ZHW.shape != grid.prepared:
        raise DataError(
            f"a mask of {shape_text(mask_ZHW.shape)} does not lie on slices of {shape_text(grid.prepared)}; "
            "give the mask of this scan"
        )
    on_square, on_slices = _overlap(grid)
    kept = np.zeros(grid.resized, mask_ZHW.dtype)
    kept[on_slices] = mask_ZHW[on_square]
    rows, columns = grid.border
    slices, height, width = grid.oriented
    whole = np.zeros(grid.oriented, mask_ZHW.dtype)
    whole[:, rows : height - rows, columns : width - columns] = _resize_nearest(
        kept, (slices, height - 2 * rows, width - 2 * columns)
    )
    order, flips = _turn(grid.axes, grid.plane)
    turned = np.flip(whole, tuple(axis for axis, flip in enumerate(flips) if flip))
    return np.ascontiguousarray(turned.transpose(np.argsort(order)))


def _turn(axes: str, plane: Plane) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """(order, flips): which stored axis becomes z, y, x, and which of these is then reversed."""
    from nibabel.orientations import axcodes2ornt, ornt_transform

    turn = ornt_transform(axcodes2ornt(PLANES[plane]), axcodes2ornt(axes))
    return tuple(int(axis) for axis in turn[:, 0]), tuple(bool(flip < 0) for flip in turn[:, 1])


def _resize_nearest(array: np.ndarray, shape: Triple) -> np.ndarray:
    """The array with other counts along its axes, edges aligned; new center i lies at (i + 1/2) old / new."""
    if array.shape == tuple(shape):
        return array
    places = [
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(array.shape, shape, strict=True)
    ]
    return array[np.ix_(*places)]


def _resize_axis(array: np.ndarray, axis: int, count: int) -> np.ndarray:
    """The array with another count along one axis, edges aligned: by area where it shrinks, else linear."""
    import cv2

    if array.shape[axis] == count:
        return array
    moved = np.ascontiguousarray(np.moveaxis(array, axis, 1))
    interpolation = cv2.INTER_AREA if count < moved.shape[1] else cv2.INTER_LINEAR
    planes = [cv2.resize(plane, (plane.shape[1], count), interpolation=interpolation) for plane in moved]
    return np.moveaxis(np.stack(planes), 1, axis)


def _overlap(grid: Grid) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(part of the square, part of the resized slices) that coincide when the two are centered on each other."""
    on_square, on_slices = [slice(None)], [slice(None)]
    for count in grid.resized[1:]:
        spare = grid.side - count
        start, skipped = max(0, spare // 2), max(0, -spare // 2)
        length = min(count, grid.side)
        on_square.append(slice(start, start + length))
        on_slices.append(slice(skipped, skipped + length))
    return tuple(on_square), tuple(on_slices)
