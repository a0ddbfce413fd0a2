"""Shards on object storage, read through a cache on this machine: whole shards, the longest unused go first.

All processes of a machine share the folder `shards` of VETDINO_CACHE. A shard is downloaded once and checked against
the size that the storage gives; where the bound leaves no room, the bytes wanted are read from the storage itself.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import ShardError, StorageError
from ..core.location import Location
from ..core.node_cache import node_cache
from ..core.storage import explained, filesystem, version_tag

BOUND = "VETDINO_CACHE_GIB"
"""Environment variable: most GiB of shards in the cache; 0 for none."""

DEFAULT_GIB = 50.0

SPARE = 2**30
"""Bytes of the disk that the cache leaves free."""

IN_USE = 30.0
"""Seconds after its last use for which a shard is not removed: more shards in turn than there is room for would each be
downloaded for one study."""

AGAIN = 5.0
"""Seconds after which a shard for which there was no room may be tried once more."""

SMALLEST, LARGEST = 2**18, 2**23
"""Bytes read ahead from the storage while a shard is read from front to back: few at first, then ever more."""

LOCAL_AHEAD = 2**20
"""Bytes read ahead from the cache."""

CHUNK = 2**23
"""Bytes of one request of a download."""


class ShardFile:
    """A shard on object storage, open for reading at any place.

    It keeps no file open: the cache may remove a shard at any time, and this one then fetches or streams it again.
    """

    def __init__(self, place: str | Location, cache: bool = True) -> None:
        """cache: False reads from the storage itself. Raises FileNotFoundError, StorageError."""
        self.location, self.cache = Location(place), cache
        files, path = filesystem(self.location)
        with explained(self.location):
            facts = files.info(path)
        self.size = int(facts["size"])
        version = "\0".join([str(self.location), str(self.size), version_tag(facts)])
        self._name = hashlib.sha256(version.encode()).hexdigest()
        self._position = 0
        self._start, self._buffer = 0, b""
        self._ahead = SMALLEST
        self._refused = -AGAIN

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer only at the end. Raises ShardError, StorageError."""
        stop = self.size if size is None or size < 0 else min(self._position + size, self.size)
        start, self._position = self._position, max(stop, self._position)
        if start >= stop:
            return b""
        offset = start - self._start
        if not 0 <= offset <= offset + stop - start <= len(self._buffer):
            in_order = self._start <= start <= self._start + len(self._buffer)
            self._start, self._buffer = start, self._fetch(start, stop, in_order)
            offset = 0
        return self._buffer[offset : offset + stop - start]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as `io` has it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Forget what was read ahead."""
        self._start, self._buffer = 0, b""

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ShardFile({self.location})"

    def _fetch(self, start: int, stop: int, in_order: bool) -> bytes:
        """At least the bytes from start to stop, and more of them where the shard is read in order."""
        if self.cache and time.monotonic() - self._refused >= AGAIN:
            for _ in range(2):  # removed by another process between its download and our reading: once more
                path = cached(self.location, self._name, self.size)
                if path is None:
                    self._refused = time.monotonic()
                    break
                with suppress(FileNotFoundError):
                    return _read_file(path, start, max(stop, start + LOCAL_AHEAD * in_order))
        if in_order:
            stop = min(max(stop, start + self._ahead), self.size)
            self._ahead = min(2 * self._ahead, LARGEST)
        else:
            self._ahead = SMALLEST
        files, remote = filesystem(self.location)
        with explained(self.location):
            try:
                content = files.cat_file(remote, start=start, end=stop)
            except FileNotFoundError:
                raise ShardError(
                    f"{self.location}: gone while it was read; run the same command again"
                ) from None
        if len(content) < stop - start:
            raise StorageError(f"{self.location}: came cut off; run the same command again")
        return content


def _read_file(path: Path, start: int, stop: int) -> bytes:
    """Bytes of a cached shard, which becomes the one used last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if (
            time.time() - os.fstat(descriptor).st_mtime > IN_USE / 10
        ):  # a change of time costs more than a read
            os.utime(descriptor)
        parts = []
        while start < stop and (part := os.pread(descriptor, stop - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def bound() -> int:
    """Most bytes of shards in the cache, by VETDINO_CACHE_GIB. Raises ShardError where that is not a number."""
    text = os.environ.get(BOUND, "")
    try:
        return int(float(text or DEFAULT_GIB) * 2**30)
    except (ValueError, OverflowError):
        raise ShardError(f"{BOUND} is '{text}'; give a number of GiB, or 0 for no cache of shards") from None


def cached(location: Location, name: str, size: int) -> Path | None:
    """The copy of a shard in the cache, downloaded now where it is not there; None where there is no room for it.

    Where another process downloads it, this one waits. Raises StorageError, ShardError.
    """
    folder = node_cache("shards")
    path = folder / f"{name}.tar"
    if path.exists():
        return path
    if size > bound():
        return None
    part = folder / f"{name}.part"
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # whoever downloads it holds this
            if path.exists():
                return path
            if not _is_at(descriptor, part):
                continue
            if not _has_room(folder, descriptor, size):
                part.unlink()
                return None
            return _download(location, descriptor, part, path, size)
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _listing(folder: Path) -> Iterator[None]:
    """Nobody else counts the cache's files, or takes room for one."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has_room(folder: Path, descriptor: int, size: int) -> bool:
    """Whether there is room for a shard, which is then taken; the longest unused ones are removed for it.

    A part counts with the size that it will have. Parts of processes that were killed are removed.
    """
    with _listing(folder):
        os.ftruncate(descriptor, 0)
        shards: list[tuple[float, int, Path]] = []
        taken = 0
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(".tar"):
                    shards.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif entry.name.endswith(".part") and status.st_ino != os.fstat(descriptor).st_ino:
                    if _is_abandoned(entry.path):
                        os.unlink(entry.path)
                    else:
                        taken += status.st_size
        taken += sum(size for _, size, _ in shards)
        # Parts have not all of their bytes yet, so the disk may hold less than it seems: then writing fails.
        most = min(bound(), taken + shutil.disk_usage(folder).free - SPARE)
        for used, bytes_, path in sorted(shards):
            if taken + size <= most or time.time() - used < IN_USE:
                break
            path.unlink(missing_ok=True)
            taken -= bytes_
        if taken + size > most:
            return False
        os.ftruncate(descriptor, size)
        return True


def _is_abandoned(part: str) -> bool:
    """Whether no process holds a part any more."""
    descriptor = os.open(part, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _download(location: Location, descriptor: int, part: Path, path: Path, size: int) -> Path | None:
    """The whole shard under its name; None where the disk is full. Raises StorageError, ShardError."""
    files, source = filesystem(location)
    try:
        for start in range(0, size, CHUNK):
            stop = min(start + CHUNK, size)
            with explained(location):
                content = files.cat_file(source, start=start, end=stop)
            if len(content) != stop - start:
                raise StorageError(f"{location}: came cut off; run the same command again")
            while content:
                written = os.pwrite(descriptor, content, start)
                content, start = content[written:], start + written
        with _listing(path.parent):  # who counts meanwhile sees neither name, or both
            os.replace(part, path)
        return path
    except FileNotFoundError:
        part.unlink(missing_ok=True)
        raise ShardError(f"{location}: gone while it was read; run the same command again") from None
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return None
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise
