"""Shards: tars of whole studies, written whole or not at all, and read in the order they were written.

Folders are local paths or any fsspec URL. `samples` has the layout of a study in a tar, `manifest` the list of the
shards, `checksums` those of samples, `index` the way to a study by its position.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

import fsspec

from ..core.errors import ShardError
from .checksums import check_sample, load_sums, sample_digest, save_sums, sums_path
from .config import ShardConfig
from .manifest import Shard, load_manifest, open_shard
from .samples import BLOCK, padded_size, sample_files, sample_key, study_from_files, tar_files
from .study import SPLITS, Study

OnError = Literal["raise", "skip"]

log = logging.getLogger(__name__)


class ShardWriter:
    """Writes the shards of one split, one after another; `shards` lists those that are whole.

    A context manager: leaving it closes the last shard, and an exception removes the one being written.
    Raises ShardError where the storage refuses (a full disk), leaving nothing half-written.
    """

    def __init__(self, folder: str | Path, split: str, config: ShardConfig | None = None) -> None:
        assert split in SPLITS, f"a split is one of {SPLITS}"
        self.split = split
        self.config = config or ShardConfig()
        self.shards: list[Shard] = []
        self._files, self._root = fsspec.core.url_to_fs(str(folder))
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
            self._open = None

    def _abandon(self) -> None:
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def _refusal(self, error: OSError) -> ShardError:
        """The error for storage that refuses, after the open shard was removed."""
        self._abandon()
        reason = error.strerror or type(error).__name__
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
        self._file = files.open(self._part, "wb")
        self._hash = hashlib.sha256()
        self._sums: dict[str, str] = {}
        self.written = self.studies = self.views = 0

    def append(self, sample: list[tuple[str, bytes]]) -> None:
        for name, content in sample:
            header = tarfile.TarInfo(name)  # mtime, uid and gid are 0: equal studies give equal bytes
            header.size = len(content)
            self._write(header.tobuf(format=tarfile.USTAR_FORMAT))
            self._write(content.ljust(padded_size(len(content)), b"\0"))
        self._sums[sample_key(sample[0][0])] = sample_digest(sample)
        self.studies += 1
        self.views += len(sample) - 1

    def close(self, split: str) -> Shard:
        self._write(bytes(2 * BLOCK))  # the end of a tar
        self._file.close()
        save_sums(self._files, self._path, self._sums)  # before the shard, which never is without
        self._files.mv(self._part, self._path)
        return Shard(
            path=self._path.rsplit("/", 1)[-1],
            split=split,
            studies=self.studies,
            views=self.views,
            bytes=self.written,
            sha256=self._hash.hexdigest(),
        )

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and the disk may still be full
            self._file.close()
        for path in (self._part, sums_path(self._path), f"{sums_path(self._path)}.part"):
            with contextlib.suppress(OSError):
                self._files.rm_file(path)

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
    for shard in manifest.of(split):
        try:
            yield from read_shard(folder, shard, on_error=on_error)
        except ShardError as error:
            if on_error == "raise":
                raise
            log.warning("%s; going on with the next shard", error)


def read_shard(folder: str | Path, shard: Shard, *, on_error: OnError = "raise") -> Iterator[Study]:
    """The studies of one shard in the order they were written, views undecoded.

    Raises ShardError where the tar itself is damaged, whatever `on_error`.
    """
    files, root = fsspec.core.url_to_fs(str(folder))
    path = f"{root}/{shard.path}"
    sums = load_sums(files, path)
    with open_shard(files, path) as file:
        yield from _studies(file, path, shard.studies, sums, on_error)


def _studies(
    file: IO[bytes], path: str, promised: int, sums: Mapping[str, str], on_error: OnError
) -> Iterator[Study]:
    """The studies of one open tar. promised: their number in the manifest. sums: their checksums, or none."""
    count = 0
    for key, sample in groupby(tar_files(file, path), key=lambda member: sample_key(member[0])):
        count += 1
        try:
            files = dict(sample)
            check_sample(key, files, sums)
            yield study_from_files(key, files)
        except ShardError as error:
            refusal = ShardError(f"{path}: study {count} of {promised}: {error}")
            if on_error == "raise":
                raise refusal from None
            log.warning("%s; left out", refusal)
    if count != promised:  # cut between two files, a tar looks whole
        raise ShardError(f"{path}: {count} studies, the manifest promises {promised}; ingest again")
