"""Bones of the trunk of the generated dog: spine, ribs and sternum, pelvis; rib fractures.

Each `add_…` function adds the solids of its bones to a `BodyBuilder`; lengths are reference cm (see `builder`).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..rotations import rotation_to
from .builder import CARTILAGE, FAT, SOFT, SPONGE, BodyBuilder
from .solids import Ellipsoid, Primitive, Rod


def _vertebrae() -> list[tuple[str, float, float]]:
    """(region, z, length) of the vertebrae C3-C7, T1-T13, L1-L7 and six of the tail, cranial first."""
    neck = [("C", 31.5 - 2.6 * i, 2.5) for i in range(5)]
    chest = [("T", 18.7 - 1.5 * i, 1.45) for i in range(13)]
    loin = [("L", -0.5 - 2.25 * i, 2.15) for i in range(7)]
    tail = [("Cd", -22.0 - 1.6 * i, 1.4) for i in range(6)]
    return neck + chest + loin + tail


def _spine_height(z: float) -> float:
    """y of the vertebral bodies: the neck rises, the loin is slightly arched, the tail falls."""
    if z > 18:
        return 0.02 * (z - 18) ** 2 + 0.1 * (z - 18)
    if z < -18:
        return -0.25 * (-18 - z)
    return 0.5 * math.cos(math.pi * (z + 4) / 40) - 0.4


def add_spine(builder: BodyBuilder) -> None:
    """Vertebrae from neck to tail and the sacrum; spurs between those of old animals."""
    random = builder.random(8)
    dense = 1.05 - 0.2 * builder.animal.age
    for region, z, length in _vertebrae():
        y, thick = _spine_height(z), {"C": 0.72, "T": 0.68, "L": 0.85, "Cd": 0.42}[region]
        half = 0.46 * length
        ahead, behind = (0, _spine_height(z + half), z + half), (0, _spine_height(z - half), z - half)
        core = [(p[0], p[1], z + (p[2] - z) * 0.82) for p in (ahead, behind)]
        shell, marrow = SPONGE * 1.35 * dense, SPONGE * 0.85 * dense
        builder.add("spine", shell, SOFT, (builder.rod(ahead, behind, thick, flat=True),))
        builder.add("spine", marrow, shell, (builder.rod(core[0], core[1], thick * 0.82, flat=True),))
        if region == "Cd":
            continue
        builder.add("spine", SPONGE * 1.2 * dense, SOFT, _processes(builder, region, y, z, length))
        if builder.animal.age > 0.55 and region in "TL" and random.uniform() < builder.animal.age * 0.35:
            spur = builder.ellipsoid((0, y - thick, z - length / 2), (0.6, random.uniform(0.15, 0.4), 0.65))
            builder.add("spine", SPONGE * 1.3, SOFT, (spur,))
    sacrum = builder.ellipsoid((0, -0.4, -18.6), (1.5, 0.9, 2.3))
    builder.add("spine", SPONGE * 1.1 * dense, SOFT, (sacrum,))


def _processes(builder: BodyBuilder, region: str, y: float, z: float, length: float) -> tuple[Primitive, ...]:
    """Arch, spinous process, transverse processes and facets of one vertebra."""
    arch = builder.ellipsoid((0, y + 1.15, z), (0.85, 0.28, 0.42 * length))
    tall = {"C": 0.6, "T": 0.9 + 0.035 * max(0.0, z - 2), "L": 0.8}[region]
    lean = -0.75 if region == "T" and z > 4 else 0.15
    place = (0, y + 1.3 + tall * 0.8, z + lean * tall)
    spinous = builder.ellipsoid(place, (0.16, 0.32 * length, tall), rotation_to((0, 1, lean)))
    parts: list[Primitive] = [arch, spinous]
    for side in (1, -1):
        if region == "L":
            parts.append(builder.rod((side * 0.6, y - 0.1, z), (side * 2.3, y - 0.7, z + 1.1), 0.2))
        if region == "C":
            parts.append(builder.ellipsoid((side * 1.1, y - 0.2, z), (0.55, 0.25, 0.4 * length)))
        facet = (side * 0.55, y + 0.95, z - 0.5 * length)
        parts.append(builder.ellipsoid(facet, (0.25, 0.38, 0.42)))
    return tuple(parts)


def _rib_line(rib: int, side: int) -> list[tuple[float, float, float]]:
    """Ten points of one rib from its head to the sternum; point 6 is the costochondral joint. rib: 1 to 13."""
    z0 = 19.3 - 1.5 * rib
    sweep = 1.2 + 0.26 * rib
    last = 160 if rib <= 9 else 138 - 10 * (rib - 10)
    points = [(side * 0.9, _spine_height(z0) - 0.1, z0 + 0.4)]
    for step in range(1, 10):
        angle = math.radians(14 + (last - 14) * step / 9)
        bony, soft = min(step, 6) / 6, max(0, step - 6) / 3
        z = z0 - sweep * math.sin(bony * math.pi / 2) + 0.6 * sweep * soft**1.5
        wide = math.sqrt(max(0.15, 1 - ((z - 2.8) / 17.6) ** 2))
        height = 7.6 * wide * math.cos(angle) * (1.03 if step == 9 else 1.0)
        points.append((side * 6.55 * wide * math.sin(angle), -7.0 + height, z))
    return points


def add_ribs(builder: BodyBuilder) -> None:
    """Thirteen pairs of ribs with their cartilage, some broken and healing, and the sternum."""
    age = builder.animal.age
    cartilage = CARTILAGE + 0.22 * max(0.0, age - 0.25)
    broken = _broken_ribs(builder)
    for side in (1, -1):
        for rib in range(1, 14):
            points = _rib_line(rib, side)
            bone = builder.chain(points[:7], 0.27 if rib < 12 else 0.2)
            if (side, rib) in broken:
                segment, shift = broken[side, rib]
                bone = _broken_rib(bone, segment, shift)
                builder.add("ribs", SPONGE, FAT, (_callus(builder, bone[segment]),), ("ribs",))
            builder.add("ribs", 0.92 - 0.15 * age, FAT, bone)
            builder.add("cartilage", cartilage, FAT, builder.chain(points[6:], 0.24))
    for index in range(8):
        z = 16.5 - 2.1 * index
        y = -7.0 - 7.7 * math.sqrt(max(0.1, 1 - ((z - 2.8) / 17.6) ** 2))
        bar = builder.rod((0, y, z + 0.85), (0, y - 0.15, z - 0.85), 0.42, flat=True)
        builder.add("sternum", SPONGE, FAT, (bar,))


def _broken_ribs(builder: BodyBuilder) -> dict[tuple[int, int], tuple[int, np.ndarray]]:
    """(side, rib) -> (segment, displacement (3,) cm): three to seven neighboring ribs on one side."""
    severity = builder.disease.get("rib_fracture")
    if not severity:
        return {}
    random = builder.disease_random(5)
    side, first = int(random.choice([1, -1])), int(random.integers(4, 9))
    segment = int(random.integers(1, 4))  # not where the rib curves: a VD view sees that part end on
    broken = {}
    for rib in range(first, first + 3 + round(4 * severity * random.uniform(0.6, 1))):
        sideways, up, along = random.uniform((0.5, -0.5, 0.7), (1.0, 0.5, 1.2))
        along *= random.choice([-1, 1])
        shift = np.array([-side * sideways, up, along]) * builder.animal.size * (0.7 + 0.6 * severity)
        broken[side, rib] = (segment, shift)
    return broken


def _broken_rib(bone: tuple[Rod, ...], segment: int, shift: np.ndarray) -> tuple[Rod, ...]:
    """The rib broken in one segment: the far piece is displaced by `shift` at the break, and not at its end."""
    old = bone[segment]
    middle, gap = old.start + (old.end - old.start) * 0.4, (old.end - old.start) * 0.15
    ends = [rod.end for rod in bone[segment:]]
    fade = np.linspace(1, 0, len(ends) + 2)[1:]
    points = [middle + gap + shift] + [end + shift * part for end, part in zip(ends, fade, strict=False)]
    far = [Rod(a, b, old.radius, flat=i == 0) for i, (a, b) in enumerate(pairwise(points))]
    return (*bone[:segment], Rod(old.start, middle, old.radius, True), *far)


def _callus(builder: BodyBuilder, broken: Rod) -> Ellipsoid:
    """New bone around the end of a broken rib, as healing leaves it."""
    thick = 0.8 * builder.animal.size
    return Ellipsoid(broken.end, (thick, thick, 1.3 * thick), rotation_to(broken.end - broken.start))


def add_pelvis(builder: BodyBuilder) -> None:
    """Wing and shaft of the ilium, ischium and pubis of both sides."""
    for side in (1, -1):
        slope = rotation_to((side * 0.12, 0.45, 1))
        wing = builder.ellipsoid((side * 1.9, -0.4, -17.6), (0.28, 1.1, 2.1), slope)
        shaft = [(side * 2.0, -1.0, -18.8), (side * 2.7, -3.0, -20.8)]
        ischium = [(side * 2.7, -3.2, -20.8), (side * 2.3, -3.4, -23), (side * 2.2, -2.9, -24.8)]
        pubis = [(side * 2.6, -3.8, -20.9), (side * 0.5, -4.8, -21.3), (side * 0.4, -4.6, -23.5)]
        rods = builder.chain(shaft, 0.42) + builder.chain(ischium, 0.38) + builder.chain(pubis, 0.28)
        builder.add("pelvis", 0.78, SOFT, (wing, *rods))
