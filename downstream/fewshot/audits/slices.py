"""What the audits of few-shot segmentation share: their questions, slice by slice, and how rows are compared.

An audit takes one step of the published method (cutting masks to components, training at test time) and asks what it
does to every single slice: a mean that rises may hide slices that are lost. Slices are those of the published
protocol, each told by the query's own truth from which third of the organ it is (`protocol`), and answer by themselves:
none leans on its neighbours (`answers.ScanConfig`).
"""

# Z slices of a scan, H, W its rows and columns; N scans, O organs.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ....platform.core.errors import ConfigError, DataError
from ...volumes.volume import Volume, Volumes
from ..learn.training import groups_of
from ..method.answers import Lesson, classes_of, lesson_of
from ..method.components import TOUCHING
from ..method.protocol import Fold, folds_of, intervals, told_parts
from .config import AuditConfig

MEAN = "mean"
"""In place of an organ: the mean of the organs' means."""


# Questions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Question:
    """One organ asked of one scan. parts: slice -> the third of the organ that it belongs to, by the truth."""

    fold: Fold
    lesson: Lesson
    query: Volume
    parts: Mapping[int, int]

    @cached_property
    def truth(self) -> np.ndarray:
        """(Z, H, W) bool."""
        return self.query.labels_ZHW == self.lesson.organ

    @cached_property
    def true_parts(self) -> Mapping[int, int]:
        """Slice -> components of the truth."""
        return {z: parts_in(self.truth[z]) for z in self.parts}

    def __repr__(self) -> str:
        return f"Question({self.lesson.name} of {self.query.name}, {len(self.parts)} slices)"


@dataclass(frozen=True, slots=True)
class Together:
    """A prepared folder in which some classes are one: `Volumes` to whoever reads it."""

    volumes: Volumes
    groups: tuple[tuple[int, ...], ...]
    classes: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        later = {number for group in self.groups for number in group[1:]}
        names = {number: name for number, name in self.volumes.classes.items() if number not in later}
        for group in self.groups:
            names[group[0]] = " + ".join(self.volumes.classes[number] for number in group)
        object.__setattr__(self, "classes", names)

    @property
    def folder(self) -> Path:
        return self.volumes.folder

    @property
    def names(self) -> tuple[str, ...]:
        return self.volumes.names

    @property
    def cards(self) -> Mapping[str, Mapping[str, Any]]:
        return self.volumes.cards

    def load(self, name: str) -> Volume:
        """One scan, its labels joined."""
        volume = self.volumes.load(name)
        if volume.labels_ZHW is None:
            return volume
        labels_ZHW = volume.labels_ZHW.copy()
        for first, *others in self.groups:
            labels_ZHW[np.isin(labels_ZHW, others)] = first
        return replace(volume, labels_ZHW=labels_ZHW)


def joined(volumes: Volumes, together: Sequence[str]) -> Volumes | Together:
    """The folder with the classes of each `A+B` as one organ. Raises ConfigError for what joins no two classes."""
    if not together:
        return volumes
    groups = groups_of(volumes.classes, together)
    for words, group in zip(together, groups, strict=True):
        if len(group) < 2:
            raise ConfigError(f"together '{words}' joins no two classes; write two or more, such as 2+3")
    return Together(volumes, tuple(groups))


def questions(
    volumes: Volumes | Together, config: AuditConfig, left_out: dict[str, str]
) -> Iterator[list[Question]]:
    """Every organ of every scan that is asked: a list for each scan, fold by fold; see `scans_asked`.

    What cannot be asked is put into `left_out`, place -> reason. Raises ConfigError for folds, shots or organs that
    do not fit.
    """
    chosen = scans_asked(volumes, config)
    left_out |= {name: "no labels" for name in volumes.names if not volumes.cards[name]["labelled"]}
    organs = classes_of(volumes, config.organs)
    for fold in folds_of(_labelled(volumes), config.folds, config.shots):
        asked = [name for name in fold.queries if name in chosen]
        if asked:
            lessons = _lessons(fold, organs, [volumes.load(name) for name in fold.supports], left_out)
            for name in asked:
                yield list(_asked(fold, lessons, volumes.load(name), config, left_out))


def scans_asked(volumes: Volumes | Together, config: AuditConfig) -> list[str]:
    """Names of the scans that `questions` has a list for."""
    names = _labelled(volumes)
    return [names[place] for place in evenly(len(names), config.scans)]


def _labelled(volumes: Volumes | Together) -> list[str]:
    return [name for name in volumes.names if volumes.cards[name]["labelled"]]


def _lessons(
    fold: Fold, organs: Mapping[int, str], supports: Sequence[Volume], left_out: dict[str, str]
) -> list[Lesson]:
    lessons = []
    for organ, name in organs.items():
        try:
            lessons.append(lesson_of(organ, name, supports, fold.number))
        except DataError as reason:
            left_out[f"fold {fold.number}, {name}"] = str(reason)
    return lessons


def _asked(
    fold: Fold, lessons: Sequence[Lesson], query: Volume, config: AuditConfig, left_out: dict[str, str]
) -> Iterator[Question]:
    for lesson in lessons:
        parts = told_parts(query.labels_ZHW == lesson.organ)
        if not parts:
            left_out[f"{query.name}, {lesson.name}"] = "the scan does not show it"
            continue
        slices = [list(parts)[place] for place in evenly(len(parts), config.per_organ)]
        yield Question(fold, lesson, query, {z: parts[z] for z in slices})


def evenly(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` places, in the middles of as many equal lengths; all of them for 0 or too many.

    >>> evenly(12, 3), evenly(2, 3)
    ([2, 6, 10], [0, 1])
    """
    if not 0 < wanted < count:
        return list(range(count))
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


# Slices and rows ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SliceScore:
    """One slice of one organ in one row; a line of slices.csv. found, true, overlap: pixels; parts: components."""

    row: str
    fold: int
    scan: str
    organ: str
    slice: int
    parts: int
    true_parts: int
    found: int
    true: int
    overlap: int
    dice: float
    """Of this slice alone, 0..1; 1 where nothing is and nothing was found."""


def slice_score(row: str, question: Question, z: int, found_HW: np.ndarray) -> SliceScore:
    """What a mask of one slice is worth."""
    truth_HW = question.truth[z]
    found, true = int(np.count_nonzero(found_HW)), int(np.count_nonzero(truth_HW))
    overlap = int(np.count_nonzero(found_HW & truth_HW))
    return SliceScore(
        row=row,
        fold=question.fold.number,
        scan=question.query.name,
        organ=question.lesson.name,
        slice=z,
        parts=parts_in(found_HW),
        true_parts=question.true_parts[z],
        found=found,
        true=true,
        overlap=overlap,
        dice=2 * overlap / (found + true) if found + true else 1.0,
    )


def parts_in(mask_HW: np.ndarray) -> int:
    """Its 8-connected components; 0 of an empty mask."""
    from scipy.ndimage import label

    return int(label(mask_HW, TOUCHING)[1])


def organs_in(
    scores: Sequence[SliceScore], volumes: Volumes | Together, left_out: Mapping[str, str]
) -> tuple[str, ...]:
    """Organs that were measured, in the classes' order. Raises DataError where none was."""
    if not scores:
        raise DataError(f"{volumes.folder}: nothing can be measured; {next(iter(left_out.values()), '')}")
    seen = {score.organ for score in scores}
    return tuple(name for name in volumes.classes.values() if name in seen)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A slice before and after the step that is audited: image (H, W) uint8, masks (H, W) bool, Dice 0..1."""

    title: str
    image_HW: np.ndarray
    before_HW: np.ndarray
    after_HW: np.ndarray
    truth_HW: np.ndarray
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def example_of(question: Question, z: int, before_HW: np.ndarray, after_HW: np.ndarray) -> Example:
    """One slice with what was found in it twice."""
    before, after = (slice_score("", question, z, found_HW).dice for found_HW in (before_HW, after_HW))
    title = f"{question.lesson.name}, scan {question.query.name}, slice {z}"
    image_HW = question.query.image_ZHW[z].astype(np.uint8)
    return Example(title, image_HW, before_HW, after_HW, question.truth[z], before, after)


EXAMPLES = 4
"""Slices kept of those that gained most, and of those that lost most."""


class Extremes:
    """The slices with the largest gains and losses of all that it is told, the same in whatever order it is told."""

    def __init__(self) -> None:
        self.gains: list[Example] = []
        self.losses: list[Example] = []

    def see(self, example: Example) -> None:
        if example.gain > 0:
            self.gains = sorted([*self.gains, example], key=lambda one: (-one.gain, one.title))[:EXAMPLES]
        elif example.gain < 0:
            self.losses = sorted([*self.losses, example], key=lambda one: (one.gain, one.title))[:EXAMPLES]


def summary_of(
    scores: Sequence[SliceScore], before: Mapping[str, str], organs: Sequence[str], config: AuditConfig
) -> list[dict[str, Any]]:
    """A line for each row and organ, and for the organs' mean.

    before: row -> the row that it is compared with. Dice: over an organ's slices pooled, mean over scans. change:
    paired with the row before. worse, better: share of a scan's slices whose own Dice fell or rose, mean over scans.
    All with 95 % intervals, bootstrap over scans.
    """
    scans = list(dict.fromkeys(score.scan for score in scores))
    tables = {row: _Table(scans, organs) for row in before}
    own: dict[tuple[str, str, str, int], float] = {}
    for score in scores:
        own[score.row, score.scan, score.organ, score.slice] = score.dice
    for score in scores:
        earlier = own[before[score.row], score.scan, score.organ, score.slice]
        tables[score.row].add(score, score.dice - earlier)
    lines = []
    for row, table in tables.items():
        dice_NO = table.dice()
        measured = {
            "dice": dice_NO,
            "change": dice_NO - tables[before[row]].dice(),
            "worse": table.share("worse"),
            "better": table.share("better"),
        }
        spread = {name: intervals(one, config.resamples, config.seed) for name, one in measured.items()}
        for place, organ in enumerate((*organs, MEAN)):
            line: dict[str, Any] = {"row": row, "before": before[row], "organ": organ}
            line |= table.counts(None if organ == MEAN else place)
            for name, (mean_O, (low_O, high_O)) in spread.items():
                line |= {
                    name: float(mean_O[place]),
                    f"{name}_low": float(low_O[place]),
                    f"{name}_high": float(high_O[place]),
                }
            lines.append(line)
    return lines


class _Table:
    """Sums (N, O) of one row's slices."""

    def __init__(self, scans: Sequence[str], organs: Sequence[str]) -> None:
        self._scans, self._organs = list(scans), list(organs)
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((len(scans), len(organs))))

    def add(self, score: SliceScore, change: float) -> None:
        place = self._scans.index(score.scan), self._organs.index(score.organ)
        for name, value in {
            "slices": 1,
            "overlap": score.overlap,
            "pixels": score.found + score.true,
            "worse": change < 0,
            "better": change > 0,
            "parts": score.parts,
            "several": score.parts > 1,
        }.items():
            self._sums[name][place] += value

    def dice(self) -> np.ndarray:
        """(N, O) 0..1, NaN where a scan does not show an organ."""
        return _over(2 * self._sums["overlap"], self._sums["pixels"])

    def share(self, name: str) -> np.ndarray:
        """(N, O): of the slices, how many in 1 are `name`; NaN where there are none."""
        return _over(self._sums[name], self._sums["slices"])

    def counts(self, organ: int | None) -> dict[str, float]:
        """Scans and slices; mean number of parts of a slice, and share of slices with more than one. None: all."""
        taken = slice(None) if organ is None else [organ]
        slices_NO = self._sums["slices"][:, taken]
        total = slices_NO.sum()
        return {
            "scans": int(slices_NO.any(axis=1).sum()),
            "slices": int(total),
            "parts": float(self._sums["parts"][:, taken].sum() / max(total, 1)),
            "several": float(self._sums["several"][:, taken].sum() / max(total, 1)),
        }


def _over(part_NO: np.ndarray, whole_NO: np.ndarray) -> np.ndarray:
    return np.divide(part_NO, whole_NO, out=np.full(whole_NO.shape, np.nan), where=whole_NO > 0)
