"""An arm or a leg cut across, as ultrasound meets it: what scatters, what mirrors, what is bone.

A limb is a short list of numbers in mm; a section of it is evaluated at any points, so that the same limb can
be seen by any probe. Layers and bones are level sets: a function that is 0 on a surface, about its distance
in mm beside it. Textures are Gaussian random fields in the limb's own frame: they move with the tissue, and
change smoothly along the limb.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

# Limb frame, mm: x along the skin, y deep from it, z along the limb. Points come as float32 arrays of any one shape.

Part = Literal["arm", "leg"]
PARTS: tuple[Part, ...] = ("arm", "leg")

HEAD = 15.0
"""mm below a bone's nearest point to which its head is outlined."""

ROUND = 1.2
"""mm by which the corners between a head's near and far side are rounded."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A smooth line over x that drifts with z: a sum of sines.

    terms: (amplitude mm, radians for each mm of x, radians for each mm of z, phase) each.
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

    x, top: mm, where the surface comes nearest to the skin at z = 0; radius: mm; lobes: (order, amplitude,
    phase); drift: mm of x, mm of depth and radians for each mm of z.
    """

    x: float
    top: float
    radius: float
    lobes: tuple[tuple[int, float, float], ...]
    drift: tuple[float, float, float]

    def level(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """About the distance to the bone's surface in mm, negative inside; float32."""
        across = x - np.float32(self.x + self.drift[0] * z)
        down = y - np.float32(self.top + self.radius + self.drift[1] * z)
        angle = np.arctan2(down, across)
        reach = np.full_like(across, self.radius)
        for order, amplitude, phase in self.lobes:
            turn = np.float32(phase + order * self.drift[2] * z)
            reach += np.float32(self.radius * amplitude) * np.cos(order * angle + turn)
        return np.hypot(across, down) - reach

    def head(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """Level set of the bone's head: what lies no more than HEAD below its near surface.

        The far side is the near surface moved HEAD towards the deep, turned over: a small bone is whole, a
        large one ends in a round bottom, as people draw it where the shadow hides the rest.
        """
        spare = np.float32(max(2 * self.radius - HEAD, 0))
        near = self.level(x, y, z)
        if not spare:
            return near
        far = self.level(x, y + spare, z)
        return np.maximum(near, far) + np.log1p(np.exp(-np.abs(near - far) / ROUND)) * np.float32(ROUND)


@dataclass(frozen=True, slots=True)
class Limb:
    """One subject's arm or leg.

    seed: of its textures; skin, fat: thickness in mm; layers: depths in mm of the fasciae, the first below
    the fat; waves: of each fascia; bones; septa: (x, slope, first layer) of sheets between muscles that run
    into depth; vessels: (x, depth, radius) mm; brightness: dB of fat and of each muscle against the mean.
    """

    seed: tuple[int, ...]
    part: Part
    skin: float
    layers: tuple[float, ...]
    waves: tuple[Wave, ...]
    bones: tuple[Bone, ...]
    septa: tuple[tuple[float, float, int], ...]
    vessels: tuple[tuple[float, float, float], ...]
    brightness: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Limb({self.part}, fat to {self.layers[0]:.1f} mm, {len(self.bones)} bones)"


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """A thin surface that mirrors sound: 0 of level is the surface, strength its amplitude at each point.

    thickness: mm; narrow: the larger it is, the sooner the echo fades as the sheet turns from the beam.
    """

    level: np.ndarray
    strength: np.ndarray | float
    thickness: float
    narrow: float


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """The limb at the points asked for.

    scatter: amplitude of scattering against a mean muscle's; bone: level set in mm, negative inside;
    periosteum: amplitude of a bone's surface that faces the beam; sheets: fasciae, septa, walls of vessels;
    muddle: dB for each cm that the tissue swallows beyond the mean.
    """

    scatter: np.ndarray
    bone: np.ndarray
    periosteum: np.ndarray
    sheets: tuple[Sheet, ...]
    muddle: np.ndarray


def draw_limb(part: Part, subject: np.random.Generator, random: np.random.Generator) -> Limb:
    """A limb; what a subject's arm and leg share (skin, fat, bone size) is drawn from `subject`.

    >>> draw_limb("leg", np.random.default_rng(0), np.random.default_rng(1))
    Limb(leg, fat to 6.9 mm, 2 bones)
    """
    skin, fat, size = subject.uniform(1.2, 2.0), subject.uniform(4.0, 8.5), subject.uniform(0.92, 1.1)
    bones = _bones(part, float(size), skin + fat, random)
    under, top = skin + fat, min(bone.top for bone in bones)
    layers = [under, under + (top - under) * random.uniform(0.5, 0.72), top + random.uniform(3, 6)]
    layers.append(layers[-1] + random.uniform(9, 14))
    waves = tuple(_wave(random, height) for height in (0.9, 1.0, 1.5, 2.0))
    septa = tuple(
        (
            float(side * random.uniform(7, 20)),
            float(-side * random.uniform(0.2, 0.9)),
            int(random.integers(2)),
        )
        for side in (-1, 1)
    )
    vessels = tuple(
        (
            float(side * random.uniform(13, 22)),
            float(top + random.uniform(-3, 3)),
            float(random.uniform(0.8, 1.9)),
        )
        for side in random.permutation([-1, 1])[: random.integers(0, 3)]
    )
    brightness = tuple(float(level) for level in random.uniform((-3, -3, -2, -4, -4), (2, 2, 3, 2, 2)))
    texture = tuple(int(word) for word in random.integers(2**31, size=2))
    depths = tuple(float(depth) for depth in layers)
    return Limb(texture, part, float(skin), depths, waves, bones, septa, vessels, brightness)


def _bones(part: Part, size: float, under: float, random: np.random.Generator) -> tuple[Bone, ...]:
    """Humerus, or fibula with the tibia at its side; round, drop-shaped, three-cornered."""

    def bone(x: float, deep: float, radius: float, lobes: dict[int, float]) -> Bone:
        drawn = tuple(
            (order, amplitude * float(random.uniform(0.7, 1.3)), float(random.uniform(-0.5, 0.5)))
            for order, amplitude in lobes.items()
        )
        drawn += tuple(
            (order, float(random.normal(0, 0.012)), float(random.uniform(0, 6))) for order in (5, 7, 11)
        )
        drift = random.normal(0, (0.06, 0.08, 0.006))
        return Bone(x, deep, radius * size, drawn, tuple(float(rate) for rate in drift))

    side = float(random.choice([-1, 1]))
    if part == "arm":
        return (bone(side * random.uniform(0, 4), under + random.uniform(10, 15), 10.0, {2: 0.05, 3: 0.03}),)
    fibula = bone(side * random.uniform(0, 4), under + random.uniform(7, 12), 6.6, {2: 0.13, 3: 0.1})
    tibia = bone(-side * random.uniform(25, 29), under + random.uniform(8, 13), 11.5, {2: 0.06, 3: 0.12})
    return fibula, tibia


def _wave(random: np.random.Generator, height: float) -> Wave:
    """Three sines, the longest the highest."""
    lengths = random.uniform((60, 25, 10), (110, 45, 18))
    return Wave(
        tuple(
            (height * share * float(random.normal()), 2 * np.pi / length, turn, phase)
            for share, length, turn, phase in zip(
                (1.0, 0.35, 0.12),
                map(float, lengths),
                map(float, random.normal(0, 0.05, 3)),
                map(float, random.uniform(0, 2 * np.pi, 3)),
                strict=True,
            )
        )
    )


# A section ----------------------------------------------------------------------------------------


def section(limb: Limb, x: np.ndarray, y: np.ndarray, z: float) -> Section:
    """The limb cut at z, at the points (x, y); above the skin (y < 0) is gel."""
    bone = _nearest(bone.level(x, y, z) for bone in limb.bones)
    folded = y + _arch(limb, x, y, z)
    fasciae = [
        folded - np.float32(deep) - wave.at(x, z) for deep, wave in zip(limb.layers, limb.waves, strict=True)
    ]
    kind = sum((level > 0).astype(np.int8) for level in fasciae)
    grain, mottle, broken = (_grain(limb, n, x, folded, z) for n in range(3))
    loudness = 10 ** (np.asarray(limb.brightness, np.float32) / 20)
    scatter = loudness[kind] * np.float32(10) ** (mottle * np.float32(0.14))
    scatter *= np.float32(10) ** (np.where(kind == 0, np.float32(0.06), np.float32(0.18)) * grain)
    scatter = np.where(y < limb.skin, np.float32(1.3), np.maximum(scatter, np.float32(0.05)))
    scatter[y < 0] = 0.003
    walls = [
        np.hypot((x - np.float32(x0)) / np.float32(1.3), y - np.float32(deep)) - np.float32(radius)
        for x0, deep, radius in limb.vessels
    ]
    # Blood is dark. Bone holds no streaks, yet scatters like its surroundings: its own shadow has to hide it.
    for wall in walls:
        scatter = np.where(wall < 0, np.float32(0.1), scatter)
    kind = np.where(_nearest([*walls, bone]) < 0, -1, kind)
    sheets = [Sheet(wall, 1.6, 0.2, 3) for wall in walls]
    sheets += [*_skin(limb, y), *_streaks(kind, y, limb, grain, broken, _grain(limb, 3, x, folded, z))]
    whole = (kind >= 0) * np.clip(1 + np.float32(0.5) * broken, 0.1, 2)
    for number, level in enumerate(fasciae):
        strength = np.float32((9.0, 5.0, 3.5, 2.5)[number]) * whole
        sheets.append(Sheet(level, strength, (0.3, 0.18, 0.16, 0.16)[number], 9))
    sheets += _septa(limb, x, folded, fasciae, broken, z)
    muddle = np.clip(np.float32(1.5) * broken + np.float32(3) * mottle + np.float32(0.5), -3, 8) * (y > 0)
    periosteum = np.float32(22) * np.clip(np.float32(0.9) + np.float32(0.45) * mottle, 0.25, 1.6)
    return Section(scatter.astype(np.float32), bone, periosteum, tuple(sheets), muddle.astype(np.float32))


def bone_head(limb: Limb, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Which of the points lie in the head of a bone, bool.

    Published masks of the lower leg outline the bone itself: its bright near surface, and the dark below it
    down to where the outline is closed by knowledge rather than by sight. So does this one.
    """
    return _nearest(bone.head(x, y, z) for bone in limb.bones) < EDGE


EDGE = 0.5
"""mm by which the outline goes round the middle of the bone's bright line."""


def _nearest(levels: Iterable[np.ndarray]) -> np.ndarray:
    return np.minimum.reduce(list(levels))


def _arch(limb: Limb, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """How far, in mm, layers are lifted where they run over a bone; nothing at the skin."""
    lift = np.zeros_like(x)
    for bone in limb.bones:
        beside = (x - np.float32(bone.x + bone.drift[0] * z)) / np.float32(1.6 * bone.radius)
        lift -= np.float32(0.35 * bone.radius) * (1 - np.exp(-beside * beside))
    lift += np.float32(0.2 * max(bone.radius for bone in limb.bones))
    deep = np.clip(y / np.float32(limb.bones[0].top), 0, 1.6)
    return lift * deep * deep


def _skin(limb: Limb, y: np.ndarray) -> Iterator[Sheet]:
    """The skin's surface and the step to the fat."""
    yield Sheet(y, 6.0, 0.25, 4)
    yield Sheet(y - np.float32(limb.skin), 4.0, 0.15, 6)


def _streaks(
    kind: np.ndarray, y: np.ndarray, limb: Limb, grain: np.ndarray, broken: np.ndarray, septa: np.ndarray
) -> Iterator[Sheet]:
    """Septa of the fat and perimysium of the muscles: bright where a texture crosses a height."""
    fat = (kind == 0) & (y > limb.skin)
    whole = np.float32(10) ** np.clip(np.float32(0.4) * broken - np.float32(0.1), -1.5, 0.6)
    yield Sheet((septa - np.float32(0.2)) * np.float32(1.2), fat * whole * np.float32(9.0), 0.2, 8)
    yield Sheet((grain - np.float32(0.5)) * np.float32(0.5), (kind > 0) * whole * np.float32(4.5), 0.1, 5)


def _septa(
    limb: Limb, x: np.ndarray, y: np.ndarray, fasciae: list[np.ndarray], broken: np.ndarray, z: float
) -> Iterator[Sheet]:
    """Sheets between neighbouring muscles, from one fascia to the next."""
    for x0, slope, first in limb.septa:
        wave = limb.waves[first + 1].at(y * 2, z)
        level = (y - np.float32(limb.layers[first])) - (x - np.float32(x0) + wave) / np.float32(slope)
        level *= np.float32(abs(slope) / np.hypot(1, slope))
        between = (fasciae[first] > 0) & (fasciae[first + 1] < 0)
        yield Sheet(level, between * np.clip(1 + broken, 0, 2) * np.float32(3), 0.25, 3)


# Textures -----------------------------------------------------------------------------------------

STEP = 0.25
"""mm between two points of a texture."""

TILE = (512, 640)
"""Rows and columns after which a texture comes again: 128 by 160 mm."""

KNOT = 7.0
"""mm along the limb after which a texture is another one."""

GRAINS = ((1.6, 0.3), (5.0, 2.2), (2.2, 0.7), (4.0, 0.7))
"""Length and height in mm of perimysium, mottling, gaps in lines, septa of the fat."""


def _grain(limb: Limb, number: int, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """A texture at the points: float32 of mean 0 and standard deviation 1."""
    import cv2

    knot, part = divmod(z / KNOT, 1)
    near, far = (_tile((*limb.seed, number), int(knot) + more, *GRAINS[number]) for more in (0, 1))
    tile = np.float32(np.cos(part * np.pi / 2)) * near + np.float32(np.sin(part * np.pi / 2)) * far
    columns, rows = x / np.float32(STEP) % TILE[1], y / np.float32(STEP) % TILE[0]
    return cv2.remap(tile, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


@lru_cache(maxsize=64)
def _tile(key: tuple[int, ...], knot: int, length: float, height: float) -> np.ndarray:
    """(*TILE) float32: white noise under a Gaussian of standard deviations length, height; it wraps round."""
    white = np.random.default_rng((*key, knot + 2**20)).standard_normal(TILE, np.float32)
    rows, columns = np.fft.fftfreq(TILE[0], STEP)[:, None], np.fft.rfftfreq(TILE[1], STEP)[None, :]
    kept = np.exp(-2 * np.pi**2 * ((rows * height) ** 2 + (columns * length) ** 2))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * kept, TILE)
    return (smooth / smooth.std()).astype(np.float32)
