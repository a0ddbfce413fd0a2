"""Vessel trees in the liver of a generated abdomen."""

from __future__ import annotations

import numpy as np

from .patient import LAYERS, ScanGrid

TWIG = 1.15
"""Radius of the thinnest branches, mm."""


def liver_vessels(liver: np.ndarray, grid: ScanGrid, random: np.random.Generator) -> np.ndarray:
    """Whether each voxel of the liver, (N, 3) int of layer, row, column, lies in a vessel, (N,) bool.

    There are two trees, one from the hilum and one from the top of the liver. A tree joins random points to the
    nearest of those before, where detours are costly; a branch is as wide as all that hangs on it requires (Murray
    1926, PNAS 12(3): the cube of a radius is the sum of the cubes of its branches).
    """
    from scipy.spatial import cKDTree

    size = np.array([grid.thickness / LAYERS, grid.pixel, grid.pixel])
    mm = (liver * size).astype(np.float32)
    middle, extent = mm.mean(0), np.ptp(mm, axis=0)
    hilum, top = (middle + np.array(share) * extent for share in ((-0.1, 0.05, 0.12), (0.28, 0.28, 0.22)))
    inside = np.zeros(len(liver), bool)
    for root, count in ((hilum, 170), (top, 100)):
        ends = mm[random.integers(len(mm), size=count)]
        nearest = mm[np.argmin(np.square(mm - root).sum(1))]
        spots, radii = vessel_tree(np.concatenate([nearest[None], ends]), TWIG, random)
        distance, which = cKDTree(spots).query(mm, distance_upper_bound=6.0)
        close = np.isfinite(distance)
        inside[close] |= distance[close] < radii[which[close]]
    return inside


def vessel_tree(
    points: np.ndarray, thinnest: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Spots about every mm along the branches of a tree, (M, 3) float32 mm, and the radius at each, (M,) mm.

    points: (N, 3) mm that the tree joins, the root first; thinnest: radius of its last branches, mm.
    """
    count = len(points)
    distances = np.sqrt(np.square(points[:, None] - points[None]).sum(-1))
    parent, path_length = np.zeros(count, int), np.zeros(count)
    order = np.argsort(distances[0])
    for rank, point in enumerate(order[1:], start=1):
        before = order[:rank]
        cost = distances[point, before] + 0.45 * path_length[before]
        parent[point] = before[np.argmin(cost)]
        path_length[point] = path_length[parent[point]] + distances[point, parent[point]]
    cubes = np.full(count, thinnest**3)
    for point in order[:0:-1]:
        cubes[parent[point]] += cubes[point]
    radii = np.minimum(np.cbrt(cubes), 5.8)
    spots, widths = [], []
    for point in order[1:]:
        a, b = points[parent[point]], points[point]
        t = np.linspace(0, 1, max(2, int(distances[point, parent[point]])))[:, None]
        bow = random.normal(0, 0.06, 3) * distances[point, parent[point]] * np.sin(np.pi * t)
        spots.append(a + t * (b - a) + bow)
        widths.append(np.full(len(t), radii[point]))
    return np.concatenate(spots).astype(np.float32), np.concatenate(widths)
