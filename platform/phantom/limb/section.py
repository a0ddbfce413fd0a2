"""A cross-section of a limb as ultrasound meets it: what scatters, what reflects, what is bone.

A section is evaluated at any points of the limb frame (see `limb`), so every probe can see the same limb. Layers and
bones are level sets: functions that are 0 on a surface and about the distance to it in mm nearby.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .limb import Limb
from .textures import texture

EDGE = 0.5
"""Distance in mm by which the outline lies outside the middle of the bone's bright line."""


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """A thin surface that reflects sound.

    level: level set in mm, 0 on the surface; strength: amplitude at each point; thickness: mm; narrow: exponent of
    the cosine between beam and normal, the larger the sooner the echo fades as the sheet tilts.
    """

    level: np.ndarray
    strength: np.ndarray | float
    thickness: float
    narrow: float


@dataclass(frozen=True, slots=True, eq=False)
class LimbSection:
    """The limb at given points; arrays of their shape.

    scatter: amplitude of scattering relative to mean muscle; bone: level set in mm, negative inside;
    periosteum: amplitude of a bone surface that faces the beam; sheets: fasciae, septa, vessel walls;
    attenuation: dB per cm beyond the mean.
    """

    scatter: np.ndarray
    bone: np.ndarray
    periosteum: np.ndarray
    sheets: tuple[Sheet, ...]
    attenuation: np.ndarray


def cut_section(limb: Limb, x: np.ndarray, y: np.ndarray, z: float) -> LimbSection:
    """The limb cut at z mm, at the points (x, y) mm; y < 0 is the gel above the skin."""
    bone = _nearest(bone.level(x, y, z) for bone in limb.bones)
    folded = y + _arch(limb, x, y, z)
    fasciae = [
        folded - np.float32(deep) - wave.at(x, z) for deep, wave in zip(limb.layers, limb.waves, strict=True)
    ]
    vessels = [
        np.hypot((x - np.float32(x0)) / np.float32(1.3), y - np.float32(deep)) - np.float32(radius)
        for x0, deep, radius in limb.vessels
    ]
    grain, mottle, gaps, septa = (texture(limb.seed, number, x, folded, z) for number in range(4))
    layer = sum((level > 0).astype(np.int8) for level in fasciae)
    scatter = _scattering(limb, y, layer, grain, mottle)
    # Blood is dark. Bone has no streaks but scatters like its surroundings: its own shadow has to hide it.
    for vessel in vessels:
        scatter = np.where(vessel < 0, np.float32(0.1), scatter)
    layer = np.where(_nearest([*vessels, bone]) < 0, -1, layer)
    sheets = [Sheet(vessel, 1.6, 0.2, 3) for vessel in vessels]
    sheets += [Sheet(y, 6.0, 0.25, 4), Sheet(y - np.float32(limb.skin), 4.0, 0.15, 6)]  # skin, step to fat
    sheets += _streaks(layer, y, limb, grain, gaps, septa)
    whole = (layer >= 0) * np.clip(1 + np.float32(0.5) * gaps, 0.1, 2)
    for number, level in enumerate(fasciae):
        strength = np.float32((9.0, 5.0, 3.5, 2.5)[number]) * whole
        sheets.append(Sheet(level, strength, (0.3, 0.18, 0.16, 0.16)[number], 9))
    sheets += _muscle_septa(limb, x, folded, fasciae, gaps, z)
    attenuation = np.clip(np.float32(1.5) * gaps + np.float32(3) * mottle + np.float32(0.5), -3, 8) * (y > 0)
    periosteum = np.float32(22) * np.clip(np.float32(0.9) + np.float32(0.45) * mottle, 0.25, 1.6)
    return LimbSection(
        scatter.astype(np.float32), bone, periosteum, tuple(sheets), attenuation.astype(np.float32)
    )


def _scattering(
    limb: Limb, y: np.ndarray, layer: np.ndarray, grain: np.ndarray, mottle: np.ndarray
) -> np.ndarray:
    """Amplitude of scattering of gel, skin, fat and muscles. layer: 0 fat, 1 and more the muscles below it."""
    amplitude = 10 ** (np.asarray(limb.brightness, np.float32) / 20)
    scatter = amplitude[layer] * np.float32(10) ** (mottle * np.float32(0.14))
    scatter *= np.float32(10) ** (np.where(layer == 0, np.float32(0.06), np.float32(0.18)) * grain)
    scatter = np.where(y < limb.skin, np.float32(1.3), np.maximum(scatter, np.float32(0.05)))
    scatter[y < 0] = 0.003
    return scatter


def bone_head_mask(limb: Limb, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Whether each point lies in the head of a bone, bool.

    As in published masks of the lower leg, the head is the bone's bright near surface and the dark below it, down
    to where annotators close the outline by knowledge of the bone's shape.
    """
    return _nearest(bone.head(x, y, z) for bone in limb.bones) < EDGE


def _nearest(levels: Iterable[np.ndarray]) -> np.ndarray:
    """Level set of the union of level sets."""
    return np.minimum.reduce(list(levels))


def _arch(limb: Limb, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Lift in mm of the layers where they run over a bone; 0 at the skin."""
    lift = np.zeros_like(x)
    for bone in limb.bones:
        beside = (x - np.float32(bone.x + bone.drift[0] * z)) / np.float32(1.6 * bone.radius)
        lift -= np.float32(0.35 * bone.radius) * (1 - np.exp(-beside * beside))
    lift += np.float32(0.2 * max(bone.radius for bone in limb.bones))
    deep = np.clip(y / np.float32(limb.bones[0].top), 0, 1.6)
    return lift * deep * deep


def _streaks(
    layer: np.ndarray, y: np.ndarray, limb: Limb, grain: np.ndarray, gaps: np.ndarray, septa: np.ndarray
) -> Iterator[Sheet]:
    """Septa of the fat and perimysium of the muscles, where their textures cross a level."""
    fat = (layer == 0) & (y > limb.skin)
    whole = np.float32(10) ** np.clip(np.float32(0.4) * gaps - np.float32(0.1), -1.5, 0.6)
    yield Sheet((septa - np.float32(0.2)) * np.float32(1.2), fat * whole * np.float32(9.0), 0.2, 8)
    yield Sheet((grain - np.float32(0.5)) * np.float32(0.5), (layer > 0) * whole * np.float32(4.5), 0.1, 5)


def _muscle_septa(
    limb: Limb, x: np.ndarray, y: np.ndarray, fasciae: list[np.ndarray], gaps: np.ndarray, z: float
) -> Iterator[Sheet]:
    """Sheets between neighboring muscles, from one fascia to the next."""
    for x0, slope, first in limb.septa:
        wave = limb.waves[first + 1].at(y * 2, z)
        level = (y - np.float32(limb.layers[first])) - (x - np.float32(x0) + wave) / np.float32(slope)
        level *= np.float32(abs(slope) / np.hypot(1, slope))
        between = (fasciae[first] > 0) & (fasciae[first + 1] < 0)
        yield Sheet(level, between * np.clip(1 + gaps, 0, 2) * np.float32(3), 0.25, 3)
