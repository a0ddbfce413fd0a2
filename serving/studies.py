"""The studies that the app shows: names, views and findings."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..platform.core.errors import ConfigError, DataError
from ..platform.data.index import StudyIndex
from ..platform.data.manifest import load_manifest
from ..platform.data.study import SPLITS, Study

Place = tuple[str, int]
"""Where a study is: its split and its position there, as `StudyIndex` counts."""

DIGITS = 12
"""Most digits of a number in a name."""


class NotHereError(DataError):
    """A request names a study, view, head or backbone that the app does not have."""


class StudyPlaces:
    """Places of studies by key and back, looked up in the index: nothing is held in memory. Thread-safe.

    counts: studies of each split that have a place, the first ones.
    """

    def __init__(
        self, indexes: Mapping[str, StudyIndex], counts: Mapping[str, int], lock: threading.Lock
    ) -> None:
        self._indexes, self._counts, self._lock = indexes, counts, lock

    def find(self, keys: Sequence[str]) -> list[Place | None]:
        """The place of each key, None where there is none."""
        places: list[Place | None] = [None] * len(keys)
        for split, index in self._indexes.items():
            with self._lock:
                rows = index.find(keys)
            for number in np.flatnonzero((rows >= 0) & (rows < self._counts[split])):
                places[number] = (split, int(rows[number]))
        return places

    def key(self, place: Place) -> str | None:
        """The key of the study at a place, None where there is none."""
        split, position = place
        if not 0 <= position < self._counts.get(split, 0):
            return None
        with self._lock:
            return self._indexes[split].key(position)

    def __repr__(self) -> str:
        return f"StudyPlaces({sum(self._counts.values())} studies)"


class StudyBrowser:
    """Loads studies by place; thread-safe.

    split, limit: the studies of that split that can be opened; those of other splits can, too. Raises ConfigError for
    an empty split.
    """

    def __init__(self, shards: str | Path, split: str, limit: int | None) -> None:
        self.manifest = load_manifest(shards)
        self.split = split
        self._lock = threading.Lock()
        self._index = lru_cache(maxsize=None)(lambda name: StudyIndex(shards, name))
        size = len(self._index(split))
        self.count = size if limit is None else len(range(size)[:limit])
        if not self.count:
            counts = ", ".join(f"{name} {self.manifest.studies(name)}" for name in SPLITS)
            raise ConfigError(
                f"{shards}: split {split} holds no studies (there are {counts}); choose another with --split"
            )
        self.load = lru_cache(maxsize=64)(self._load)

    def places(self, splits: Iterable[str]) -> StudyPlaces:
        """Where the studies of these splits are; of the app's own split, those that can be opened."""
        indexes = {split: self._index(split) for split in splits}
        counts = {split: self._size(split) for split in indexes}
        return StudyPlaces(indexes, counts, self._lock)

    def _size(self, split: str) -> int:
        """How many studies of a split can be opened."""
        if split == self.split:
            return self.count
        return len(self._index(split)) if split in SPLITS else 0

    def _load(self, place: Place) -> Study:
        split, position = place
        with self._lock:
            if not 0 <= position < self._size(split):
                raise NotHereError(
                    f"There is no study {study_name(place)} here; choose one of the {self.count} in the list."
                )
            return self._index(split).load(position)

    def __repr__(self) -> str:
        return f"StudyBrowser({self.manifest.name}, {self.count} studies of {self.split})"


def study_name(place: Place) -> str:
    """The name of a study on the page and in URLs: `test-12`."""
    return f"{place[0]}-{place[1]}"


def parse_study(name: str) -> Place:
    """The place of a study's name. Raises NotHereError.

    >>> parse_study("test-12")
    ('test', 12)
    """
    split, _, position = name.rpartition("-")
    if split not in SPLITS or not is_number(position):
        raise NotHereError(f"{name[:40]!r} names no study; a study is called like `test-12`.")
    return split, int(position)


def parse_view(name: str) -> tuple[Place, int]:
    """The place of the study and the number of the view in `test-12/0`. Raises NotHereError."""
    study, _, view = name.partition("/")
    if not is_number(view):
        raise NotHereError(f"{name[:40]!r} names no view; a study's first is called like `test-12/0`.")
    return parse_study(study), int(view)


def is_number(text: str) -> bool:
    """Whether a text is a number that any study or view may have; one of thousands of digits is not even converted.

    >>> is_number("12"), is_number("-1"), is_number("9" * 5000)
    (True, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS


def view_pixels(study: Study, view: int) -> np.ndarray:
    """One view, (H, W) uint8. Raises NotHereError if the study has no such view, DataError if it is damaged."""
    if not 0 <= view < len(study.views):
        raise NotHereError(f"This study has views 0 to {len(study.views) - 1}; there is no view {view}.")
    try:
        return study.view(view).pixels
    except (ValueError, OSError):
        raise DataError(f"View {view} of this study is damaged and cannot be shown.") from None


def findings_by_state(labels: Mapping[str, float]) -> dict[str, list[str]]:
    """Names of findings: present, absent and unknown ones.

    >>> findings_by_state({"enlarged_heart": 1.0, "lung_mass": 0.0, "fracture": float("nan")})
    {'present': ['enlarged_heart'], 'absent': ['lung_mass'], 'unknown': ['fracture']}
    """
    return {
        "present": [name for name, value in labels.items() if value > 0.5],
        "absent": [name for name, value in labels.items() if value <= 0.5],
        "unknown": [name for name, value in labels.items() if math.isnan(value)],
    }
