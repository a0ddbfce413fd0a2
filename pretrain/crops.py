"""Crops of a pair of views: planned from (seed, epoch, study), then cut.

A plan is a handful of numbers. It is a pure function of the seed, the epoch and the study's key, never of
rank, worker or time, so any crop of any step can be made again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from ..platform.errors import ConfigError
from ..platform.study import PairPolicy, Study, pair_of

# C crops of one view; S side of a crop in pixels.


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """How two views become crops. Defaults suit radiographs: no hue, small rotations, mild intensity changes."""

    global_side: int = 224
    """Side of a global crop, in pixels; a multiple of the backbone's patch."""
    local_side: int = 98
    """Side of a local crop, in pixels; a multiple of the backbone's patch."""
    globals_per_view: int = 2
    """Global crops of each view; the teacher sees those of one view."""
    locals_per_view: int = 10
    """Local crops of each view; only the student sees them."""
    global_area: tuple[float, float] = (0.32, 1.0)
    """Share of the view's area that a global crop covers, from and to."""
    local_area: tuple[float, float] = (0.05, 0.32)
    """Share of the view's area that a local crop covers, from and to."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """Width over height of a crop before it becomes a square, from and to; uniform in its logarithm."""
    rotation: float = 10.0
    """Largest rotation to either side, in degrees; uniform."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    brightness: float = 0.15
    """Largest shift of grey, as a share of the full range; uniform to either side."""
    contrast: float = 0.3
    """Largest relative change of contrast around mid grey; uniform to either side."""
    gamma: float = 0.3
    """Largest change of log gamma (exposure, detector curve); uniform to either side."""
    noise: float = 0.03
    """Largest standard deviation of added Gaussian noise, as a share of the full range; uniform from 0."""
    blur: float = 0.5
    """Probability of a Gaussian blur, of 0.1 to 1.5 pixels of the crop."""
    p_multiview: float = 1.0
    """Probability that the two views of a study are two different radiographs; 0 is the single-view baseline."""
    multiview_from: float = 0.0
    """Share of the training before which all studies give a single view: singles first, pairs later."""
    pairs: PairPolicy = "uniform"
    """Which two: any (`uniform`), or of differing projections where there are such (`distinct`)."""

    def check(self, patch: int) -> None:
        """Raises ConfigError where a crop is no whole number of patches or a range is empty."""
        for name in ("global_side", "local_side"):
            side = getattr(self, name)
            if side % patch or side < patch:
                near = max(1, round(side / patch)) * patch
                raise ConfigError(
                    f"crops.{name} {side} is no multiple of the backbone's patch, {patch}; nearest is {near}"
                )
        for name in ("global_area", "local_area", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"crops.{name} ({low}, {high}) must be two rising positive numbers")
        if self.globals_per_view < 1 or self.locals_per_view < 0:
            raise ConfigError("crops.globals_per_view must be at least 1, crops.locals_per_view at least 0")


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
    """The study's pair and all its crops for this epoch.

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
    cut = [_crops_of_view(made[index], plan_of(config, generator), config) for index in (first, second)]
    return StudyCrops(
        key=study.key,
        globals_VGSS=np.stack([globals_ for globals_, _ in cut]),
        locals_VLSS=np.stack([locals_ for _, locals_ in cut]),
        is_pair=first != second,
    )


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
        blur=np.where(generator.random(total) < config.blur, generator.uniform(0.1, 1.5, total), 0.0),
        noise_seed=int(generator.integers(2**63)),
    )


def _crops_of_view(
    pixels_HW: np.ndarray, plan: CropPlan, config: CropConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Cut one view by its plan: globals (G, S, S) and locals (L, s, s), uint8."""
    pyramid = _pyramid_of(pixels_HW)
    noise = np.random.default_rng(plan.noise_seed)
    split = config.globals_per_view
    sides = [config.global_side] * split + [config.local_side] * config.locals_per_view
    crops = [_crop(pyramid, plan, index, side, noise) for index, side in enumerate(sides)]
    empty = np.zeros((0, config.local_side, config.local_side), np.uint8)
    return np.stack(crops[:split]), np.stack(crops[split:]) if crops[split:] else empty


def _pyramid_of(pixels_HW: np.ndarray) -> list[np.ndarray]:
    """The view, its half, its quarter…: a crop is cut from the level that it shrinks by less than two, so
    that one bilinear warp does not alias."""
    levels = [pixels_HW]
    while min(levels[-1].shape) >= 64:
        height, width = levels[-1].shape
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return levels


def _crop(
    pyramid: list[np.ndarray], plan: CropPlan, index: int, side: int, noise: np.random.Generator
) -> np.ndarray:
    """One crop: position, rotation, flip and scale in a single warp; then grey values; then blur."""
    height, width = pyramid[0].shape
    crop_h = min(height, float(np.sqrt(plan.area[index] * height * width / plan.aspect[index])))
    crop_w = min(width, float(np.sqrt(plan.area[index] * height * width * plan.aspect[index])))
    x = crop_w / 2 + plan.centre[index, 0] * (width - crop_w)
    y = crop_h / 2 + plan.centre[index, 1] * (height - crop_h)
    level = min(len(pyramid) - 1, max(0, int(np.log2(max(min(crop_h, crop_w) / side, 1.0)))))
    source = pyramid[level]
    shrink_y, shrink_x = source.shape[0] / height, source.shape[1] / width
    cosine, sine = np.cos(np.deg2rad(plan.angle[index])), np.sin(np.deg2rad(plan.angle[index]))
    mirror = -1.0 if plan.flip[index] else 1.0
    step_x, step_y = crop_w / side, crop_h / side
    # Rows: source x and y of a target pixel, whose centre is (side - 1) / 2.
    linear = np.array(
        [
            [cosine * step_x * mirror * shrink_x, -sine * step_y * shrink_x],
            [sine * step_x * mirror * shrink_y, cosine * step_y * shrink_y],
        ]
    )
    middle = np.array([x * shrink_x - 0.5, y * shrink_y - 0.5])
    offset = middle - linear @ np.full(2, (side - 1) / 2)
    matrix = np.concatenate([linear, offset[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(source, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    crop = cv2.LUT(crop, _curve(plan.gamma[index], plan.contrast[index], plan.brightness[index]))
    if plan.blur[index] > 0:
        crop = cv2.GaussianBlur(crop, (0, 0), plan.blur[index])
    if plan.noise[index] > 0:
        grain = noise.standard_normal((side, side), dtype=np.float32) * (255 * plan.noise[index])
        crop = np.clip(crop + grain + 0.5, 0, 255).astype(np.uint8)
    return crop


def _curve(gamma: float, contrast: float, brightness: float) -> np.ndarray:
    """Grey in -> grey out as a table of 256 entries: gamma, then contrast around mid grey, then a shift."""
    grey = np.linspace(0, 1, 256) ** gamma
    return np.clip(((grey - 0.5) * contrast + 0.5 + brightness) * 255 + 0.5, 0, 255).astype(np.uint8)
