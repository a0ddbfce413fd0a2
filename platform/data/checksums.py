"""Are shards and index what was written? Every byte is read and compared with the manifest.

A byte that changed inside a JPEG mostly leaves a picture that decodes, but another one. So each sample is compared
with its checksum in the index whenever it is read; here, whole tars are compared with those of the manifest.
"""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa

from ..core.errors import ShardError
from ..core.progress import track
from ..core.storage import filesystem
from .index_file import INDEX, UnusableIndexError, made_index, stored_index
from .manifest import Manifest, load_manifest
from .rows import ShardScan, reading_order, scan_shard, with_findings


def verify(folder: str | Path) -> Manifest:
    """The manifest, after every shard was compared with its SHA-256 and every row of the index with its study.

    An index that is missing, damaged or of other shards is made anew. Raises ShardError that names every shard that
    differs and, where there is an index, its damaged studies.
    """
    manifest = load_manifest(folder)
    files, root = filesystem(folder)
    reason, start = "", time.monotonic()
    try:
        index: pa.Table | None = stored_index(files, root, manifest)
    except UnusableIndexError as error:
        index, reason = None, str(error)
    faults: list[str] = []
    found: list[pa.Table] = []
    first = 0
    for shard in track(reading_order(manifest), label="verify", unit="shards"):
        known = None if index is None else index.slice(first, shard.studies)
        first += shard.studies
        try:
            scan = scan_shard(files, root, shard)
        except ShardError as error:
            faults.append(str(error))
            continue
        rows = with_findings(scan.rows, manifest.findings)
        faults += [fault] if (fault := _fault(scan, rows, known)) else []
        found += [rows] if index is None else []
    if faults:
        shards = f"{len(faults)} of {len(manifest.shards)} shards"
        raise ShardError(
            f"{folder}: {shards} are not what was written; copy them again, or ingest again: {'; '.join(faults)}"
        )
    if index is None:
        made_index(folder, manifest, found, reason, start)
    return manifest


def _fault(scan: ShardScan, rows: pa.Table, known: pa.Table | None) -> str:
    """What is wrong with a shard; "" for nothing. known: its rows in the index."""
    path = scan.shard.path
    if scan.sha256 == scan.shard.sha256:
        if scan.fault:
            return scan.fault
        return f"{INDEX} does not belong to {path}" if known is not None and rows != known else ""
    damaged = _damaged(rows, known) if known is not None else []
    return path + (f" (studies {', '.join(damaged)})" if damaged else "")


def _damaged(rows: pa.Table, known: pa.Table) -> list[str]:
    """The keys of the studies that differ from the index, are missing or too many."""
    was, now = (
        dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
        for table in (known, rows)
    )
    return [key for key in {**was, **now} if was.get(key) != now.get(key)]
