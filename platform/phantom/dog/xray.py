"""The simulated x-ray: Beer-Lambert's law along every ray through the solids of an animal.

The path of a ray through a solid is its chord minus the parts taken by the solids that displace it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .solids import Chord, Rays, Solid, part_chords

BACKGROUND = ("body", "muscle")
"""Organs that count as the densest of a ray only where it meets no other."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Attenuation along every ray, and the organs it crosses.

    path: (H, W) float32, the exponent of Beer-Lambert's law; masks: organ -> (H, W) bool;
    depth: (H, W) float32 cm, t of the densest organ, NaN outside the animal. masks and depth stay empty where
    no truth was requested.
    """

    path: np.ndarray
    masks: Mapping[str, np.ndarray]
    depth: np.ndarray


def project(solids: Sequence[Solid], rays: Rays, truth: bool = True) -> Projection:
    """Sum of (mu - replaces) x visible length over all solids; with `truth` also masks and depth.

    The densest organ of a ray is the one that adds most to the path beyond the medium it replaces.
    """
    path = np.zeros(rays.shape, np.float32)
    densest, depth = np.zeros(rays.shape, np.float32), np.full(rays.shape, np.nan, np.float32)
    masks: dict[str, np.ndarray] = {}
    for solid, chord, length in _visible_parts(solids, rays):
        where = chord.box.slices
        path[where] += np.float32(solid.mu - solid.replaces) * length
        if not truth:
            continue
        mask = masks.setdefault(solid.organ, np.zeros(rays.shape, bool))
        mask[where] |= length > 0
        weight = 1e-3 if solid.organ in BACKGROUND else 1.0
        added = length * np.float32((solid.mu - solid.replaces) * weight)
        wins = added > densest[where]
        np.copyto(densest[where], added, where=wins)
        np.copyto(depth[where], (chord.near + chord.far) / 2, where=wins)
    return Projection(path, masks, depth)


def _visible_parts(solids: Sequence[Solid], rays: Rays) -> Iterator[tuple[Solid, Chord, np.ndarray]]:
    """(solid, chord of one part, its visible length cm): later parts of a solid give way to earlier ones."""
    hits = iter(part_chords([part for solid in solids for part in solid.parts], rays))
    chords: list[Chord] = []
    indices: list[range] = []  # of each solid's chords
    by_name: dict[str, list[int]] = {}
    for solid in solids:
        first = len(chords)
        chords += [chord for _ in solid.parts if (chord := next(hits)) is not None]
        indices.append(range(first, len(chords)))
        by_name.setdefault(solid.name or solid.organ, []).extend(indices[-1])
    bounds = np.array([(c.box.top, c.box.left, c.low, -c.box.bottom, -c.box.right, -c.high) for c in chords])
    for solid, members in zip(solids, indices, strict=True):
        if solid.mu == solid.replaces:  # an invisible cavity, which only displaces others
            continue
        stronger = [index for name in solid.displaced_by for index in by_name.get(name, ())]
        for index in members:
            rivals = np.array(stronger + list(range(members.start, index)), int)
            # Two boxes (rows, columns, depth) overlap where each begins before the other ends.
            overlaps = (bounds[rivals] < -bounds[index, [3, 4, 5, 0, 1, 2]]).all(1)
            yield solid, chords[index], visible_length(chords[index], [chords[i] for i in rivals[overlaps]])


def visible_length(chord: Chord, others: Sequence[Chord]) -> np.ndarray:
    """Length, cm, of each ray in `chord` and in none of `others`, exact however they overlap.

    |P \\ (D1 u .. u Dk)| = |P| - sum_j |(P n Dj) \\ (D1 u .. u Dj-1)|; the recursion ends because each call has
    fewer others.
    """
    length = chord.length()
    for index, other in enumerate(others):
        both = chord.intersection(other)
        if both is not None:
            length[both.box.slices_in(chord.box)] -= visible_length(both, others[:index])
    return length
