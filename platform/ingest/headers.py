"""The first pass: blocks of files become rows with their studies, one file of rows for each block.

A block ends where the hash of a path says so: a file that is added or removed changes its own block alone, and the
others are found again by their digests.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..archive.discovery import ListedFile, place_of
from .decoding import DecodePool, DecodeResult
from .output.store import GONE, KNOWN, NEW, FileRow, RowWriter, read_tables
from .pseudonyms import pseudonym, seal, unseal
from .ranges import RETRIED, Job, entry_of
from .scanning import HeaderResult, scan_files

HEADERS = "headers"
"""Folder of the blocks, in the work folder."""

BLOCK_FILES = 2048
"""Files of a block, on average; at most four times as many."""

CHUNK_FILES = 64
"""Files whose headers a worker reads in one go."""


@dataclass(frozen=True, slots=True)
class BlockTask:
    """A block of files in the order of their paths; `ordinal` of a row counts from the block's start."""

    rows: list[FileRow]
    path: Path


@dataclass(frozen=True, slots=True)
class Block:
    """A block that was read. start: ordinal of its first file. new: to be decoded. known: from the version before."""

    path: Path
    start: int
    files: int
    new: int
    known: int
    estimate: int


def rows_of_archive(
    entries: Iterable[ListedFile], before: Iterator[FileRow], secret: bytes, tally: Counter[str]
) -> Iterator[FileRow]:
    """A row for each file, and for each that is gone, in the order of paths.

    before: the rows of the version before, in that order. What is known of a file that did not change is taken over,
    unless it was refused for a reason that may have passed. tally: counts files that are new, changed, gone or again.
    """
    old = next(before, None)
    for entry in entries:
        sealed = seal(secret, entry.task.to_text())
        while old is not None and old.task != sealed and place_of(entry_of(secret, old)) < place_of(entry):
            tally["gone"] += 1
            yield replace(old, state=GONE)
            old = next(before, None)
        row = FileRow(sealed, entry.size, entry.stamp)
        if old is None or old.task != sealed:
            tally["new"] += 1
        else:
            if (old.size, old.stamp) != (entry.size, entry.stamp):
                tally["changed"] += 1
                yield replace(old, state=GONE)
            elif old.code in RETRIED:
                tally["again"] += 1
            else:
                row = replace(old, state=KNOWN)
            old = next(before, None)
        yield row
    while old is not None:
        tally["gone"] += 1
        yield replace(old, state=GONE)
        old = next(before, None)


def blocks_of(rows: Iterable[FileRow], folder: Path) -> Iterator[BlockTask]:
    """The rows in blocks, each named by a digest of what is in it."""
    block: list[FileRow] = []
    alive = 0
    for row in rows:
        block.append(replace(row, ordinal=alive))
        alive += row.state != GONE
        if zlib.crc32(row.task[:16]) % BLOCK_FILES == 0 or len(block) == 4 * BLOCK_FILES:
            yield _block(block, folder)
            block, alive = [], 0
    if block:
        yield _block(block, folder)


def _block(rows: list[FileRow], folder: Path) -> BlockTask:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.task)
        known = "" if row.state == NEW else f"{row.code} {row.shard} {row.view} {row.pixel_hash} {row.labels}"
        digest.update(f"{row.size} {row.stamp} {row.state} {known}\n".encode())
    return BlockTask(rows, folder / f"{digest.hexdigest()[:32]}.arrow")


def scan_block(
    job: Job, pool: DecodePool, task: BlockTask, on_files: Callable[[int, int], None]
) -> dict[str, Any]:
    """Reads the headers of a block's new files and writes its rows; nothing where they are written already.

    `refused`: how many files each reason refuses.
    """
    new = [row for row in task.rows if row.state == NEW]
    refused = Counter[str]()
    if not _is_whole(task.path):
        headers = iter(_headers(job, pool, [entry_of(job.secret, row) for row in new]))
        with RowWriter(task.path) as writer:
            for row in task.rows:
                if row.state == NEW:
                    row = _with_header(job.secret, row, next(headers))
                    refused.update([row.code] if row.code else [])
                writer.write(row)
    on_files(len(task.rows), 0)
    return {"refused": refused}


def _is_whole(path: Path) -> bool:
    """Whether a block was read, and no file of it is to be read again."""
    if not path.exists():
        return False
    again = pa.array(RETRIED)
    return not any(
        pc.any(pc.and_(pc.equal(table["state"], NEW), pc.is_in(table["code"], again))).as_py()
        for table in read_tables(path)
    )


def _headers(job: Job, pool: DecodePool, entries: list[ListedFile]) -> list[HeaderResult]:
    """What each header says. Where a worker died, its files are read one by one."""
    chunks = [entries[start : start + CHUNK_FILES] for start in range(0, len(entries), CHUNK_FILES)]
    answers = list(pool.map((scan_files, chunk) for chunk in chunks))
    results: list[HeaderResult] = []
    for chunk, answer in zip(chunks, answers, strict=True):
        if isinstance(answer, DecodeResult):
            singles = pool.map((scan_files, [entry]) for entry in chunk)
            for single in singles:
                crashed = isinstance(single, DecodeResult)
                results.append(HeaderResult(single.code, single.detail) if crashed else single[0])
        else:
            results += answer
    return results


def _with_header(secret: bytes, row: FileRow, header: HeaderResult) -> FileRow:
    route = header.study or pseudonym(secret, f"route:{unseal(secret, row.task)}")
    return replace(
        row,
        code=header.code,
        detail=header.detail,
        study=header.study,
        route="" if header.code else route,
        estimate=header.estimate,
    )


def block_at(path: Path, start: int) -> Block:
    """The block in a file of rows."""
    files = new = known = estimate = 0
    for table in read_tables(path):
        is_new = pc.equal(table["state"], NEW)
        files += pc.sum(pc.not_equal(table["state"], GONE)).as_py()
        known += pc.sum(pc.equal(table["state"], KNOWN)).as_py()
        new += pc.sum(pc.and_(is_new, pc.equal(table["code"], ""))).as_py()
        estimate += pc.sum(pc.if_else(is_new, table["estimate"], 0)).as_py()
    return Block(path, start, files, new, known, estimate)
