"""An arm or a leg as a short list of numbers in mm: layers, bones, vessels.

Limb frame, mm: x along the skin, y deep from it, z along the limb. Points are float32 arrays of any one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

BodyPart = Literal["arm", "leg"]
BODY_PARTS: tuple[BodyPart, ...] = ("arm", "leg")

HEAD_DEPTH = 15.0
"""Depth in mm below a bone's nearest point down to which its head is outlined."""

ROUNDING = 1.2
"""Length in mm by which the corners between a head's near and far side are rounded."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A smooth line over x that drifts with z: a sum of sines.

    terms: (amplitude mm, radians per mm of x, radians per mm of z, phase) each.
    """

    terms: tuple[tuple[float, float, float, float], ...]

    def at(self, x: np.ndarray, z: float) -> np.ndarray:
        """Height in mm at each x, float32."""
        height = np.zeros_like(x, dtype=np.float32)
        for amplitude, along, across, phase in self.terms:
            height += np.float32(amplitude) * np.sin(np.float32(along) * x + np.float32(across * z + phase))
        return height


@dataclass(frozen=True, slots=True)
class Bone:
    """A long bone, nearly round: radius(angle) = radius * (1 + sum of amplitude * cos(order * angle + phase)).

    x, top: mm, the point of the surface nearest to the skin at z = 0; radius: mm; lobes: (order, amplitude,
    phase); drift: change per mm of z: mm of x, mm of depth, radians.
    """

    x: float
    top: float
    radius: float
    lobes: tuple[tuple[int, float, float], ...]
    drift: tuple[float, float, float]

    def level(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """About the distance to the bone's surface, float32 mm, negative inside."""
        across = x - np.float32(self.x + self.drift[0] * z)
        down = y - np.float32(self.top + self.radius + self.drift[1] * z)
        angle = np.arctan2(down, across)
        reach = np.full_like(across, self.radius)
        for order, amplitude, phase in self.lobes:
            turn = np.float32(phase + order * self.drift[2] * z)
            reach += np.float32(self.radius * amplitude) * np.cos(order * angle + turn)
        return np.hypot(across, down) - reach

    def head(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """Level set of the bone's head, the part no more than HEAD_DEPTH below its nearest point.

        A small bone is its own head. The head of a large one ends in a copy of the bone's far side, moved up: a
        round bottom, as annotators draw it where the shadow hides the rest.
        """
        spare = np.float32(max(2 * self.radius - HEAD_DEPTH, 0))
        near = self.level(x, y, z)
        if not spare:
            return near
        far = self.level(x, y + spare, z)
        return np.maximum(near, far) + np.log1p(np.exp(-np.abs(near - far) / ROUNDING)) * np.float32(ROUNDING)


@dataclass(frozen=True, slots=True)
class Limb:
    """One subject's arm or leg.

    seed: seed of its textures; skin: thickness, mm; layers: depths of the fasciae, mm, the first below the fat;
    waves: shape of each fascia; septa: (x mm, slope, index of the fascia above) of sheets between muscles; vessels:
    (x, depth, radius) mm; brightness: dB of fat and of each muscle relative to the mean.
    """

    seed: tuple[int, ...]
    part: BodyPart
    skin: float
    layers: tuple[float, ...]
    waves: tuple[Wave, ...]
    bones: tuple[Bone, ...]
    septa: tuple[tuple[float, float, int], ...]
    vessels: tuple[tuple[float, float, float], ...]
    brightness: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Limb({self.part}, fat to {self.layers[0]:.1f} mm, {len(self.bones)} bones)"


def draw_limb(part: BodyPart, subject: np.random.Generator, random: np.random.Generator) -> Limb:
    """A limb; what a subject's arm and leg share (skin, fat, bone size) is drawn from `subject`.

    >>> draw_limb("leg", np.random.default_rng(0), np.random.default_rng(1))
    Limb(leg, fat to 6.9 mm, 2 bones)
    """
    skin, fat, size = subject.uniform(1.2, 2.0), subject.uniform(4.0, 8.5), subject.uniform(0.92, 1.1)
    bones = _bones(part, size, skin + fat, random)
    under, top = skin + fat, min(bone.top for bone in bones)
    layers = [under, under + (top - under) * random.uniform(0.5, 0.72), top + random.uniform(3, 6)]
    layers.append(layers[-1] + random.uniform(9, 14))
    waves = tuple(_wave(random, height) for height in (0.9, 1.0, 1.5, 2.0))
    septa = tuple(
        (side * random.uniform(7, 20), -side * random.uniform(0.2, 0.9), int(random.integers(2)))
        for side in (-1, 1)
    )
    sides = random.permutation([-1, 1]).tolist()[: random.integers(0, 3)]
    vessels = tuple(
        (side * random.uniform(13, 22), top + random.uniform(-3, 3), random.uniform(0.8, 1.9))
        for side in sides
    )
    return Limb(
        part=part,
        skin=skin,
        layers=tuple(layers),
        waves=waves,
        bones=bones,
        septa=septa,
        vessels=vessels,
        brightness=tuple(random.uniform((-3, -3, -2, -4, -4), (2, 2, 3, 2, 2)).tolist()),
        seed=tuple(random.integers(2**31, size=2).tolist()),
    )


def _bones(part: BodyPart, size: float, under: float, random: np.random.Generator) -> tuple[Bone, ...]:
    """Humerus of an arm; fibula and, beside it, tibia of a leg: round, drop-shaped, three-cornered."""

    def bone(x: float, deep: float, radius: float, lobes: dict[int, float]) -> Bone:
        drawn = tuple(
            (order, amplitude * random.uniform(0.7, 1.3), random.uniform(-0.5, 0.5))
            for order, amplitude in lobes.items()
        )
        drawn += tuple((order, random.normal(0, 0.012), random.uniform(0, 6)) for order in (5, 7, 11))
        aside, down, turn = random.normal(0, (0.06, 0.08, 0.006)).tolist()
        return Bone(x, deep, radius * size, drawn, (aside, down, turn))

    side = float(random.choice([-1, 1]))
    if part == "arm":
        return (bone(side * random.uniform(0, 4), under + random.uniform(10, 15), 10.0, {2: 0.05, 3: 0.03}),)
    fibula = bone(side * random.uniform(0, 4), under + random.uniform(7, 12), 6.6, {2: 0.13, 3: 0.1})
    tibia = bone(-side * random.uniform(25, 29), under + random.uniform(8, 13), 11.5, {2: 0.06, 3: 0.12})
    return fibula, tibia


def _wave(random: np.random.Generator, height: float) -> Wave:
    """A wave of three sines, the longest the highest; `height`: mm."""
    lengths = random.uniform((60, 25, 10), (110, 45, 18)).tolist()
    turns, phases = random.normal(0, 0.05, 3).tolist(), random.uniform(0, 2 * np.pi, 3).tolist()
    terms = zip((1.0, 0.35, 0.12), lengths, turns, phases, strict=True)
    return Wave(
        tuple((height * share * random.normal(), 2 * np.pi / long, *rest) for share, long, *rest in terms)
    )
