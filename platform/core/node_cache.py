"""A folder of this machine for files that can be made anew at any time, shared by all processes of a user.

It is `$VETDINO_CACHE`, or `vetdino-UID` in the folder of temporary files. Only its owner can read it, since what lies
in it may hold pseudonyms.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .errors import DataError

VARIABLE = "VETDINO_CACHE"


def node_cache(name: str) -> Path:
    """The folder `name` in the cache of this machine; made where it is missing.

    Raises DataError where the place belongs to another user, OSError where it cannot be made.
    """
    given = os.environ.get(VARIABLE)
    # Ray's workers have another working directory.
    root = Path(given or Path(tempfile.gettempdir()) / f"vetdino-{_user()}").absolute()
    root.mkdir(mode=0o700, parents=bool(given), exist_ok=True)
    if not given and (root.is_symlink() or root.stat().st_uid != _user()):
        raise DataError(f"{root}: belongs to another user; set {VARIABLE} to a folder of your own")
    folder = root / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def make_room(folder: Path, pattern: str, most: int) -> None:
    """Removes those of the matching files that were used longest ago, so that at most `most` remain.

    A process that has one open or mapped keeps it.
    """
    used: list[tuple[float, Path]] = []
    for path in folder.glob(pattern):
        try:
            used.append((path.stat().st_mtime, path))
        except FileNotFoundError:  # another process was faster
            continue
    for _, path in sorted(used)[: max(0, len(used) - most)]:
        path.unlink(missing_ok=True)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
