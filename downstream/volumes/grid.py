"""A scan's own grid and the grid that it is prepared on: there for pixels and labels, and back for masks.

Prepared slices are axial and read as a radiologist reads them: slice 0 lies nearest to the feet, row 0 at the front
of the body, column 0 at the patient's right; of (Z, H, W) the axes run to Superior, Posterior, Left. In the plane a
scan is cut, resized and centred on a square. All of that is kept in a Grid, so that it can be undone.
"""

# I, J, K axes as stored; Z slices, H, W rows and columns of a slice; h, w those before they are centred.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

CANONICAL = "SPL"
"""Where the axes of prepared slices run: to the head, to the back, to the patient's left."""

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Voxels:
    """A scan or its labels as stored: values (I, J, K), affine (4, 4) from index to mm in RAS+."""

    values: np.ndarray
    affine: np.ndarray
    placed: bool = True
    """Whether the file says where its voxels lie; else the affine holds spacing and axes that were assumed."""
    spaced: bool = True
    """Whether the spacing is known; else it is 1 mm."""
    slices_first: bool = False
    """Whether the axes are slice, row, column: files of slices."""
    order: np.ndarray | None = None
    """Of slices sorted by position: for each its place among the files sorted by name, (I,) int."""
    modality: str = ""
    """What the file itself says it is: ct, mri, or nothing."""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Voxels({'x'.join(map(str, self.values.shape))} {self.values.dtype})"


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """How an array (I, J, K) becomes slices (Z, side, side).

    >>> Grid((4, 6, 5), np.eye(4), (0, 1), (5, 4, 4), 8)
    Grid(4x6x5 RAS -> 5x8x8)
    """

    shape: Triple
    """Of the array as stored."""
    affine: np.ndarray
    """(4, 4): index of the stored array -> mm to the right, front and head (RAS+)."""
    border: tuple[int, int]
    """Rows and columns cut from each edge of the oriented slices."""
    resized: Triple
    """Z, h, w after resampling what is left."""
    side: int
    """Side of the square on which h x w is centred: cut where larger, filled up where smaller."""

    @property
    def axes(self) -> str:
        """Where the stored axes run, e.g. RAS; the nearest where they are oblique."""
        return axes_of(self.affine)

    @property
    def oriented(self) -> Triple:
        """Z, H, W of the stored array once its axes run as CANONICAL says."""
        order, _ = _turn(self.axes)
        return tuple(self.shape[axis] for axis in order)

    @property
    def spacing(self) -> Spacing:
        """mm from slice to slice, row to row, column to column of the prepared array."""
        order, _ = _turn(self.axes)
        sizes = [voxel_sizes(self.affine)[axis] for axis in order]
        _, rows, columns = self.oriented
        kept = (self.oriented[0], rows - 2 * self.border[0], columns - 2 * self.border[1])
        return tuple(
            float(size * before / after)
            for size, before, after in zip(sizes, kept, self.resized, strict=True)
        )

    @property
    def prepared(self) -> Triple:
        """Shape of the prepared array."""
        return self.resized[0], self.side, self.side

    def card(self) -> dict[str, Any]:
        """As JSON types; `grid_of_card` gives an equal one back."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "border": list(self.border),
            "resized": list(self.resized),
            "side": self.side,
        }

    def __repr__(self) -> str:
        return f"Grid({_times(self.shape)} {self.axes} -> {_times(self.prepared)})"


def grid_of_card(card: Mapping[str, Any]) -> Grid:
    """The grid that `Grid.card` described. Raises KeyError, ValueError where it is none."""
    return Grid(
        shape=tuple(card["shape"]),
        affine=np.array(card["affine"], float),
        border=tuple(card["border"]),
        resized=tuple(card["resized"]),
        side=card["side"],
    )


def axes_of(affine: np.ndarray) -> str:
    """Letters of the directions in which the three indices grow.

    >>> axes_of(np.diag([-2.0, -2.0, 5.0, 1.0]))
    'LPS'
    """
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(affine))


def affine_of(axes: str, spacing: Spacing) -> np.ndarray:
    """The (4, 4) affine of an array whose axes run as the letters say, its origin at its first voxel.

    Raises DataError where the letters name no three directions.

    >>> axes_of(affine_of("SPL", (5.0, 1.0, 1.0)))
    'SPL'
    """
    places = ["LR", "PA", "IS"]
    rows = [next((row for row, pair in enumerate(places) if letter in pair), -1) for letter in axes]
    if sorted(rows) != [0, 1, 2]:
        raise DataError(f"axes '{axes}': give three letters, one each of R or L, A or P, S or I")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (letter, row) in enumerate(zip(axes, rows, strict=True)):
        affine[row, column] = spacing[column] * (1 if places[row].index(letter) else -1)
    return affine


def voxel_sizes(affine: np.ndarray) -> Spacing:
    """mm along each stored axis."""
    return tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))


def oriented(array_IJK: np.ndarray, axes: str) -> np.ndarray:
    """An array whose axes run as the letters say, turned so that they run as CANONICAL says: a view, (Z, H, W)."""
    order, flips = _turn(axes)
    return np.flip(array_IJK.transpose(order), [axis for axis, flip in enumerate(flips) if flip])


def oriented_affine(affine: np.ndarray, shape: Triple) -> np.ndarray:
    """The affine of what `oriented` makes of an array of that shape: (z, y, x) -> mm."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(affine), axcodes2ornt(CANONICAL))
    return affine @ inv_ornt_aff(turn, shape)


def planned(
    shape: Triple, affine: np.ndarray, *, side: int, border: float, spacing: Spacing, known: bool = True
) -> Grid:
    """The grid on which an array of that shape and affine is prepared.

    border: part of each edge that is cut away; spacing: mm (z, y, x) to resample to. Where y or x is 0, or the
    array's own spacing is not known, slices are scaled until their longer side fills the square; where z is 0,
    slices stay as they are.
    """
    order, _ = _turn(axes_of(affine))
    sizes = [voxel_sizes(affine)[axis] for axis in order]
    slices, rows, columns = (shape[axis] for axis in order)
    cut = int(border * rows), int(border * columns)
    kept = rows - 2 * cut[0], columns - 2 * cut[1]
    longest = max(kept[0] * sizes[1], kept[1] * sizes[2])
    pitch = spacing[1:] if known and min(spacing[1:]) > 0 else (longest / side,) * 2
    height, width = (
        max(1, round(count * size / to)) for count, size, to in zip(kept, sizes[1:], pitch, strict=True)
    )
    if known and spacing[0] > 0:
        slices = max(1, round(slices * sizes[0] / spacing[0]))
    return Grid(tuple(shape), affine, cut, (slices, height, width), side)


def placed(array_ZHW: np.ndarray, grid: Grid, *, nearest: bool) -> np.ndarray:
    """An oriented array on the prepared grid, dtype kept where nearest, else float32; what lies outside is 0.

    Pixels are averaged where they become fewer and blended linearly where they become more; labels (nearest)
    are taken from the voxel in which the new one's centre lies.
    """
    rows, columns = grid.border
    kept = array_ZHW[:, rows : array_ZHW.shape[1] - rows, columns : array_ZHW.shape[2] - columns]
    if nearest:
        kept = _nearest(kept, grid.resized)
    else:
        kept = np.ascontiguousarray(kept, np.float32)
        for axis, count in enumerate(grid.resized):
            kept = _blended(kept, axis, count)
    canvas = np.zeros(grid.prepared, kept.dtype)
    inner, outer = _centred(grid)
    canvas[inner] = kept[outer]
    return canvas


def unplaced(mask_ZHW: np.ndarray, grid: Grid) -> np.ndarray:
    """A mask on the prepared grid, brought back onto the stored array: (I, J, K), dtype kept, 0 where it was cut.

    Each stored voxel takes the value of the prepared one in which its centre lies. Raises DataError where the
    mask has another shape than the grid.
    """
    if mask_ZHW.shape != grid.prepared:
        raise DataError(
            f"a mask of {_times(mask_ZHW.shape)} does not lie on slices of {_times(grid.prepared)}; "
            "give the mask of this scan"
        )
    inner, outer = _centred(grid)
    kept = np.zeros(grid.resized, mask_ZHW.dtype)
    kept[outer] = mask_ZHW[inner]
    rows, columns = grid.border
    slices, height, width = grid.oriented
    whole = np.zeros(grid.oriented, mask_ZHW.dtype)
    whole[:, rows : height - rows, columns : width - columns] = _nearest(
        kept, (slices, height - 2 * rows, width - 2 * columns)
    )
    order, flips = _turn(grid.axes)
    turned = np.flip(whole, [axis for axis, flip in enumerate(flips) if flip])
    return np.ascontiguousarray(turned.transpose(np.argsort(order)))


def _turn(axes: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """(order, flips): which stored axis becomes z, y, x, and which of these is then turned round."""
    from nibabel.orientations import axcodes2ornt, ornt_transform

    turn = ornt_transform(axcodes2ornt(CANONICAL), axcodes2ornt(axes))
    return tuple(int(axis) for axis in turn[:, 0]), tuple(bool(flip < 0) for flip in turn[:, 1])


def _nearest(array: np.ndarray, shape: Triple) -> np.ndarray:
    """The array with other counts along its axes, edges kept; new centre i lies at (i + 1/2) old / new."""
    if array.shape == tuple(shape):
        return array
    places = [
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(array.shape, shape, strict=True)
    ]
    return array[np.ix_(*places)]


def _blended(array: np.ndarray, axis: int, count: int) -> np.ndarray:
    """The array with another count along one axis, edges kept: by area where it shrinks, else linear."""
    import cv2

    if array.shape[axis] == count:
        return array
    moved = np.ascontiguousarray(np.moveaxis(array, axis, 1))
    way = cv2.INTER_AREA if count < moved.shape[1] else cv2.INTER_LINEAR
    return np.moveaxis(
        np.stack([cv2.resize(plane, (plane.shape[1], count), interpolation=way) for plane in moved]), 1, axis
    )


def _centred(grid: Grid) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(where on the square, which part of the resized slices) meet when the two are centred on each other."""
    inner, outer = [slice(None)], [slice(None)]
    for count in grid.resized[1:]:
        spare = grid.side - count
        start, skipped = max(0, spare // 2), max(0, -spare // 2)
        length = min(count, grid.side)
        inner.append(slice(start, start + length))
        outer.append(slice(skipped, skipped + length))
    return tuple(inner), tuple(outer)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
