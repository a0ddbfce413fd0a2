"""Smooth shapes as signed fields: negative inside, about the distance to the surface in mm nearby.

Coordinates x, y, z in mm may be arrays of any shapes that broadcast; float32 coordinates give float32 fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Field = np.ndarray


def union(a: Field, b: Field, soft: float) -> Field:
    """Field of the points inside a or b; the seam is rounded over about `soft` mm."""
    return np.minimum(a, b) - np.square(np.maximum(soft - np.abs(a - b), 0)) / (4 * soft)


def intersection(a: Field, b: Field, soft: float) -> Field:
    """Field of the points inside a and b; the edge is rounded over about `soft` mm."""
    return np.maximum(a, b) + np.square(np.maximum(soft - np.abs(a - b), 0)) / (4 * soft)


def ellipsoid(
    x: Field,
    y: Field,
    z: Field,
    center: Sequence[float] | np.ndarray,
    radii: Sequence[float] | np.ndarray,
    turn: np.ndarray | None = None,
) -> Field:
    """Field of an ellipsoid of half-axes `radii`; turn: rotation (3, 3) from its axes to x, y, z."""
    parts = [x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2])]
    if turn is not None:
        axes = np.asarray(turn, np.float32).T
        parts = [row[0] * parts[0] + row[1] * parts[1] + row[2] * parts[2] for row in axes]
    first = sum(np.square(part / np.float32(radius)) for part, radius in zip(parts, radii, strict=True))
    second = sum(np.square(part / np.float32(radius**2)) for part, radius in zip(parts, radii, strict=True))
    reach = np.sqrt(first)
    return reach * (reach - 1) / np.maximum(np.sqrt(second), np.float32(1e-4))


def tube(x: Field, y: Field, z: Field, path: Sequence[Sequence[float]], soft: float = 6) -> Field:
    """Field of a bent tube through two or more points (x, y, z, radius), its bends rounded over `soft` mm."""
    field: Field | None = None
    for (*a, ra), (*b, rb) in pairwise(path):
        d = np.subtract(b, a).astype(np.float32)
        px, py, pz = x - np.float32(a[0]), y - np.float32(a[1]), z - np.float32(a[2])
        t = np.clip((px * d[0] + py * d[1] + pz * d[2]) / np.float32(d @ d), 0, 1)
        distance = np.sqrt(np.square(px - t * d[0]) + np.square(py - t * d[1]) + np.square(pz - t * d[2]))
        piece = distance - (np.float32(ra) + t * np.float32(rb - ra))
        field = piece if field is None else union(field, piece, soft)
    assert field is not None
    return field


def superellipse(x: Field, y: Field, radii: tuple[float, float], power: float) -> Field:
    """Field of a cylinder along z with a cross-section |x/a|^power + |y/b|^power = 1; distances along rays from z."""
    g = (np.abs(x / np.float32(radii[0])) ** power + np.abs(y / np.float32(radii[1])) ** power) ** (1 / power)
    return np.hypot(x, y) * (1 - 1 / np.maximum(g, np.float32(1e-3)))


def smooth_noise(
    random: np.random.Generator, axes: tuple[np.ndarray, np.ndarray, np.ndarray], length: float
) -> Field:
    """Smooth random field (Z, Y, X) of unit variance over a grid of axes z, y, x, mm.

    length: mm over which it changes.
    """
    weights = []
    for axis in axes:
        knots = np.arange(axis[0] - 2 * length, axis[-1] + 2 * length, length)
        weight = np.exp(-0.5 * np.square((axis[:, None] - knots) / (0.7 * length)))
        weights.append((weight / np.linalg.norm(weight, axis=1, keepdims=True)).astype(np.float32))
    z, y, x = weights
    lattice = random.standard_normal((z.shape[1], y.shape[1], x.shape[1]), dtype=np.float32)
    return np.tensordot(z, y @ (lattice @ x.T), 1)
