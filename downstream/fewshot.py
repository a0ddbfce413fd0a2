"""Organ masks from one labelled scan or a few: ways to answer, and how well they do over a prepared folder.

A way is a function of one question: these support slices show the organ, where is it in those slices of another
scan? Prototypes over any features answer it, and so do the floors (the support's mask copied, pixels, random weights)
and the oracle (the truth itself, as coarse as the features' grid), so that all of them are rows of one table.
Protocol: `fewshot_protocol`; sources: arXiv 2403.03273, 2007.09886.
"""

# Z slices of a scan, n slices that are asked, N support slices, H, W pixels, h, w cells of the features' grid.

from __future__ import annotations

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..platform.errors import ConfigError, DataError
from ..platform.progress import track
from .components import count_components, keep_components
from .fewshot_protocol import (
    PARTS,
    Fold,
    dice,
    folds_of,
    guessed_parts,
    hd95,
    support_slices,
    told_parts,
)
from .prototypes import Compat, PrototypeConfig, copy_mask, grid_mask, on_image, scores, sets_of
from .slices import SliceConfig, SliceFeatures
from .volumes import Volume, Volumes

Floor = Literal["copy", "pixels", "random", "oracle"]
Components = Literal["1", "n", "all"]

SHOWN = 4
"""Slices of each scan that are kept for pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """How an organ is looked for, with truth or without."""

    slices: SliceConfig = field(default_factory=SliceConfig)
    prototypes: PrototypeConfig = field(default_factory=PrototypeConfig)
    components: Components = "n"
    """Connected parts of a mask that are kept in each slice: the surest, as many as the support shows, or all."""
    reach: float = 0.1
    """Without truth, an organ is looked for this far beyond where it lies in the supports, in parts of its length."""

    def __post_init__(self) -> None:
        if not 0 <= self.reach < math.inf:
            raise ConfigError(f"reach is {self.reach}; give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class FewshotConfig(TaskConfig):
    """How one-shot segmentation is measured over a prepared folder."""

    folds: int = 5
    """Over the sorted scans; each scan is a query once."""
    shots: int = 1
    """Scans that teach."""
    organs: tuple[int, ...] = ()
    """Class numbers; none named: all."""
    beside: tuple[Compat, ...] = ()
    """Other `prototypes.compat` modes on the same features, rows of their own."""
    components_beside: tuple[Components, ...] = ()
    """Other `components` on the same scores, rows of their own."""
    floors: tuple[Floor, ...] = ("copy", "pixels", "random", "oracle")
    """What stands beside the encoder: the support's mask, pixels, random weights of its shape, the truth through
    the grid."""
    resamples: int = 1000
    """Of the bootstrap over scans."""
    seed: int = 0
    """Of random weights and of the bootstrap."""

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one that zero-argument super looks up.
        TaskConfig.__post_init__(self)
        if self.resamples < 1:
            raise ConfigError(f"resamples is {self.resamples}; give at least 1")


# Questions and answers ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One organ as supports show it. places: for every support its slice of each part."""

    organ: int
    name: str
    supports: tuple[Volume, ...]
    places: tuple[tuple[int, ...], ...]

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


def lesson_of(organ: int, name: str, supports: Sequence[Volume]) -> Lesson:
    """The supports that show the organ, with their slices. Raises DataError where none does."""
    shown = tuple(
        volume for volume in supports if volume.labels_ZHW is not None and (volume.labels_ZHW == organ).any()
    )
    if not shown:
        told = ", ".join(volume.name for volume in supports)
        raise DataError(f"class {organ} ({name}) is in none of the supports ({told}); choose others")
    return Lesson(organ, name, shown, tuple(support_slices(one.labels_ZHW == organ) for one in shown))


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

    @cache  # grows with the lessons, a few hundred kilobytes each
    def taught(lesson: Lesson, part: int) -> Any:
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
        back_nhw, front_nhw = scores(features(query, slices), taught(lesson, part), config)[:, 0]
        return on_image(front_nhw - back_nhw, *query.image_ZHW.shape[1:])

    return answer


def by_copy(lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
    """The floor: the support's mask where it lies, whatever the query shows."""
    mask_HW = copy_mask(torch.from_numpy(lesson.masks(part)), *query.image_ZHW.shape[1:])
    return (mask_HW.float() * 2 - 1).expand(len(slices), -1, -1)


def by_truth(features: SliceFeatures, compat: Compat) -> Answer:
    """The oracle: the query's own labels, as coarse as the features' grid and back."""

    def answer(lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        h, w = features(lesson.supports[0], [lesson.places[0][part]]).shape[2:]
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
        sure_HW = 1 / (1 + np.exp(-ahead_HW.astype(np.float64)))
        found_ZHW[z] = keep_components(ahead_HW > 0, sure_HW, keep, counts[parts[z]])
    return found_ZHW


def answered(
    answer: Answer, lesson: Lesson, query: Volume, *plans: Mapping[int, int]
) -> list[dict[int, np.ndarray]]:
    """For every plan (slice -> part) its slices' answers; what two plans have in common is asked once."""
    told: dict[tuple[int, int], np.ndarray] = {}
    for part in range(PARTS):
        slices = sorted({z for plan in plans for z, own in plan.items() if own == part})
        if slices:
            ahead_nHW = answer(lesson, part, query, slices).numpy()
            told |= {(part, z): ahead_HW for z, ahead_HW in zip(slices, ahead_nHW, strict=True)}
    return [{z: told[part, z] for z, part in plan.items()} for plan in plans]


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


# Measuring ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """Rows of the table that share their answers, one for each of `components`."""

    source: str
    compat: str
    answer: Answer
    components: tuple[Components, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """One scan, one organ, one row; a line of scans.csv. Dice 0..1, HD95 in mm, NaN where a mask is empty."""

    row: str
    source: str
    compat: str
    components: str
    fold: int
    scan: str
    supports: str
    organ: str
    slices: int
    dice: float
    volume_dice: float
    volume_hd95: float


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What pictures need of a scan: slices (n, H, W) of the image, labels found by the first row, true labels."""

    scan: str
    slices: tuple[int, ...]
    image_nHW: np.ndarray
    found_nHW: np.ndarray
    truth_nHW: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """All scores, what pictures need, seconds a scan by source, and what was left out and why."""

    organs: Mapping[int, str]
    scores: tuple[Score, ...]
    shown: tuple[Shown, ...]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Evaluated({len(self.scores)} scores, {len(self.shown)} scans)"


def ways_of(sources: Mapping[str, SliceFeatures], config: FewshotConfig) -> list[Way]:
    """A way for every source and compat mode, the first the main one; then copy and oracle, where asked for."""
    compats = list(dict.fromkeys((config.prototypes.compat, *config.beside)))
    kept = tuple(dict.fromkeys((config.components, *config.components_beside)))
    remembered = {name: Remembered(features, config.shots + 1) for name, features in sources.items()}
    ways = [
        Way(name, compat, by_prototypes(features, replace(config.prototypes, compat=compat)), kept)
        for name, features in remembered.items()
        for compat in compats
    ]
    if "copy" in config.floors:
        ways.append(Way("copy", "", by_copy, ("all",)))
    if "oracle" in config.floors:
        first = next(iter(remembered.values()))
        ways += [Way("oracle", compat, by_truth(first, compat), ("all",)) for compat in compats]
    return ways


def row_name(way: Way, components: str, config: FewshotConfig) -> str:
    """`encoder`, with what differs from the main row's settings behind it."""
    more = [way.compat] if way.compat not in ("", config.prototypes.compat) else []
    if way.source not in ("copy", "oracle") and components != config.components:
        more.append(f"components {components}")
    return ", ".join([way.source, *more])


def evaluate(
    volumes: Volumes, sources: Mapping[str, SliceFeatures], config: FewshotConfig | None = None
) -> Evaluated:
    """Measures every way on every labelled scan, by the published protocol and on whole volumes.

    sources: name -> features; the first gives the oracle its grid. Nothing depends on the order of the sources.
    Raises DataError where there is nothing to measure, ConfigError for folds or shots that do not fit.
    """
    config = config or FewshotConfig()
    organs = _organs(volumes, config)
    names = [name for name in volumes.names if volumes.cards[name]["labelled"]]
    left_out = {name: "no labels" for name in volumes.names if name not in names}
    ways = ways_of(sources, config)
    found: list[Score] = []
    shown: list[Shown] = []
    seconds: dict[str, float] = defaultdict(float)
    pairs = [(fold, name) for fold in folds_of(names, config.folds, config.shots) for name in fold.queries]
    supports = {}
    for fold, name in track(pairs, label="few-shot", unit="scans"):
        if fold.number not in supports:
            supports = {fold.number: _taught(volumes, fold, organs, left_out)}
        query = volumes.load(name)
        asked = _Asked.of(query, fold, supports[fold.number], config, left_out)
        for way in ways:
            began = time.monotonic()
            ahead = asked.ahead(way.answer)
            seconds[way.source] += (time.monotonic() - began) / len(pairs)
            for number, components in enumerate(way.components):
                labels_ZHW = label_map(*asked.whole(ahead), components, query.image_ZHW.shape)
                found += asked.scores(way, components, ahead, labels_ZHW)
                if way is ways[0] and not number:
                    shown.append(_shown(query, labels_ZHW, organs))
    if not found:
        raise DataError(f"{volumes.folder}: nothing can be measured; {next(iter(left_out.values()), '')}")
    return Evaluated(organs, tuple(found), tuple(shown), dict(seconds), left_out)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One query scan with the lessons of its fold. plans: organ -> slice -> part, by the truth and without it."""

    query: Volume
    fold: Fold
    lessons: Mapping[int, Lesson]
    plans: Mapping[int, tuple[dict[int, int], dict[int, int]]]
    config: FewshotConfig
    left_out: dict[str, str]

    @classmethod
    def of(
        cls,
        query: Volume,
        fold: Fold,
        lessons: Mapping[int, Lesson],
        config: FewshotConfig,
        left_out: dict[str, str],
    ) -> _Asked:
        slices = len(query.image_ZHW)
        plans = {
            organ: (
                told_parts(query.labels_ZHW == organ),
                guessed_parts(slices, lesson.volumes(), config.reach),
            )
            for organ, lesson in lessons.items()
        }
        return cls(query, fold, lessons, plans, config, left_out)

    def ahead(self, answer: Answer) -> dict[int, list[dict[int, np.ndarray]]]:
        """Organ -> answers by truth's slices and by guessed ones."""
        return {
            organ: answered(answer, lesson, self.query, *self.plans[organ])
            for organ, lesson in self.lessons.items()
        }

    def whole(self, ahead: Mapping[int, Sequence[Mapping[int, np.ndarray]]]) -> tuple[Any, Any, Any]:
        """The first arguments of `label_map`."""
        parts = {organ: self.plans[organ][1] for organ in self.lessons}
        return {organ: pair[1] for organ, pair in ahead.items()}, parts, self.lessons

    def scores(
        self, way: Way, components: Components, ahead: Mapping[int, Any], labels_ZHW: np.ndarray
    ) -> Iterator[Score]:
        """A score for every organ that the query shows; what it does not show is left out and said."""
        shape = self.query.image_ZHW.shape
        for organ, lesson in self.lessons.items():
            told, _ = self.plans[organ]
            truth_ZHW = self.query.labels_ZHW == organ
            if not told:
                self.left_out[f"{self.query.name}, {lesson.name}"] = "the scan does not show it"
                continue
            mask_ZHW = mask_of(ahead[organ][0], told, lesson, components, shape)
            yield Score(
                row=row_name(way, components, self.config),
                source=way.source,
                compat=way.compat,
                components=components,
                fold=self.fold.number,
                scan=self.query.name,
                supports=" ".join(volume.name for volume in lesson.supports),
                organ=lesson.name,
                slices=len(told),
                dice=dice(mask_ZHW, truth_ZHW),
                volume_dice=dice(labels_ZHW == organ, truth_ZHW),
                volume_hd95=hd95(labels_ZHW == organ, truth_ZHW, self.query.spacing),
            )


def _organs(volumes: Volumes, config: FewshotConfig) -> dict[int, str]:
    """Class number -> name of those asked for. Raises ConfigError for one that there is not."""
    unknown = [number for number in config.organs if number not in volumes.classes]
    if unknown:
        known = ", ".join(f"{number} {name}" for number, name in volumes.classes.items())
        raise ConfigError(f"organs: no class {unknown[0]} in {volumes.folder}; there are {known}")
    return {number: volumes.classes[number] for number in config.organs or volumes.classes}


def _taught(
    volumes: Volumes, fold: Fold, organs: Mapping[int, str], left_out: dict[str, str]
) -> dict[int, Lesson]:
    """Organ -> its lesson; organs that no support of the fold shows are left out and said."""
    supports = [volumes.load(name) for name in fold.supports]
    lessons = {}
    for organ, name in organs.items():
        try:
            lessons[organ] = lesson_of(organ, name, supports)
        except DataError as reason:
            left_out[f"fold {fold.number}, {name}"] = str(reason)
    return lessons


def _shown(query: Volume, labels_ZHW: np.ndarray, organs: Mapping[int, str]) -> Shown:
    """Some slices of a scan, evenly over those that show an organ."""
    truth_ZHW = np.where(np.isin(query.labels_ZHW, list(organs)), query.labels_ZHW, 0)
    labelled = np.flatnonzero(truth_ZHW.any(axis=(1, 2)))
    if not len(labelled):
        labelled = np.arange(len(truth_ZHW))
    places = ((np.arange(SHOWN) + 0.5) * len(labelled) / SHOWN).astype(int)
    slices = np.unique(labelled[places])
    return Shown(
        query.name,
        tuple(map(int, slices)),
        query.image_ZHW[slices].astype(np.uint8),
        labels_ZHW[slices],
        truth_ZHW[slices].astype(np.uint8),
    )
