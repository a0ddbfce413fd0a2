"""Slow reference: solids and rays as sampled points."""

from __future__ import annotations

import numpy as np

from vetdino.platform.phantom.dog.solids import Clipped, Ellipsoid, Intersection, Rays, Rod
from vetdino.platform.phantom.rotations import rotation, rotation_to

STEP = 0.004
"""cm between two samples of a slow ray."""


def rays(seed=0, shape=(14, 12), pixel=0.37) -> Rays:
    random = np.random.default_rng(seed)
    frame = rotation(*random.uniform(-180, 180, 3))
    return Rays(frame, random.normal(0, 0.3, 3), shape, pixel)


def ball(random) -> Ellipsoid:
    axes = tuple(random.uniform(0.3, 2.2, 3).tolist())
    return Ellipsoid(random.normal(0, 0.7, 3), axes, rotation(*random.uniform(-180, 180, 3)))


def rod(random, flat=False) -> Rod:
    return Rod(random.normal(0, 1.2, 3), random.normal(0, 1.2, 3), float(random.uniform(0.2, 1.2)), flat)


def cut(random) -> Clipped:
    normal = rotation_to(random.normal(size=3))[:, 2]
    return Clipped(ball(random), ((normal, float(random.normal(0, 0.4))), (-normal, 0.9)))


def holds(part, points) -> np.ndarray:
    """Whether points (..., 3) lie in a primitive, by its definition."""
    if isinstance(part, Intersection):
        return holds(part.first, points) & holds(part.second, points)
    if isinstance(part, Clipped):
        return np.logical_and.reduce([holds(part.base, points), *(points @ n <= d for n, d in part.planes)])
    if isinstance(part, Ellipsoid):
        return (((points - part.center) @ part.rotation / np.array(part.axes)) ** 2).sum(-1) <= 1
    axis = part.end - part.start
    share = (points - part.start) @ axis / (axis @ axis)
    nearest = part.start + np.clip(share, 0, 1)[..., None] * axis
    near = ((points - nearest) ** 2).sum(-1) <= part.radius**2
    return near & (share >= 0) & (share <= 1) if part.flat else near


def samples(beam: Rays) -> np.ndarray:
    """(rows, columns, N, 3) points along every ray, STEP apart."""
    depth = np.arange(-7, 7, STEP)
    across = beam.u[None, :, None, None] * beam.frame[0] + beam.v[:, None, None, None] * beam.frame[1]
    return beam.center + across + depth[:, None] * beam.frame[2]


def spread(chord, beam: Rays) -> np.ndarray:
    """A chord's length over the whole picture."""
    whole = np.zeros(beam.shape)
    if chord is not None:
        whole[chord.box.slices] = chord.length()
    return whole
