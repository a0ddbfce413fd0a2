"""The second step: the rows of all blocks, sorted by study and cut into ranges. Nothing holds all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from .headers import Block
from .output.store import GONE, KNOWN, NEW, RowWriter, Sorter, hex_bounds, intervals_for, read_tables
from .ranges import JUDGED, Job, RangeTask

RANGE_SHARDS = 16
"""A range's views fill at most so many shards, by an estimate of a byte a pixel; four or five, as a rule."""

RANGE_ROWS = 1 << 18
"""Rows of a range where hardly any view is new."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The ranges of an archive. studies: how many there are; labelled: how many a table of labels names."""

    ranges: tuple[RangeTask, ...]
    studies: int
    labelled: int


def cut_ranges(job: Job, blocks: Sequence[Block], revived: Collection[str], digest: str) -> Cut:
    """Writes the rows of each range into a file.

    revived: pixel hashes whose only views are duplicates of one that is gone: these are decoded again.
    digest: over all else that a range's result depends on.
    """
    sorter = Sorter(job.work / "runs", "route")
    for block in blocks:
        for table in tables_of(block):
            sorter.add(_routed(table, revived))
    count = range_count(sum(block.estimate for block in blocks), sorter.rows, job.config.shards.max_bytes)
    parts = -(-intervals_for(sorter.rows) // count)
    folder = job.work / "cut"
    folder.mkdir(exist_ok=True)
    bounds = hex_bounds(count)
    tables = sorter.intervals(hex_bounds(count * parts))
    names = pa.array(sorted(job.labels), pa.string())
    ranges = []
    studies = labelled = 0
    for low, high in zip(["00000000", *bounds], bounds, strict=False):
        part = folder / f"{low}-{high}.arrow"
        with RowWriter(part) as writer:
            for _ in range(parts):
                table = next(tables)
                writer.write_table(table)
                named = pc.and_(pc.not_equal(table["study"], ""), pc.not_equal(table["state"], GONE))
                known = pc.unique(table["study"].filter(named))
                studies += len(known)
                labelled += pc.sum(pc.is_in(known, names)).as_py() or 0
        if writer.rows:
            name = f"{low}-{high}-{_digest(part, digest)}"
            ranges.append(RangeTask(name, part.rename(folder / f"{name}.arrow")))
    next(tables, None)  # removes the runs
    return Cut(tuple(ranges), studies, labelled)


def range_count(estimate: int, rows: int, max_bytes: int) -> int:
    """How many ranges: a power of two, so that a grown archive keeps the bounds of most.

    >>> range_count(100, 10, max_bytes=1000), range_count(33_000, 10, max_bytes=1000)
    (1, 4)
    """
    wanted = max(-(-estimate // (RANGE_SHARDS * max_bytes)), -(-rows // RANGE_ROWS), 1)
    return 1 << (wanted - 1).bit_length()


def tables_of(block: Block) -> Iterator[pa.Table]:
    """The rows of a block, `ordinal` counted from the archive's start."""
    for table in read_tables(block.path):
        ordinal = pc.add(table["ordinal"], block.start)
        yield table.set_column(table.schema.get_field_index("ordinal"), "ordinal", ordinal)


def is_routed(table: pa.Table) -> pa.Array:
    """Which rows belong to a study: a file that was decoded or is to be. All others are refused for good."""
    return pc.or_(pc.equal(table["code"], ""), pc.is_in(table["code"], pa.array(JUDGED)))


def _routed(table: pa.Table, revived: Collection[str]) -> pa.Table:
    table = table.filter(is_routed(table))
    if revived:
        orphans = pc.and_(
            pc.and_(pc.equal(table["code"], "DUPLICATE"), pc.equal(table["state"], KNOWN)),
            pc.is_in(table["pixel_hash"], pa.array(sorted(revived), pa.string())),
        )
        state = pc.if_else(orphans, NEW, table["state"])
        table = table.set_column(table.schema.get_field_index("state"), "state", state)
    return table


def _digest(path: Path, digest: str) -> str:
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256")
    content.update(digest.encode())
    return content.hexdigest()[:16]
