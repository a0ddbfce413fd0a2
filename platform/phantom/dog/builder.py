"""Places the solids of one animal: reference coordinates in, solids in real cm out.

Organs and bones are described in reference coordinates: cm of a 15 kg dog in the animal frame (see `solids`), with
the spine at the last rib as origin. `BodyBuilder` scales them to the animal and bends them with its spine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..rotations import rotation
from .animal import GRAVITY, Animal, Disease, DogPose
from .solids import Ellipsoid, Primitive, Rod, Solid

# Attenuation at an effective 40 keV, 1/cm, rounded from the NIST tables (XCOM) for ICRU tissues.
AIR, LUNG, FAT, SOFT = 0.0, 0.075, 0.228, 0.282
MARROW, CARTILAGE, SPONGE, CORTEX, STONE, STEEL = 0.31, 0.34, 0.58, 1.20, 1.05, 9.0

Point = Sequence[float] | np.ndarray


class BodyBuilder:
    """Collects the solids and landmarks of one animal as it lies."""

    def __init__(self, animal: Animal, disease: Disease, pose: DogPose) -> None:
        self.animal, self.disease, self.pose = animal, disease, pose
        self.scale = np.array(
            [animal.size * animal.width, animal.size * animal.depth, animal.size * animal.length]
        )
        self.down = np.array(GRAVITY[pose.position], float)
        self.solids: list[Solid] = []
        self.landmarks: list[np.ndarray] = []
        """Points (3,) cm that a view of the whole animal must show."""

    def random(self, organ: int) -> np.random.Generator:
        """A generator that gives the same numbers for the same animal and organ in every view."""
        return np.random.default_rng((self.animal.seed, organ))

    def disease_random(self, finding: int) -> np.random.Generator:
        """A generator that gives the same numbers for the same disease and finding in every view."""
        return np.random.default_rng((self.disease.seed, finding))

    def point(self, x: float, y: float, z: float) -> np.ndarray:
        """(3,) cm in this animal, its spine bent, of a point in reference cm."""
        sideways, dorsal = self.pose.bend
        far = (z / 20) ** 2
        return np.array([x + sideways * far, y + dorsal * far, z]) * self.scale

    def rotation_at(self, z: float) -> np.ndarray:
        """Rotation (3, 3) that the bent spine gives to whatever lies at z, reference cm."""
        sideways, dorsal = self.pose.bend
        slope = 2 * z / 400
        return rotation(
            pitch=-math.degrees(math.atan(dorsal * slope)), yaw=math.degrees(math.atan(sideways * slope))
        )

    def ellipsoid(
        self, center: Point, axes: Point, turn: np.ndarray | None = None, more: float = 0.0
    ) -> Ellipsoid:
        """An ellipsoid in reference cm, `more` real cm thicker all round.

        Without `turn` its axes follow the body and scale with its width, depth and length; with one (3, 3) they
        scale with the animal's size alone.
        """
        bent = self.rotation_at(center[2])
        scale, direction = (self.scale, bent) if turn is None else (self.animal.size, bent @ turn)
        sizes = np.asarray(axes) * scale + more
        return Ellipsoid(self.point(*center), tuple(sizes.tolist()), direction)

    def rod(self, start: Point, end: Point, radius: float, flat: bool = False) -> Rod:
        """A rod in reference cm."""
        return Rod(self.point(*start), self.point(*end), radius * self.animal.size, flat)

    def chain(self, points: Sequence[Point], radius: float | Sequence[float]) -> tuple[Rod, ...]:
        """Rods from each point to the next, of one radius or one each, reference cm."""
        radii = [radius] * (len(points) - 1) if isinstance(radius, float) else radius
        return tuple(self.rod(a, b, r) for a, b, r in zip(points, points[1:], radii, strict=False))

    def add(
        self,
        organ: str,
        mu: float,
        replaces: float,
        parts: Sequence[Primitive],
        displaced_by: tuple[str, ...] = (),
        name: str = "",
    ) -> None:
        """Add a `Solid` of these fields; nothing where it has no parts."""
        if parts:
            self.solids.append(Solid(organ, mu, replaces, tuple(parts), displaced_by, name))
