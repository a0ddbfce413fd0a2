"""Outputs at a URL: a local folder that a command works in, and that is brought in line with object storage.

A command finds in its folder what lies at the URL, and what it leaves there is uploaded in the end, each folder's mark
of validity (`MARKS`) last: a reader sees a whole result, the one before, or none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from .errors import StorageError
from .files import atomic_write
from .location import Location
from .locks import folder_lock
from .node_cache import node_cache
from .storage import Place, download, listing, remove, upload

MARKS = frozenset(
    {
        "manifest.json",
        "seal.json",
        "card.json",
        "metrics.json",
        "volumes.json",
        "CURRENT",
        "features.parquet",
        "_features.json",
    }
)
"""Files without which nothing reads the folder that they are in."""

BATCH = 64
"""Files uploaded at once, after which it is noted that they are there."""

URL = "url"
"""Beside a mirror's folder: where it is uploaded to."""

Wanted = Callable[[str], bool]
"""Whether a name (relative, with `/`) is meant."""

State = tuple[int, int, str]
"""Bytes and time of change (ns) of a local file that equals a file on object storage, and that one's tag."""


class Mirror:
    """The local folder (or file) `path` of this machine for a URL; the same for each process that asks."""

    def __init__(self, place: Place) -> None:
        self.location = Location(place)
        home = hashlib.sha256(str(self.location).encode()).hexdigest()[:16]
        self.home = node_cache("outputs") / home
        self.path = self.home / self.location.name
        self._record = self.home / "equal.json"

    def pull(self, wanted: Wanted = lambda name: True) -> None:
        """Make the wanted local files those of the URL; what was written here since and is not there yet stays.

        Raises StorageError, OSError.
        """
        atomic_write(self.home / URL, str(self.location))
        known, there = self._known(), listing(self.location)
        for name in [name for name in known if name not in there and wanted(name)]:
            if self._state(name) == known[name][:2]:
                self._local(name).unlink()
            del known[name]
        missing = {
            name: entry
            for name, entry in there.items()
            if wanted(name)
            and (name not in known or known[name][2] != entry.tag or not self._local(name).is_file())
        }
        download(self.location, {name: self._local(name) for name in missing}, missing)
        known |= {name: (*self._state(name), entry.tag) for name, entry in missing.items()}
        self._remember(known)

    def push(self, wanted: Wanted = lambda name: True) -> None:
        """Make the wanted files at the URL those here, marks last, then remove there what was removed here.

        Hidden files (their own or a folder's name begins with a dot) stay here. Where a file is replaced, the mark
        beside it goes first. Raises StorageError, OSError.
        """
        known, there, here = self._known(), listing(self.location), self.names(wanted)
        changed = [name for name in here if name not in there or known.get(name, ())[:2] != self._state(name)]
        content = [name for name in changed if not _is_mark(name)]
        replaced = {str(PurePosixPath(name).parent) for name in content if name in there}
        stale = [name for name in there if _is_mark(name) and str(PurePosixPath(name).parent) in replaced]
        remove(self.location, stale)
        content += [name for name in stale if name in here and name not in changed]
        marks = sorted({name for name in (*changed, *content) if _is_mark(name)}, key=_depth, reverse=True)
        for names in (
            *_batches([name for name in content if not _is_mark(name)]),
            *([name] for name in marks),
        ):
            states = {name: self._state(name) for name in names}
            upload(self.location, {name: self._local(name) for name in names})
            known |= {name: (*state, "") for name, state in states.items()}
            self._remember(known)
        gone = [name for name in known if name not in here and wanted(name)]
        remove(self.location, sorted(gone, key=_is_mark, reverse=True))
        there = listing(self.location)
        self._remember(
            {name: (*state[:2], there[name].tag) for name, state in known.items() if name in there}
        )

    def names(self, wanted: Wanted = lambda name: True) -> list[str]:
        """The wanted files here, hidden ones left out; "" where `path` is a file itself."""
        if self.path.is_file():
            return [""] if wanted("") else []
        found = (path.relative_to(self.path) for path in sorted(self.path.rglob("*")) if path.is_file())
        visible = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
        return [name for name in visible if wanted(name)]

    @property
    def has_changed(self) -> bool:
        """Whether something was written here that is not at the URL."""
        known = self._known()
        return any(known.get(name, ())[:2] != self._state(name) for name in self.names())

    def was_there(self, name: str) -> bool:
        """Whether a file was at the URL, as far as this machine knows."""
        return name in self._known()

    def discard(self) -> None:
        """Remove the local folder."""
        shutil.rmtree(self.home, ignore_errors=True)

    def _local(self, name: str) -> Path:
        return self.path / name if name else self.path

    def _state(self, name: str) -> tuple[int, int]:
        try:
            status = self._local(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return (-1, -1)
        return status.st_size, status.st_mtime_ns

    def _known(self) -> dict[str, State]:
        try:
            return {name: tuple(state) for name, state in json.loads(self._record.read_text()).items()}
        except (OSError, ValueError):
            return {}

    def _remember(self, known: dict[str, State]) -> None:
        atomic_write(self._record, json.dumps(known))

    def __repr__(self) -> str:
        return f"Mirror({self.location})"


def _is_mark(name: str) -> bool:
    return name.rpartition("/")[2] in MARKS


def _depth(name: str) -> int:
    return name.count("/")


def _batches(names: list[str]) -> Iterable[list[str]]:
    return (names[start : start + BATCH] for start in range(0, len(names), BATCH))


def is_mirrored(folder: Path | str) -> bool:
    """Whether a local folder is (in) one that is uploaded to a URL."""
    return node_cache("outputs").resolve() in Path(folder).resolve().parents


def place_of(path: Path) -> Path | Location:
    """The URL that a local path is uploaded to, for messages; the path itself where it is not."""
    if not is_mirrored(path):
        return path
    home, _, *below = path.resolve().relative_to(node_cache("outputs").resolve()).parts
    place = Location((node_cache("outputs") / home / URL).read_text())
    return place / "/".join(below) if below else place


@contextmanager
def published(place: Place, action: str) -> Iterator[Path]:
    """Within the block nobody else writes to an output; yields the local path to write it at.

    A local output is that path itself. That of a URL holds what is there already, is uploaded when the block ends well,
    and is kept where it does not end well and has something new, or work waits beside it (`NAME.tmp-…`), for the same
    command to go on with. Raises LockError, StorageError, OSError.
    """
    location = Location(place)
    with folder_lock(location, action):
        if location.is_local:
            yield location.path
            return
        mirror = Mirror(location)
        mirror.pull()
        try:
            yield mirror.path
        except BaseException:
            if not mirror.has_changed and not any(mirror.path.parent.glob(f"{mirror.path.name}.tmp-*")):
                mirror.discard()
            raise
        try:
            mirror.push()
        except StorageError as error:
            raise StorageError(
                f"{error}; what is written is kept in {mirror.path}, and the same command uploads the rest"
            ) from error
        mirror.discard()
