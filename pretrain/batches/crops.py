"""Crops of a pair of views: planned from (seed, epoch, study), then cut.

A plan is a handful of numbers. It is a pure function of the seed, the epoch and the study's key, never of
rank, worker or time, so any crop of any step can be made again. What a plan asks of a view of a known size is
worked out once (`cuts_of`); OpenCV follows it here, torch on the device (`device_crops`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from statistics import NormalDist
from typing import TypeVar

import cv2
import numpy as np

from ...platform.data.study import Study, pair_of
from .config import CropConfig

# C crops of one view, N of them of one size; S side of a crop in pixels; G global crops, V = 2 views.

BLUR = (0.1, 1.5)
"""Standard deviation of a blur, in pixels of the crop, from and to."""

GRAIN_LEVELS = 4096
"""Steps of the normal distribution that noise is drawn from; the outermost lie at 3.7 standard deviations."""


@dataclass(frozen=True, slots=True, eq=False)
class CropPlan:
    """The numbers behind the crops of one view; arrays of length C, globals first."""

    area: np.ndarray
    aspect: np.ndarray
    centre: np.ndarray
    """(C, 2) in 0..1, of the room that is left when the crop must lie inside the view (x, y)."""
    angle: np.ndarray
    flip: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    gamma: np.ndarray
    noise: np.ndarray
    blur: np.ndarray
    noise_seed: int

    def __repr__(self) -> str:
        return f"CropPlan({len(self.area)} crops)"


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """A plan worked out for a view of a known size; arrays of length C, globals first."""

    level: np.ndarray
    """(C,) int64: how often the view is halved before the crop is cut from it."""
    matrix: np.ndarray
    """(C, 2, 3) float64: (x, y) in that level = matrix @ (column, row, 1) of the crop; pixel centres are whole."""
    curve: np.ndarray
    """(C, 256) uint8: grey in -> grey out."""
    blur: np.ndarray
    """(C,) float64: standard deviation in pixels of the crop; 0 for none."""
    noise: np.ndarray
    """(C,) float32: standard deviation in grey values; 0 for none."""
    keys: np.ndarray
    """(C, 2) uint32: from which the noise follows."""

    def __repr__(self) -> str:
        return f"Cuts({len(self.level)} crops)"


@dataclass(frozen=True, slots=True, eq=False)
class WholeStudy:
    """A study's pair of views (H, W) uint8 of any size, the teacher's first, and what is to be cut from each."""

    key: str
    views: tuple[np.ndarray, np.ndarray]
    cuts: tuple[Cuts, Cuts]
    is_pair: bool

    def __repr__(self) -> str:
        return f"WholeStudy({self.key}, {' '.join('x'.join(map(str, view.shape)) for view in self.views)})"


@dataclass(frozen=True, slots=True, eq=False)
class StudyCrops:
    """The crops of one study, uint8: globals (2, G, S, S) and locals (2, L, s, s), the teacher's view first."""

    key: str
    globals_VGSS: np.ndarray
    locals_VLSS: np.ndarray
    is_pair: bool

    def __repr__(self) -> str:
        views, count = self.globals_VGSS.shape[:2]
        return f"StudyCrops({self.key}, {views} x ({count} + {self.locals_VLSS.shape[1]}))"


def seed_of(seed: int, epoch: int, key: str) -> int:
    """A 64-bit seed for one study in one epoch.

    >>> seed_of(0, 0, "a") == seed_of(0, 0, "a") != seed_of(0, 1, "a")
    True
    """
    told = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(told, "little")


def crops_of(study: Study, config: CropConfig, *, seed: int, epoch: int, progress: float = 1.0) -> StudyCrops:
    """The study's pair and all its crops for this epoch, cut here; arguments as of `whole_of`."""
    return crops_from(whole_of(study, config, seed=seed, epoch=epoch, progress=progress), config)


def whole_of(study: Study, config: CropConfig, *, seed: int, epoch: int, progress: float = 1.0) -> WholeStudy:
    """The study's pair for this epoch, decoded and planned but not cut.

    The first view of the pair is the teacher's. progress (0..1) is where the training stands at the start of
    the epoch: before `multiview_from` no pairs are drawn.
    """
    number = seed_of(seed, epoch, study.key)
    random = Random(number)
    wanted = random.random() < config.p_multiview and progress >= config.multiview_from
    first, second = pair_of(study, random, config.pairs)
    if not wanted:
        second = first
    generator = np.random.default_rng(number)
    made = {index: study.view(index).pixels for index in {first, second}}
    views = made[first], made[second]
    one, two = (cuts_of(plan_of(config, generator), view.shape, config) for view in views)
    return WholeStudy(study.key, views, (one, two), is_pair=first != second)


def plan_of(config: CropConfig, generator: np.random.Generator) -> CropPlan:
    """Draw the plan of one view: G global crops, then L local ones."""
    counts = (config.globals_per_view, config.locals_per_view)
    total = sum(counts)
    ranges = zip(counts, (config.global_area, config.local_area), strict=True)
    area = np.concatenate([generator.uniform(low, high, count) for count, (low, high) in ranges])
    both_sides = lambda limit: generator.uniform(-limit, limit, total)
    return CropPlan(
        area=area,
        aspect=np.exp(generator.uniform(*np.log(config.aspect), total)),
        centre=generator.uniform(0, 1, (total, 2)),
        angle=both_sides(config.rotation),
        flip=generator.random(total) < config.flip,
        brightness=both_sides(config.brightness),
        contrast=1 + both_sides(config.contrast),
        gamma=np.exp(both_sides(config.gamma)),
        noise=generator.uniform(0, config.noise, total),
        blur=np.where(generator.random(total) < config.blur, generator.uniform(*BLUR, total), 0.0),
        noise_seed=int(generator.integers(2**63)),
    )


def cuts_of(plan: CropPlan, size: tuple[int, int], config: CropConfig) -> Cuts:
    """What a plan asks of a view of size (H, W) in pixels."""
    height, width = size
    crop_h, crop_w = extent_of(plan, size)
    x = crop_w / 2 + plan.centre[:, 0] * (width - crop_w)
    y = crop_h / 2 + plan.centre[:, 1] * (height - crop_h)
    side = np.where(np.arange(len(crop_h)) < config.globals_per_view, config.global_side, config.local_side)
    # A crop is cut from the level that it shrinks by less than two, so that one bilinear warp does not alias.
    level = np.log2(np.maximum(np.minimum(crop_h, crop_w) / side, 1)).astype(np.int64)
    shrink = 0.5**level
    cosine, sine = np.cos(np.deg2rad(plan.angle)), np.sin(np.deg2rad(plan.angle))
    step_x, step_y = crop_w / side * shrink, crop_h / side * shrink
    mirrored_x = np.where(plan.flip, -step_x, step_x)
    rows = [[cosine * mirrored_x, -sine * step_y], [sine * mirrored_x, cosine * step_y]]
    linear = np.moveaxis(np.array(rows), -1, 0)
    # The middle of a crop is (side - 1) / 2, since pixel centres are whole; so is a level's, hence the half.
    middle = np.stack([x * shrink - 0.5, y * shrink - 0.5], axis=1)
    offset = middle - linear.sum(axis=2) * ((side - 1) / 2)[:, None]
    return Cuts(
        level=level,
        matrix=np.concatenate([linear, offset[:, :, None]], axis=2),
        curve=_curves(plan),
        blur=plan.blur,
        noise=(255 * plan.noise).astype(np.float32),
        keys=np.random.default_rng(plan.noise_seed).integers(2**32, size=(len(side), 2), dtype=np.uint32),
    )


def extent_of(plan: CropPlan, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Height and width (C,) of the crops in a view of size (H, W), in its pixels, before rotation."""
    height, width = size
    crop_h = np.sqrt(plan.area * height * width / plan.aspect)
    crop_w = np.sqrt(plan.area * height * width * plan.aspect)
    return np.minimum(crop_h, height), np.minimum(crop_w, width)


def _curves(plan: CropPlan) -> np.ndarray:
    """Grey in -> grey out, (C, 256): gamma, then contrast around mid grey, then a shift."""
    grey = np.linspace(0, 1, 256) ** plan.gamma[:, None]
    told = (grey - 0.5) * plan.contrast[:, None] + 0.5 + plan.brightness[:, None]
    return np.clip(told * 255 + 0.5, 0, 255).astype(np.uint8)


def crops_from(whole: WholeStudy, config: CropConfig) -> StudyCrops:
    """Cut a study's two views here, by OpenCV on one processor."""
    split, total = config.globals_per_view, config.globals_per_view + config.locals_per_view
    pyramids = [
        _pyramid_of(view, cuts.level.max()) for view, cuts in zip(whole.views, whole.cuts, strict=True)
    ]
    sized = lambda crops, side: np.stack(
        [_cut(pyramid, cuts, crops, side) for pyramid, cuts in zip(pyramids, whole.cuts, strict=True)]
    )
    return StudyCrops(
        key=whole.key,
        globals_VGSS=sized(range(split), config.global_side),
        locals_VLSS=sized(range(split, total), config.local_side),
        is_pair=whole.is_pair,
    )


def _pyramid_of(pixels_HW: np.ndarray, deepest: int) -> list[np.ndarray]:
    """The view, its half, its quarter…; an odd last row or column counts twice."""
    levels = [pixels_HW]
    for _ in range(deepest):
        height, width = levels[-1].shape
        even = cv2.copyMakeBorder(levels[-1], 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        half = ((width + 1) // 2, (height + 1) // 2)
        levels.append(cv2.resize(even, half, interpolation=cv2.INTER_AREA))
    return levels


def _cut(pyramid: list[np.ndarray], cuts: Cuts, crops: range, side: int) -> np.ndarray:
    """Crops of one size (N, S, S) uint8: position, rotation, flip and scale in a single warp; then grey values;
    then blur; then noise."""
    made = np.empty((len(crops), side, side), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for place, index in enumerate(crops):
        source = pyramid[cuts.level[index]]
        crop = cv2.warpAffine(
            source, cuts.matrix[index], (side, side), flags=flags, borderMode=cv2.BORDER_CONSTANT
        )
        crop = cv2.LUT(crop, cuts.curve[index])
        if cuts.blur[index] > 0:
            crop = cv2.GaussianBlur(crop, (0, 0), cuts.blur[index])
        if cuts.noise[index] > 0:
            grain = np.rint(quantiles() * cuts.noise[index]).astype(np.int16)
            # A mode other than raise spares the check of all indices; they are below GRAIN_LEVELS.
            grain_SS = grain.take(_draws(cuts.keys[index], side), mode="clip")
            crop = cv2.add(crop, grain_SS, dtype=cv2.CV_8U)
        made[place] = crop
    return made


def _draws(keys: np.ndarray, side: int) -> np.ndarray:
    """A number below GRAIN_LEVELS for each pixel, (S, S), from a crop's two keys."""
    first, second = map(int, keys)
    words = mixed(np.arange((side * side + 1) // 2, dtype=np.uint32), first, second)
    halves = np.asarray(words, "<u4").view("<u2")[: side * side]  # of each word the lower half first
    return (halves >> 4).reshape(side, side)


@lru_cache(maxsize=1)
def quantiles() -> np.ndarray:
    """The middles of equally probable steps of the standard normal distribution: (GRAIN_LEVELS,) float32."""
    normal = NormalDist()
    steps = [normal.inv_cdf((step + 0.5) / GRAIN_LEVELS) for step in range(GRAIN_LEVELS)]
    return np.array(steps, np.float32)


Words = TypeVar("Words")


def mixed(counter: Words, first: Words, second: Words) -> Words:
    """32 random bits for each counter under two keys of 32 bits: equal wherever they are asked for.

    All are whole numbers below 2**32: NumPy arrays of uint32, or torch tensors of int64 on any device, where no
    product reaches 2**63. Two rounds of shift and multiply, the second key between them, as in the integer
    hashes of Mueller and of Wellons (https://nullprogram.com/blog/2018/07/31).
    """
    word = counter ^ first
    word = (((word >> 16) ^ word) * 0x45D9F3B) & 0xFFFFFFFF
    word = (((word >> 16) ^ word) + second) & 0xFFFFFFFF
    word = (word * 0x45D9F3B) & 0xFFFFFFFF
    return (word >> 16) ^ word
