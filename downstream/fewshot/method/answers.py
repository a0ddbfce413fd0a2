"""Ways to answer one question: these support slices show the organ, where is it in those slices of another scan?

Prototypes over any features answer it, and so do the floors (the support's mask copied, pixels, random weights) and
the oracle (the truth itself, as coarse as the features' grid). Whoever answers, masks are made of it alike. Sources:
arXiv 2403.03273, 2007.09886.
"""

# Z slices of a scan, n slices that are asked, N support slices, H, W pixels, h, w cells of the features' grid.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ....platform.core.errors import ConfigError, DataError
from ...volumes.volume import Volume, Volumes
from .components import count_components, keep_components
from .config import Compat, Components, PrototypeConfig
from .protocol import PARTS, support_slices
from .prototypes import Sets, copy_mask, grid_mask, on_image, scores, sets_of
from .slices import SliceFeatures


def classes_of(volumes: Volumes, asked: Sequence[int]) -> dict[int, str]:
    """Class number -> name of those asked for, all where none is. Raises ConfigError for one that there is not."""
    unknown = [number for number in asked if number not in volumes.classes]
    if unknown:
        raise ConfigError(f"organs: no class {unknown[0]} in {volumes.folder}; there are {listed(volumes)}")
    return {number: volumes.classes[number] for number in asked or volumes.classes}


def listed(volumes: Volumes) -> str:
    """Numbers and names of a folder's classes, for a message."""
    return ", ".join(f"{number} {name}" for number, name in volumes.classes.items())


# Questions and answers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One organ as supports show it. places: for every support its slice of each part.

    fold: of the protocol, where there are folds; says which of several trained encoders may answer.
    """

    organ: int
    name: str
    supports: tuple[Volume, ...]
    places: tuple[tuple[int, ...], ...]
    fold: int = 0

    def masks(self, part: int) -> np.ndarray:
        """(N, H, W) bool: the organ in the support slices of one part."""
        return np.stack(
            [
                volume.labels_ZHW[places[part]] == self.organ
                for volume, places in zip(self.supports, self.places, strict=True)
            ]
        )

    def volumes(self) -> list[np.ndarray]:
        """The organ in each support, (Z, H, W) bool."""
        return [volume.labels_ZHW == self.organ for volume in self.supports]

    def __repr__(self) -> str:
        return f"Lesson({self.name}, {len(self.supports)} supports)"


Answer: TypeAlias = Callable[[Lesson, int, Volume, Sequence[int]], Tensor]
"""(lesson, part, query, its slices) -> (n, H, W) float32: by how much the organ's score is above the background's.

Above 0 is organ. Whatever adapts itself to a slice (test-time training) does so inside, and leaves no trace.
"""


def lesson_of(organ: int, name: str, supports: Sequence[Volume], fold: int = 0) -> Lesson:
    """The supports that show the organ, with their slices. Raises DataError where none does."""
    shown = tuple(
        volume for volume in supports if volume.labels_ZHW is not None and (volume.labels_ZHW == organ).any()
    )
    if not shown:
        told = ", ".join(volume.name for volume in supports)
        raise DataError(f"class {organ} ({name}) is in none of the supports ({told}); choose others")
    places = tuple(support_slices(one.labels_ZHW == organ) for one in shown)
    return Lesson(organ, name, shown, places, fold)


class Remembered:
    """Features that are made once: of the last few scans, slice by slice."""

    def __init__(self, features: SliceFeatures, scans: int) -> None:
        self.features = features
        self.scans = scans
        self._known: OrderedDict[Volume, dict[int, Tensor]] = OrderedDict()

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        known = self._known.setdefault(volume, {})
        self._known.move_to_end(volume)
        while len(self._known) > self.scans:
            self._known.popitem(last=False)
        missing = sorted(set(slices) - known.keys())
        if missing:
            known.update(zip(missing, self.features(volume, missing), strict=True))
        return torch.stack([known[z] for z in slices])


def by_prototypes(features: SliceFeatures, config: PrototypeConfig) -> Answer:
    """Adaptive local prototypes over features of any kind, in `config.compat`'s way."""
    return by_lesson(lambda _: features, config)


def by_lesson(features_for: Callable[[Lesson], SliceFeatures], config: PrototypeConfig) -> Answer:
    """The same over the features that a lesson asks for, such as those of its fold's own encoder."""

    @cache  # grows with the lessons, a few hundred kilobytes each
    def taught(lesson: Lesson, part: int) -> Sets:
        features = features_for(lesson)
        supports = torch.cat(
            [
                features(volume, [places[part]])
                for volume, places in zip(lesson.supports, lesson.places, strict=True)
            ]
        )
        masks = torch.from_numpy(lesson.masks(part))
        grid = grid_mask(masks, *supports.shape[2:], config.compat)
        return sets_of(supports, grid[None], [lesson.name], config)

    def answer(lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        features = features_for(lesson)
        back_nhw, front_nhw = scores(features(query, slices), taught(lesson, part))[:, 0]
        return on_image(front_nhw - back_nhw, *query.image_ZHW.shape[1:])

    return answer


class Encoders:
    """The encoder that was trained for each fold and organ, by lesson; its features are made once.

    trained: (fold, class number) -> features, one and the same for organs that share an encoder. scans: how many are
    remembered of each encoder; those of one fold are forgotten when the next is asked.
    """

    def __init__(self, trained: Mapping[tuple[int, int], SliceFeatures], scans: int) -> None:
        self.trained = trained
        self.scans = scans
        self._fold = -1
        self._known: dict[SliceFeatures, Remembered] = {}

    def __call__(self, lesson: Lesson) -> Remembered:
        if lesson.fold != self._fold:
            self._fold = lesson.fold
            self._known.clear()
        encoder = self.trained[lesson.fold, lesson.organ]
        return self._known.setdefault(encoder, Remembered(encoder, self.scans))


def by_copy(lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
    """The floor: the support's mask where it lies, whatever the query shows."""
    mask_HW = copy_mask(torch.from_numpy(lesson.masks(part)), *query.image_ZHW.shape[1:])
    return (mask_HW.float() * 2 - 1).expand(len(slices), -1, -1)


def by_truth(features: SliceFeatures, compat: Compat) -> Answer:
    """The oracle: the query's own labels, as coarse as the features' grid and back."""

    def answer(lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        h, w = features(query, [slices[0]]).shape[2:]
        truth_nHW = torch.from_numpy(query.labels_ZHW[list(slices)] == lesson.organ)
        return on_image(2 * grid_mask(truth_nHW, h, w, compat) - 1, *query.image_ZHW.shape[1:])

    return answer


# Masks -------------------------------------------------------------------------------------------


def mask_of(
    ahead: Mapping[int, np.ndarray],
    parts: Mapping[int, int],
    lesson: Lesson,
    components: Components,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """(Z, H, W) bool: the organ where its score is ahead, cut to its components slice by slice.

    ahead: slice -> (H, W), what an `Answer` says of it (lower than 0 where another organ is further ahead).
    """
    keep = {"1": 1}.get(components, components)
    counts = [count_components(lesson.masks(part)) for part in range(PARTS)]
    found_ZHW = np.zeros(shape, bool)
    for z, ahead_HW in ahead.items():
        if not (ahead_HW > 0).any():
            continue
        sure_HW = 1 / (1 + np.exp(-ahead_HW.astype(np.float64)))
        found_ZHW[z] = keep_components(ahead_HW > 0, sure_HW, keep, counts[parts[z]])
    return found_ZHW


def answered(
    answer: Answer, lesson: Lesson, query: Volume, *plans: Mapping[int, int], smooth: float = 0.0
) -> list[dict[int, np.ndarray]]:
    """For every plan (slice -> part) its slices' answers; what two plans have in common is asked once.

    smooth: deviation of a Gaussian, in slices, that a plan's answers are averaged with along the scan.
    """
    told: dict[tuple[int, int], np.ndarray] = {}
    for part in range(PARTS):
        slices = sorted({z for plan in plans for z, own in plan.items() if own == part})
        if slices:
            ahead_nHW = answer(lesson, part, query, slices).numpy()
            told |= {(part, z): ahead_HW for z, ahead_HW in zip(slices, ahead_nHW, strict=True)}
    own = [{z: told[part, z] for z, part in plan.items()} for plan in plans]
    return [smoothed(ahead, smooth) for ahead in own] if smooth else own


def smoothed(ahead: Mapping[int, np.ndarray], deviation: float) -> dict[int, np.ndarray]:
    """Slice -> (H, W): weighted means over the slices around, by a Gaussian of distance in slices.

    Slices that were not asked have no weight; those further than three deviations neither.

    >>> ahead = {1: np.float32([[1.0]]), 2: np.float32([[-0.5]]), 9: np.float32([[4.0]])}
    >>> {z: round(float(value[0, 0]), 3) for z, value in smoothed(ahead, 1.0).items()}
    {1: 0.434, 2: 0.066, 9: 4.0}
    """
    if not ahead:
        return {}
    places_n = np.array(list(ahead))
    apart_nn = np.abs(places_n[:, None] - places_n) / deviation
    weight_nn = np.where(apart_nn <= 3, np.exp(-(apart_nn**2) / 2), 0.0)
    weight_nn /= weight_nn.sum(axis=1, keepdims=True)
    given_nHW = np.stack(list(ahead.values()))
    mean_nHW = np.einsum("nm,mhw->nhw", weight_nn.astype(np.float32), given_nHW, optimize=True)
    return dict(zip(ahead, mean_nHW, strict=True))


def label_map(
    ahead: Mapping[int, Mapping[int, np.ndarray]],
    parts: Mapping[int, Mapping[int, int]],
    lessons: Mapping[int, Lesson],
    components: Components,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """(Z, H, W) uint8: each pixel the organ that is furthest ahead of its background, 0 where none is.

    ahead, parts: organ -> slice -> answer, part; all organs share the pixels, so components are cut afterwards.
    """
    best_ZHW, first_ZHW = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for organ, slices in ahead.items():
        for z, ahead_HW in slices.items():
            wins_HW = ahead_HW > best_ZHW[z]
            best_ZHW[z][wins_HW], first_ZHW[z][wins_HW] = ahead_HW[wins_HW], organ
    labels_ZHW = np.zeros(shape, np.uint8)
    for organ, lesson in lessons.items():
        own = {z: np.where(first_ZHW[z] == organ, best_ZHW[z], -1.0) for z in parts[organ]}
        labels_ZHW[mask_of(own, parts[organ], lesson, components, shape)] = organ
    return labels_ZHW
