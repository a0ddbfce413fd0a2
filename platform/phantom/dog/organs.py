"""Soft organs of the generated dog: trunk, heart, lungs, liver, stomach, spleen, kidneys, gut and bladder.

Each `add_…` function adds the solids of its organ to a `BodyBuilder`; lengths are reference cm (see `builder`).
Gas rises, fluid sinks and the heart leans with gravity, so a VD view is not a mirrored DV view.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..rotations import rotation, rotation_to
from .builder import AIR, CORTEX, FAT, LUNG, SOFT, STONE, BodyBuilder
from .solids import Clipped, Ellipsoid, Intersection, Rod

BELLY_ORGANS = ("liver", "liver tail", "stomach", "spleen", "kidneys", "bladder")
"""Names of the solids that displace the gut."""


def _chest(builder: BodyBuilder, more: float = 0.0) -> Ellipsoid:
    """The chest cavity, `more` cm thicker all round."""
    return builder.ellipsoid((0, -7.0, 2.8), (6.3, 7.6, 16.8), more=more)


def _dome(builder: BodyBuilder, more: float = 0.0) -> Ellipsoid:
    """The diaphragm and the organs behind it; inspiration and a swollen stomach move it."""
    swollen = 1.5 * builder.disease.get("gastric_dilatation")
    return builder.ellipsoid((0, -8.6, -8.6 - builder.pose.breath + swollen), (5.9, 7.0, 12.0), more=more)


def _flank(builder: BodyBuilder, more: float = 0.0) -> Ellipsoid:
    """The belly behind the diaphragm; a large stomach or liver widens it."""
    swollen = builder.disease.get("gastric_dilatation") + 0.6 * builder.disease.get("hepatomegaly")
    belly = builder.ellipsoid((0, -7.2, -11.5), (5.1 + 0.9 * swollen, 5.9 + 0.9 * swollen, 11.0), more=more)
    return Ellipsoid(belly.center, belly.axes, belly.rotation @ rotation(pitch=6))


def add_trunk(builder: BodyBuilder) -> None:
    """Skin and fat as one envelope, the muscle wall around two cavities, the long muscles beside the spine."""
    fat, wall = builder.animal.fat, 0.9 * builder.animal.size
    neck = [(0, -3.5, 15), (0, -1.0, 24), (0, 2.5, 34)]
    back = [builder.ellipsoid((0, 0.2, 5), (3.6, 2.2, 19)), builder.ellipsoid((0, -0.4, -11), (4.2, 2.4, 13))]
    back.append(builder.ellipsoid((0, 0.3, 14), (2.6, 3.4, 8)))
    chest, dome, flank = _chest(builder, wall), _dome(builder, wall), _flank(builder, wall)
    shoulder = builder.ellipsoid((0, -6.5, 14), (5.4, 6.6, 9.5))
    rump = builder.ellipsoid((0, -3.2, -19.5), (5.0, 4.4, 7.5))
    parts: list[Ellipsoid | Rod] = [chest, dome, flank, shoulder, rump, *back]
    parts += builder.chain(neck, 3.6)
    skin = tuple(part.thicker(fat) for part in parts)
    builder.add("body", FAT, AIR, skin)
    builder.add("muscle", SOFT, FAT, parts, ("chest", "cavity"))
    builder.add("chest", FAT, FAT, (_chest(builder),))
    builder.add("cavity", FAT, FAT, (_dome(builder), _flank(builder)))


def add_heart(builder: BodyBuilder) -> Ellipsoid:
    """Ventricles, atria, great vessels and trachea; returns the ventricles.

    The heart sinks a little towards the side that lies down.
    """
    severity = builder.disease.get("cardiomegaly")
    large = 1 + 0.16 * bool(severity) + 0.32 * severity
    random = builder.random(1)
    lean = builder.down * (0.55, 0.15, 0)
    tilt = random.normal(0, 0.15, 3)
    axes = np.array([3.45, 3.5, 4.7]) * random.uniform(0.93, 1.05) * large
    x, y, z = np.array([0.7, -9.9, 7.4]) + lean
    rise = (large - 1) * 3.0
    towards = np.array([0.35, -0.8, -0.55]) + tilt * 0.4
    ventricles = builder.ellipsoid((x, y + 0.4 * rise, z - 0.2 * rise), axes, rotation_to(towards))
    behind = (x - 0.3, y + 2.2 + 0.9 * rise, z + 0.6 - 0.4 * rise)
    atria = builder.ellipsoid(behind, np.array([3.0, 2.2, 3.1]) * large)
    builder.add("heart", SOFT, FAT, (ventricles, atria))
    arch = [(0.5, y + 2.5, z + 2.0), (0.9, -4.6, 9.8), (0.9, -3.2, 7.5), (0.7, -2.3, 3.0), (0.3, -1.9, -4.0)]
    cava = [(-0.9, y + 1.2, z - 2.0), (-1.0, -8.4, 2.0)]
    great = builder.chain(arch, 0.75) + builder.chain(cava, 0.55)
    builder.add("vessels", SOFT, FAT, great, ("heart", "cavity"), "great")
    front = builder.ellipsoid((0, -5.6, 14.2), (1.1, 3.2, 5.2))
    builder.add("mediastinum", SOFT, FAT, (front,), ("heart", "great"))
    fork = np.array([0, -5.0 + 0.8 * rise, 8.8])
    pipe = [(0, 0.5, 34), (0, -2.6, 23), (0, -3.9, 17), tuple(fork)]
    builder.add("trachea", AIR, SOFT, builder.chain(pipe, 0.62))
    for side in (1, -1):
        bronchi = [tuple(fork), (side * 1.5, fork[1] - 0.6, 6.8), (side * 2.6, fork[1] - 0.4, 4.0)]
        builder.add("trachea", AIR, LUNG, builder.chain(bronchi, [0.4, 0.25]))
    apex = ventricles.center + ventricles.rotation[:, 2] * ventricles.axes[2]
    builder.landmarks += [ventricles.center, apex]
    return ventricles


def add_lungs(builder: BodyBuilder, heart: Ellipsoid) -> None:
    """Each lung is half of the chest minus the organs that displace it; effusion fills the space a lung gives up."""
    effusion = builder.disease.get("pleural_effusion")
    random = builder.disease_random(2)
    one_sided = random.choice([0.0, 1.0, -1.0], p=[0.6, 0.2, 0.2])
    for side in (1, -1):
        amount = effusion * (0.15 if side == -one_sided else 1.0)
        half = (((-side * builder.rotation_at(2.8)[:, 0]), -0.45 * builder.scale[0]),)
        lies_down = float(builder.down[0]) == side
        mu = LUNG + 0.035 * lies_down - 0.008 * builder.pose.breath
        whole = _chest(builder)
        lung = whole
        if amount:
            shrunk = np.asarray(whole.axes) * (1 - (0.10 + 0.22 * amount) * np.array([1, 1, 0.6]))
            free = (np.asarray(whole.axes) - shrunk) * np.array([0.5, 1, 0.6])
            center = whole.center - builder.down * free * 0.85
            lung = Ellipsoid(center, tuple(shrunk.tolist()), whole.rotation)
            fluid = (Clipped(whole, half),)
            builder.add("effusion", SOFT, FAT, fluid, ("air", "heart", "great", "mass", "cavity"))
        displaced_by = ("heart", "great", "mediastinum", "mass", "cavity")
        builder.add("lung", mu, FAT, (Clipped(lung, half),), displaced_by, "air")
        _add_lung_vessels(builder, side, lung)
    _add_masses(builder, heart)


def _outside(point: np.ndarray, *ellipsoids: Ellipsoid) -> bool:
    """Whether a point (3,) cm lies in none of the ellipsoids."""
    return all(np.sum(((point - s.center) @ s.rotation / np.asarray(s.axes)) ** 2) > 1 for s in ellipsoids)


def _add_lung_vessels(builder: BodyBuilder, side: int, lung: Ellipsoid) -> None:
    """Vessels that branch from the hilus into every lobe, thinner at each fork."""
    random = builder.random(10 + side)
    root = builder.point(side * 1.2, -5.8, 7.2)
    dome = _dome(builder)
    for branch in range(7):
        across = random.normal(size=3)
        across[0] = abs(across[0]) * side
        tip = lung.center + lung.rotation @ (np.asarray(lung.axes) * 0.86 * across / np.linalg.norm(across))
        thick, steps = random.uniform(0.17, 0.26) * builder.animal.size, 4
        rods, before = [], root
        for step in range(1, steps + 1):
            here = root + (tip - root) * step / steps + random.normal(0, 0.25, 3) * builder.animal.size
            if not _outside(here, dome):
                break
            rods.append(Rod(before, here, thick * (1 - 0.2 * step)))
            twig = here + (tip - root) / steps * 0.9 + random.normal(0, 1.0, 3) * builder.animal.size
            if step in (2, 3) and _outside(twig, dome):
                rods.append(Rod(here, twig, thick * (0.6 - 0.1 * step)))
            before = here
        displaced_by = ("heart", "cavity", "mass", "effusion")
        builder.add("vessels", SOFT, LUNG, rods, displaced_by, f"branch {side} {branch}")


def _add_masses(builder: BodyBuilder, heart: Ellipsoid) -> None:
    """Two to six knobbly masses, the first the largest, clear of heart and diaphragm."""
    severity = builder.disease.get("lung_mass")
    if not severity:
        return
    random = builder.disease_random(3)
    chest, dome = _chest(builder), _dome(builder)
    parts: list[Ellipsoid] = []
    for number in range(2 + int(random.integers(0, 2 + round(3 * severity)))):
        share = 1 if number == 0 else random.uniform(0.5, 0.8)
        radius = (1.3 + 1.5 * severity) * builder.animal.size * share
        clear = [heart.thicker(0.7 * radius), dome.thicker(0.5 * radius)]
        for _ in range(60):
            across = random.uniform(-1, 1, 3) * (0.72, 0.70, 0.75)
            spot = chest.center + chest.rotation @ (np.asarray(chest.axes) * across)
            if abs(across[0]) > 0.36 and _outside(spot, *clear):
                break
        shape = radius * random.uniform(0.8, 1.15, 3)
        knob = spot + random.normal(0, 0.5, 3) * radius
        turn = rotation_to(random.normal(size=3))
        parts.append(Ellipsoid(spot, tuple(shape.tolist()), turn))
        parts.append(Ellipsoid(knob, tuple((shape * 0.6).tolist()), turn))
    builder.add("mass", SOFT + 0.01, FAT, parts)


def add_liver(builder: BodyBuilder) -> None:
    """The liver: a lobe inside the diaphragm, and its tail inside the flank where it is enlarged."""
    swollen = builder.disease.get("hepatomegaly")
    large = 1.2 * bool(swollen) + 2.8 * swollen
    lobe = builder.ellipsoid((-0.5, -9.8, -0.2 - 0.85 * large), (6.6, 6.4 + 0.3 * large, 4.3 + 0.9 * large))
    body = Intersection(_dome(builder).thicker(-0.15), lobe)
    tail = Intersection(_flank(builder).thicker(-0.3), lobe)
    builder.add("liver", SOFT, FAT, (body,))
    builder.add("liver", SOFT, FAT, (tail,), ("liver",), "liver tail")


def add_stomach(builder: BodyBuilder) -> None:
    """Ellipsoids in a row; gas fills the part above a level, and the level is perpendicular to gravity."""
    bloated, swollen = builder.disease.get("gastric_dilatation"), builder.disease.get("hepatomegaly")
    fill = builder.pose.fill
    back = 1.8 * swollen + 1.2 * bloated
    if bloated:  # one balloon, the pylorus a bulge on its right
        radius = 3.4 + 1.3 * bloated
        pieces = [((1.0, -6.4, -5.6 - back), (1.15 * radius, 1.1 * radius, radius))]
        pieces.append(((-3.0, -8.2, -5.2 - back), (0.6 * radius, 0.62 * radius, 0.6 * radius)))
    else:
        sizes = np.array([(2.5, 2.4, 2.2), (2.3, 2.3, 2.0), (1.5, 1.5, 1.4)]) * (0.75 + 0.35 * fill)
        places = ((2.5, -4.9, -4.6 - back), (1.0, -8.2, -5.8 - back), (-2.6, -9.2, -5.2 - back))
        pieces = list(zip(places, sizes, strict=True))
    parts = tuple(builder.ellipsoid(place, size) for place, size in pieces)
    builder.add("stomach", SOFT, FAT, parts, ("liver", "liver tail"))
    share = 0.62 + 0.3 * bloated if bloated else 0.12 + 0.35 * builder.random(5).uniform()
    heights = np.array([builder.down @ part.center for part in parts])
    reach = np.array([np.linalg.norm(builder.down * part.axes) for part in parts])
    top, bottom = float((heights - reach).min()), float((heights + reach).max())
    level = top + (bottom - top) * share
    inner = [part.thicker(-0.25 * builder.animal.size) for part in parts]
    gas = [Clipped(part, ((builder.down, level),)) for part in inner]
    builder.add("gas", AIR, SOFT, gas, ("liver", "liver tail"), "stomach gas")


def add_spleen_and_kidneys(builder: BodyBuilder) -> None:
    """The spleen along the left wall, and two kidneys, the right one further forward."""
    random = builder.random(6)
    pushed = 1.5 * builder.disease.get("gastric_dilatation") + builder.disease.get("hepatomegaly")
    path = np.array([(4.2, -4.2, -6.8), (4.4, -7.5, -8.5), (2.8, -11.2, -9.6)])
    path = path + random.normal(0, 0.4, (3, 3))
    path[:, 2] -= pushed
    spleen = [
        builder.ellipsoid(
            tuple((a + b) / 2), (0.75, 1.15, 0.75 * float(np.linalg.norm(b - a))), rotation_to(b - a)
        )
        for a, b in pairwise(path)
    ]
    builder.add("spleen", SOFT + 0.006, FAT, spleen, ("stomach",))
    for side, z in ((1, -9.0), (-1, -6.2)):
        x, y = side * random.uniform(2.5, 3.1), random.uniform(-4.2, -3.4)
        axis = rotation_to((0.15 * side, -0.15, 1))
        kidney = builder.ellipsoid((x, y, z - 0.4 * pushed), (1.35, 1.5, 2.7), axis)
        builder.add("kidneys", SOFT + 0.004, FAT, (kidney,), ("stomach",))


def add_gut(builder: BodyBuilder) -> None:
    """Small intestine as one long random walk in the middle of the belly, with pockets of gas, and the colon."""
    random = builder.random(7)
    pushed = 1.6 * builder.disease.get("gastric_dilatation") + 1.2 * builder.disease.get("hepatomegaly")
    middle, axes = np.array([-0.3, -9.0, -11.3 - pushed]), np.array([4.6, 4.0, 4.6])
    points = _packed_walk(random, middle, axes, steps=44)
    radius = float(random.uniform(0.42, 0.58))
    builder.add("gut", SOFT, FAT, builder.chain(points, radius), (*BELLY_ORGANS, "colon"))
    for _ in range(random.integers(2, 7)):
        first, run = random.integers(0, 38), random.integers(1, 5)
        pocket = builder.chain(points[first : first + run + 1], radius * 0.72)
        builder.add("gas", AIR, SOFT, pocket, (*BELLY_ORGANS, "colon"), "gut gas")
    _add_colon(builder, random, pushed)


def _packed_walk(
    random: np.random.Generator, middle: np.ndarray, axes: np.ndarray, steps: int
) -> list[np.ndarray]:
    """Points (3,) of a walk inside an ellipsoid that keeps away from its earlier points, as packed loops do."""
    points, heading = [middle + random.uniform(-0.5, 0.5, 3) * axes], random.normal(size=3)
    for _ in range(steps):
        headings = heading + random.normal(0, 0.9, (8, 3))
        headings *= 1.5 / np.linalg.norm(headings, axis=1, keepdims=True)
        ends = points[-1] + headings
        past = np.array(points[:-2] or points[:1])
        clear = np.linalg.norm(ends[:, None] - past[None], axis=2).min(1).clip(max=2.0)
        beyond = np.linalg.norm((ends - middle) / axes, axis=1)
        best = int(np.argmax(clear - 4 * np.maximum(beyond - 1, 0)))
        heading = headings[best]
        points.append(ends[best])
    return points


def _add_colon(builder: BodyBuilder, random: np.random.Generator, pushed: float) -> None:
    """The colon with feces and bubbles; `pushed`: reference cm by which a large stomach or liver moves it."""
    bend = -6.8 - 0.8 * pushed
    line = [
        (-2.6, -5.6, bend - 2.5), (-2.6, -5.2, bend), (0.0, -5.4, bend + 0.6), (2.4, -5.0, bend),
        (2.3, -4.4, bend - 4), (1.4, -3.9, bend - 8), (0.3, -3.6, -18.5), (0, -2.6, -24.5),
    ]  # fmt: skip
    wide = float(random.uniform(0.6, 1.0))
    builder.add("colon", SOFT, FAT, builder.chain(line, wide), ("stomach", "kidneys"))
    feces: list[Ellipsoid] = []
    bubbles: list[Ellipsoid] = []
    for a, b in pairwise(line[2:]):
        for _ in range(5):
            spot = np.asarray(a) + (np.asarray(b) - a) * random.uniform() + random.normal(0, 0.15, 3)
            axes = random.uniform(0.25, 0.65, 3) * wide
            lump = builder.ellipsoid(spot, axes, rotation_to(random.normal(size=3)))
            (bubbles if random.uniform() < 0.3 else feces).append(lump)
    builder.add("colon", 0.37, SOFT, feces, ("stomach", "kidneys"), "feces")
    builder.add("gas", 0.03, SOFT, bubbles, ("stomach", "kidneys", "feces"), "colon gas")


def add_bladder(builder: BodyBuilder) -> None:
    """The urinary bladder with its stones, and the os penis of male dogs."""
    fill = 0.65 + 0.5 * builder.pose.fill
    axes = np.array([1.9, 1.8, 2.6]) * fill
    bladder = builder.ellipsoid((0.0, -10.2 - 0.6 * fill, -17.2 + 0.8 * fill), axes)
    builder.add("bladder", SOFT, FAT, (bladder,))
    builder.landmarks.append(bladder.center)
    builder.add("stones", STONE, SOFT, _bladder_stones(builder, bladder))
    if builder.animal.male and not builder.animal.cat:
        builder.add("os penis", CORTEX, SOFT, (builder.rod((0, -15.0, -19), (0, -15.8, -15), 0.16),))


def _bladder_stones(builder: BodyBuilder, bladder: Ellipsoid) -> list[Ellipsoid]:
    """Stones on the lowest part of the bladder's wall; none without the finding."""
    severity = builder.disease.get("bladder_stones")
    if not severity:
        return []
    random = builder.disease_random(4)
    stones = []
    for _ in range(2 + int(random.integers(0, 2 + int(8 * severity)))):
        radius = random.uniform(0.45, 0.6 + 0.5 * severity) * builder.animal.size
        spread = random.normal(0, 0.4, 3)
        spread -= builder.down * (spread @ builder.down)
        across = builder.down * (1 - radius / min(bladder.axes)) + spread * 0.8
        across /= max(1.0, float(np.linalg.norm(across)) / (0.98 - radius / min(bladder.axes)))
        shape = radius * random.uniform(0.75, 1.2, 3)
        spot = bladder.center + bladder.rotation @ (np.asarray(bladder.axes) * across)
        stones.append(Ellipsoid(spot, tuple(shape.tolist()), rotation_to(random.normal(size=3))))
    return stones
