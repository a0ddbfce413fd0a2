"""Cut the crops of one study with OpenCV on a CPU, as its plan says."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...platform.data.study import Study
from .config import CropConfig
from .crop_plan import CropTransforms, PlannedStudy, planned_study
from .noise import hash_bits, normal_quantiles

# N crops of one view and size; S side of a crop in pixels; G global crops, V = 2 views.


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


def study_crops(
    study: Study, config: CropConfig, *, seed: int, epoch: int, progress: float = 1.0
) -> StudyCrops:
    """Plan and cut all crops of a study for one epoch; arguments as in `planned_study`."""
    return cut_crops(planned_study(study, config, seed=seed, epoch=epoch, progress=progress), config)


def cut_crops(planned: PlannedStudy, config: CropConfig) -> StudyCrops:
    """Cut the crops of a study's two views."""
    split, total = config.globals_per_view, config.globals_per_view + config.locals_per_view
    views = [
        (_pyramid(view, transforms.level.max()), transforms)
        for view, transforms in zip(planned.views, planned.transforms, strict=True)
    ]
    stacked = lambda crops, side: np.stack([_view_crops(*view, crops, side) for view in views])
    return StudyCrops(
        key=planned.key,
        globals_VGSS=stacked(range(split), config.global_side),
        locals_VLSS=stacked(range(split, total), config.local_side),
        is_pair=planned.is_pair,
    )


def _pyramid(pixels_HW: np.ndarray, deepest: int) -> list[np.ndarray]:
    """The view, its half, its quarter…; an odd last row or column counts twice."""
    levels = [pixels_HW]
    for _ in range(deepest):
        height, width = levels[-1].shape
        even = cv2.copyMakeBorder(levels[-1], 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        half = ((width + 1) // 2, (height + 1) // 2)
        levels.append(cv2.resize(even, half, interpolation=cv2.INTER_AREA))
    return levels


def _view_crops(pyramid: list[np.ndarray], transforms: CropTransforms, crops: range, side: int) -> np.ndarray:
    """Crops of one size (N, S, S) uint8: one warp for place, rotation, flip and scale; then the tone curve; then
    blur; then noise."""
    cut_NSS = np.empty((len(crops), side, side), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for place, index in enumerate(crops):
        source, matrix = pyramid[transforms.level[index]], transforms.matrix[index]
        crop = cv2.warpAffine(source, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_CONSTANT)
        crop = cv2.LUT(crop, transforms.curve[index])
        if transforms.blur[index] > 0:
            crop = cv2.GaussianBlur(crop, (0, 0), transforms.blur[index])
        if transforms.noise[index] > 0:
            grain = np.rint(normal_quantiles() * transforms.noise[index]).astype(np.int16)
            # A mode other than `raise` spares the check of all indices; they are below QUANTILES.
            grain_SS = grain.take(_noise_steps(transforms.keys[index], side), mode="clip")
            crop = cv2.add(crop, grain_SS, dtype=cv2.CV_8U)
        cut_NSS[place] = crop
    return cut_NSS


def _noise_steps(keys: np.ndarray, side: int) -> np.ndarray:
    """A random step of the normal distribution for each pixel, 0..QUANTILES - 1: (S, S), from a crop's two keys."""
    first, second = map(int, keys)
    words = hash_bits(np.arange((side * side + 1) // 2, dtype=np.uint32), first, second)
    halves = np.asarray(words, "<u4").view("<u2")[: side * side]  # of each word the lower half first
    return (halves >> 4).reshape(side, side)
