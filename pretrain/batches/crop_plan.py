"""Plans of crops: which two views of a study, and for each crop its place, angle, contrast, blur and noise.

A plan is a few numbers. It is a function of the seed, the epoch and the study's key, never of rank, worker or
time, so any crop of any step can be made again. `crop_transforms` fits a plan to a view of a known size;
OpenCV (`crops`) or torch (`device_crops`) then cuts the crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from ...platform.data.study import Study, pair_of
from .config import CropConfig
from .seeds import derived_seed

# C crops of one view, the G global ones first.

BLUR = (0.1, 1.5)
"""Standard deviation of a blur in pixels of the crop: least and most."""


@dataclass(frozen=True, slots=True, eq=False)
class CropPlan:
    """Random numbers behind the crops of one view; arrays of length C, globals first."""

    area: np.ndarray
    """Share of the view's area."""
    aspect: np.ndarray
    """Width over height."""
    center: np.ndarray
    """(C, 2) in 0..1: (x, y) in the range where the whole crop is inside the view."""
    angle: np.ndarray
    """Degrees."""
    flip: np.ndarray
    """bool: mirrored left to right."""
    brightness: np.ndarray
    contrast: np.ndarray
    gamma: np.ndarray
    noise: np.ndarray
    """Standard deviation as a share of the full range."""
    blur: np.ndarray
    """Standard deviation in pixels of the crop; 0 for none."""
    noise_seed: int

    def __repr__(self) -> str:
        return f"CropPlan({len(self.area)} crops)"


@dataclass(frozen=True, slots=True, eq=False)
class CropTransforms:
    """A plan fitted to a view of a known size; arrays of length C, globals first."""

    level: np.ndarray
    """(C,) int64: how often the view is halved before the crop is cut from it."""
    matrix: np.ndarray
    """(C, 2, 3) float64: (x, y) in that level = matrix @ (column, row, 1) of the crop; pixel centers are integers."""
    curve: np.ndarray
    """(C, 256) uint8: gray value in -> gray value out."""
    blur: np.ndarray
    """(C,) float64: standard deviation in pixels of the crop; 0 for none."""
    noise: np.ndarray
    """(C,) float32: standard deviation in gray values; 0 for none."""
    keys: np.ndarray
    """(C, 2) uint32: keys of the noise (see `noise.hash_bits`)."""

    def __repr__(self) -> str:
        return f"CropTransforms({len(self.level)} crops)"


@dataclass(frozen=True, slots=True, eq=False)
class PlannedStudy:
    """A study's pair of views, decoded but not yet cut, and the transforms of their crops."""

    key: str
    views: tuple[np.ndarray, np.ndarray]
    """(H, W) uint8 of any size; the teacher's view first."""
    transforms: tuple[CropTransforms, CropTransforms]
    is_pair: bool
    """Whether the two views differ."""

    def __repr__(self) -> str:
        return f"PlannedStudy({self.key}, {' '.join('x'.join(map(str, view.shape)) for view in self.views)})"


def planned_study(
    study: Study, config: CropConfig, *, seed: int, epoch: int, progress: float = 1.0
) -> PlannedStudy:
    """Draw a study's pair of views and its crops for one epoch; decode the views.

    The first view of the pair is the teacher's. progress: share of the training (0..1) done at the start of the
    epoch; before `multiview_from` both halves come from one view.
    """
    number = derived_seed(seed, epoch, study.key)
    random = Random(number)
    multiview = random.random() < config.p_multiview and progress >= config.multiview_from
    first, second = pair_of(study, random, config.pairs)
    if not multiview:
        second = first
    generator = np.random.default_rng(number)
    pixels = {index: study.view(index).pixels for index in {first, second}}
    views = pixels[first], pixels[second]
    one, two = (crop_transforms(crop_plan(config, generator), view.shape, config) for view in views)
    return PlannedStudy(study.key, views, (one, two), is_pair=first != second)


def crop_plan(config: CropConfig, generator: np.random.Generator) -> CropPlan:
    """Draw the plan of one view: G global crops, then L local ones."""
    counts = (config.globals_per_view, config.locals_per_view)
    total = sum(counts)
    ranges = zip(counts, (config.global_area, config.local_area), strict=True)
    area = np.concatenate([generator.uniform(low, high, count) for count, (low, high) in ranges])
    both_sides = lambda limit: generator.uniform(-limit, limit, total)
    narrow, wide = np.log(config.aspect)
    # The order of these draws is part of every result: do not change it.
    return CropPlan(
        area=area,
        aspect=np.exp(generator.uniform(narrow, wide, total)),
        center=generator.uniform(0, 1, (total, 2)),
        angle=both_sides(config.rotation),
        flip=generator.random(total) < config.flip,
        brightness=both_sides(config.brightness),
        contrast=1 + both_sides(config.contrast),
        gamma=np.exp(both_sides(config.gamma)),
        noise=generator.uniform(0, config.noise, total),
        blur=np.where(generator.random(total) < config.blur, generator.uniform(*BLUR, total), 0.0),
        noise_seed=int(generator.integers(2**63)),
    )


def crop_transforms(plan: CropPlan, size: tuple[int, int], config: CropConfig) -> CropTransforms:
    """Fit a plan to a view of size (H, W) in pixels."""
    height, width = size
    crop_h, crop_w = crop_extents(plan, size)
    x = crop_w / 2 + plan.center[:, 0] * (width - crop_w)
    y = crop_h / 2 + plan.center[:, 1] * (height - crop_h)
    side = np.where(np.arange(len(crop_h)) < config.globals_per_view, config.global_side, config.local_side)
    # A crop is cut from the level that it shrinks by less than two, so that one bilinear warp does not alias.
    level = np.log2(np.maximum(np.minimum(crop_h, crop_w) / side, 1)).astype(np.int64)
    shrink = 0.5**level
    cosine, sine = np.cos(np.deg2rad(plan.angle)), np.sin(np.deg2rad(plan.angle))
    step_x, step_y = crop_w / side * shrink, crop_h / side * shrink
    mirrored_x = np.where(plan.flip, -step_x, step_x)
    rows = [[cosine * mirrored_x, -sine * step_y], [sine * mirrored_x, cosine * step_y]]
    linear = np.moveaxis(np.array(rows), -1, 0)
    # The middle of a crop is (side - 1) / 2, since pixel centers are integers; so is a level's, hence the half.
    middle = np.stack([x * shrink - 0.5, y * shrink - 0.5], axis=1)
    offset = middle - linear.sum(axis=2) * ((side - 1) / 2)[:, None]
    return CropTransforms(
        level=level,
        matrix=np.concatenate([linear, offset[:, :, None]], axis=2),
        curve=_tone_curves(plan),
        blur=plan.blur,
        noise=(255 * plan.noise).astype(np.float32),
        keys=np.random.default_rng(plan.noise_seed).integers(2**32, size=(len(side), 2), dtype=np.uint32),
    )


def crop_extents(plan: CropPlan, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Height and width (C,) of the crops in a view of size (H, W), in its pixels, before rotation."""
    height, width = size
    crop_h = np.sqrt(plan.area * height * width / plan.aspect)
    crop_w = np.sqrt(plan.area * height * width * plan.aspect)
    return np.minimum(crop_h, height), np.minimum(crop_w, width)


def _tone_curves(plan: CropPlan) -> np.ndarray:
    """Gray value in -> gray value out, (C, 256): gamma, then contrast around mid gray, then brightness."""
    gray = np.linspace(0, 1, 256) ** plan.gamma[:, None]
    changed = (gray - 0.5) * plan.contrast[:, None] + 0.5 + plan.brightness[:, None]
    return np.clip(changed * 255 + 0.5, 0, 255).astype(np.uint8)
