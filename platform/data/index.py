"""Random access to the studies of one split."""

from __future__ import annotations

import io
import os
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import ShardError
from ..core.storage import filesystem
from .index_file import check_sizes, index_table
from .manifest import Manifest, load_manifest, open_shard
from .rows import shards_digest
from .samples import plain_sample, tar_samples
from .study import SPLITS, Study

HANDLES = 64
"""Files that an index keeps open in a process: a system allows a process 1,024 or fewer in all."""


MANY = 1000
"""More keys than this are found by one pass over all keys, fewer one by one."""

EACH = 4096
"""Rows that `each` holds as Python objects."""


class StudyIndex:
    """Studies of one split by position: position i is the i-th study that `read` yields.

    `rows` has a row for each, mapped into memory that the processes of a machine share. Pickles as the folder's name
    and a digest, and opens its files again in each process that loads, so that it can be handed to the workers of a
    data loader.
    """

    rows: pa.Table
    """The columns of docs/formats.md; take single values or slices, not the whole as Python objects."""

    def __init__(self, folder: str | Path, split: str, handles: int = HANDLES) -> None:
        """handles: files to keep open. Raises ShardError where a shard is missing or not as large as promised."""
        manifest = load_manifest(folder)
        check_sizes(folder, manifest.of(split))
        self._open(str(folder), split, manifest, handles)

    def _open(self, folder: str, split: str, manifest: Manifest, handles: int) -> None:
        self.folder, self.split, self.handles = folder, split, handles
        self._files, self._root = filesystem(folder)
        self._digest = shards_digest(manifest)
        first = sum(manifest.studies(before) for before in SPLITS[: SPLITS.index(split)])
        self.rows = index_table(folder, manifest).slice(first, manifest.studies(split))
        self._shards = len(manifest.of(split))
        self._by_key: np.ndarray | None = None
        self._process, self._handles = os.getpid(), OrderedDict[str, IO[bytes]]()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"StudyIndex({self.split}, {len(self)} studies in {self._shards} shards)"

    def key(self, index: int) -> str:
        """The key of the study at a position."""
        return str(self.rows["key"][index])

    def each(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, study by study, few of them in memory at a time."""
        for batch in self.rows.select(columns).to_batches(EACH):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def find(self, keys: Collection[str]) -> np.ndarray:
        """The positions of the studies with these keys, (M,) int64; -1 where there is none."""
        column = self.rows["key"]
        if len(keys) > MANY:
            found_M = pc.index_in(pa.array(keys, pa.string()), value_set=column.combine_chunks())
            return found_M.fill_null(-1).to_numpy().astype(np.int64)
        if self._by_key is None:
            self._by_key = pc.array_sort_indices(column).to_numpy()
        order, found = self._by_key, []
        for key in keys:
            place = bisect_left(order, key, key=lambda row: column[int(row)].as_py())
            hit = place < len(order) and column[int(order[place])].as_py() == key
            found.append(int(order[place]) if hit else -1)
        return np.array(found, np.int64)

    def load(self, index: int) -> Study:
        """The study at a position, in one read, its views undecoded.

        Raises ShardError if it is damaged or differs from its checksum.
        """
        shard, start, length, key, digest = (
            self.rows[name][int(index)].as_py() for name in ("shard", "offset", "length", "key", "sha256")
        )
        path = f"{self._root}/{shard}"
        file = self._handle(shard)
        file.seek(start)
        content = file.read(length)
        if len(content) < length:
            raise ShardError(f"{path}: shorter than it was; ingest again")
        try:
            sample = plain_sample(content) or next(tar_samples(io.BytesIO(content), path), None)
            if sample is None or sample.key != key:
                raise ShardError("not the study of the index; copy the shard again, or ingest again")
            sample.check(digest)
            return sample.study()
        except ShardError as error:
            raise ShardError(f"{path}: at byte {start}: {error}") from None

    def _handle(self, shard: str) -> IO[bytes]:
        """The open file of a shard; the one that was used longest ago is closed where there are too many."""
        # A forked worker shares file positions with its parent: a handle belongs to one process.
        if self._process != os.getpid():
            self._process, self._handles = os.getpid(), OrderedDict()
        if shard not in self._handles:
            while len(self._handles) >= self.handles:
                self._handles.popitem(last=False)[1].close()
            self._handles[shard] = open_shard(self._files, f"{self._root}/{shard}")
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.split, self._digest, self.handles)

    def __del__(self) -> None:
        if self.__dict__.get("_process") == os.getpid():
            for file in self._handles.values():
                file.close()


def _reopened(folder: str, split: str, digest: str, handles: int) -> StudyIndex:
    """The index that was pickled. Raises ShardError where the folder holds other shards by now."""
    manifest = load_manifest(folder)
    if shards_digest(manifest) != digest:
        raise ShardError(f"{folder}: its shards have changed since they were opened; run the command again")
    index = StudyIndex.__new__(StudyIndex)
    index._open(folder, split, manifest, handles)
    return index
