"""What is known of a gallery's rows, in SQLite: written once with a version, only read afterwards.

    items(id, key, view, patient, split, projections, f0, f1, ...)   rows that can be found; fN is the N-th finding
    deleted(id)                                                      rows that cannot

Values are bound, never put into the text of a statement; a finding is a column's number, so no name is, either.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...platform.core.config import nearest
from ...platform.core.errors import GalleryError
from ...platform.data.study import SPLITS
from ...platform.measure.features import Features
from .manifest import DamagedGalleryError, GalleryManifest

# N rows.

FIXED = ("id", "key", "view", "patient", "split", "projections")
MOST_IDS = 500
"""Ids in one statement."""


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One row. patient: a pseudonym. findings: 1.0 present, 0.0 absent, NaN unknown."""

    id: int
    key: str
    view: str
    patient: str
    split: str
    projections: tuple[str, ...]
    findings: Mapping[str, float]

    def __repr__(self) -> str:
        view = f"/{self.view}" if self.view else ""
        return f"GalleryItem({self.id}: {self.key}{view}, {self.split})"


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which rows may be found: findings as (name, present or absent), any of the projections, one split."""

    findings: tuple[tuple[str, bool], ...] = ()
    projections: tuple[str, ...] = ()
    split: str | None = None

    def __bool__(self) -> bool:
        return bool(self.findings or self.projections or self.split is not None)


def item_filter(
    manifest: GalleryManifest,
    findings: Mapping[str, bool] | None,
    projections: Sequence[str] | None,
    split: str | None,
) -> ItemFilter:
    """The filter, its names checked. Raises GalleryError for a name that the gallery does not have."""
    names = tuple(projections or ())
    if isinstance(projections, str):
        raise GalleryError(f"projections is the text {projections!r}; give a list of them")
    if names and not manifest.projections:
        raise GalleryError(
            "the projections of this gallery's views are not known; embed the shards again with "
            "`vetdino embed`, then build the gallery again"
        )
    for name in findings or {}:
        _check_name("finding", name, manifest.findings)
    for name in names:
        _check_name("projection", name, manifest.projections)
    if split is not None:
        _check_name("split", split, SPLITS)
    chosen = sorted((name, bool(present)) for name, present in (findings or {}).items())
    return ItemFilter(tuple(chosen), tuple(sorted(set(names))), split)


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise GalleryError(f"this gallery has no {kind} '{name}'; {nearest(str(name), known)}")


class Metadata:
    """Reads the rows of one version; safe to use from several threads. Raises GalleryError where it is damaged."""

    def __init__(self, path: Path, findings: Sequence[str]) -> None:
        self.path, self.findings = path, tuple(findings)
        self._lock = threading.Lock()
        # immutable: no locks and no journal are looked for, since a version never changes
        uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.OperationalError:
            raise FileNotFoundError(2, "missing", str(path)) from None
        self.deleted = np.sort(self._ids("SELECT id FROM deleted"))
        self.count = int(self._rows("SELECT count(*) FROM items")[0][0])
        self.count_of = lru_cache(maxsize=1024)(self._count_of)

    def items(self, ids: Iterable[int]) -> dict[int, GalleryItem]:
        """id -> row, of those that can be found."""
        wanted = [int(id) for id in ids]
        rows: list[Any] = []
        for start in range(0, len(wanted), MOST_IDS):
            part = wanted[start : start + MOST_IDS]
            rows += self._rows(f"SELECT * FROM items WHERE id IN ({', '.join('?' * len(part))})", part)
        return {row[0]: self._item(row) for row in rows}

    def find(self, key: str, view: str) -> GalleryItem | None:
        """The row of a study's key (and of a view, in a gallery by view)."""
        rows = self._rows("SELECT * FROM items WHERE key = ? AND view = ?", (key, view))
        return self._item(rows[0]) if rows else None

    def of_patient(self, patient: str) -> np.ndarray:
        """Ids of a patient's rows, sorted."""
        return np.sort(self._ids("SELECT id FROM items WHERE patient = ?", (patient,)))

    def of_key(self, key: str) -> np.ndarray:
        """Ids of a study's rows, sorted."""
        return np.sort(self._ids("SELECT id FROM items WHERE key = ?", (key,)))

    def all_items(self, batch: int) -> Iterator[list[GalleryItem]]:
        """Every row that can be found, by rising id, `batch` at a time."""
        last = -1
        while rows := self._rows("SELECT * FROM items WHERE id > ? ORDER BY id LIMIT ?", (last, batch)):
            yield [self._item(row) for row in rows]
            last = rows[-1][0]

    def page(self, where: ItemFilter, after: int, count: int) -> list[GalleryItem]:
        """The first `count` rows that pass a filter and have ids above `after`, by rising id."""
        condition, values = self._condition(where)
        rows = self._rows(
            f"SELECT * FROM items WHERE id > ? AND {condition} ORDER BY id LIMIT ?", (after, *values, count)
        )
        return [self._item(row) for row in rows]

    def is_sound(self) -> bool:
        """Whether SQLite finds no damage in the file."""
        return self._rows("PRAGMA integrity_check") == [("ok",)]

    def ids(self, where: ItemFilter, start: int, stop: int) -> np.ndarray:
        """Ids of the rows that pass a filter, start <= id < stop, (N,) int64 in any order."""
        condition, values = self._condition(where)
        return self._ids(
            f"SELECT id FROM items WHERE id >= ? AND id < ? AND {condition}", (start, stop, *values)
        )

    def _count_of(self, where: ItemFilter) -> int:
        """Number of rows that pass a filter; counts are remembered (as `count_of`)."""
        condition, values = self._condition(where)
        return int(self._rows(f"SELECT count(*) FROM items WHERE {condition}", values)[0][0])

    def _condition(self, where: ItemFilter) -> tuple[str, list[Any]]:
        """A filter as SQL with places for values, and the values."""
        conditions, values = ["1"], list[Any]()
        for name, present in where.findings:
            conditions.append(f"f{self.findings.index(name)} = ?")
            values.append(int(present))
        if where.projections:
            one = "instr(' ' || projections || ' ', ?) > 0"
            conditions.append(f"({' OR '.join([one] * len(where.projections))})")
            values += [f" {name} " for name in where.projections]
        if where.split is not None:
            conditions.append("split = ?")
            values.append(where.split)
        return " AND ".join(conditions), values

    def _ids(self, statement: str, values: Sequence[Any] = ()) -> np.ndarray:
        return np.fromiter((row[0] for row in self._rows(statement, values)), np.int64)

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError:
            raise DamagedGalleryError(
                f"{self.path}: damaged; copy the gallery again, or build it with `vetdino index build`"
            ) from None

    def _item(self, row: Sequence[Any]) -> GalleryItem:
        id, key, view, patient, split, projections, *values = row
        labels = (math.nan if value is None else float(value) for value in values)
        findings = dict(zip(self.findings, labels, strict=True))
        return GalleryItem(id, key, view, patient, split, tuple(projections.split()), findings)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


class MetadataWriter:
    """Writes the rows of a version that is not in use yet: a new file, or a copy of the version before.

    findings: of the gallery, in order; a table may lack some of them.
    """

    def __init__(self, path: Path, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        self._connection = sqlite3.connect(path)
        # Nobody reads the file before it is whole, so no journal; what is deleted is overwritten.
        for setting in ("journal_mode = OFF", "synchronous = OFF", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {setting}").fetchall()

    def __enter__(self) -> MetadataWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._connection.commit()
        self._connection.close()

    def create(self) -> None:
        """The empty tables."""
        columns = [
            "id INTEGER PRIMARY KEY",
            *(f"{name} TEXT NOT NULL" for name in FIXED[1:]),
            *(f"f{number} INTEGER" for number in range(len(self.findings))),
        ]
        self._connection.execute(f"CREATE TABLE items ({', '.join(columns)})")
        self._connection.execute("CREATE TABLE deleted (id INTEGER PRIMARY KEY)")

    def add(self, features: Features, first: int) -> None:
        """Appends the rows of a table, numbered from `first`. Raises GalleryError for a row that is there already."""
        places = [self.findings.index(name) for name in features.findings]
        values = np.full((len(features), len(self.findings)), np.nan, np.float32)
        values[:, places] = features.labels
        labels = [[None if math.isnan(value) else int(value) for value in row] for row in values.tolist()]
        projections = features.projections or ("",) * len(features)
        names = (features.keys, features.views, features.patients, features.splits, projections)
        rows = zip(range(first, first + len(features)), *names, labels, strict=True)
        marks = ", ".join("?" * (len(FIXED) + len(self.findings)))
        try:
            self._connection.executemany(
                f"INSERT INTO items VALUES ({marks})", ((*row[:-1], *row[-1]) for row in rows)
            )
        except sqlite3.IntegrityError:
            raise self._repeated() from None

    def index(self) -> None:
        """Makes keys unique and patients quick to look up. Raises GalleryError where a row repeats a key and view."""
        try:
            self._connection.execute("CREATE UNIQUE INDEX item_name ON items (key, view)")
        except sqlite3.IntegrityError:
            raise self._repeated() from None
        self._connection.execute("CREATE INDEX item_patient ON items (patient)")

    def delete(self, ids: Sequence[int]) -> None:
        """Takes rows out: they are never found again, and nothing is known of them any more."""
        rows = [(int(id),) for id in ids]
        self._connection.executemany("DELETE FROM items WHERE id = ?", rows)
        self._connection.executemany("INSERT INTO deleted VALUES (?)", rows)

    def projections(self) -> tuple[str, ...]:
        """All projections that occur, sorted."""
        with closing(self._connection.execute("SELECT DISTINCT projections FROM items")) as rows:
            return tuple(sorted({name for (names,) in rows for name in names.split()}))

    def _repeated(self) -> GalleryError:
        return GalleryError(
            "a row has the study (and view) of a row that is already there; delete those first with "
            "`vetdino index delete`, or leave them out of the table"
        )
