"""The whole generated dog or cat as it lies: a few hundred convex solids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..dog import bones, limbs, organs
from .animal import Animal, Disease, DogPose
from .builder import BodyBuilder
from .solids import Solid

LANDMARKS = {
    "whole": ((0, 2, 19), (0, -15, 9), (0, -14, -8), (7.4, -7, -4), (-7.4, -7, -4), (0, -3, -23)),
    "chest": ((0, 2, 19), (0, -15, 9), (0, -13.5, -8), (6.6, -7, 2), (-6.6, -7, 2)),
    "belly": ((0, 2, 2), (0, -14.5, 0), (0, -13.5, -18), (7, -7, -4), (-7, -7, -4), (0, -3, -24)),
}
"""Region -> points that a view of it must show, reference cm (see `builder`)."""


@dataclass(frozen=True, slots=True, eq=False)
class DogBody:
    """Solids of an animal, and for each region the points (N, 3) cm that a view of it must show."""

    solids: tuple[Solid, ...]
    landmarks: Mapping[str, np.ndarray]

    def organ(self, name: str) -> tuple[Solid, ...]:
        """All solids of an organ."""
        return tuple(solid for solid in self.solids if solid.organ == name)


def build_body(animal: Animal, disease: Disease, pose: DogPose) -> DogBody:
    """All solids of the animal as it lies. Deterministic: the same three arguments give the same body."""
    builder = BodyBuilder(animal, disease, pose)
    organs.add_trunk(builder)
    heart = organs.add_heart(builder)
    organs.add_lungs(builder, heart)
    organs.add_liver(builder)
    organs.add_stomach(builder)
    organs.add_spleen_and_kidneys(builder)
    organs.add_gut(builder)
    organs.add_bladder(builder)
    bones.add_spine(builder)
    bones.add_ribs(builder)
    bones.add_pelvis(builder)
    limbs.add_forelimbs(builder)
    limbs.add_hindlimbs(builder)
    limbs.add_head(builder)
    landmarks = {
        region: np.stack([builder.point(*point) for point in points]) for region, points in LANDMARKS.items()
    }
    landmarks["whole"] = np.concatenate([np.stack(builder.landmarks), landmarks["whole"]])
    return DogBody(tuple(builder.solids), landmarks)
