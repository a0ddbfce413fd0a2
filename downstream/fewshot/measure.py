"""How well ways to find an organ from one labelled scan or a few do over a prepared folder.

Encoders, floors and the oracle are rows of one table: each is a `Way`, whose `Answer` says of a lesson where the organ
is. Every row is asked the same scans by the published protocol (`protocol`) and on whole volumes. Sources:
arXiv 2403.03273, 2007.09886.
"""

# Z slices of a scan, n slices of it, H, W pixels.

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from ...platform.core.progress import track
from ..volumes.volume import Volume, Volumes
from .config import FewshotConfig
from .method.answers import (
    Answer,
    Lesson,
    Remembered,
    answered,
    by_copy,
    by_lesson,
    by_truth,
    classes_of,
    label_map,
    lesson_of,
    listed,
    mask_of,
)
from .method.config import Components
from .method.protocol import Fold, dice, folds_of, guessed_parts, hd95, told_parts
from .method.slices import SliceFeatures

SHOWN = 4
"""Slices of each scan that are kept for pictures."""


# Rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """Rows of the table that share their answers, one for each of `components`.

    shots: how many of a fold's supports teach. smooth: how far slices lean on their neighbours (`ScanConfig`). floor:
    it stands beside what is measured (a floor or the oracle).
    """

    source: str
    compat: str
    answer: Answer
    components: tuple[Components, ...]
    shots: int = 1
    smooth: float = 0.0
    floor: bool = False


def ways_of(
    sources: Mapping[str, SliceFeatures],
    config: FewshotConfig,
    floors: Mapping[str, SliceFeatures] | None = None,
) -> list[Way]:
    """A way for every source, compat mode and number of shots, the first the main one; then those of the floors.

    floors: features that stand beside, in the main compat mode and components alone. Copy and oracle follow where
    `config.floors` asks for them.
    """
    scans = max(config.shots) + 1
    remembered = {name: Remembered(features, scans) for name, features in sources.items()}
    rows = [
        way
        for name, known in remembered.items()
        for way in ways_by(name, lambda _, known=known: known, config)
    ]
    plain_config = replace(config, beside=(), components_beside=())
    for name, features in (floors or {}).items():
        known = Remembered(features, scans)
        rows += [
            replace(way, floor=True) for way in ways_by(name, lambda _, known=known: known, plain_config)
        ]
    if "copy" in config.floors:
        rows += [Way("copy", "", by_copy, ("all",), shots, floor=True) for shots in config.shots]
    if "oracle" in config.floors:
        first = next(iter(remembered.values()))
        rows += [
            Way("oracle", compat, by_truth(first, compat), ("all",), config.shots[0], floor=True)
            for compat in dict.fromkeys((config.prototypes.compat, *config.beside))
        ]
    return rows


def ways_by(name: str, features_for: Callable[[Lesson], SliceFeatures], config: FewshotConfig) -> list[Way]:
    """Prototypes over the features of a lesson, in every compat mode and number of shots, the main ones first."""
    compats = dict.fromkeys((config.prototypes.compat, *config.beside))
    kept = tuple(dict.fromkeys((config.components, *config.components_beside)))
    return [
        Way(
            name,
            compat,
            by_lesson(features_for, replace(config.prototypes, compat=compat)),
            kept,
            shots,
            config.scan.smoothing(compat),
        )
        for compat in compats
        for shots in config.shots
    ]


def row_name(way: Way, components: str, config: FewshotConfig) -> str:
    """`encoder`, with what differs from the main row's settings behind it, and the shots where they vary."""
    more = [way.compat] if way.compat not in ("", config.prototypes.compat) else []
    if len(config.shots) > 1 and way.source != "oracle":
        more.append(f"{way.shots} shot" + "s" * (way.shots > 1))
    if way.source not in ("copy", "oracle") and components != config.components:
        more.append(f"components {components}")
    return ", ".join([way.source, *more])


def rows_of(ways: Sequence[Way], config: FewshotConfig) -> dict[str, Way]:
    """Name of a row -> its way. Raises ConfigError where two rows would bear one name."""
    names = [(row_name(way, components, config), way) for way in ways for components in way.components]
    rows = dict(names)
    if len(rows) < len(names):
        twice = next(name for name in rows if sum(name == other for other, _ in names) > 1)
        raise ConfigError(f"two rows would be called '{twice}'; rename a backbone's folder")
    return rows


# What is found -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """One scan, one organ, one row; a line of scans.csv. Dice 0..1, HD95 in mm, NaN where a mask is empty."""

    row: str
    source: str
    compat: str
    components: str
    shots: int
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
    """All scores, what pictures need, seconds a scan by source, and what was left out and why.

    ways: row -> the way that it belongs to, the main row first.
    """

    organs: Mapping[int, str]
    scores: tuple[Score, ...]
    shown: tuple[Shown, ...]
    seconds: Mapping[str, float]
    left_out: Mapping[str, str]
    ways: Mapping[str, Way]

    def __repr__(self) -> str:
        return f"Evaluated({len(self.scores)} scores, {len(self.shown)} scans)"


# Measuring ---------------------------------------------------------------------------------------


def evaluate(
    volumes: Volumes,
    sources: Mapping[str, SliceFeatures],
    config: FewshotConfig | None = None,
    floors: Mapping[str, SliceFeatures] | None = None,
) -> Evaluated:
    """Measures features on every labelled scan. sources: name -> features; the first gives the oracle its grid.

    Raises as `measure`.
    """
    config = config or FewshotConfig()
    return measure(volumes, ways_of(sources, config, floors), config)


def measure(
    volumes: Volumes, ways: Sequence[Way], config: FewshotConfig, teachers: Volumes | None = None
) -> Evaluated:
    """Measures every way on every labelled scan, by the published protocol and on whole volumes.

    teachers: where supports come from, fold by fold, if not from `volumes` themselves; classes are matched by name,
    and `config.organs` are the teachers' numbers. Nothing depends on the order of the ways. Raises DataError where
    there is nothing to measure, ConfigError for folds, shots or organs that do not fit.
    """
    rows = rows_of(ways, config)
    left_out: dict[str, str] = {}
    asking = _Taught(volumes, teachers or volumes, config, left_out)
    pairs = [(fold, name) for fold in asking.folds() for name in fold.queries]
    found: list[Score] = []
    shown: list[Shown] = []
    seconds: dict[str, float] = defaultdict(float)
    for fold, name in track(pairs, label="few-shot", unit="scans"):
        query = asking.query(name)
        asked = {
            shots: _Asked(query, fold, asking.lessons(fold, shots), config, left_out)
            for shots in {way.shots for way in ways}
        }
        for number, way in enumerate(ways):
            began = time.monotonic()
            scores, labels_ZHW = asked[way.shots].scores(way)
            seconds[way.source] += (time.monotonic() - began) / len(pairs)
            found += scores
            if not number:
                shown.append(_shown(query, labels_ZHW, asking.organs))
    if not found:
        raise DataError(f"{volumes.folder}: nothing can be measured; {next(iter(left_out.values()), '')}")
    return Evaluated(asking.organs, tuple(found), tuple(shown), dict(seconds), left_out, rows)


class _Taught:
    """Queries of one folder with lessons from another, or the same. organs: the teachers' class number -> name."""

    def __init__(
        self, volumes: Volumes, teachers: Volumes, config: FewshotConfig, left_out: dict[str, str]
    ) -> None:
        self.volumes, self.teachers, self.config, self.left_out = volumes, teachers, config, left_out
        self.organs = classes_of(teachers, config.organs)
        self._numbers: np.ndarray | None = None
        if teachers is not volumes:
            self._numbers = self._matched()
        self._fold = -1
        self._supports: list[Volume] = []
        self._lessons: dict[int, dict[int, Lesson]] = {}

    def _matched(self) -> np.ndarray:
        """(256,) uint8: the queries' class number -> the teachers' of the same name, else 0."""
        theirs = {plain(name): number for number, name in self.volumes.classes.items()}
        numbers = np.zeros(256, np.uint8)
        for number, name in list(self.organs.items()):
            if plain(name) in theirs:
                numbers[theirs[plain(name)]] = number
            else:
                del self.organs[number]
                self.left_out[f"{self.volumes.folder.name}, {name}"] = "no class of this name there"
        if not self.organs:
            raise DataError(
                f"{self.teachers.folder} and {self.volumes.folder} share no class "
                f"({listed(self.teachers)}; {listed(self.volumes)}); prepare them with `--classes` of equal names"
            )
        return numbers

    def folds(self) -> list[Fold]:
        """The queries' folds, each taught by the supports of the teachers' fold of that number."""
        most = max(self.config.shots)
        asked, teaching = (
            folds_of(self._labelled(volumes), self.config.folds, most)
            for volumes in (self.volumes, self.teachers)
        )
        return [replace(fold, supports=own.supports) for fold, own in zip(asked, teaching, strict=True)]

    def _labelled(self, volumes: Volumes) -> list[str]:
        names = [name for name in volumes.names if volumes.cards[name]["labelled"]]
        self.left_out.update({name: "no labels" for name in volumes.names if name not in names})
        return names

    def query(self, name: str) -> Volume:
        """A scan that is asked, its labels in the teachers' numbers."""
        query = self.volumes.load(name)
        if self._numbers is None:
            return query
        return replace(query, labels_ZHW=self._numbers[query.labels_ZHW])

    def lessons(self, fold: Fold, shots: int) -> dict[int, Lesson]:
        """Organ -> its lesson of a fold's first supports; what no support shows is left out and said."""
        if fold.number != self._fold:
            self._fold = fold.number
            self._supports = [self.teachers.load(name) for name in fold.supports]
            self._lessons.clear()
        if shots not in self._lessons:
            self._lessons[shots] = {}
            supports = self._supports[:shots]
            for organ, name in self.organs.items():
                try:
                    lesson = lesson_of(organ, name, supports, fold.number)
                except DataError as reason:
                    self.left_out[f"fold {fold.number}, {name}{_of(shots, self.config)}"] = str(reason)
                    continue
                self._lessons[shots][organ] = lesson
                silent = [volume.name for volume in supports if volume not in lesson.supports]
                for support in silent:
                    self.left_out[f"fold {fold.number}, {name}, support {support}"] = (
                        f"does not show it; the other supports teach ({len(lesson.supports)} of {shots})"
                    )
        return self._lessons[shots]


@dataclass(frozen=True, eq=False)
class _Asked:
    """One query scan with the lessons of its fold."""

    query: Volume
    fold: Fold
    lessons: Mapping[int, Lesson]
    config: FewshotConfig
    left_out: dict[str, str]

    @cached_property
    def truth(self) -> dict[int, np.ndarray]:
        """Organ -> (Z, H, W) bool."""
        return {organ: self.query.labels_ZHW == organ for organ in self.lessons}

    @cached_property
    def told(self) -> dict[int, dict[int, int]]:
        """Organ -> slice -> part, by the query's own truth."""
        return {organ: told_parts(truth_ZHW) for organ, truth_ZHW in self.truth.items()}

    @cached_property
    def guessed(self) -> dict[int, dict[int, int]]:
        """The same without it."""
        slices = len(self.query.image_ZHW)
        return {
            organ: guessed_parts(slices, lesson.volumes(), self.config.scan.reach)
            for organ, lesson in self.lessons.items()
        }

    def scores(self, way: Way) -> tuple[list[Score], np.ndarray]:
        """A score for every organ that the query shows, and the label map of the way's first components."""
        shape = self.query.image_ZHW.shape
        ahead = {
            organ: answered(
                way.answer, lesson, self.query, self.told[organ], self.guessed[organ], smooth=way.smooth
            )
            for organ, lesson in self.lessons.items()
        }
        whole = {organ: pair[1] for organ, pair in ahead.items()}
        maps = [
            label_map(whole, self.guessed, self.lessons, components, shape) for components in way.components
        ]
        found = [
            score
            for components, labels_ZHW in zip(way.components, maps, strict=True)
            for score in self._scores(way, components, ahead, labels_ZHW)
        ]
        return found, maps[0]

    def _scores(
        self, way: Way, components: Components, ahead: Mapping[int, Any], labels_ZHW: np.ndarray
    ) -> Iterator[Score]:
        """What the query does not show is left out and said."""
        for organ, lesson in self.lessons.items():
            if not self.told[organ]:
                self.left_out[f"{self.query.name}, {lesson.name}"] = "the scan does not show it"
                continue
            mask_ZHW = mask_of(ahead[organ][0], self.told[organ], lesson, components, labels_ZHW.shape)
            yield Score(
                row=row_name(way, components, self.config),
                source=way.source,
                compat=way.compat,
                components=components,
                shots=way.shots,
                fold=self.fold.number,
                scan=self.query.name,
                supports=" ".join(volume.name for volume in lesson.supports),
                organ=lesson.name,
                slices=len(self.told[organ]),
                dice=dice(mask_ZHW, self.truth[organ]),
                volume_dice=dice(labels_ZHW == organ, self.truth[organ]),
                volume_hd95=hd95(labels_ZHW == organ, self.truth[organ], self.query.spacing),
            )


def plain(name: str) -> str:
    """A class's name as it is compared with another folder's.

    >>> plain("Right_Kidney ") == plain("right kidney")
    True
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _of(shots: int, config: FewshotConfig) -> str:
    return f", {shots} shot" + "s" * (shots > 1) if len(config.shots) > 1 else ""


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
