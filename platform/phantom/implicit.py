"""Smooth forms in space: fields that are negative inside, and about the distance to the surface in mm.

Coordinates x, y, z may be arrays of any shape that broadcast; all is float32 where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Field = np.ndarray


def join(a: Field, b: Field, soft: float) -> Field:
    """Inside either; the seam is rounded over about `soft` mm."""
    return np.minimum(a, b) - np.square(np.maximum(soft - np.abs(a - b), 0)) / (4 * soft)


def meet(a: Field, b: Field, soft: float) -> Field:
    """Inside both; the edge is rounded over about `soft` mm."""
    return np.maximum(a, b) + np.square(np.maximum(soft - np.abs(a - b), 0)) / (4 * soft)


def ellipsoid(
    x: Field,
    y: Field,
    z: Field,
    centre: Sequence[float],
    radii: Sequence[float],
    turn: np.ndarray | None = None,
) -> Field:
    """Field of an ellipsoid; turn: (3, 3) from its own axes to the torso's."""
    parts = [x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])]
    if turn is not None:
        axes = np.float32(turn).T
        parts = [row[0] * parts[0] + row[1] * parts[1] + row[2] * parts[2] for row in axes]
    first = sum(np.square(part / np.float32(radius)) for part, radius in zip(parts, radii, strict=True))
    second = sum(np.square(part / np.float32(radius**2)) for part, radius in zip(parts, radii, strict=True))
    near = np.sqrt(first)
    return near * (near - 1) / np.maximum(np.sqrt(second), np.float32(1e-4))


def tube(x: Field, y: Field, z: Field, path: Sequence[Sequence[float]], soft: float = 6) -> Field:
    """Field of a bent tube through (x, y, z, radius) points."""
    field = None
    for (*a, ra), (*b, rb) in pairwise(path):
        d = np.float32(np.subtract(b, a))
        px, py, pz = x - np.float32(a[0]), y - np.float32(a[1]), z - np.float32(a[2])
        t = np.clip((px * d[0] + py * d[1] + pz * d[2]) / np.float32(d @ d), 0, 1)
        far = np.sqrt(np.square(px - t * d[0]) + np.square(py - t * d[1]) + np.square(pz - t * d[2]))
        piece = far - (np.float32(ra) + t * np.float32(rb - ra))
        field = piece if field is None else join(field, piece, soft)
    return field


def superellipse(x: Field, y: Field, radii: tuple[float, float], power: float) -> Field:
    """Field of an upright cylinder with a squarish cross-section, along rays from its axis."""
    g = (np.abs(x / np.float32(radii[0])) ** power + np.abs(y / np.float32(radii[1])) ** power) ** (1 / power)
    return np.hypot(x, y) * (1 - 1 / np.maximum(g, np.float32(1e-3)))


def smooth_noise(
    random: np.random.Generator, axes: tuple[np.ndarray, np.ndarray, np.ndarray], length: float
) -> Field:
    """Smooth random field of unit variance over a grid of (z, y, x); length: mm over which it changes."""
    weights = []
    for axis in axes:
        knots = np.arange(axis[0] - 2 * length, axis[-1] + 2 * length, length)
        weight = np.exp(-0.5 * np.square((axis[:, None] - knots) / (0.7 * length)))
        weights.append(np.float32(weight / np.linalg.norm(weight, axis=1, keepdims=True)))
    z, y, x = weights
    lattice = random.standard_normal((z.shape[1], y.shape[1], x.shape[1]), dtype=np.float32)
    return np.tensordot(z, y @ (lattice @ x.T), 1)
