"""Random access to the studies of one split."""

from __future__ import annotations

import io
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np

from ..core.errors import ShardError
from .checksums import check_sample, load_sums
from .manifest import Shard, load_manifest, open_shard
from .samples import not_a_tar, padded_size, sample_key, study_from_files, tar_files
from .study import Study

HANDLES = 64
"""Files that an index keeps open in a process: a system allows a process 1,024 or fewer in all."""


class StudyIndex:
    """Studies of one split by position, from one pass over the headers of the tars.

    Pickles small (three integers, a key and a checksum per study) and opens its files again in each process that
    loads, so that it can be handed to the workers of a data loader. Position i is the i-th study that `read` yields.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        """Raises ShardError where a shard is missing, cut, or holds another number of studies than promised."""
        self.folder, self.split = str(folder), split
        self._files, root = fsspec.core.url_to_fs(self.folder)
        shards = load_manifest(folder).of(split)
        self._paths = [f"{root}/{shard.path}" for shard in shards]
        self._keys: list[str] = []
        rows = [row for number, shard in enumerate(shards) for row in self._scan(number, shard)]
        self._rows = np.array(rows, np.int64).reshape(-1, 3)  # shard, first byte, last byte + 1
        self._sums = self._checksums()
        self._process, self._handles = os.getpid(), OrderedDict[int, IO[bytes]]()

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"StudyIndex({self.split}, {len(self)} studies in {len(self._paths)} shards)"

    def keys(self) -> list[str]:
        """Keys of the studies, by position."""
        return list(self._keys)

    def load(self, index: int) -> Study:
        """The study at a position, in one read, its views undecoded.

        Raises ShardError if it is damaged or differs from its checksum.
        """
        shard, start, stop = map(int, self._rows[index])
        path = self._paths[shard]
        file = self._handle(shard)
        file.seek(start)
        content = file.read(stop - start)
        if len(content) < stop - start:
            raise ShardError(f"{path}: shorter than it was; ingest again")
        key, digest = self._keys[index], self._sums[index].tobytes().hex()
        try:
            files = dict(tar_files(io.BytesIO(content), path))
            check_sample(key, files, {key: digest} if int(digest, 16) else {})
            return study_from_files(key, files)
        except ShardError as error:
            raise ShardError(f"{path}: at byte {start}: {error}") from None

    def _scan(self, number: int, shard: Shard) -> Iterator[tuple[int, int, int]]:
        """(shard, first byte, last byte + 1) of each study of a shard; its key goes to `_keys`."""
        path = self._paths[number]
        with open_shard(self._files, path) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    spans = [
                        (
                            sample_key(header.name),
                            header.offset,
                            header.offset_data + padded_size(header.size),
                        )
                        for header in tar
                        if header.isfile()
                    ]
            except tarfile.TarError as error:
                raise not_a_tar(path, error) from None
        samples = [(key, list(group)) for key, group in groupby(spans, key=lambda span: span[0])]
        if len(samples) != shard.studies:
            raise ShardError(
                f"{path}: {len(samples)} studies, the manifest promises {shard.studies}; ingest again"
            )
        for key, group in samples:
            self._keys.append(key)
            yield number, group[0][1], group[-1][2]

    def _checksums(self) -> np.ndarray:
        """(N, 32) uint8: the checksum of each study, zeros where its shard has none. Raises ShardError."""
        by_shard = [load_sums(self._files, path) for path in self._paths]
        sums_N32 = np.zeros((len(self), 32), np.uint8)
        for row, (number, _, _) in enumerate(self._rows):
            if sums := by_shard[number]:
                if (digest := sums.get(self._keys[row])) is None:
                    raise ShardError(
                        f"{self._paths[number]}: a study is not among its checksums; "
                        "copy the shard again, or ingest again"
                    )
                sums_N32[row] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        return sums_N32

    def _handle(self, shard: int) -> IO[bytes]:
        """The open file of a shard; the one that was used longest ago is closed where there are too many."""
        # A forked worker shares file positions with its parent: a handle belongs to one process.
        if self._process != os.getpid():
            self._process, self._handles = os.getpid(), OrderedDict()
        if shard not in self._handles:
            while len(self._handles) >= HANDLES:
                self._handles.popitem(last=False)[1].close()
            self._handles[shard] = open_shard(self._files, self._paths[shard])
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict()}

    def __del__(self) -> None:
        if self.__dict__.get("_process") == os.getpid():
            for file in self._handles.values():
                file.close()
