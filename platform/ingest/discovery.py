"""What there is to read: the files of a DICOM folder, or the rows of a table of pictures, and their labels.

Files are listed as a stream, folder by folder, so that an archive of any size fits. `open_bytes` is the one way to a
file's bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ..core.errors import ConfigError, DataError
from ..core.location import Location
from ..core.storage import explained, filesystem, localized
from .config import IngestConfig
from .tables import ImageRow, Labels, merged_labels, patient_study, read_images, read_labels, studies_restart

log = logging.getLogger(__name__)

TABLE_RULES = b"2"
"""Changes where an image table gives other studies, labels or views than before: a finished output is then another."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """One file to decode. named: patient, study (in clear text) and projection where a table names them.

    laterality: L or R where a table names it.
    """

    path: str
    named: tuple[str, str, str] | None = None
    laterality: str = ""

    def to_text(self) -> str:
        """The task as a text; holds identifiers."""
        return json.dumps(astuple(self))

    @classmethod
    def from_text(cls, text: str) -> DecodeTask:
        """The task of a text."""
        path, named, laterality = json.loads(text)
        return cls(path, tuple(named) if named else None, laterality)


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A task and what its file was when it was listed: size in bytes, and a stamp that changes with the content.

    Where a file could not be looked at, size is -1 and stamp empty; decoding says why.
    """

    task: DecodeTask
    size: int = -1
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """An archive and what is known about its studies.

    root: a folder, or the URL of one. labels: study in clear text -> finding -> 1, 0 or NaN. digest: over tables.
    rows: of an image table, in the order of their paths; None where the source is a folder.
    """

    root: Path | str
    findings: tuple[str, ...]
    labels: Mapping[str, Labels]
    digest: str
    rows: tuple[ImageRow, ...] | None = field(default=None, repr=False)
    left_out: Path | None = None
    """The table of labels, which may lie among the files."""

    def entries(self) -> Iterator[ListedFile]:
        """Every file in the order of their paths; the order is that of `sorted` over all paths."""
        if self.rows is not None:
            for row in self.rows:
                task = DecodeTask(row.path, (row.patient, row.study, row.projection), row.laterality)
                yield ListedFile(task, *state_of(self.root, row.path))
        elif isinstance(self.root, str):
            yield from _entries_by_prefix(self.root)
        else:
            yield from _entries_below(self.root, self.left_out)


def discover(source: Location, out: Path, config: IngestConfig) -> ArchiveSource:
    """The archive at `source`: a folder of DICOM files or a table of pictures.

    Raises DataError where there is nothing to read, a table is unreadable, or `out` lies inside the folder;
    StorageError where a URL cannot be read.
    """
    if not source.is_local:
        url = str(source)
        files, root = filesystem(url)
        with explained(url):
            is_table = files.isfile(root)
        return (
            _from_table(localized(source), url.rpartition("/")[0], config)
            if is_table
            else _from_folder(url, config)
        )
    path = source.path
    if path.is_file():
        return _from_table(path, path.parent, config)
    return _from_local_folder(path, out, config)


def _from_local_folder(source: Path, out: Path, config: IngestConfig) -> ArchiveSource:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or table; give a DICOM folder or a .csv/.parquet table")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out}: lies inside the source; choose an output folder outside {source}")
    return _from_folder(source, config)


def open_bytes(root: Path | str, task: DecodeTask) -> IO[bytes]:
    """The file of a task, open for reading and seeking. Raises OSError."""
    if isinstance(root, Path):
        return open(root / task.path, "rb")
    files, folder = filesystem(root)
    return files.open(f"{folder}/{task.path}", "rb")


def state_of(root: Path | str, path: str) -> tuple[int, str]:
    """(size, stamp) of a file now; (-1, "") where it cannot be looked at."""
    try:
        if isinstance(root, Path):
            return _state(os.stat(root / path))
        files, folder = filesystem(root)
        return _remote_state(files.info(f"{folder}/{path}"))
    except OSError:
        return -1, ""


def has_changed(file: IO[bytes], entry: ListedFile) -> bool:
    """Whether an open file is not what was listed; False where that cannot be known."""
    details = getattr(file, "details", None)
    if isinstance(details, Mapping) and "size" in details:
        return _remote_state(details) != (entry.size, entry.stamp)
    try:
        state = _state(os.fstat(file.fileno()))
    except (OSError, AttributeError):
        return False
    return entry.size >= 0 and entry.stamp.isdecimal() and state != (entry.size, entry.stamp)


def _state(status: os.stat_result) -> tuple[int, str]:
    return status.st_size, str(status.st_mtime_ns)


def _remote_state(info: Mapping[str, Any]) -> tuple[int, str]:
    """Of an object: its ETag where the store has one, else when it was written."""
    stamp = next(
        (info[name] for name in ("ETag", "etag", "LastModified", "mtime", "created") if name in info), ""
    )
    return int(info["size"] or 0), str(stamp)


def _from_folder(source: Path | str, config: IngestConfig) -> ArchiveSource:
    if config.table.labels and not config.labels:
        raise ConfigError(
            f"--table.labels {config.table.labels} names columns, but {source} is a folder; give a table with --labels"
        )
    table = Path(config.labels) if config.labels else None
    findings, labels = read_labels(table, config.table) if table else ((), {})
    archive = ArchiveSource(
        source, findings, labels, _tables_digest([table] if table else []), left_out=table
    )
    if next(archive.entries(), None) is None:
        raise DataError(f"{source}: an empty folder; give a folder that holds DICOM files")
    return archive


def _from_table(source: Path, root: Path | str, config: IngestConfig) -> ArchiveSource:
    """root: the folder, or its URL, below which the table's pictures are."""
    more_labels = Path(config.labels) if config.labels else None
    findings, rows = read_images(source, config.table)
    rows = tuple(sorted(rows, key=lambda row: (row.path, row.study)))
    restart = studies_restart([(row.patient, row.study) for row in rows if row.patient and row.study])
    if restart:
        log.warning("%s: study names recur under several patients, so a study is one patient's", source)
        rows = tuple(
            replace(row, study=patient_study(row.patient, row.study)) if row.patient and row.study else row
            for row in rows
        )
    labels = merged_labels((row.study, row.labels) for row in rows if row.study)
    if more_labels:
        more, of_studies = read_labels(more_labels, replace(config.table, labels=""), by_patient=restart)
        findings = tuple(dict.fromkeys((*findings, *more)))
        labels = merged_labels([*labels.items(), *of_studies.items()])
        studies = {row.study for row in rows if row.study}
        if studies.isdisjoint(of_studies):
            raise DataError(no_labels_message(more_labels, len(studies)))
    tables = [source, more_labels] if more_labels else [source]
    return ArchiveSource(root, findings, labels, _tables_digest(tables, TABLE_RULES), rows)


def no_labels_message(table: Path, studies: int) -> str:
    """The error for a label table of another archive."""
    return f"{table}: names none of the {studies} studies; give the labels of this archive"


def _entries_below(folder: Path, left_out: Path | None) -> Iterator[ListedFile]:
    """Every regular file below a folder, depth first; in memory are the names of one folder at each depth.

    What cannot be looked at (a folder without permission, a broken link) and links to folders, which are not followed,
    are listed too: decoding refuses each of them with its reason, so that nothing is passed over in silence.
    """
    skipped = _inode(os.stat(left_out)) if left_out is not None and left_out.exists() else None
    waiting = [iter(_names(folder, ""))]
    while waiting:
        name, is_folder = next(waiting[-1], ("", False))
        if not name:
            waiting.pop()
        elif is_folder:
            try:
                waiting.append(iter(_names(folder, name)))
            except OSError:
                yield ListedFile(DecodeTask(name))
        else:
            try:
                status = os.stat(folder / name)
            except OSError:
                yield ListedFile(DecodeTask(name))
                continue
            if stat.S_ISDIR(status.st_mode):
                yield ListedFile(DecodeTask(name))
            elif stat.S_ISREG(status.st_mode) and _inode(status) != skipped:
                yield ListedFile(DecodeTask(name), *_state(status))


def _names(folder: Path, below: str) -> list[tuple[str, bool]]:
    """(path below `folder`, whether it is a folder) of what lies in its subfolder `below`, in the order of the paths.

    Raises DataError where `folder` itself cannot be listed, OSError where a subfolder cannot.
    """
    try:
        with os.scandir(folder / below) as found:
            names = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
    except OSError as error:
        if below:
            raise
        reason = f"{folder}: cannot be listed ({error.strerror}); give a folder that you may read"
        raise DataError(reason) from None
    return _in_path_order(names, f"{below}/" if below else "")


def _in_path_order(names: list[tuple[str, bool]], prefix: str) -> list[tuple[str, bool]]:
    """Names of one folder such that, folders replaced by what is in them, all paths are sorted.

    >>> _in_path_order([("a", True), ("a-b", False)], "x/")
    [('x/a-b', False), ('x/a', True)]
    """
    names.sort(key=lambda item: f"{item[0]}/" if item[1] else item[0])
    return [(prefix + name, is_folder) for name, is_folder in names]


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entries_by_prefix(url: str) -> Iterator[ListedFile]:
    """Every object below a URL, one prefix after another."""
    try:
        files, root = filesystem(url)
        waiting = [iter(_listed(files, root, ""))]
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{url}: cannot be listed ({reason}); give a folder that you may read") from None
    while waiting:
        name, info = next(waiting[-1], ("", {}))
        if not name:
            waiting.pop()
        elif info["type"] == "directory":
            try:
                waiting.append(iter(_listed(files, root, name)))
            except OSError:
                yield ListedFile(DecodeTask(name))
        else:
            yield ListedFile(DecodeTask(name), *_remote_state(info))


def _listed(files: Any, root: str, below: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(path below `root`, what the store says of it) of each object and prefix directly below `below`."""
    folder = f"{root}/{below}" if below else root
    found = {}
    for info in files.ls(folder, detail=True):
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["name"].rstrip("/") != folder.rstrip(
            "/"
        ):  # some stores keep an empty object for the folder itself
            found[name, info["type"] == "directory"] = info
    order = _in_path_order(list(found), f"{below}/" if below else "")
    return [(path, found[path.rpartition("/")[2], is_folder]) for path, is_folder in order]


def _tables_digest(tables: Sequence[Path], rules: bytes = b"") -> str:
    """SHA-256 over the content of tables and the rules by which these are read."""
    return hashlib.sha256(b"".join(table.read_bytes() for table in tables) + rules).hexdigest()
