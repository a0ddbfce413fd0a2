"""`index.parquet` beside the shards: a row for each study, in reading order.

It travels with the shards and is read once on each machine: its columns are then mapped into memory from an
uncompressed copy in the node's cache, so that the processes of a machine share one copy and opening takes no time.
An index that is missing, damaged or of other shards is made anew from the tars, which are compared with the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import pyarrow as pa
from pyarrow import ipc, parquet

from ..core.errors import ShardError
from ..core.files import atomic_path
from ..core.locks import file_lock
from ..core.node_cache import make_room, node_cache
from ..core.progress import track
from ..core.storage import explained, filesystem, is_local, version_tag
from .manifest import Manifest, Shard, missing
from .rows import (
    LABEL,
    VERSION,
    reading_order,
    scan_shard,
    schema,
    shards_digest,
    with_findings,
)

INDEX = "index.parquet"

GROUP = 65_536
"""Rows that are stored together: a reader holds as many of them in memory at once."""

KEPT = 16
"""Indexes in the cache of a node; the one used longest ago goes first."""

WAIT_S = 12 * 3600.0
"""Longest time that a process waits for another one that makes the same index."""

FEW_VALUES = ("shard", "split", "projections", "modality")
"""Columns of so few different values that Parquet stores them as numbers of a dictionary."""

log = logging.getLogger(__name__)


class UnusableIndexError(ShardError):
    """An index that is missing, damaged or of other shards; the message says which in a few words."""


def save_index(folder: str | Path, manifest: Manifest, rows: Iterable[pa.Table]) -> None:
    """Writes index.parquet whole or not at all. Raises OSError where the storage refuses.

    rows: a table for each shard (`ShardWriter.rows`), the shards in reading order: split by split. They are taken
    one after another, so that an iterator keeps few in memory.
    """
    files, root = filesystem(folder)
    with TemporaryDirectory(dir=node_cache("index")) as work:
        made = Path(work) / INDEX
        _write_parquet(made, manifest, rows)
        with explained(None if is_local(files) else folder):
            _upload(made, files, f"{root}/{INDEX}")


def index_table(folder: str | Path, manifest: Manifest) -> pa.Table:
    """The rows of all studies, in reading order, mapped into memory; made anew where there is no usable index.

    Raises ShardError where the index has to be made and a shard is not what was written.
    """
    files, root = filesystem(folder)
    with explained(None if is_local(files) else folder):
        table = _mapped(_cached_path(files, root, manifest))
    if table is not None:
        return table
    lock = node_cache("index") / shards_digest(manifest)
    with file_lock(lock, "making an index", WAIT_S):
        # Another process may have made it meanwhile.
        table = _mapped(_cached_path(files, root, manifest))
        if table is None:
            try:
                table = stored_index(files, root, manifest)
            except UnusableIndexError as reason:
                start = time.monotonic()
                table = made_index(folder, manifest, _scanned(files, root, manifest), str(reason), start)
    return table


def stored_index(files: fsspec.AbstractFileSystem, root: str, manifest: Manifest) -> pa.Table:
    """The rows of index.parquet below `root`, newly read and checked. Raises UnusableIndexError."""
    with TemporaryDirectory(dir=node_cache("index")) as work:
        try:
            path = Path(f"{root}/{INDEX}")
            if not is_local(files):
                path = Path(work) / INDEX
                files.get_file(f"{root}/{INDEX}", str(path))
            return _unpacked(path, _cached_path(files, root, manifest), manifest)
        except FileNotFoundError:
            raise UnusableIndexError("no index here") from None


def made_index(
    folder: str | Path, manifest: Manifest, rows: Iterable[pa.Table], reason: str, start: float
) -> pa.Table:
    """All rows, after they were saved as index.parquet, or in the cache where the folder cannot be written.

    rows: as in `save_index`. reason, start (`time.monotonic`): why and when it was begun, for the line that says so.
    """
    files, root = filesystem(folder)
    where = ""
    with TemporaryDirectory(dir=node_cache("index")) as work:
        made = Path(work) / INDEX
        _write_parquet(made, manifest, rows)
        try:
            _upload(made, files, f"{root}/{INDEX}")
        except (OSError, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            where = f", and kept in {node_cache('index')} ({why})"
        table = _unpacked(made, _cached_path(files, root, manifest), manifest)
    seconds, shards = time.monotonic() - start, f"{len(manifest.shards):,}"
    log.warning("%s: %s; made from %s shards in %.1f s%s", folder, reason, shards, seconds, where)
    return table


def _scanned(files: fsspec.AbstractFileSystem, root: str, manifest: Manifest) -> Iterator[pa.Table]:
    """The rows of each shard, read from the tars. Raises ShardError where one is not what was written."""
    for shard in track(reading_order(manifest), label="index", unit="shards"):
        yield scan_shard(files, root, shard).check(f"{root}/{shard.path}")


def _write_parquet(path: Path, manifest: Manifest, rows: Iterable[pa.Table]) -> None:
    """Writes the index to a local file."""
    card = {"version": VERSION, "shards": shards_digest(manifest)}
    columns = schema(manifest.findings).with_metadata({"vetdino": json.dumps(card)})
    labels = [LABEL + finding for finding in manifest.findings]
    with parquet.ParquetWriter(
        path, columns, compression="zstd", use_dictionary=[*FEW_VALUES, *labels], write_page_checksum=True
    ) as writer:
        for group in _groups(_checked(manifest, rows)):
            writer.write_table(group.replace_schema_metadata(columns.metadata))


def _checked(manifest: Manifest, rows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables with the manifest's findings, each compared with its shard."""
    for shard, table in zip(reading_order(manifest), rows, strict=True):
        assert len(table) == shard.studies, "a table has the studies of its shard"
        assert not len(table) or table["shard"][0].as_py() == shard.path, "tables come in reading order"
        yield with_findings(table, manifest.findings)


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows in tables of GROUP rows, the last one shorter: the same ones however the shards were cut."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= GROUP:
            together = pa.concat_tables(waiting)
            yield together.slice(0, GROUP).combine_chunks()
            waiting = [together.slice(GROUP)]
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def _upload(path: Path, files: fsspec.AbstractFileSystem, target: str) -> None:
    """Copies a local file to `target`, under a temporary name first."""
    part = f"{target}.{secrets.token_hex(4)}.part"
    try:
        files.put_file(str(path), part)
        files.mv(part, target)
    except BaseException:
        with contextlib.suppress(OSError, NotImplementedError):
            files.rm_file(part)
        raise


def _unpacked(path: Path, cached: Path, manifest: Manifest) -> pa.Table:
    """The rows of a local Parquet file, mapped from its uncompressed copy. Raises UnusableIndexError."""
    try:
        # Without a buffer in front of it, and group by group, so that few rows are in memory at once.
        with parquet.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            card = json.loads((file.schema_arrow.metadata or {})[b"vetdino"])
            columns = schema(manifest.findings)
            if card["shards"] != shards_digest(manifest) or not file.schema_arrow.equals(columns):
                raise UnusableIndexError("its index is of other shards")
            with atomic_path(cached) as temporary, ipc.new_file(str(temporary), columns) as writer:
                for batch in file.iter_batches(GROUP):
                    writer.write_batch(batch.replace_schema_metadata(None))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        if getattr(error, "errno", None) is not None:  # a full disk, not damage
            raise
        raise UnusableIndexError("its index is damaged") from None
    make_room(cached.parent, "*.arrow", KEPT)
    table = _mapped(cached)
    if table is None or len(table) != sum(shard.studies for shard in manifest.shards):
        cached.unlink(missing_ok=True)
        raise UnusableIndexError("its index is damaged")
    return table


def _mapped(path: Path) -> pa.Table | None:
    """The columns of an uncompressed copy, mapped into memory; None where there is none."""
    try:
        os.utime(path)  # it is used
        return ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError:
        return None


def _cached_path(files: fsspec.AbstractFileSystem, root: str, manifest: Manifest) -> Path:
    """Where the copy of a folder's index is: another place for other shards, and for another file."""
    files.invalidate_cache(root)
    try:
        info = files.info(f"{root}/{INDEX}")
    except FileNotFoundError:
        info = {}
    version = [info.get("size"), version_tag(info)]
    name = hashlib.sha256(json.dumps([shards_digest(manifest), version]).encode()).hexdigest()
    return node_cache("index") / f"{name[:32]}.arrow"


def check_sizes(folder: str | Path, shards: Iterable[Shard]) -> None:
    """Raises ShardError where a shard is missing or not as large as the manifest promises; reads none."""
    files, root = filesystem(folder)
    paths = {f"{root}/{shard.path}": shard.bytes for shard in shards}
    listed: dict[str, int] = {}
    for parent in {path.rpartition("/")[0] for path in paths}:
        with contextlib.suppress(FileNotFoundError), explained(None if is_local(files) else folder):
            listed |= {entry["name"]: entry["size"] for entry in files.ls(parent, detail=True)}
    for path, promised in paths.items():
        if (size := listed.get(path)) is None:
            raise missing(path)
        if size != promised:
            raise ShardError(
                f"{path}: {size:,} bytes, the manifest promises {promised:,}; copy it again, or ingest again"
            )
