"""A dog or a cat as a few hundred convex solids, grown from a handful of numbers.

`Animal` stays with a patient, `Disease` with a study, `Pose` with a view: gas rises, fluid falls and the
heart leans with the side the animal lies on, so a VD is not a mirrored DV. Lengths are those of a 15 kg
dog, in cm, times the animal's own width, depth and length. The origin is the spine at the last rib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .xray import Cut, Ellipsoid, Meet, Primitive, Rod, Solid

# Attenuation at an effective 40 keV, 1/cm, rounded from the NIST tables (XCOM) for ICRU tissues.
AIR, LUNG, FAT, SOFT = 0.0, 0.075, 0.228, 0.282
MARROW, CARTILAGE, SPONGE, CORTEX, STONE, STEEL = 0.31, 0.34, 0.58, 1.20, 1.05, 9.0

FINDINGS = (
    "cardiomegaly", "pleural_effusion", "lung_mass", "hepatomegaly",
    "gastric_dilatation", "rib_fracture", "long_bone_fracture", "bladder_stones",
)  # fmt: skip
"""What can be wrong; the columns of labels.csv in this order."""

DOWN = {"VD": (0, 1, 0), "DV": (0, -1, 0), "LLAT": (1, 0, 0), "RLAT": (-1, 0, 0)}
"""Where gravity points in the animal frame: LLAT lies on its left side."""

CARDINAL = ("humerus_left", "humerus_right", "femur_left", "femur_right")
"""The long bones that a picture of the whole animal holds, and so the ones that may break."""

FIELDS = {
    "chest": ((0, 2, 19), (0, -15, 9), (0, -13.5, -8), (6.6, -7, 2), (-6.6, -7, 2)),
    "belly": ((0, 2, 2), (0, -14.5, 0), (0, -13.5, -18), (7, -7, -4), (-7, -7, -4), (0, -3, -24)),
}
"""Points that a picture of one half of the trunk holds, in the frame of a 15 kg dog."""

SEEN = {
    "whole": FINDINGS,
    "chest": ("cardiomegaly", "pleural_effusion", "lung_mass", "rib_fracture"),
    "belly": ("hepatomegaly", "gastric_dilatation", "bladder_stones"),
}
"""Field of view -> the findings that its pictures can show; nothing is known of the others."""


@dataclass(frozen=True, slots=True)
class Animal:
    """What a patient keeps from study to study. Factors are relative to a 15 kg dog."""

    size: float
    width: float
    depth: float
    length: float
    limb: float
    fat: float
    """Thickness of the subcutaneous fat, cm."""
    age: float
    """0 young … 1 old: thinner cortex, spurs between vertebrae, calcified costal cartilage."""
    male: bool
    cat: bool
    seed: int
    """Of vessels, gut loops and all that no two animals share."""


@dataclass(frozen=True, slots=True)
class Disease:
    """Severity of every finding, 0 absent, else (0, 1]; where it sits follows from `seed`."""

    severity: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def of(self, finding: str) -> float:
        return self.severity.get(finding, 0.0)


@dataclass(frozen=True, slots=True)
class Pose:
    """How the animal lies for one view. Angles in degrees, shifts in cm."""

    position: str
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """About the long axis (rotated chest), the transverse axis and the ray."""
    bend: tuple[float, float] = (0.0, 0.0)
    """Sideways and dorsal sweep of the spine at 20 cm from the last rib."""
    breath: float = 0.0
    """How far the diaphragm has moved caudally."""
    fore: tuple[float, float] = (0.0, 0.0)
    hind: tuple[float, float] = (0.0, 0.0)
    """Swing of the left and right limb from ventral towards cranial, beside what the position asks for."""
    fill: float = 0.5
    """How full stomach and bladder are."""


def draw_animal(random: np.random.Generator) -> Animal:
    """A patient: toy breeds to giants, deep chests and barrels, lean and fat, pup to old."""
    cat = bool(random.uniform() < 0.25)
    heavy = random.uniform(np.log(3.0), np.log(7.0 if cat else 50.0))
    size = float(np.exp(heavy) / 15) ** (1 / 3)
    build = random.normal(0, 0.5 if cat else 1)  # from barrel (-) to greyhound (+)
    return Animal(
        size=size,
        width=float(np.clip(1 - 0.08 * build + random.normal(0, 0.04), 0.75, 1.3)),
        depth=float(np.clip(1 + 0.07 * build + random.normal(0, 0.04), 0.8, 1.25)),
        length=float(np.clip(random.normal(1.08 if cat else 1, 0.06), 0.85, 1.25)),
        limb=float(np.clip(random.normal(1, 0.18), 0.5, 1.35)),
        fat=float(np.clip(random.gamma(2.2, 0.35), 0.15, 2.2)),
        age=float(random.uniform()),
        male=bool(random.uniform() < 0.5),
        cat=cat,
        seed=int(random.integers(2**31)),
    )


def draw_pose(random: np.random.Generator, position: str) -> Pose:
    """One positioning of the animal on the table, never twice the same."""
    lateral = position in ("LLAT", "RLAT")
    turn = random.normal(0, (5.0, 2.0, 2.5) if lateral else (4.0, 2.0, 2.5))
    bend = random.normal(0, (0.4, 0.7) if lateral else (1.0, 0.4))
    return Pose(
        position=position,
        turn=tuple(turn.tolist()),
        bend=tuple(bend.tolist()),
        breath=float(random.normal(0, 0.8)),
        fore=tuple(random.normal(0, 14, 2).tolist()),
        hind=tuple(random.normal(0, 14, 2).tolist()),
        fill=float(random.uniform(0.1, 1)),
    )


def turned(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation matrix (3, 3), degrees: pitch about x, then yaw about y, then roll about z."""
    (cp, sp), (cy, sy), (cr, sr) = (
        (math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in (pitch, yaw, roll)
    )
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def aligned(direction: Sequence[float]) -> np.ndarray:
    """Rotation (3, 3) whose third column is `direction`, made a unit vector."""
    x, y, z = (float(part) for part in direction)
    long = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / long, y / long, z / long
    # The second column is third x helper for the axis that the third avoids; then first = second x third.
    a, b, c = (0.0, z, -y) if abs(x) < 0.9 else (-z, 0.0, x)
    long = math.sqrt(a * a + b * b + c * c)
    a, b, c = a / long, b / long, c / long
    return np.array([[b * z - c * y, a, x], [c * x - a * z, b, y], [a * y - b * x, c, z]])


class Growth:
    """The animal while it grows: places points, collects solids. Used once, by `grow`."""

    def __init__(self, animal: Animal, disease: Disease, pose: Pose) -> None:
        self.animal, self.disease, self.pose = animal, disease, pose
        self.scale = np.array(
            [animal.size * animal.width, animal.size * animal.depth, animal.size * animal.length]
        )
        self.down = np.array(DOWN[pose.position], float)
        self.solids: list[Solid] = []
        self.landmarks: list[np.ndarray] = []

    def random(self, what: int) -> np.random.Generator:
        """The same numbers for the same animal and organ in every view."""
        return np.random.default_rng((self.animal.seed, what))

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        """A place in reference cm -> (3,) cm in this animal, its spine bent."""
        sideways, dorsal = self.pose.bend
        far = (z / 20) ** 2
        return np.array([x + sideways * far, y + dorsal * far, z]) * self.scale

    def turn_at(self, z: float) -> np.ndarray:
        """How the bend turns what sits at z."""
        sideways, dorsal = self.pose.bend
        slope = 2 * z / 400
        return turned(
            pitch=-math.degrees(math.atan(dorsal * slope)), yaw=math.degrees(math.atan(sideways * slope))
        )

    def ball(
        self,
        centre: Sequence[float],
        axes: Sequence[float],
        turn: np.ndarray | None = None,
        more: float = 0.0,
    ) -> Ellipsoid:
        """An ellipsoid in reference cm, `more` real cm thicker all round."""
        bent = self.turn_at(centre[2])
        if turn is None:
            sizes = np.asarray(axes) * self.scale + more
            return Ellipsoid(self.at(*centre), tuple(sizes.tolist()), bent)
        sizes = np.asarray(axes) * self.animal.size + more
        return Ellipsoid(self.at(*centre), tuple(sizes.tolist()), bent @ turn)

    def rod(
        self,
        start: Sequence[float],
        end: Sequence[float],
        radius: float,
        flat: bool = False,
        more: float = 0.0,
    ) -> Rod:
        return Rod(self.at(*start), self.at(*end), radius * self.animal.size + more, flat)

    def chain(self, points: Sequence[Sequence[float]], radius: float | Sequence[float]) -> tuple[Rod, ...]:
        """Rods from point to point."""
        radii = [radius] * (len(points) - 1) if isinstance(radius, float) else radius
        return tuple(self.rod(a, b, r) for a, b, r in zip(points, points[1:], radii, strict=False))

    def add(
        self,
        organ: str,
        mu: float,
        instead: float,
        parts: Sequence[Primitive],
        yields: tuple[str, ...] = (),
        name: str = "",
    ) -> None:
        if parts:
            self.solids.append(Solid(organ, mu, instead, tuple(parts), yields, name))


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A grown animal: its solids, and for each field of view the points (N, 3) cm that it must hold."""

    solids: tuple[Solid, ...]
    landmarks: Mapping[str, np.ndarray]

    def named(self, organ: str) -> tuple[Solid, ...]:
        return tuple(solid for solid in self.solids if solid.organ == organ)


def grow(animal: Animal, disease: Disease, pose: Pose) -> Body:
    """All solids of the animal as it lies. Deterministic: the same three give the same body."""
    growth = Growth(animal, disease, pose)
    _trunk(growth)
    heart = _heart(growth)
    _lungs(growth, heart)
    _liver(growth)
    _stomach(growth)
    _abdomen(growth)
    _gut(growth)
    _bladder(growth)
    _spine(growth)
    _ribs(growth)
    _pelvis(growth)
    _forelimbs(growth)
    _hindlimbs(growth)
    _head(growth)
    for point in ((0, 2, 19), (0, -15, 9), (0, -14, -8), (7.4, -7, -4), (-7.4, -7, -4), (0, -3, -23)):
        growth.landmarks.append(growth.at(*point))
    fields = {region: np.stack([growth.at(*point) for point in points]) for region, points in FIELDS.items()}
    return Body(tuple(growth.solids), {"whole": np.stack(growth.landmarks), **fields})


# Trunk and chest ----------------------------------------------------------------------------------


def _chest(growth: Growth, more: float = 0.0) -> Ellipsoid:
    return growth.ball((0, -7.0, 2.8), (6.3, 7.6, 16.8), more=more)


def _dome(growth: Growth, more: float = 0.0) -> Ellipsoid:
    """The diaphragm and what lies behind it; inspiration and a swollen belly move it."""
    swollen = 1.5 * growth.disease.of("gastric_dilatation")
    return growth.ball((0, -8.6, -8.6 - growth.pose.breath + swollen), (5.9, 7.0, 12.0), more=more)


def _flank(growth: Growth, more: float = 0.0) -> Ellipsoid:
    swollen = growth.disease.of("gastric_dilatation") + 0.6 * growth.disease.of("hepatomegaly")
    belly = growth.ball((0, -7.2, -11.5), (5.1 + 0.9 * swollen, 5.9 + 0.9 * swollen, 11.0), more=more)
    return Ellipsoid(belly.centre, belly.axes, belly.turn @ turned(pitch=6))


def _trunk(growth: Growth) -> None:
    """Skin and fat as one envelope, the muscle wall round two cavities, the long muscles beside the spine."""
    fat, wall = growth.animal.fat, 0.9 * growth.animal.size
    neck = [(0, -3.5, 15), (0, -1.0, 24), (0, 2.5, 34)]
    back = [growth.ball((0, 0.2, 5), (3.6, 2.2, 19)), growth.ball((0, -0.4, -11), (4.2, 2.4, 13))]
    back.append(growth.ball((0, 0.3, 14), (2.6, 3.4, 8)))
    chest, dome, flank = _chest(growth, wall), _dome(growth, wall), _flank(growth, wall)
    shoulder = growth.ball((0, -6.5, 14), (5.4, 6.6, 9.5))
    rump = growth.ball((0, -3.2, -19.5), (5.0, 4.4, 7.5))
    parts = (chest, dome, flank, shoulder, rump, *back, *growth.chain(neck, 3.6))
    skin = tuple(_thicker(part, fat) for part in parts)
    growth.add("body", FAT, AIR, skin)
    muscle_yields = ("chest", "cavity")
    growth.add("muscle", SOFT, FAT, parts, muscle_yields)
    growth.add("chest", FAT, FAT, (_chest(growth),))
    growth.add("cavity", FAT, FAT, (_dome(growth), _flank(growth)))


def _thicker(part: Ellipsoid | Rod, more: float) -> Ellipsoid | Rod:
    if isinstance(part, Rod):
        return Rod(part.start, part.end, part.radius + more, part.flat)
    return Ellipsoid(part.centre, tuple(axis + more for axis in part.axes), part.turn)


def _heart(growth: Growth) -> Ellipsoid:
    """Ventricles, atria, great vessels and windpipe. The heart falls a little to the side that lies down."""
    large = 1 + 0.16 * bool(growth.disease.of("cardiomegaly")) + 0.32 * growth.disease.of("cardiomegaly")
    random = growth.random(1)
    lean = growth.down * (0.55, 0.15, 0)
    lie = random.normal(0, 0.15, 3)
    axes = np.array([3.45, 3.5, 4.7]) * random.uniform(0.93, 1.05) * large
    x, y, z = np.array([0.7, -9.9, 7.4]) + lean
    rise = (large - 1) * 3.0
    towards = np.array([0.35, -0.8, -0.55]) + lie * 0.4
    ventricles = growth.ball((x, y + 0.4 * rise, z - 0.2 * rise), axes, aligned(towards))
    atria = growth.ball(
        (x - 0.3, y + 2.2 + 0.9 * rise, z + 0.6 - 0.4 * rise), np.array([3.0, 2.2, 3.1]) * large
    )
    growth.add("heart", SOFT, FAT, (ventricles, atria))
    arch = [(0.5, y + 2.5, z + 2.0), (0.9, -4.6, 9.8), (0.9, -3.2, 7.5), (0.7, -2.3, 3.0), (0.3, -1.9, -4.0)]
    cava = [(-0.9, y + 1.2, z - 2.0), (-1.0, -8.4, 2.0)]
    growth.add(
        "vessels",
        SOFT,
        FAT,
        growth.chain(arch, 0.75) + growth.chain(cava, 0.55),
        ("heart", "cavity"),
        "great",
    )
    front = growth.ball((0, -5.6, 14.2), (1.1, 3.2, 5.2))
    growth.add("mediastinum", SOFT, FAT, (front,), ("heart", "great"))
    fork = np.array([0, -5.0 + 0.8 * rise, 8.8])
    pipe = [(0, 0.5, 34), (0, -2.6, 23), (0, -3.9, 17), tuple(fork)]
    growth.add("trachea", AIR, SOFT, growth.chain(pipe, 0.62))
    for side in (1, -1):
        bronchi = [tuple(fork), (side * 1.5, fork[1] - 0.6, 6.8), (side * 2.6, fork[1] - 0.4, 4.0)]
        growth.add("trachea", AIR, LUNG, growth.chain(bronchi, [0.4, 0.25]))
    growth.landmarks += [ventricles.centre, ventricles.centre + ventricles.turn[:, 2] * ventricles.axes[2]]
    return ventricles


def _lungs(growth: Growth, heart: Ellipsoid) -> None:
    """Each lung is half of the chest less what displaces it; fluid takes what a shrunken lung gives up."""
    effusion = growth.disease.of("pleural_effusion")
    random = np.random.default_rng((growth.disease.seed, 2))
    one_sided = random.choice([0.0, 1.0, -1.0], p=[0.6, 0.2, 0.2])
    for side in (1, -1):
        amount = effusion * (0.15 if side == -one_sided else 1.0)
        half = (((-side * growth.turn_at(2.8)[:, 0]), -0.45 * growth.scale[0]),)
        lies_down = float(growth.down[0]) == side
        mu = LUNG + 0.035 * lies_down - 0.008 * growth.pose.breath
        whole = _chest(growth)
        lung = whole
        if amount:
            shrunk = np.asarray(whole.axes) * (1 - (0.10 + 0.22 * amount) * np.array([1, 1, 0.6]))
            room = (np.asarray(whole.axes) - shrunk) * np.array([0.5, 1, 0.6])
            lung = Ellipsoid(whole.centre - growth.down * room * 0.85, tuple(shrunk.tolist()), whole.turn)
            growth.add(
                "effusion", SOFT, FAT, (Cut(whole, half),), ("air", "heart", "great", "mass", "cavity")
            )
        growth.add(
            "lung", mu, FAT, (Cut(lung, half),), ("heart", "great", "mediastinum", "mass", "cavity"), "air"
        )
        _tree(growth, side, lung)
    _mass(growth, heart)


def _outside(growth: Growth, point: np.ndarray, *solids: Ellipsoid) -> bool:
    """Whether a point (3,) cm lies in none of the ellipsoids."""
    return all(np.sum(((point - s.centre) @ s.turn / np.asarray(s.axes)) ** 2) > 1 for s in solids)


def _tree(growth: Growth, side: int, lung: Ellipsoid) -> None:
    """Vessels that branch from the hilus into every lobe, thinner at each fork."""
    random = growth.random(10 + side)
    root = growth.at(side * 1.2, -5.8, 7.2)
    dome = _dome(growth)
    for branch in range(7):
        across = random.normal(size=3)
        across[0] = abs(across[0]) * side
        tip = lung.centre + lung.turn @ (np.asarray(lung.axes) * 0.86 * across / np.linalg.norm(across))
        thick, steps = random.uniform(0.17, 0.26) * growth.animal.size, 4
        rods, before = [], root
        for step in range(1, steps + 1):
            here = root + (tip - root) * step / steps + random.normal(0, 0.25, 3) * growth.animal.size
            if not _outside(growth, here, dome):
                break
            rods.append(Rod(before, here, thick * (1 - 0.2 * step)))
            twig = here + (tip - root) / steps * 0.9 + random.normal(0, 1.0, 3) * growth.animal.size
            if step in (2, 3) and _outside(growth, twig, dome):
                rods.append(Rod(here, twig, thick * (0.6 - 0.1 * step)))
            before = here
        yields = ("heart", "cavity", "mass", "effusion")
        growth.add("vessels", SOFT, LUNG, rods, yields, f"branch {side} {branch}")


def _mass(growth: Growth, heart: Ellipsoid) -> None:
    """Two to six knobbly masses, the first the largest, clear of heart and diaphragm."""
    severity = growth.disease.of("lung_mass")
    if not severity:
        return
    random = np.random.default_rng((growth.disease.seed, 3))
    chest, dome = _chest(growth), _dome(growth)
    parts: list[Ellipsoid] = []
    for number in range(2 + int(random.integers(0, 2 + round(3 * severity)))):
        radius = (
            (1.3 + 1.5 * severity) * growth.animal.size * (1 if number == 0 else random.uniform(0.5, 0.8))
        )
        clear = [_thicker(heart, 0.7 * radius), _thicker(dome, 0.5 * radius)]
        for _ in range(60):
            across = random.uniform(-1, 1, 3) * (0.72, 0.70, 0.75)
            spot = chest.centre + chest.turn @ (np.asarray(chest.axes) * across)
            if abs(across[0]) > 0.36 and _outside(growth, spot, *clear):
                break
        shape = radius * random.uniform(0.8, 1.15, 3)
        knob = spot + random.normal(0, 0.5, 3) * radius
        turn = aligned(random.normal(size=3))
        parts.append(Ellipsoid(spot, tuple(shape.tolist()), turn))
        parts.append(Ellipsoid(knob, tuple((shape * 0.6).tolist()), turn))
    growth.add("mass", SOFT + 0.01, FAT, parts)


# Belly --------------------------------------------------------------------------------------------


def _liver(growth: Growth) -> None:
    swollen = growth.disease.of("hepatomegaly")
    large = 1.2 * bool(swollen) + 2.8 * swollen
    lobe = growth.ball((-0.5, -9.8, -0.2 - 0.85 * large), (6.6, 6.4 + 0.3 * large, 4.3 + 0.9 * large))
    growth.add("liver", SOFT, FAT, (Meet(_thicker(_dome(growth), -0.15), lobe),))
    growth.add("liver", SOFT, FAT, (Meet(_thicker(_flank(growth), -0.3), lobe),), ("liver",), "liver tail")


def _stomach(growth: Growth) -> None:
    """Balls in a row; gas fills what lies above a level, and the level follows gravity."""
    bloated, swollen = growth.disease.of("gastric_dilatation"), growth.disease.of("hepatomegaly")
    fill = growth.pose.fill
    back = 1.8 * swollen + 1.2 * bloated
    if bloated:  # one balloon, the pylorus a bulge on its right
        round_ = 3.4 + 1.3 * bloated
        pieces = [((1.0, -6.4, -5.6 - back), (1.15 * round_, 1.1 * round_, round_))]
        pieces.append(((-3.0, -8.2, -5.2 - back), (0.6 * round_, 0.62 * round_, 0.6 * round_)))
    else:
        sizes = np.array([(2.5, 2.4, 2.2), (2.3, 2.3, 2.0), (1.5, 1.5, 1.4)]) * (0.75 + 0.35 * fill)
        places = ((2.5, -4.9, -4.6 - back), (1.0, -8.2, -5.8 - back), (-2.6, -9.2, -5.2 - back))
        pieces = list(zip(places, sizes, strict=True))
    parts = tuple(growth.ball(place, size) for place, size in pieces)
    growth.add("stomach", SOFT, FAT, parts, ("liver", "liver tail"))
    share = 0.62 + 0.3 * bloated if bloated else 0.12 + 0.35 * growth.random(5).uniform()
    heights = np.array([growth.down @ part.centre for part in parts])
    reach = np.array([np.linalg.norm(growth.down * part.axes) for part in parts])
    top, bottom = float((heights - reach).min()), float((heights + reach).max())
    level = top + (bottom - top) * share
    inner = [_thicker(part, -0.25 * growth.animal.size) for part in parts]
    gas = [Cut(part, ((growth.down, level),)) for part in inner]
    growth.add("gas", AIR, SOFT, gas, ("liver", "liver tail"), "stomach gas")


def _abdomen(growth: Growth) -> None:
    """Spleen and kidneys."""
    random = growth.random(6)
    pushed = 1.5 * growth.disease.of("gastric_dilatation") + growth.disease.of("hepatomegaly")
    path = np.array([(4.2, -4.2, -6.8), (4.4, -7.5, -8.5), (2.8, -11.2, -9.6)]) + random.normal(
        0, 0.4, (3, 3)
    )
    path[:, 2] -= pushed
    spleen = [
        growth.ball(tuple((a + b) / 2), (0.75, 1.15, 0.75 * np.linalg.norm(b - a)), aligned(b - a))
        for a, b in pairwise(path)
    ]
    growth.add("spleen", SOFT + 0.006, FAT, spleen, ("stomach",))
    for side, z in ((1, -9.0), (-1, -6.2)):
        x, y = side * random.uniform(2.5, 3.1), random.uniform(-4.2, -3.4)
        bean = growth.ball((x, y, z - 0.4 * pushed), (1.35, 1.5, 2.7), aligned((0.15 * side, -0.15, 1)))
        growth.add("kidneys", SOFT + 0.004, FAT, (bean,), ("stomach",))


GUT_YIELDS = ("liver", "liver tail", "stomach", "spleen", "kidneys", "bladder")


def _gut(growth: Growth) -> None:
    """Small intestine as one long random walk in the middle of the belly, and a colon with what it holds."""
    random = growth.random(7)
    pushed = 1.6 * growth.disease.of("gastric_dilatation") + 1.2 * growth.disease.of("hepatomegaly")
    middle, room = np.array([-0.3, -9.0, -11.3 - pushed]), np.array([4.6, 4.0, 4.6])
    points = _wander(random, middle, room, steps=44)
    radius = float(random.uniform(0.42, 0.58))
    growth.add("gut", SOFT, FAT, growth.chain(points, radius), (*GUT_YIELDS, "colon"))
    for _ in range(random.integers(2, 7)):
        first, run = random.integers(0, 38), random.integers(1, 5)
        growth.add(
            "gas",
            AIR,
            SOFT,
            growth.chain(points[first : first + run + 1], radius * 0.72),
            (*GUT_YIELDS, "colon"),
            "gut gas",
        )
    _colon(growth, random, pushed)


def _wander(
    random: np.random.Generator, middle: np.ndarray, room: np.ndarray, steps: int
) -> list[np.ndarray]:
    """A walk inside an ellipsoid that keeps away from where it has been, as packed loops do."""
    points, heading = [middle + random.uniform(-0.5, 0.5, 3) * room], random.normal(size=3)
    for _ in range(steps):
        ways = heading + random.normal(0, 0.9, (8, 3))
        ways *= 1.5 / np.linalg.norm(ways, axis=1, keepdims=True)
        ends = points[-1] + ways
        past = np.array(points[:-2] or points[:1])
        clear = np.linalg.norm(ends[:, None] - past[None], axis=2).min(1).clip(max=2.0)
        beyond = np.linalg.norm((ends - middle) / room, axis=1)
        best = int(np.argmax(clear - 4 * np.maximum(beyond - 1, 0)))
        heading = ways[best]
        points.append(ends[best])
    return points


def _colon(growth: Growth, random: np.random.Generator, pushed: float) -> None:
    bend = -6.8 - 0.8 * pushed
    line = [
        (-2.6, -5.6, bend - 2.5), (-2.6, -5.2, bend), (0.0, -5.4, bend + 0.6), (2.4, -5.0, bend),
        (2.3, -4.4, bend - 4), (1.4, -3.9, bend - 8), (0.3, -3.6, -18.5), (0, -2.6, -24.5),
    ]  # fmt: skip
    wide = float(random.uniform(0.6, 1.0))
    growth.add("colon", SOFT, FAT, growth.chain(line, wide), ("stomach", "kidneys"))
    faeces, bubbles = [], []
    for a, b in pairwise(line[2:]):
        for _ in range(5):
            spot = np.asarray(a) + (np.asarray(b) - a) * random.uniform() + random.normal(0, 0.15, 3)
            lump = growth.ball(
                tuple(spot), random.uniform(0.25, 0.65, 3) * wide, aligned(random.normal(size=3))
            )
            (bubbles if random.uniform() < 0.3 else faeces).append(lump)
    growth.add("colon", 0.37, SOFT, faeces, ("stomach", "kidneys"), "faeces")
    growth.add("gas", 0.03, SOFT, bubbles, ("stomach", "kidneys", "faeces"), "colon gas")


def _bladder(growth: Growth) -> None:
    fill = 0.65 + 0.5 * growth.pose.fill
    axes = np.array([1.9, 1.8, 2.6]) * fill
    sack = growth.ball((0.0, -10.2 - 0.6 * fill, -17.2 + 0.8 * fill), axes)
    growth.add("bladder", SOFT, FAT, (sack,))
    growth.landmarks.append(sack.centre)
    severity = growth.disease.of("bladder_stones")
    if severity:
        random = np.random.default_rng((growth.disease.seed, 4))
        stones = []
        for _ in range(2 + int(random.integers(0, 2 + int(8 * severity)))):
            radius = random.uniform(0.45, 0.6 + 0.5 * severity) * growth.animal.size
            spread = random.normal(0, 0.4, 3)
            spread -= growth.down * (spread @ growth.down)
            across = growth.down * (1 - radius / min(sack.axes)) + spread * 0.8
            across /= max(1.0, np.linalg.norm(across) / (0.98 - radius / min(sack.axes)))
            shape = radius * random.uniform(0.75, 1.2, 3)
            spot = sack.centre + sack.turn @ (np.asarray(sack.axes) * across)
            stones.append(Ellipsoid(spot, tuple(shape.tolist()), aligned(random.normal(size=3))))
        growth.add("stones", STONE, SOFT, stones)
    if growth.animal.male and not growth.animal.cat:
        growth.add("os penis", CORTEX, SOFT, (growth.rod((0, -15.0, -19), (0, -15.8, -15), 0.16),))


# Bones --------------------------------------------------------------------------------------------


def _spine_line() -> list[tuple[str, float, float]]:
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


def _spine(growth: Growth) -> None:
    random = growth.random(8)
    dense = 1.05 - 0.2 * growth.animal.age
    for region, z, length in _spine_line():
        y, thick = _spine_height(z), {"C": 0.72, "T": 0.68, "L": 0.85, "Cd": 0.42}[region]
        half = 0.46 * length
        ahead, behind = (0, _spine_height(z + half), z + half), (0, _spine_height(z - half), z - half)
        core = [(p[0], p[1], z + (p[2] - z) * 0.82) for p in (ahead, behind)]
        growth.add("spine", SPONGE * 1.35 * dense, SOFT, (growth.rod(ahead, behind, thick, flat=True),))
        growth.add(
            "spine",
            SPONGE * 0.85 * dense,
            SPONGE * 1.35 * dense,
            (growth.rod(*core, thick * 0.82, flat=True),),
        )
        if region == "Cd":
            continue
        growth.add("spine", SPONGE * 1.2 * dense, SOFT, _processes(growth, region, y, z, length))
        if growth.animal.age > 0.55 and region in "TL" and random.uniform() < growth.animal.age * 0.35:
            spur = growth.ball((0, y - thick, z - length / 2), (0.6, random.uniform(0.15, 0.4), 0.65))
            growth.add("spine", SPONGE * 1.3, SOFT, (spur,))
    growth.add("spine", SPONGE * 1.1 * dense, SOFT, (growth.ball((0, -0.4, -18.6), (1.5, 0.9, 2.3)),))


def _processes(growth: Growth, region: str, y: float, z: float, length: float) -> tuple[Primitive, ...]:
    """Arch, spinous process and what sticks out sideways."""
    arch = growth.ball((0, y + 1.15, z), (0.85, 0.28, 0.42 * length))
    tall = {"C": 0.6, "T": 0.9 + 0.035 * max(0.0, z - 2), "L": 0.8}[region]
    lean = (0, 1, -0.75 if region == "T" and z > 4 else 0.15)
    fin = growth.ball(
        (0, y + 1.3 + tall * 0.8, z + lean[2] * tall), (0.16, 0.32 * length, tall), aligned(lean)
    )
    parts: list[Primitive] = [arch, fin]
    for side in (1, -1):
        if region == "L":
            parts.append(growth.rod((side * 0.6, y - 0.1, z), (side * 2.3, y - 0.7, z + 1.1), 0.2))
        if region == "C":
            parts.append(growth.ball((side * 1.1, y - 0.2, z), (0.55, 0.25, 0.4 * length)))
        facet = (side * 0.55, y + 0.95, z - 0.5 * length)
        parts.append(growth.ball(facet, (0.25, 0.38, 0.42)))
    return tuple(parts)


def _rib_line(rib: int, side: int) -> list[tuple[float, float, float]]:
    """Points of one rib from its head over the costochondral joint to the sternum; 1 is the first."""
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


def _ribs(growth: Growth) -> None:
    age = growth.animal.age
    gristle = CARTILAGE + 0.22 * max(0.0, age - 0.25)
    broken = _broken_ribs(growth)
    for side in (1, -1):
        for rib in range(1, 14):
            points = _rib_line(rib, side)
            bone = growth.chain(points[:7], 0.27 if rib < 12 else 0.2)
            if (side, rib) in broken:
                bone = _snapped(bone, *broken[side, rib])
                growth.add("ribs", SPONGE, FAT, (_callus(bone[broken[side, rib][0]], growth),), ("ribs",))
            growth.add("ribs", 0.92 - 0.15 * age, FAT, bone)
            growth.add("cartilage", gristle, FAT, growth.chain(points[6:], 0.24))
    for index in range(8):
        z = 16.5 - 2.1 * index
        y = -7.0 - 7.7 * math.sqrt(max(0.1, 1 - ((z - 2.8) / 17.6) ** 2))
        bar = growth.rod((0, y, z + 0.85), (0, y - 0.15, z - 0.85), 0.42, flat=True)
        growth.add("sternum", SPONGE, FAT, (bar,))


def _broken_ribs(growth: Growth) -> dict[tuple[int, int], tuple[int, np.ndarray]]:
    """(side, rib) -> (segment, displacement in cm): three to seven neighbours on one side."""
    severity = growth.disease.of("rib_fracture")
    if not severity:
        return {}
    random = np.random.default_rng((growth.disease.seed, 5))
    side, first = int(random.choice([1, -1])), int(random.integers(4, 9))
    segment = int(random.integers(1, 4))  # not where the rib turns, which a VD sees end on
    found = {}
    for rib in range(first, first + 3 + round(4 * severity * random.uniform(0.6, 1))):
        sideways, up, along = random.uniform((0.5, -0.5, 0.7), (1.0, 0.5, 1.2)) * (
            1,
            1,
            random.choice([-1, 1]),
        )
        shift = np.array([-side * sideways, up, along]) * growth.animal.size * (0.7 + 0.6 * severity)
        found[side, rib] = (segment, shift)
    return found


def _snapped(bone: tuple[Rod, ...], segment: int, shift: np.ndarray) -> tuple[Rod, ...]:
    """The rib stepped at the break: its far piece is off by `shift` there and in line again at its end."""
    old = bone[segment]
    middle, gap = old.start + (old.end - old.start) * 0.4, (old.end - old.start) * 0.15
    ends = [rod.end for rod in bone[segment:]]
    fade = np.linspace(1, 0, len(ends) + 2)[1:]
    points = [middle + gap + shift] + [end + shift * part for end, part in zip(ends, fade, strict=False)]
    far = [
        Rod(a, b, old.radius, flat)
        for a, b, flat in zip(points, points[1:], [True] + [False] * 9, strict=False)
    ]
    return (*bone[:segment], Rod(old.start, middle, old.radius, True), *far)


def _callus(broken: Rod, growth: Growth) -> Ellipsoid:
    """New bone round the end of a broken rib, as healing leaves it."""
    thick = 0.8 * growth.animal.size
    return Ellipsoid(broken.end, (thick, thick, 1.3 * thick), aligned(broken.end - broken.start))


def _pelvis(growth: Growth) -> None:
    for side in (1, -1):
        wing = growth.ball((side * 1.9, -0.4, -17.6), (0.28, 1.1, 2.1), aligned((side * 0.12, 0.45, 1)))
        shaft = growth.chain([(side * 2.0, -1.0, -18.8), (side * 2.7, -3.0, -20.8)], 0.42)
        seat = growth.chain(
            [(side * 2.7, -3.2, -20.8), (side * 2.3, -3.4, -23), (side * 2.2, -2.9, -24.8)], 0.38
        )
        floor = growth.chain(
            [(side * 2.6, -3.8, -20.9), (side * 0.5, -4.8, -21.3), (side * 0.4, -4.6, -23.5)], 0.28
        )
        growth.add("pelvis", 0.78, SOFT, (wing, *shaft, *seat, *floor))


def _long_bone(growth: Growth, name: str, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    """Cortex round a marrow canal between two spongy ends; broken in two where the disease says so. cm."""
    organ = name.rpartition("_")[0]
    axis = (end - start) / np.linalg.norm(end - start)
    wall = 0.72 - 0.06 * (1 - growth.animal.age)
    pieces = [(start, end)]
    if name == _broken_bone(growth):
        pieces = _fracture(growth, start, end, radius)
    for one, two in pieces:
        growth.add(organ, CORTEX, SOFT, (Rod(one, two, radius, True),))
        growth.add(organ, MARROW, CORTEX, (Rod(one, two, radius * wall, True),))
    if len(pieces) > 1:
        growth.add("implant", STEEL, SOFT, _plate(growth, start, end, radius))
    (first, _), (_, last) = pieces[0], pieces[-1]
    for tip, sign in ((first, 1), (last, -1)):
        knob = Ellipsoid(
            tip + axis * sign * 0.3 * radius, (1.75 * radius, 1.75 * radius, 1.6 * radius), aligned(axis)
        )
        growth.add(organ, SPONGE, SOFT, (knob,), (organ,), f"{name} end")


def _broken_bone(growth: Growth) -> str:
    if not growth.disease.of("long_bone_fracture"):
        return ""
    random = np.random.default_rng((growth.disease.seed, 6))
    return CARDINAL[int(random.integers(len(CARDINAL)))]


def _fracture(
    growth: Growth, start: np.ndarray, end: np.ndarray, radius: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two ends of one bone: set apart, overriding and at an angle, more so with severity."""
    severity = growth.disease.of("long_bone_fracture")
    random = np.random.default_rng((growth.disease.seed, 7))
    across = aligned(end - start)
    share, angle = random.uniform(0.4, 0.62), random.uniform(0, 2 * math.pi)
    sideways = (across[:, 0] * math.cos(angle) + across[:, 1] * math.sin(angle)) * radius
    middle = start + (end - start) * share
    shift = sideways * (0.8 + 1.6 * severity) + across[:, 2] * radius * random.uniform(-1.5, 0.8)
    other = middle + shift
    tip = other + (end - middle) + sideways * random.uniform(-2.5, 2.5)
    return [(start, middle), (other, tip)]


def _plate(growth: Growth, start: np.ndarray, end: np.ndarray, radius: float) -> tuple[Rod, ...]:
    """Two in three fractures are already repaired: a steel plate along the bone, held by screws across it."""
    random = np.random.default_rng((growth.disease.seed, 8))
    if random.uniform() > 2 / 3:
        return ()
    across = aligned(end - start)
    angle = random.uniform(0, 2 * math.pi)
    out = across[:, 0] * math.cos(angle) + across[:, 1] * math.sin(angle)
    low, high = start + (end - start) * 0.15 + out * radius, start + (end - start) * 0.85 + out * radius
    bar = Rod(low, high, 0.4 * radius, True)
    places = np.linspace(0.06, 0.94, 6)
    screws = [
        Rod(low + (high - low) * at, low + (high - low) * at - out * 2.2 * radius, 0.15 * radius)
        for at in places
    ]
    return (bar, *screws)


def _swung(angle: float, outward: float, side: int) -> np.ndarray:
    """Unit vector: `angle` degrees from ventral towards cranial, `outward` degrees away from the middle."""
    forth, out = math.radians(angle), math.radians(outward)
    return np.array([side * math.sin(out), -math.cos(forth) * math.cos(out), math.sin(forth) * math.cos(out)])


def _flesh(growth: Growth, start: np.ndarray, end: np.ndarray, thick: float) -> None:
    """Muscle in its sleeve of fat and skin, from start to end, cm."""
    long, axis = np.linalg.norm(end - start), aligned(end - start)
    meat = (
        Ellipsoid(start + (end - start) * 0.25, (thick, thick, 0.62 * long), axis),
        Rod(start + (end - start) * 0.3, end, 0.55 * thick),
    )
    name = f"limb {len(growth.solids)}"
    others = tuple(solid.name for solid in growth.solids if solid.name.startswith("limb"))
    growth.add("muscle", SOFT, FAT, meat, ("muscle", "chest", "cavity", *others), name)
    skin = tuple(_thicker(part, 0.1 + 0.35 * growth.animal.fat) for part in meat)
    others = tuple(solid.name for solid in growth.solids if solid.name.startswith("skin"))
    growth.add("body", FAT, AIR, skin, ("body", *others), f"skin {len(growth.solids)}")


def _forelimbs(growth: Growth) -> None:
    angles = {"VD": (58, 28), "DV": (10, 22), "LLAT": (18, 4), "RLAT": (18, 4)}[growth.pose.position]
    size = growth.animal.size * growth.animal.limb
    for side, swing, word in ((1, growth.pose.fore[0], "left"), (-1, growth.pose.fore[1], "right")):
        shoulder = growth.at(side * 4.6, -9.0, 18.0 + 0.04 * swing)
        top = growth.at(side * 3.2, 1.0, 13.0)
        blade = growth.ball((side * 4.3, -3.8, 15.2), (0.22, 1.7, 4.6), aligned(top - shoulder))
        spine = Rod(shoulder + (top - shoulder) * 0.15, top, 0.25 * growth.animal.size)
        growth.add("scapula", 0.74, SOFT, (blade, spine))
        elbow = shoulder + _swung(angles[0] + swing, angles[1], side) * 9.5 * size
        wrist = elbow + _swung(angles[0] + 0.6 * swing + 22, angles[1] * 0.4, side) * 10 * size
        _long_bone(growth, f"humerus_{word}", shoulder, elbow, 0.62 * growth.animal.size)
        _long_bone(growth, f"forearm_{word}", elbow, wrist, 0.42 * growth.animal.size)
        ulna = Rod(elbow - (wrist - elbow) * 0.16 + 0.5, wrist + 0.3, 0.25 * growth.animal.size)
        growth.add("forearm", 0.9, SOFT, (ulna,))
        _paw(growth, wrist, _swung(angles[0] + 25, 0, side))
        _flesh(growth, shoulder, elbow, 2.6 * growth.animal.size)
        _flesh(growth, elbow, wrist, 1.4 * growth.animal.size)
        growth.landmarks.append((shoulder + elbow) / 2)


def _hindlimbs(growth: Growth) -> None:
    angles = {"VD": (-82, 10, -90), "DV": (25, 38, -70), "LLAT": (-12, 4, -62), "RLAT": (-12, 4, -62)}
    thigh_angle, outward, shank_angle = angles[growth.pose.position]
    size = growth.animal.size * growth.animal.limb
    for side, swing, word in ((1, growth.pose.hind[0], "left"), (-1, growth.pose.hind[1], "right")):
        hip = growth.at(side * 3.3, -3.2, -21.0)
        if growth.pose.position == "VD":
            swing *= 0.5
        knee = hip + _swung(thigh_angle + swing, outward, side) * 11 * size
        hock = knee + _swung(shank_angle + swing, outward * 0.3, side) * 11.5 * size
        _long_bone(growth, f"femur_{word}", hip, knee, 0.64 * growth.animal.size)
        _long_bone(growth, f"tibia_{word}", knee, hock, 0.5 * growth.animal.size)
        cap = Ellipsoid(
            knee + _swung(thigh_angle + 90, 0, side) * 1.4 * growth.animal.size,
            tuple(growth.animal.size * part for part in (0.4, 0.4, 0.7)),
            aligned(knee - hip),
        )
        growth.add("tibia", 0.75, SOFT, (cap,))
        _paw(growth, hock, _swung(shank_angle + 40, 0, side))
        _flesh(growth, hip, knee, 3.4 * growth.animal.size)
        _flesh(growth, knee, hock, 1.7 * growth.animal.size)
        growth.landmarks.append((hip + knee) / 2)


def _paw(growth: Growth, joint: np.ndarray, towards: np.ndarray) -> None:
    size = growth.animal.size
    bones = []
    for toe in range(4):
        off = np.array([(toe - 1.5) * 0.55, 0, 0]) * size
        bones.append(
            Rod(joint + off * 0.6 + towards * 0.8 * size, joint + off + towards * 4.5 * size, 0.22 * size)
        )
    growth.add("paw", 0.85, SOFT, (Ellipsoid(joint, (0.9 * size,) * 3, np.eye(3)), *bones))
    _flesh(growth, joint, joint + towards * 5 * size, 1.1 * size)


def _head(growth: Growth) -> None:
    """Rarely in the picture, and then only the back of it."""
    shell, brain = growth.ball((0, 5.2, 38), (2.9, 2.8, 3.8)), growth.ball((0, 5.2, 38), (2.6, 2.5, 3.5))
    growth.add("skull", CORTEX, SOFT, (shell,))
    growth.add("skull", SOFT, CORTEX, (brain,))
    jaws = [growth.rod((side * 2.2, 2.2, 38), (side * 0.8, 1.2, 47), 0.5) for side in (1, -1)]
    snout = growth.ball((0, 3.4, 44), (1.7, 1.6, 4.0))
    growth.add("skull", 0.75, SOFT, (*jaws, snout))
    skin = tuple(_thicker(part, 0.8 * growth.animal.size) for part in (shell, snout))
    growth.add("muscle", SOFT, FAT, skin, ("muscle",), "head")
    growth.add("body", FAT, AIR, skin, ("body",), "head skin")
