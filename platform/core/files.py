"""Files written whole or not at all: a reader never sees half of one, and a failed writer leaves the old one."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Writes a file whole or not at all; makes its folder. Raises OSError with nothing left behind."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block ends well and removed otherwise.

    For libraries that write to a file name themselves (Parquet, FAISS).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "choose another path, or change its permissions",
    errno.EPERM: "choose another path, or change its permissions",
    errno.EROFS: "choose a path that can be written",
    errno.EEXIST: "choose another path",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
}
"""What to do about an error of the file system."""


def explain_os_error(error: OSError, file: str | None = None) -> str:
    """What the system refused, where, and what to do: the start of a sentence.

    file: the place as it may be printed; None: the error's.

    >>> explain_os_error(PermissionError(errno.EACCES, "Permission denied", "/data/run"))
    '/data/run: Permission denied; choose another path, or change its permissions'
    """
    file = error.filename if file is None else file
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOSPC:
        reason = "the disk is full"
    remedy = REMEDIES.get(error.errno or 0, "look for the cause")
    return f"{file}: {reason}; {remedy}" if file else f"{reason}; {remedy}"


def fsync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
