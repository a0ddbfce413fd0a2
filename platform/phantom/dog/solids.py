"""Parallel x-rays and the convex solids they cross, with exact chord lengths.

Every primitive is convex, so a ray is inside it on one interval [near, far], which has a closed form. There is no
voxel grid: an image of any size is sharp, and costs as much as it shows.

Animal frame, cm: x to the animal's left, y dorsal, z cranial.
Detector frame, cm: u to the right, v down, t along the ray.
H rows and W columns of the detector; N primitives; n, h, w patches of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

MISS = 1e4
"""Half-length, cm, that marks a missed ray: near exceeds far by so much that no overlap can result."""

PATCH_SIDES = np.array([4, 6, 8, 12, 16, 24, 32, 48, 64, 96])
"""Small boxes are computed in patches of these sides, so that many share one array operation."""


@dataclass(frozen=True, slots=True)
class PixelBox:
    """A rectangle of pixels: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box in the whole image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def slices_in(self, outer: PixelBox) -> tuple[slice, slice]:
        """Index of the box in an array that covers `outer`."""
        rows = slice(self.top - outer.top, self.bottom - outer.top)
        return rows, slice(self.left - outer.left, self.right - outer.left)

    def intersection(self, other: PixelBox) -> PixelBox | None:
        """The pixels in both boxes, None if there are none."""
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        left, right = max(self.left, other.left), min(self.right, other.right)
        return PixelBox(top, bottom, left, right) if top < bottom and left < right else None


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """Parallel rays, one per pixel.

    frame: (3, 3) orthonormal, its rows are the directions u, v and t in the animal frame.
    center: (3,) cm in the animal frame, projected to the middle of the detector.
    shape: (H, W); pixel: cm. u (W,) and v (H,): float32 cm of the pixel centers.
    """

    frame: np.ndarray
    center: np.ndarray
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

    def to_detector(self, points: np.ndarray) -> np.ndarray:
        """Points (3,) or (N, 3) of the animal frame as (u, v, t)."""
        return (points - self.center) @ self.frame.T

    def points_at(self, depth: np.ndarray) -> np.ndarray:
        """Points of the animal frame, (H, W, 3) float32 cm, at depth t of every pixel, (H, W) cm."""
        frame = self.frame.astype(np.float32)
        across = self.u[None, :, None] * frame[0] + self.v[:, None, None] * frame[1]
        return across + depth[..., None] * frame[2] + self.center.astype(np.float32)

    def pixel_boxes(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(N, 4) int, top bottom left right, of the pixels whose centers lie in [low, high], (N, 2) cm of u, v."""
        rows, columns = self.shape
        middle = np.array([(columns - 1) / 2, (rows - 1) / 2])
        first = np.clip(np.ceil(low / self.pixel + middle), 0, (columns, rows))
        last = np.clip(np.floor(high / self.pixel + middle) + 1, 0, (columns, rows))
        return np.stack([first[:, 1], last[:, 1], first[:, 0], last[:, 0]], 1).astype(int)


@dataclass(frozen=True, slots=True, eq=False)
class Chord:
    """The interval [near, far] of t, cm, on which each ray of a box is inside a convex primitive.

    near, far: float32 of the box's shape, far < near where the ray misses. low, high: cm of t between which the
    whole primitive lies; they tell most disjoint pairs apart without arithmetic on the arrays.
    """

    box: PixelBox
    near: np.ndarray
    far: np.ndarray
    low: float
    high: float

    def length(self) -> np.ndarray:
        """Length inside, float32 cm of the box's shape, 0 where the ray misses."""
        return np.maximum(self.far - self.near, np.float32(0))

    def intersection(self, other: Chord) -> Chord | None:
        """The interval inside both primitives, None if no ray crosses both."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        box = self.box.intersection(other.box) if low < high else None
        if box is None:
            return None
        mine, theirs = box.slices_in(self.box), box.slices_in(other.box)
        near = np.maximum(self.near[mine], other.near[theirs])
        far = np.minimum(self.far[mine], other.far[theirs])
        return Chord(box, near, far, low, high) if (far > near).any() else None


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoid:
    """center: (3,) cm; axes: the three half-axes, cm; rotation: (3, 3), its columns are their directions."""

    center: np.ndarray
    axes: tuple[float, float, float]
    rotation: np.ndarray

    def chord(self, rays: Rays) -> Chord | None:
        """Where the rays are inside, None if all miss."""
        return _ellipsoid_chords([self], rays)[0]

    def thicker(self, more: float) -> Ellipsoid:
        """With `more` cm added to each half-axis."""
        x, y, z = self.axes
        return Ellipsoid(self.center, (x + more, y + more, z + more), self.rotation)


@dataclass(frozen=True, slots=True, eq=False)
class Rod:
    """Points within `radius` cm of the segment from start to end, (3,) cm each: a capsule, a cylinder if `flat`."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    flat: bool = False

    def chord(self, rays: Rays) -> Chord | None:
        """Where the rays are inside, None if all miss."""
        return _rod_chords([self], rays)[0]

    def thicker(self, more: float) -> Rod:
        """With `more` cm added to the radius."""
        return Rod(self.start, self.end, self.radius + more, self.flat)


@dataclass(frozen=True, slots=True, eq=False)
class Clipped:
    """The part of `base` where normal · x <= offset, for every (normal (3,), offset cm) of `planes`."""

    base: Ellipsoid | Rod | Intersection
    planes: tuple[tuple[np.ndarray, float], ...]

    def chord(self, rays: Rays) -> Chord | None:
        """Where the rays are inside, None if all miss."""
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
                v * np.float32(-nv / nt) + np.float32((offset - float(normal @ rays.center)) / nt)
            )
            near, far = (near, np.minimum(far, edge)) if nt > 0 else (np.maximum(near, edge), far)
        return Chord(whole.box, near, far, whole.low, whole.high)


@dataclass(frozen=True, slots=True, eq=False)
class Intersection:
    """The part that two primitives have in common."""

    first: Ellipsoid | Rod | Clipped
    second: Ellipsoid | Rod | Clipped

    def chord(self, rays: Rays) -> Chord | None:
        """Where the rays are inside, None if all miss."""
        first, second = self.first.chord(rays), self.second.chord(rays)
        return None if first is None or second is None else first.intersection(second)


Primitive = Ellipsoid | Rod | Clipped | Intersection


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """A piece of an organ: the union of its parts minus the solids that displace it.

    organ: its name in the truth masks; mu: attenuation, 1/cm; replaces: attenuation of the medium around it, 1/cm;
    displaced_by: names of the solids that take its place; name: what it is called there, the organ if empty.
    """

    organ: str
    mu: float
    replaces: float
    parts: tuple[Primitive, ...]
    displaced_by: tuple[str, ...] = ()
    name: str = ""

    def __repr__(self) -> str:
        return f"Solid({self.name or self.organ}, {len(self.parts)} parts, {self.mu:.3f}/cm)"


def part_chords(parts: Sequence[Primitive], rays: Rays) -> list[Chord | None]:
    """The chord of every part, None where no ray meets it; ten times faster than one by one."""
    batched: dict[type, Iterator[Chord | None]] = {
        Ellipsoid: iter(_ellipsoid_chords([part for part in parts if isinstance(part, Ellipsoid)], rays)),
        Rod: iter(_rod_chords([part for part in parts if isinstance(part, Rod)], rays)),
    }
    return [
        next(batched[type(part)]) if isinstance(part, Ellipsoid | Rod) else part.chord(rays) for part in parts
    ]


def _ellipsoid_chords(balls: Sequence[Ellipsoid], rays: Rays) -> list[Chord | None]:
    """Chords of ellipsoids: the roots of a quadratic in t whose discriminant depends on (u, v) alone."""
    if not balls:
        return []
    center = rays.to_detector(np.array([ball.center for ball in balls]))
    axes = np.array([ball.axes for ball in balls])
    spread = (rays.frame @ np.array([ball.rotation for ball in balls])) * axes[:, None]
    square = spread @ spread.transpose(0, 2, 1)
    uu, uv, ut, vv, vt, tt = (square[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    reach = np.sqrt(np.stack([uu, vv], 1))
    boxes = rays.pixel_boxes(center[:, :2] - reach, center[:, :2] + reach)
    area = uu * vv - uv * uv
    slope_u, slope_v = (ut * vv - vt * uv) / area, (vt * uu - ut * uv) / area
    depth = np.maximum(tt - ut * slope_u - vt * slope_v, 0.0)
    deep = center[:, 2:] + np.sqrt(tt)[:, None] * np.array([-1, 1])
    chords: list[Chord | None] = [None] * len(balls)
    for which, u, v in _patches(boxes, rays):
        u0, v0, t0, lean_u, lean_v = _per_patch(*center[which].T, slope_u[which], slope_v[which])
        full, a, b, c = _per_patch(
            *(depth * (np.ones_like(uu), vv / area, uu / area, 2 * uv / area))[:, which]
        )
        du, dv = u - u0, v - v0
        inside = (full - a * du * du) - b * dv * dv + (c * dv) * du
        middle = du * lean_u + (dv * lean_v + t0)
        half = np.where(inside > 0, np.sqrt(np.maximum(inside, 0)), np.float32(-MISS))
        _store_chords(chords, which, boxes, middle - half, middle + half, deep)
    return chords


def _rod_chords(rods: Sequence[Rod], rays: Rays) -> list[Chord | None]:
    """Chords of rods: the outermost of a cylinder between two planes and, on capsules, a ball at each end."""
    if not rods:
        return []
    start, end = (rays.to_detector(np.array([getattr(rod, tip) for rod in rods])) for tip in ("start", "end"))
    radius = np.array([rod.radius for rod in rods])
    low, high = np.minimum(start, end) - radius[:, None], np.maximum(start, end) + radius[:, None]
    boxes, deep = rays.pixel_boxes(low[:, :2], high[:, :2]), np.stack([low[:, 2], high[:, 2]], 1)
    axis = end - start
    length = np.maximum(np.linalg.norm(axis, axis=1), 1e-6)
    wu, wv, wt = (axis / length[:, None]).T
    # An axis parallel to the ray is tilted a little, to divide by its slant; the end planes bound the error.
    wu = np.where(np.hypot(wu, wv) < 1e-3, 1e-3, wu)
    slant = np.hypot(wu, wv)
    wt = np.copysign(np.maximum(np.abs(wt), 1e-5), wt)
    round_ends = np.array([not rod.flat for rod in rods])
    chords: list[Chord | None] = [None] * len(rods)
    for which, u, v in _patches(boxes, rays):
        u0, v0, t0, r2 = _per_patch(*start[which].T, radius[which] ** 2)
        du, dv = u - u0, v - v0
        numbers = (
            x[which] for x in (wu / slant, wv / slant, 1 / slant, wt / slant, -slant / wt, length / wt)
        )
        cu, cv, per_slant, rise, fall, stretch = _per_patch(*numbers)
        across, along = du * cv - dv * cu, du * cu + dv * cv
        inside = r2 - across * across
        half = np.sqrt(np.maximum(inside, 0)) * per_slant
        middle, first = along * rise, along * fall
        near = np.maximum(middle - half, np.minimum(first, first + stretch))
        far = np.minimum(middle + half, np.maximum(first, first + stretch))
        missed = (inside <= 0) | (far <= near)
        near[missed], far[missed] = MISS, -MISS
        if round_ends[which].any():
            _add_round_ends(near, far, du, dv, axis[which], np.where(round_ends[which], radius[which], 0.0))
        _store_chords(chords, which, boxes, near + t0, far + t0, deep)
    return chords


def _add_round_ends(
    near: np.ndarray, far: np.ndarray, du: np.ndarray, dv: np.ndarray, axis: np.ndarray, radius: np.ndarray
) -> None:
    """Widen [near, far] (n, h, w) in place by balls of `radius` (n,) around the origin and around axis (n, 3)."""
    (r2,) = _per_patch(radius**2)
    for u, v, t in (_per_patch(*(0 * axis).T), _per_patch(*axis.T)):
        ball = r2 - np.square(du - u) - np.square(dv - v)
        half = np.where(ball > 0, np.sqrt(np.maximum(ball, 0)), np.float32(-2 * MISS))
        np.minimum(near, t - half, out=near)
        np.maximum(far, t + half, out=far)


def _patches(boxes: np.ndarray, rays: Rays) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Groups boxes (N, 4) of similar size, because numpy is slow with many small arrays.

    Yields (indices of the boxes (n,), u (n, 1, w), v (n, h, 1)), float32 cm; a patch may reach beyond its box.
    """
    tall, wide = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    groups: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero((tall > 0) & (wide > 0)):
        size = (int(tall[index]), int(wide[index]))
        if max(size) <= PATCH_SIDES[-1]:
            size = tuple(PATCH_SIDES[np.searchsorted(PATCH_SIDES, size)].tolist())
        groups.setdefault(size, []).append(int(index))
    rows, columns = rays.shape
    for (height, width), members in groups.items():
        step = max(1, 200_000 // (height * width))
        for first in range(0, len(members), step):
            which = np.array(members[first : first + step])
            u = (boxes[which, 2, None] + np.arange(width) - (columns - 1) / 2) * rays.pixel
            v = (boxes[which, 0, None] + np.arange(height) - (rows - 1) / 2) * rays.pixel
            yield which, u[:, None, :].astype(np.float32), v[:, :, None].astype(np.float32)


def _store_chords(
    chords: list[Chord | None],
    which: np.ndarray,
    boxes: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
    deep: np.ndarray,
) -> None:
    """Crop patches (n, h, w) to their boxes and store them in `chords`; deep: (N, 2) low and high, cm."""
    for place, index in enumerate(which.tolist()):
        top, bottom, left, right = boxes[index].tolist()
        area = slice(bottom - top), slice(right - left)
        low, high = deep[index].tolist()
        box = PixelBox(top, bottom, left, right)
        chords[index] = Chord(box, near[place][area], far[place][area], low, high)


def _per_patch(*values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Values (n,) as float32 (n, 1, 1), to broadcast over patches."""
    return tuple(value.astype(np.float32)[:, None, None] for value in values)
