"""What ingest lists beside the shards, under pseudonyms: near-duplicates, and views with text in their pixels.

Nothing in these lists is removed from the shards, and no path or recognized text is in them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from ...core.files import atomic_path
from ...data.manifest import Manifest
from ...data.records import study_records
from .near_duplicates import near_duplicates

NEAR_DUPLICATES = "near_duplicates.csv"
TEXT = "text.csv"

NEAR_COLUMNS = ("study", "view", "other_study", "other_view", "relation", "distance")
TEXT_COLUMNS = ("study", "view", "action", "tagged", "top", "left", "bottom", "right")


class HashedView(NamedTuple):
    """A view in the shards: pseudonyms of study and patient, its number in the study, its `difference_hash`."""

    study: str
    view: int
    patient: str
    dhash: str


def hashed_views(files: Path) -> Iterator[HashedView]:
    """The views of a table of files."""
    names = ("study", "view", "patient", "dhash", "code")
    with pq.ParquetFile(files) as table:
        for batch in table.iter_batches(columns=list(names)):
            for *view, code in zip(*(batch[name].to_pylist() for name in names), strict=True):
                if not code:
                    yield HashedView(*view)


def save_near_duplicates(folder: Path, views: Iterable[HashedView]) -> Path:
    """Writes near_duplicates.csv: a row for each pair of views whose pictures are nearly the same; the file.

    relation: `other patient` (one picture under two names, or two that look alike), `other study` or `same study`. The
    order of the views does not matter. Takes some 250 bytes of memory a view.
    """
    columns = [bytearray() for _ in HashedView._fields]
    for view in views:
        for column, value in zip(columns, view, strict=True):
            column += value.to_bytes(4, "big") if isinstance(value, int) else bytes.fromhex(str(value))
    ids_N, numbers_N, patients_N = (
        np.frombuffer(columns[i], dtype) for i, dtype in enumerate(("V12", ">u4", "V12"))
    )
    hashes_N5 = np.frombuffer(columns[3], ">u8").reshape(-1, 5)
    order_N = np.lexsort((numbers_N, *np.frombuffer(columns[0], ">u4").reshape(-1, 3).T[::-1]))
    rows: list[Sequence[object]] = []
    for first, second, distance in near_duplicates(hashes_N5[order_N]).tolist():
        i, j = order_N[first], order_N[second]
        relation = "same study" if ids_N[i] == ids_N[j] else "other study"
        if patients_N[i] != patients_N[j]:
            relation = "other patient"
        one, other = (ids_N[row].tobytes().hex() for row in (i, j))
        rows.append((one, numbers_N[i], other, numbers_N[j], relation, distance))
    return _save(folder / NEAR_DUPLICATES, NEAR_COLUMNS, rows)


def save_text_boxes(folder: Path, manifest: Manifest) -> Path:
    """Writes text.csv: a row for each box of text that was found in a view of the folder's shards; the file.

    action: `masked` (painted over) or `kept`. tagged: whether BurnedInAnnotation is YES. Edges: fractions of the sides.
    """
    return _save(folder / TEXT, TEXT_COLUMNS, _text_boxes(folder, manifest))


def _text_boxes(folder: Path, manifest: Manifest) -> Iterator[Sequence[object]]:
    for record, _ in study_records(folder, manifest):
        for number, view in enumerate(record["views"]):
            found, _, tagged = view["facts"].get("text", "none").partition("; ")
            if found != "none":
                action, _, boxes = found.partition(" ")
                for box in boxes.split(", "):
                    yield (record["key"], number, action, int(bool(tagged)), *box.split())
            elif tagged:
                yield record["key"], number, "kept", 1, "", "", "", ""


def _save(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path
