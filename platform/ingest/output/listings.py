"""What ingest lists beside the shards, under pseudonyms: near-duplicates, and views with text in their pixels.

Nothing in these lists is removed from the shards, and no path or recognized text is in them.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...core.files import atomic_path
from ...data.manifest import Manifest
from ...data.records import study_records
from .near_duplicates import near_duplicates

log = logging.getLogger(__name__)

MOST = 4_000_000
"""Views whose pictures are compared with one another: an hour's work on one core among real radiographs, and 1 GB."""

MIXERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    np.uint64,
)
"""Odd factors that spread the words of a hash over the parts."""

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


def hashed_views(files: Path) -> Iterator[Iterator[HashedView]]:
    """The views of a table of files, in parts of about MOST; views of one hash are in one part."""
    parts = -(-pq.read_metadata(files).num_rows // MOST)
    return (_views_of_part(files, part, parts) for part in range(parts))


def _views_of_part(files: Path, part: int, parts: int) -> Iterator[HashedView]:
    with pq.ParquetFile(files) as table:
        for batch in table.iter_batches(columns=[*HashedView._fields, "code"]):
            batch = batch.filter(pc.equal(batch["code"], ""))
            words_N5 = np.frombuffer(bytes.fromhex("".join(batch["dhash"].to_pylist())), ">u8").reshape(-1, 5)
            batch = batch.filter(pa.array((words_N5.astype(np.uint64) @ MIXERS >> 32) % parts == part))
            yield from map(HashedView, *(batch[name].to_pylist() for name in HashedView._fields))


def save_near_duplicates(folder: Path, parts: Iterable[Iterable[HashedView]]) -> Path:
    """Writes near_duplicates.csv: a row for each pair of views whose pictures are nearly the same; the file.

    relation: `other patient` (one picture under two names, or two that look alike), `other study` or `same study`.
    parts: as of `hashed_views`. Of several, only equal hashes are listed, and a line says so. The order of the views
    of a part does not matter. Takes some 250 bytes of memory a view of a part.
    """
    return _save(folder / NEAR_DUPLICATES, NEAR_COLUMNS, _rows_of_parts(parts))


def _rows_of_parts(parts: Iterable[Iterable[HashedView]]) -> Iterator[Sequence[object]]:
    rest = iter(parts)
    first, second = next(rest, ()), next(rest, None)
    if second is None:
        yield from _near_rows(first, only_equal=False)
        return
    log.warning(
        "more than %s views: of near-duplicates only those with one and the same hash are listed", f"{MOST:,}"
    )
    for part in chain([first, second], rest):
        yield from _near_rows(part, only_equal=True)


def _near_rows(views: Iterable[HashedView], only_equal: bool) -> Iterator[Sequence[object]]:
    columns = [bytearray() for _ in HashedView._fields]
    for view in views:
        for column, value in zip(columns, view, strict=True):
            column += value.to_bytes(4, "big") if isinstance(value, int) else bytes.fromhex(str(value))
    ids_N, numbers_N, patients_N = (
        np.frombuffer(columns[i], dtype) for i, dtype in enumerate(("V12", ">u4", "V12"))
    )
    hashes_N5 = np.frombuffer(columns[3], ">u8").reshape(-1, 5)
    order_N = np.lexsort((numbers_N, *np.frombuffer(columns[0], ">u4").reshape(-1, 3).T[::-1]))
    for first, second, distance in near_duplicates(hashes_N5[order_N], only_equal).tolist():
        i, j = order_N[first], order_N[second]
        relation = "same study" if ids_N[i] == ids_N[j] else "other study"
        if patients_N[i] != patients_N[j]:
            relation = "other patient"
        one, other = (ids_N[row].tobytes().hex() for row in (i, j))
        yield one, numbers_N[i], other, numbers_N[j], relation, distance


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
