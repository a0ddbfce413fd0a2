"""X-rays through convex solids: exact chords, Beer-Lambert, and what a detector makes of it.

Every primitive is convex, so a ray is inside it on one interval [near, far], known in closed form. A solid's
path is its chord less what the solids that displace it take away. There is no voxel grid: a picture of any
size is sharp, and costs what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Animal frame, cm: x to the animal's left, y dorsal, z cranial.
# Detector frame, cm: u to the right, v down, t along the ray.

EMPTY = 1e4  # half-length that marks a missed ray: near > far by so much that no overlap can come of it


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels, the end excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def common(self, other: Box) -> Box | None:
        """The pixels of both, None where there are none."""
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        left, right = max(self.left, other.left), min(self.right, other.right)
        return Box(top, bottom, left, right) if top < bottom and left < right else None


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """Parallel rays, one a pixel.

    frame: (3, 3), its rows are the directions u, v and t in the animal frame; orthonormal.
    centre: (3,) cm, the point of the animal that the middle of the detector sees.
    shape: (rows, columns); pixel: cm.
    """

    frame: np.ndarray
    centre: np.ndarray
    shape: tuple[int, int]
    pixel: float
    u: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rows, columns = self.shape
        u = (np.arange(columns, dtype=np.float32) - np.float32((columns - 1) / 2)) * np.float32(self.pixel)
        v = (np.arange(rows, dtype=np.float32) - np.float32((rows - 1) / 2)) * np.float32(self.pixel)
        object.__setattr__(self, "u", u)
        object.__setattr__(self, "v", v)

    def seen(self, point: np.ndarray) -> np.ndarray:
        """A point (3,) or points (N, 3) of the animal as (u, v, t)."""
        return (point - self.centre) @ self.frame.T

    def animal(self, depth: np.ndarray) -> np.ndarray:
        """Depth t of every pixel, (H, W) cm -> points in the animal frame, (H, W, 3) float32."""
        frame = self.frame.astype(np.float32)
        across = self.u[None, :, None] * frame[0] + self.v[:, None, None] * frame[1]
        return across + depth[..., None] * frame[2] + self.centre.astype(np.float32)

    def boxes(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Pixels centred in [low, high], each (N, 2) of (u, v) cm: (N, 4) int, top bottom left right."""
        rows, columns = self.shape
        middle = np.array([(columns - 1) / 2, (rows - 1) / 2])
        first = np.clip(np.ceil(low / self.pixel + middle), 0, (columns, rows))
        last = np.clip(np.floor(high / self.pixel + middle) + 1, 0, (columns, rows))
        return np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], 1).astype(int)


@dataclass(frozen=True, slots=True, eq=False)
class Chord:
    """Where each ray of a box is inside a convex primitive: [near, far] cm, far < near where it misses.

    low, high: cm, the depths between which the whole primitive lies, so that most pairs need no arithmetic.
    """

    box: Box
    near: np.ndarray
    far: np.ndarray
    low: float
    high: float

    def length(self) -> np.ndarray:
        """Path inside, (rows, columns) float32 cm, never negative."""
        return np.maximum(self.far - self.near, np.float32(0))

    def within(self, box: Box) -> Chord:
        """The part of it over a smaller box."""
        rows = slice(box.top - self.box.top, box.bottom - self.box.top)
        columns = slice(box.left - self.box.left, box.right - self.box.left)
        return Chord(box, self.near[rows, columns], self.far[rows, columns], self.low, self.high)

    def common(self, other: Chord) -> Chord | None:
        """The chord of both at once, None where no ray is in both."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        box = self.box.common(other.box) if low < high else None
        if box is None:
            return None
        mine, theirs = self.within(box), other.within(box)
        near, far = np.maximum(mine.near, theirs.near), np.minimum(mine.far, theirs.far)
        return Chord(box, near, far, low, high) if (far > near).any() else None


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoid:
    """centre (3,) cm, axes: three half-axes in cm, turn (3, 3): its columns are their directions."""

    centre: np.ndarray
    axes: tuple[float, float, float]
    turn: np.ndarray

    def chord(self, rays: Rays) -> Chord | None:
        return _ellipsoid_chords([self], rays)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Rod:
    """All points within `radius` cm of the segment from start to end; `flat` cuts the round ends off."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    flat: bool = False

    def chord(self, rays: Rays) -> Chord | None:
        return _rod_chords([self], rays)[0]


SIZES = np.array([4, 6, 8, 12, 16, 24, 32, 48, 64, 96])


def _patches(boxes: np.ndarray, rays: Rays) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes (N, 4) of like size together, since numpy is slow at many small pictures.

    Yields (which of the boxes (n,), u (n, 1, w), v (n, h, 1)), cm, float32; a patch may reach beyond its box.
    """
    tall, wide = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    groups: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero((tall > 0) & (wide > 0)):
        size = (int(tall[index]), int(wide[index]))
        if max(size) <= SIZES[-1]:
            size = tuple(SIZES[np.searchsorted(SIZES, size)].tolist())
        groups.setdefault(size, []).append(int(index))
    rows, columns = rays.shape
    for (height, width), members in groups.items():
        step = max(1, 200_000 // (height * width))
        for first in range(0, len(members), step):
            which = np.array(members[first : first + step])
            u = (boxes[which, 2, None] + np.arange(width) - (columns - 1) / 2) * rays.pixel
            v = (boxes[which, 0, None] + np.arange(height) - (rows - 1) / 2) * rays.pixel
            yield which, u[:, None, :].astype(np.float32), v[:, :, None].astype(np.float32)


def _gathered(
    chords: list[Chord | None],
    which: np.ndarray,
    boxes: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
    deep: np.ndarray,
) -> None:
    """Cut patches (n, h, w) back to their boxes and put them in their places; deep (N, 2) cm."""
    for place, index in enumerate(which.tolist()):
        top, bottom, left, right = boxes[index].tolist()
        area = slice(bottom - top), slice(right - left)
        low, high = deep[index].tolist()
        chords[index] = Chord(Box(top, bottom, left, right), near[place][area], far[place][area], low, high)


def _columns(*values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Numbers (n,) as float32 (n, 1, 1), to be spread over patches."""
    return tuple(value.astype(np.float32)[:, None, None] for value in values)


def _ellipsoid_chords(balls: Sequence[Ellipsoid], rays: Rays) -> list[Chord | None]:
    """The quadratic's discriminant depends on (u, v) alone, as the conditional of a Gaussian does."""
    centre = rays.seen(np.array([ball.centre for ball in balls]))
    spread = (rays.frame @ np.array([ball.turn for ball in balls])) * np.array([ball.axes for ball in balls])[
        :, None
    ]
    square = spread @ spread.transpose(0, 2, 1)
    uu, uv, ut, vv, vt, tt = (square[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    reach = np.sqrt(np.stack([uu, vv], 1))
    boxes = rays.boxes(centre[:, :2] - reach, centre[:, :2] + reach)
    area = uu * vv - uv * uv
    slope_u, slope_v = (ut * vv - vt * uv) / area, (vt * uu - ut * uv) / area
    depth = np.maximum(tt - ut * slope_u - vt * slope_v, 0.0)
    deep = centre[:, 2:] + np.sqrt(tt)[:, None] * np.array([-1, 1])
    chords: list[Chord | None] = [None] * len(balls)
    for which, u, v in _patches(boxes, rays):
        u0, v0, t0, lean_u, lean_v = _columns(*centre[which].T, slope_u[which], slope_v[which])
        full, a, b, c = _columns(*(depth * (np.ones_like(uu), vv / area, uu / area, 2 * uv / area))[:, which])
        du, dv = u - u0, v - v0
        inside = (full - a * du * du) - b * dv * dv + (c * dv) * du
        middle = du * lean_u + (dv * lean_v + t0)
        half = np.where(inside > 0, np.sqrt(np.maximum(inside, 0)), np.float32(-EMPTY))
        _gathered(chords, which, boxes, middle - half, middle + half, deep)
    return chords


def _rod_chords(rods: Sequence[Rod], rays: Rays) -> list[Chord | None]:
    """Cylinder between two planes, and a ball at each end: of a convex whole the outermost counts."""
    start, end = (rays.seen(np.array([getattr(rod, tip) for rod in rods])) for tip in ("start", "end"))
    radius = np.array([rod.radius for rod in rods])
    low, high = np.minimum(start, end) - radius[:, None], np.maximum(start, end) + radius[:, None]
    boxes, deep = rays.boxes(low[:, :2], high[:, :2]), np.stack([low[:, 2], high[:, 2]], 1)
    axis = end - start
    length = np.maximum(np.linalg.norm(axis, axis=1), 1e-6)
    wu, wv, wt = (axis / length[:, None]).T
    # Where the ray runs along the axis it leans a little; the end planes bound the error.
    wu = np.where(np.hypot(wu, wv) < 1e-3, 1e-3, wu)
    slant = np.hypot(wu, wv)
    wt = np.copysign(np.maximum(np.abs(wt), 1e-5), wt)
    round_ends = np.array([not rod.flat for rod in rods])
    chords: list[Chord | None] = [None] * len(rods)
    for which, u, v in _patches(boxes, rays):
        u0, v0, t0, r2 = _columns(*start[which].T, radius[which] ** 2)
        du, dv = u - u0, v - v0
        numbers = (
            x[which] for x in (wu / slant, wv / slant, 1 / slant, wt / slant, -slant / wt, length / wt)
        )
        cu, cv, per_slant, rise, fall, stretch = _columns(*numbers)
        across, along = du * cv - dv * cu, du * cu + dv * cv
        inside = r2 - across * across
        half = np.sqrt(np.maximum(inside, 0)) * per_slant
        middle, first = along * rise, along * fall
        near = np.maximum(middle - half, np.minimum(first, first + stretch))
        far = np.minimum(middle + half, np.maximum(first, first + stretch))
        missed = (inside <= 0) | (far <= near)
        near[missed], far[missed] = EMPTY, -EMPTY
        if round_ends[which].any():
            _round(near, far, du, dv, axis[which], np.where(round_ends[which], radius[which], 0.0))
        _gathered(chords, which, boxes, near + t0, far + t0, deep)
    return chords


def _round(
    near: np.ndarray, far: np.ndarray, du: np.ndarray, dv: np.ndarray, axis: np.ndarray, radius: np.ndarray
) -> None:
    """Widen [near, far] (n, h, w) in place by balls of `radius` (n,) at the origin and at axis (n, 3)."""
    (r2,) = _columns(radius**2)
    for u, v, t in (_columns(*(0 * axis).T), _columns(*axis.T)):
        ball = r2 - np.square(du - u) - np.square(dv - v)
        half = np.where(ball > 0, np.sqrt(np.maximum(ball, 0)), np.float32(-2 * EMPTY))
        np.minimum(near, t - half, out=near)
        np.maximum(far, t + half, out=far)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What of `base` lies where normal . x <= offset, for every (normal, offset) of planes."""

    base: Ellipsoid | Rod | Meet
    planes: tuple[tuple[np.ndarray, float], ...]

    def chord(self, rays: Rays) -> Chord | None:
        whole = self.base.chord(rays)
        if whole is None:
            return None
        near, far = whole.near, whole.far
        rows, columns = whole.box.slices
        u, v = rays.u[columns], rays.v[rows][:, None]
        for normal, offset in self.planes:
            nu, nv, nt = (rays.frame @ normal).tolist()
            nt = math.copysign(max(abs(nt), 1e-4), nt)
            edge = u * np.float32(-nu / nt) + (
                v * np.float32(-nv / nt) + np.float32((offset - float(normal @ rays.centre)) / nt)
            )
            near, far = (near, np.minimum(far, edge)) if nt > 0 else (np.maximum(near, edge), far)
        return Chord(whole.box, near, far, whole.low, whole.high)


@dataclass(frozen=True, slots=True, eq=False)
class Meet:
    """What two primitives have in common."""

    one: Ellipsoid | Rod | Cut
    other: Ellipsoid | Rod | Cut

    def chord(self, rays: Rays) -> Chord | None:
        one, other = self.one.chord(rays), self.other.chord(rays)
        return None if one is None or other is None else one.common(other)


Primitive = Ellipsoid | Rod | Cut | Meet


def chords_of(parts: Sequence[Primitive], rays: Rays) -> list[Chord | None]:
    """The chord of every part, None where no ray meets it; the same as one by one, and ten times faster."""
    chords: list[Chord | None] = [None] * len(parts)
    for kind, many in ((Ellipsoid, _ellipsoid_chords), (Rod, _rod_chords)):
        which = [index for index, part in enumerate(parts) if isinstance(part, kind)]
        if which:
            for index, chord in zip(which, many([parts[index] for index in which], rays), strict=True):
                chords[index] = chord
    for index, part in enumerate(parts):
        if isinstance(part, Cut | Meet):
            chords[index] = part.chord(rays)
    return chords


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """A piece of an organ: the union of its parts, less what displaces it.

    organ: the word of the truth masks; mu: attenuation, 1/cm; instead: that of the medium it replaces;
    yields: names of the solids that displace it; name: what others yield to, the organ where empty.
    """

    organ: str
    mu: float
    instead: float
    parts: tuple[Primitive, ...]
    yields: tuple[str, ...] = ()
    name: str = ""

    def __repr__(self) -> str:
        return f"Solid({self.name or self.organ}, {len(self.parts)} parts, {self.mu:.3f}/cm)"


def visible(chord: Chord, others: Sequence[Chord]) -> np.ndarray:
    """Length of each ray in `chord` and in none of `others`, exact however they overlap.

    |P \\ (D1 u .. u Dk)| = |P| - sum_j |(P n Dj) \\ (D1 u .. u Dj-1)|; it ends because each call has fewer.
    """
    left = chord.length()
    for index, other in enumerate(others):
        both = chord.common(other)
        if both is not None:
            rows = slice(both.box.top - chord.box.top, both.box.bottom - chord.box.top)
            columns = slice(both.box.left - chord.box.left, both.box.right - chord.box.left)
            left[rows, columns] -= visible(both, others[:index])
    return left


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Attenuation along every ray, and what it met.

    path: (H, W) float32, the exponent of Beer-Lambert; masks: organ -> (H, W) bool;
    depth: (H, W) float32 cm, t of the densest organ, NaN outside the animal.
    """

    path: np.ndarray
    masks: Mapping[str, np.ndarray]
    depth: np.ndarray


BACKGROUND = ("body", "muscle")
"""Organs that give way to any other when the densest along a ray is asked for."""


def project(solids: Sequence[Solid], rays: Rays, truth: bool = True) -> Projection:
    """Sum of (mu - instead) x visible length over all solids; with truth also masks and the densest organ.

    The densest organ is the one that adds most to the path beyond the medium it replaces: what stands out.
    """
    path = np.zeros(rays.shape, np.float32)
    densest, depth = np.zeros(rays.shape, np.float32), np.full(rays.shape, np.nan, np.float32)
    masks: dict[str, np.ndarray] = {}
    for solid, chord, length in _lengths(solids, rays):
        where = chord.box.slices
        path[where] += np.float32(solid.mu - solid.instead) * length
        if not truth:
            continue
        mask = masks.setdefault(solid.organ, np.zeros(rays.shape, bool))
        mask[where] |= length > 0
        weight = 1e-3 if solid.organ in BACKGROUND else 1.0
        took = length * np.float32((solid.mu - solid.instead) * weight)
        wins = took > densest[where]
        np.copyto(densest[where], took, where=wins)
        np.copyto(depth[where], (chord.near + chord.far) / 2, where=wins)
    return Projection(path, masks, depth)


def _lengths(solids: Sequence[Solid], rays: Rays) -> Iterator[tuple[Solid, Chord, np.ndarray]]:
    """(solid, chord of one part, its visible length): later parts of a union give way to earlier ones."""
    found = iter(chords_of([part for solid in solids for part in solid.parts], rays))
    chords: list[Chord] = []
    owned: list[range] = []
    named: dict[str, list[int]] = {}
    for solid in solids:
        first = len(chords)
        chords += [chord for _ in solid.parts if (chord := next(found)) is not None]
        owned.append(range(first, len(chords)))
        named.setdefault(solid.name or solid.organ, []).extend(owned[-1])
    bounds = np.array([(c.box.top, c.box.left, c.low, -c.box.bottom, -c.box.right, -c.high) for c in chords])
    for solid, own in zip(solids, owned, strict=True):
        if solid.mu == solid.instead:  # a room that others yield to, itself invisible
            continue
        stronger = [index for name in solid.yields for index in named.get(name, ())]
        for index in own:
            rivals = np.array(stronger + list(range(own.start, index)), int)
            # Two boxes (rows, columns, depth) meet where each begins before the other ends.
            meets = (bounds[rivals] < -bounds[index, [3, 4, 5, 0, 1, 2]]).all(1)
            yield solid, chords[index], visible(chords[index], [chords[i] for i in rivals[meets]])


@dataclass(frozen=True, slots=True)
class Film:
    """How one exposure is made and processed; drawn first, applied by `expose`."""

    photons: float = 1500.0
    """Counts of a detector element behind the median of the animal, as automatic exposure sets them."""
    scatter: float = 0.35
    """Scattered light as a share of the blurred primary."""
    sharp: float = 0.6
    """Detector blur, standard deviation in pixels of a 512-pixel picture."""
    flatten: float = 0.4
    """Share of the coarse picture that processing takes away (dynamic range compression)."""
    lift: float = 0.4
    """Gain of fine detail."""
    gamma: float = 1.0
    low: float = 1.0
    high: float = 99.5
    """Percentiles of the exposed field that become black and white."""
    edges: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Collimator blades, top bottom left right, as a share of the side."""
    twist: float = 0.0
    """Turn of the collimator, degrees."""
    shutter: bool = False
    """Processing paints what lies behind the blades black; else it stays unexposed, that is bright."""
    marker: str = ""
    """The letter of lead on the cassette."""
    place: tuple[float, float] = (0.1, 0.1)
    """Middle of the marker as a share of (rows, columns)."""


LETTERS = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}

BITS = 12


def draw_film(
    random: np.random.Generator,
    spare: tuple[float, float, float, float],
    marker: str,
    right: bool | None = None,
) -> Film:
    """Exposure, processing, blades and marker of one picture.

    spare: what the blades may close on each side, as shares; right: the half with the marker, None either.
    """
    blades = np.where(random.uniform(size=4) < 0.7, random.uniform(0.0, 0.7, 4) * spare, 0.0)
    place = random.uniform((0.10, 0.10), (0.22, 0.17))
    low, east = random.uniform(size=2) < 0.5
    east = east if right is None else right
    edge = blades[[1 if low else 0, 3 if east else 2]]  # the marker lies inside the blades
    place = np.where((low, east), 1 - edge - place * (1 - edge), edge + place * (1 - edge))
    return Film(
        photons=float(np.exp(random.uniform(np.log(300), np.log(5000)))),
        scatter=float(random.uniform(0.15, 0.6)),
        sharp=float(random.uniform(0.4, 0.9)),
        flatten=float(random.uniform(0.3, 0.65)),
        lift=float(random.uniform(0.1, 0.8)),
        gamma=float(np.exp(random.normal(0, 0.18))),
        low=float(random.uniform(0.3, 3)),
        high=float(random.uniform(99.0, 99.9)),
        edges=tuple(blades.tolist()),
        twist=float(random.normal(0, 0.8)),
        shutter=bool(random.uniform() < 0.85),
        marker=marker,
        place=tuple(place.tolist()),
    )


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Wide Gaussian blur through a small picture: a blur of 40 pixels needs no 240-pixel kernel."""
    import cv2

    step = max(1, int(sigma / 3))
    rows, columns = picture.shape
    small = cv2.resize(picture, (max(1, columns // step), max(1, rows // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR)


def field_of(film: Film, shape: tuple[int, int]) -> np.ndarray:
    """What the collimator leaves open, (H, W) float32 in [0, 1] with a soft edge of about a pixel."""
    rows, columns = shape
    if not any(film.edges):
        return np.ones(shape, np.float32)
    top, bottom, left, right = film.edges
    lean = np.float32(math.tan(math.radians(film.twist)))
    v = np.arange(rows, dtype=np.float32)[:, None]
    u = np.arange(columns, dtype=np.float32)[None]
    down, across = v + lean * (u - columns / 2), u - lean * (v - rows / 2)
    edge = np.minimum(down - top * rows if top else rows, rows * (1 - bottom) - down if bottom else rows)
    edge = np.minimum(edge, across - left * columns if left else columns)
    edge = np.minimum(edge, columns * (1 - right) - across if right else columns)
    return np.clip(edge + np.float32(0.5), 0, 1)


def lead(film: Film, shape: tuple[int, int]) -> np.ndarray:
    """Extra path of the side marker, (H, W) float32."""
    import cv2

    thick = np.zeros(shape, np.float32)
    if film.marker not in LETTERS:
        return thick
    glyph = np.array([[cell == "#" for cell in row] for row in LETTERS[film.marker]], np.float32)
    tall = max(7, round(0.06 * max(shape)))
    wide = max(5, round(tall * 5 / 7))
    glyph = cv2.resize(glyph, (wide, tall), interpolation=cv2.INTER_LINEAR)
    top = min(max(0, round(film.place[0] * shape[0]) - tall // 2), shape[0] - tall)
    left = min(max(0, round(film.place[1] * shape[1]) - wide // 2), shape[1] - wide)
    thick[top : top + tall, left : left + wide] = 4 * glyph
    return thick


def mottle(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Grain of tissue that no organ explains, (H, W) float32 of about unit spread: coarse to fine clouds."""
    import cv2

    clouds = np.zeros(shape, np.float32)
    for cells, weight in ((12, 0.8), (36, 0.5), (110, 0.35)):
        tall, wide = (max(2, round(cells * side / max(shape))) for side in shape)
        coarse = random.standard_normal((tall, wide), dtype=np.float32)
        clouds += np.float32(weight) * cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return clouds


PENETRABLE = 4.6
"""Path left to the thickest parts: a thicker animal gets a higher voltage, so a harder beam."""


def expose(path: np.ndarray, film: Film, random: np.random.Generator) -> np.ndarray:
    """What the detector and its processing store of a path, (H, W) uint16 of 12 bits, bright is dense.

    Counts are I0 exp(-path) and scatter, blurred, noisy; the picture is their -log, then `_processed`.
    """
    import cv2

    side = max(path.shape)
    opened = field_of(film, path.shape)
    animal = path[path > 0.05]
    thick, middle = (
        np.percentile(animal[:: max(1, animal.size // 20000)], (97, 50)) if animal.size else (1, 1)
    )
    harder = np.float32(min(1.0, PENETRABLE / thick))
    cloudy = path * (harder + np.float32(0.012) * mottle(path.shape, random)) + lead(film, path.shape)
    light = np.exp(-cloudy) * (opened * np.float32(0.998) + np.float32(0.002))
    light += np.float32(film.scatter) * _blurred(np.minimum(light, np.float32(0.08)), side / 12) * opened
    light = cv2.GaussianBlur(light, (0, 0), max(0.25, film.sharp * side / 512))
    # A pixel of a small picture gathers the light of many elements: the same dose, less noise.
    photons = np.float32(film.photons * (512 / side) ** 2 * math.exp(middle * harder))
    light += np.sqrt(light / photons) * random.standard_normal(path.shape, dtype=np.float32)
    return _processed(-np.log(np.maximum(light, np.float32(1e-4))), opened > 0.5, film)


def _processed(dense: np.ndarray, opened: np.ndarray, film: Film) -> np.ndarray:
    """Range compression, edge lift and a window set on the animal, as a console does it: (H, W) uint16."""
    side = max(dense.shape)
    animal = opened & (dense > np.float32(0.35))
    if not animal.any():
        animal = opened
    some = dense[animal][:: max(1, int(animal.sum()) // 20000)]
    middle = np.float32(np.median(some))
    coarse = _blurred(np.where(animal, dense, middle), side / 9) - middle
    fine = dense - _blurred(np.where(opened, dense, middle), side / 40)
    grey = dense - np.float32(film.flatten) * coarse + np.float32(film.lift) * fine
    some = grey[animal][:: max(1, int(animal.sum()) // 20000)]
    low, high = np.percentile(some, (film.low, film.high))
    low -= 0.06 * (high - low)
    grey = np.clip((grey - np.float32(low)) / np.float32(max(high - low, 1e-3)), 0, 1) ** np.float32(
        film.gamma
    )
    if film.shutter:
        grey *= opened
    return np.round(grey * (2**BITS - 1)).astype(np.uint16)
