"""Do a scan and its labels belong together? What must agree is checked; what looks odd is said and kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...platform.core.errors import DataError
from .grid import Voxels, axes_of, oriented, oriented_affine, voxel_sizes

# Z, H, W slices, rows and columns once the axes run to the head, to the back, to the patient's left.

APART = 0.25
"""Corners of a scan and its labels may lie this part of the smallest voxel apart."""

SPACING = 0.01
"""Spacings of a scan and its labels may differ by this part."""

TURNED = 1.25
"""Labels that follow the image's edges this much better once they are turned round are said to be flipped."""

TURNS = {2: "left and right", 1: "front and back", 0: "head and feet"}
"""Axis of (Z, H, W) -> what turning it round exchanges."""


def labels_on(image: Voxels, labels: Voxels) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels (Z, H, W) voxel by voxel on the oriented image, and what there is to note.

    Axes may be stored in another order or direction, as long as the affines bring them together. Raises DataError
    where shape, spacing, position or kind differ.
    """
    if not labels.placed:
        if not image.slices_first:
            raise DataError("its label, a stack of pictures, does not say where it lies; give it as NIfTI")
        values = labels.values if image.order is None else _reordered(labels.values, image.order)
        labels = replace(labels, values=values, affine=image.affine)
    elif not image.placed:
        raise DataError(
            "a stack of pictures does not say where it lies, its label does; give both as NIfTI or both as stacks"
        )
    axes, label_axes = axes_of(image.affine), axes_of(labels.affine)
    label_ZHW = oriented(labels.values, label_axes)
    shape, label_shape = oriented(image.values, axes).shape, label_ZHW.shape
    if shape != label_shape:
        raise DataError(
            f"the image is {_times(image.values.shape)}, its label {_times(labels.values.shape)}; "
            "give the label on the image's grid"
        )
    _check_place(image, labels, shape)
    notes = (f"stored {axes}, its label {label_axes}: joined by their affines",) if axes != label_axes else ()
    return label_ZHW, (*labels.notes, *notes)


def _reordered(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Slices that lie in the order of file names, as the image's were sorted by position."""
    if len(values) != len(order):
        raise DataError(f"{len(order)} slices, its label has {len(values)}; give one label a slice")
    return values[order]


def _check_place(image: Voxels, labels: Voxels, shape: tuple[int, ...]) -> None:
    """Raises DataError where the voxels of the two do not lie at the same place."""
    axes, label_axes = axes_of(image.affine), axes_of(labels.affine)
    here = oriented_affine(image.affine, image.values.shape)
    there = oriented_affine(labels.affine, labels.values.shape)
    sizes, label_sizes = voxel_sizes(here), voxel_sizes(there)
    if not np.allclose(sizes, label_sizes, rtol=SPACING):
        raise DataError(
            f"spacing {_mm(sizes)}, its label {_mm(label_sizes)} (z, y, x); give the label on the image's grid"
        )
    corners = np.array(
        [[z, y, x, 1] for z in (0, shape[0] - 1) for y in (0, shape[1] - 1) for x in (0, shape[2] - 1)]
    )
    apart = float(np.linalg.norm(corners @ (here - there)[:3].T, axis=1).max())
    if apart <= APART * min(sizes):
        return
    differing = [a != b for a, b in zip(_sides(axes), _sides(label_axes), strict=True)]
    if any(differing):
        swapped = " and ".join(
            word
            for word, differs in zip(("left-right", "front-back", "head-feet"), differing, strict=True)
            if differs
        )
        raise DataError(
            f"flipped {swapped}: stored {axes}, its label {label_axes}, and they lie {apart:.4g} mm apart; "
            "correct the affine of one"
        )
    raise DataError(f"its label lies up to {apart:.4g} mm away from it; the affines must agree")


def _sides(axes: str) -> tuple[str, ...]:
    """For left-right, front-back, head-feet: where the stored axis that runs along it points."""
    return tuple(next(letter for letter in axes if letter in pair) for pair in ("LR", "AP", "IS"))


def flip_doubt(image_ZHW: np.ndarray, labels_ZHW: np.ndarray) -> str:
    """What seems turned round between a scan and its labels, empty where nothing does.

    Outlines of organs lie on edges of the image. Where the mean gradient along the labels' outlines is higher by
    TURNED once the labels are turned round, they were drawn on another orientation: true pairs of CHAOS-T2 and
    TotalSegmentator reach 0.3 to 0.74 of their own, so pairs that are turned reach 1.35 and more.
    """
    edges, outline = _edges(image_ZHW), _outline(labels_ZHW)
    if not outline.any():
        return ""
    own = float(edges[outline].mean())
    turned = {axis: float(edges[np.flip(outline, axis)].mean()) for axis in TURNS}
    axis = max(turned, key=turned.__getitem__)
    if turned[axis] <= TURNED * max(own, 1e-6):
        return ""
    return (
        f"its label follows the image {turned[axis] / max(own, 1e-6):.1f} times better with {TURNS[axis]} exchanged: "
        "flipped? look at the overlay"
    )


def _edges(image_ZHW: np.ndarray) -> np.ndarray:
    """Strength of the gradient in each slice at 1 pixel, (Z, H, W) float32."""
    import cv2

    strengths = []
    for slice_HW in image_ZHW:
        smooth = cv2.GaussianBlur(np.ascontiguousarray(slice_HW, np.float32), (0, 0), 1)
        strengths.append(
            cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        )
    return np.stack(strengths)


def _outline(labels_ZHW: np.ndarray) -> np.ndarray:
    """Pixels that differ from a neighbour in their slice, on both sides of the line, (Z, H, W) bool."""
    outline = np.zeros(labels_ZHW.shape, bool)
    for axis in (1, 2):
        one, other = [slice(None)] * 3, [slice(None)] * 3
        one[axis], other[axis] = slice(1, None), slice(None, -1)
        differs = labels_ZHW[tuple(one)] != labels_ZHW[tuple(other)]
        outline[tuple(one)] |= differs
        outline[tuple(other)] |= differs
    return outline


def _mm(sizes: tuple[float, ...]) -> str:
    return "x".join(f"{size:.4g}" for size in sizes) + " mm"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
