"""Limbs and head of the generated dog: long bones and their fractures, paws, muscle and skin around them.

Each `add_…` function adds the solids of its parts to a `BodyBuilder`; points here are real cm of the animal.
"""

from __future__ import annotations

import math

import numpy as np

from ..rotations import rotation_to
from .builder import AIR, CORTEX, FAT, MARROW, SOFT, SPONGE, STEEL, BodyBuilder
from .solids import Ellipsoid, Rod

BREAKABLE = ("humerus_left", "humerus_right", "femur_left", "femur_right")
"""Long bones that a view of the whole animal shows; only these may break."""


def add_forelimbs(builder: BodyBuilder) -> None:
    """Scapula, humerus, radius and ulna, paw, and the muscle around them, of both sides."""
    swing_angle, outward = {"VD": (58, 28), "DV": (10, 22), "LLAT": (18, 4), "RLAT": (18, 4)}[
        builder.pose.position
    ]
    size = builder.animal.size
    length = builder.animal.size * builder.animal.limb
    for side, swing, name in ((1, builder.pose.fore[0], "left"), (-1, builder.pose.fore[1], "right")):
        shoulder = builder.point(side * 4.6, -9.0, 18.0 + 0.04 * swing)
        top = builder.point(side * 3.2, 1.0, 13.0)
        blade = builder.ellipsoid((side * 4.3, -3.8, 15.2), (0.22, 1.7, 4.6), rotation_to(top - shoulder))
        spine = Rod(shoulder + (top - shoulder) * 0.15, top, 0.25 * size)
        builder.add("scapula", 0.74, SOFT, (blade, spine))
        elbow = shoulder + _limb_direction(swing_angle + swing, outward, side) * 9.5 * length
        forearm = _limb_direction(swing_angle + 0.6 * swing + 22, outward * 0.4, side)
        wrist = elbow + forearm * 10 * length
        _add_long_bone(builder, f"humerus_{name}", shoulder, elbow, 0.62 * size)
        _add_long_bone(builder, f"forearm_{name}", elbow, wrist, 0.42 * size)
        ulna = Rod(elbow - (wrist - elbow) * 0.16 + 0.5, wrist + 0.3, 0.25 * size)
        builder.add("forearm", 0.9, SOFT, (ulna,))
        _add_paw(builder, wrist, _limb_direction(swing_angle + 25, 0, side))
        _add_flesh(builder, shoulder, elbow, 2.6 * size)
        _add_flesh(builder, elbow, wrist, 1.4 * size)
        builder.landmarks.append((shoulder + elbow) / 2)


def add_hindlimbs(builder: BodyBuilder) -> None:
    """Femur, kneecap, tibia, paw, and the muscle around them, of both sides."""
    angles = {"VD": (-82, 10, -90), "DV": (25, 38, -70), "LLAT": (-12, 4, -62), "RLAT": (-12, 4, -62)}
    thigh_angle, outward, shank_angle = angles[builder.pose.position]
    size = builder.animal.size
    length = builder.animal.size * builder.animal.limb
    for side, swing, name in ((1, builder.pose.hind[0], "left"), (-1, builder.pose.hind[1], "right")):
        hip = builder.point(side * 3.3, -3.2, -21.0)
        if builder.pose.position == "VD":
            swing *= 0.5
        knee = hip + _limb_direction(thigh_angle + swing, outward, side) * 11 * length
        hock = knee + _limb_direction(shank_angle + swing, outward * 0.3, side) * 11.5 * length
        _add_long_bone(builder, f"femur_{name}", hip, knee, 0.64 * size)
        _add_long_bone(builder, f"tibia_{name}", knee, hock, 0.5 * size)
        front = knee + _limb_direction(thigh_angle + 90, 0, side) * 1.4 * size
        kneecap = Ellipsoid(front, (size * 0.4, size * 0.4, size * 0.7), rotation_to(knee - hip))
        builder.add("tibia", 0.75, SOFT, (kneecap,))
        _add_paw(builder, hock, _limb_direction(shank_angle + 40, 0, side))
        _add_flesh(builder, hip, knee, 3.4 * size)
        _add_flesh(builder, knee, hock, 1.7 * size)
        builder.landmarks.append((hip + knee) / 2)


def _limb_direction(angle: float, outward: float, side: int) -> np.ndarray:
    """Unit vector: `angle` degrees from ventral towards cranial, `outward` degrees away from the middle."""
    forth, out = math.radians(angle), math.radians(outward)
    return np.array([side * math.sin(out), -math.cos(forth) * math.cos(out), math.sin(forth) * math.cos(out)])


def _add_paw(builder: BodyBuilder, joint: np.ndarray, towards: np.ndarray) -> None:
    """A carpus or tarsus with four toes in the direction `towards`, a unit vector."""
    size = builder.animal.size
    bones = []
    for toe in range(4):
        off = np.array([(toe - 1.5) * 0.55, 0, 0]) * size
        start, end = joint + off * 0.6 + towards * 0.8 * size, joint + off + towards * 4.5 * size
        bones.append(Rod(start, end, 0.22 * size))
    builder.add("paw", 0.85, SOFT, (Ellipsoid(joint, (0.9 * size,) * 3, np.eye(3)), *bones))
    _add_flesh(builder, joint, joint + towards * 5 * size, 1.1 * size)


def _add_flesh(builder: BodyBuilder, start: np.ndarray, end: np.ndarray, thick: float) -> None:
    """Muscle of a limb from start to end, `thick` cm wide, with fat and skin around it."""
    length, axis = float(np.linalg.norm(end - start)), rotation_to(end - start)
    muscle = (
        Ellipsoid(start + (end - start) * 0.25, (thick, thick, 0.62 * length), axis),
        Rod(start + (end - start) * 0.3, end, 0.55 * thick),
    )
    name = f"limb {len(builder.solids)}"
    earlier = tuple(solid.name for solid in builder.solids if solid.name.startswith("limb"))
    builder.add("muscle", SOFT, FAT, muscle, ("muscle", "chest", "cavity", *earlier), name)
    skin = tuple(part.thicker(0.1 + 0.35 * builder.animal.fat) for part in muscle)
    earlier = tuple(solid.name for solid in builder.solids if solid.name.startswith("skin"))
    builder.add("body", FAT, AIR, skin, ("body", *earlier), f"skin {len(builder.solids)}")


def add_head(builder: BodyBuilder) -> None:
    """Skull and snout; few views show more than the back of the head."""
    shell = builder.ellipsoid((0, 5.2, 38), (2.9, 2.8, 3.8))
    brain = builder.ellipsoid((0, 5.2, 38), (2.6, 2.5, 3.5))
    builder.add("skull", CORTEX, SOFT, (shell,))
    builder.add("skull", SOFT, CORTEX, (brain,))
    jaws = [builder.rod((side * 2.2, 2.2, 38), (side * 0.8, 1.2, 47), 0.5) for side in (1, -1)]
    snout = builder.ellipsoid((0, 3.4, 44), (1.7, 1.6, 4.0))
    builder.add("skull", 0.75, SOFT, (*jaws, snout))
    skin = tuple(part.thicker(0.8 * builder.animal.size) for part in (shell, snout))
    builder.add("muscle", SOFT, FAT, skin, ("muscle",), "head")
    builder.add("body", FAT, AIR, skin, ("body",), "head skin")


def _add_long_bone(
    builder: BodyBuilder, name: str, start: np.ndarray, end: np.ndarray, radius: float
) -> None:
    """Cortex around a marrow canal between two spongy ends; in two pieces if this is the broken bone."""
    organ = name.rpartition("_")[0]
    axis = (end - start) / np.linalg.norm(end - start)
    wall = 0.72 - 0.06 * (1 - builder.animal.age)
    pieces = [(start, end)]
    if name == _broken_bone(builder):
        pieces = _fragments(builder, start, end, radius)
    for one, two in pieces:
        builder.add(organ, CORTEX, SOFT, (Rod(one, two, radius, True),))
        builder.add(organ, MARROW, CORTEX, (Rod(one, two, radius * wall, True),))
    if len(pieces) > 1:
        builder.add("implant", STEEL, SOFT, _steel_plate(builder, start, end, radius))
    (first, _), (_, last) = pieces[0], pieces[-1]
    for tip, sign in ((first, 1), (last, -1)):
        axes = (1.75 * radius, 1.75 * radius, 1.6 * radius)
        epiphysis = Ellipsoid(tip + axis * sign * 0.3 * radius, axes, rotation_to(axis))
        builder.add(organ, SPONGE, SOFT, (epiphysis,), (organ,), f"{name} end")


def _broken_bone(builder: BodyBuilder) -> str:
    """Name of the broken long bone, one of BREAKABLE; empty without the finding."""
    if not builder.disease.get("long_bone_fracture"):
        return ""
    random = builder.disease_random(6)
    return BREAKABLE[int(random.integers(len(BREAKABLE)))]


def _fragments(
    builder: BodyBuilder, start: np.ndarray, end: np.ndarray, radius: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(start, end) of the two fragments of a bone: displaced, overriding and at an angle, more so with severity."""
    severity = builder.disease.get("long_bone_fracture")
    random = builder.disease_random(7)
    across = rotation_to(end - start)
    share, angle = random.uniform(0.4, 0.62), random.uniform(0, 2 * math.pi)
    sideways = (across[:, 0] * math.cos(angle) + across[:, 1] * math.sin(angle)) * radius
    middle = start + (end - start) * share
    shift = sideways * (0.8 + 1.6 * severity) + across[:, 2] * radius * random.uniform(-1.5, 0.8)
    other = middle + shift
    tip = other + (end - middle) + sideways * random.uniform(-2.5, 2.5)
    return [(start, middle), (other, tip)]


def _steel_plate(builder: BodyBuilder, start: np.ndarray, end: np.ndarray, radius: float) -> tuple[Rod, ...]:
    """A plate along the broken bone and six screws across it; empty for the one fracture in three not yet repaired."""
    random = builder.disease_random(8)
    if random.uniform() > 2 / 3:
        return ()
    across = rotation_to(end - start)
    angle = random.uniform(0, 2 * math.pi)
    out = across[:, 0] * math.cos(angle) + across[:, 1] * math.sin(angle)
    low, high = start + (end - start) * 0.15 + out * radius, start + (end - start) * 0.85 + out * radius
    bar = Rod(low, high, 0.4 * radius, True)
    heads = [low + (high - low) * share for share in np.linspace(0.06, 0.94, 6)]
    screws = [Rod(head, head - out * 2.2 * radius, 0.15 * radius) for head in heads]
    return (bar, *screws)
