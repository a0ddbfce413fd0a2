"""Shards: tars of whole studies, written whole or not at all, and read in the order they were written.

Folders are local paths or any fsspec URL. `samples` has the layout of a study in a tar, `manifest` the list of the
shards, `index_file` a row for each study, `index` the way to a study by its position.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import fsspec
import pyarrow as pa

from ..core.errors import ShardError
from ..core.storage import explanation_of, filesystem, is_local
from .config import ShardConfig
from .index_file import index_table
from .manifest import Manifest, Shard, load_manifest, open_shard
from .rows import reading_order, rows_table, study_row
from .samples import BLOCK, Sample, padded_size, sample_files, sample_key, tar_samples
from .study import SPLITS, Study

OnError = Literal["raise", "skip"]

log = logging.getLogger(__name__)


class ShardWriter:
    """Writes the shards of one split, one after another; `shards` lists those that are whole, `rows` has their studies.

    `rows` holds a table for each shard, as `save_index` takes them.
    A context manager: leaving it closes the last shard, and an exception removes the one being written.
    keep_parts: it is left there under its name with `.part`, for a writer that can go on from what is in it.
    Raises ShardError where the storage refuses (a full disk), leaving nothing half-written.
    """

    def __init__(
        self, folder: str | Path, split: str, config: ShardConfig | None = None, *, keep_parts: bool = False
    ) -> None:
        assert split in SPLITS, f"a split is one of {SPLITS}"
        self._keep_parts = keep_parts
        self.split = split
        self.config = config or ShardConfig()
        self.shards: list[Shard] = []
        self.rows: list[pa.Table] = []
        self._files, self._root = filesystem(folder)
        self._open: _OpenShard | None = None

    def write(self, study: Study) -> None:
        """Appends one study; its views are encoded unless they are already."""
        assert study.split == self.split, "a study goes into the shards of its own split"
        sample = sample_files(study, self.config)
        size = sum(BLOCK + padded_size(len(content)) for _, content in sample)
        try:
            if self._open and self._open.studies and self._open.written + size > self.config.max_bytes:
                self._close()
            if self._open is None:
                self._files.makedirs(self._root, exist_ok=True)
                name = f"{self.split}-{len(self.shards):06d}.tar"
                self._open = _OpenShard(self._files, f"{self._root}/{name}")
            self._open.append(sample)
        except OSError as error:
            raise self._refusal(error) from error

    def _close(self) -> None:
        if self._open is not None:
            self.shards.append(self._open.close(self.split))
            self.rows.append(rows_table(self._open.rows))
            self._open = None

    def _abandon(self) -> None:
        if self._open is not None:
            self._open.abandon(self._keep_parts)
            self._open = None

    def _refusal(self, error: OSError) -> ShardError:
        """The error for storage that refuses, after the open shard was removed."""
        self._abandon()
        reason = error.strerror or type(error).__name__
        if not is_local(self._files) and (explanation := explanation_of(error)):
            return ShardError(f"{self._files.unstrip_protocol(self._root)}: {explanation}")
        return ShardError(
            f"{self._root}: a shard of {self.split} cannot be written ({reason}); "
            "make room or choose another output folder, then run the same command again"
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._close()
        except OSError as refused:
            raise self._refusal(refused) from refused


class _OpenShard:
    """A tar under a temporary name, hashed and counted as it is written."""

    def __init__(self, files: fsspec.AbstractFileSystem, path: str) -> None:
        self._files, self._path, self._part = files, path, f"{path}.part"
        self.name = path.rsplit("/", 1)[-1]
        self._file = files.open(self._part, "wb")
        self._hash = hashlib.sha256()
        self.rows: list[dict[str, Any]] = []
        self.written = self.views = 0

    @property
    def studies(self) -> int:
        return len(self.rows)

    def append(self, files: list[tuple[str, bytes]]) -> None:
        offset = self.written
        for name, content in files:
            header = tarfile.TarInfo(name)  # mtime, uid and gid are 0: equal studies give equal bytes
            header.size = len(content)
            self._write(header.tobuf(format=tarfile.USTAR_FORMAT))
            self._write(content.ljust(padded_size(len(content)), b"\0"))
        sample = Sample(sample_key(files[0][0]), offset, self.written - offset, dict(files))
        self.rows.append(study_row(sample, self.name))
        self.views += len(files) - 1

    def close(self, split: str) -> Shard:
        self._write(bytes(2 * BLOCK))  # the end of a tar
        self._file.close()
        self._files.mv(self._part, self._path)
        return Shard(
            path=self.name,
            split=split,
            studies=self.studies,
            views=self.views,
            bytes=self.written,
            sha256=self._hash.hexdigest(),
        )

    def abandon(self, keep_part: bool) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and the disk may still be full
            self._file.close()
        if keep_part:
            return
        with contextlib.suppress(OSError):
            self._files.rm_file(self._part)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.written += len(content)


def read(folder: str | Path, split: str, *, on_error: OnError = "raise") -> Iterator[Study]:
    """The studies of one split in the order they were written, views undecoded.

    on_error: `raise` stops with ShardError at a damaged sample (one that differs from its checksum, too), `skip` logs
    it and goes on with the next (where the tar itself is cut, with the next shard).
    """
    manifest = load_manifest(folder)
    table = _index(folder, manifest, on_error)
    for shard in manifest.of(split):
        try:
            yield from _of_shard(folder, shard, _checksums(table, manifest, shard), on_error)
        except ShardError as error:
            if on_error == "raise":
                raise
            log.warning("%s; going on with the next shard", error)


def read_shard(folder: str | Path, shard: Shard, manifest: Manifest | None = None) -> Iterator[Study]:
    """The studies of one shard in the order they were written, views undecoded.

    manifest: of the folder, where it is known already. Raises ShardError where it is damaged.
    """
    manifest = manifest or load_manifest(folder)
    sums = _checksums(_index(folder, manifest, "raise"), manifest, shard)
    yield from _of_shard(folder, shard, sums, "raise")


def _index(folder: str | Path, manifest: Manifest, on_error: OnError) -> pa.Table | None:
    """The rows of all studies; None where no index can be made and damage is passed over."""
    try:
        return index_table(folder, manifest)
    except ShardError as error:
        if on_error == "raise":
            raise
        log.warning("%s; going on without checksums of single studies", error)
        return None


def _checksums(table: pa.Table | None, manifest: Manifest, shard: Shard) -> Mapping[str, bytes]:
    """The checksums of a shard's samples, by key; none without an index."""
    if table is None:
        return {}
    start = 0
    for before in reading_order(manifest):
        if before.path == shard.path:
            break
        start += before.studies
    rows = table.slice(start, shard.studies)
    return dict(zip(rows["key"].to_pylist(), rows["sha256"].to_pylist(), strict=True))


def _of_shard(
    folder: str | Path, shard: Shard, sums: Mapping[str, bytes], on_error: OnError
) -> Iterator[Study]:
    files, root = filesystem(folder)
    path = f"{root}/{shard.path}"
    with open_shard(files, path) as file:
        yield from _studies(file, path, shard.studies, sums, on_error)


def _studies(
    file: IO[bytes], path: str, promised: int, sums: Mapping[str, bytes], on_error: OnError
) -> Iterator[Study]:
    """The studies of one open tar. promised: their number in the manifest. sums: their checksums, or none."""
    count = 0
    for sample in tar_samples(file, path):
        count += 1
        try:
            if sums:
                sample.check(sums.get(sample.key))
            yield sample.study()
        except ShardError as error:
            refusal = ShardError(f"{path}: study {count} of {promised}: {error}")
            if on_error == "raise":
                raise refusal from None
            log.warning("%s; left out", refusal)
    if count != promised:  # cut between two files, a tar looks whole
        raise ShardError(f"{path}: {count} studies, the manifest promises {promised}; ingest again")
