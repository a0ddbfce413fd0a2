"""What there is to read: the files of a DICOM folder, or the rows of a table of pictures, and their labels.

Files are listed as a stream, folder by folder, so that an archive of any size fits. `open_bytes` is the one way to a
file's bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from ..core.errors import ConfigError, DataError, DicomError
from ..core.location import Location
from ..core.storage import explained, filesystem, localized, version_tag
from .config import TableConfig
from .containers import HEAD, Kind, Member, MemberReader, kind_of, members
from .dicomdir import SIZE_LIMIT, is_dicomdir, missing_below, named_files
from .tables import ImageRow, Labels, merged_labels, patient_study, read_images, read_labels, studies_restart

log = logging.getLogger(__name__)

INSIDE = "!/"
"""Between a container and the name of a file in it."""

CONTAINER_NAME = re.compile(r".*\.(zip|tar|tgz|gz)|(.*/)?DICOMDIR", re.IGNORECASE | re.DOTALL)
"""Objects in a store that are looked into; a request for each of the others would take longer than all of the rest."""

_reader = MemberReader()
"""The containers that this process read last."""

TABLE_RULES = b"2"
"""Changes where an image table gives other studies, labels or views than before: a finished output is then another."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """One file to decode. named: patient, study (in clear text) and projection where a table names them.

    path: relative to the archive; of a file inside of a container, `studies.zip!/folder/IM0001`.
    laterality: L or R where a table names it. member: where a file lies in its container.
    """

    path: str
    named: tuple[str, str, str] | None = None
    laterality: str = ""
    member: Member | None = None

    @property
    def file(self) -> str:
        """The file on disk: the container where the task's file lies in one."""
        return self.path.removesuffix(f"{INSIDE}{self.member.name}") if self.member else self.path

    def to_text(self) -> str:
        """The task as a text; holds identifiers."""
        return json.dumps(astuple(self))

    @classmethod
    def from_text(cls, text: str) -> DecodeTask:
        """The task of a text."""
        path, named, laterality, member = json.loads(text)
        return cls(path, tuple(named) if named else None, laterality, Member(*member) if member else None)


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
        """Every file in the order of `place_of`: `sorted` by path, a container's files by their names."""
        if self.rows is not None:
            for row in self.rows:
                task = DecodeTask(row.path, (row.patient, row.study, row.projection), row.laterality)
                yield ListedFile(task, *state_of(self.root, row.path))
        else:
            root, left_out = self.root, self.left_out
            listed = _entries_by_prefix(root) if isinstance(root, str) else _entries_below(root, left_out)
            for entry in listed:
                yield from _expanded(self.root, entry)


MISSING = Member("", code="MISSING_FILE", detail="named by a DICOMDIR")

HIDDEN = (PermissionError, FileNotFoundError, NotADirectoryError)
"""Errors of what may not be looked at, now and the next time; any other may pass."""

DICOM_NAME = re.compile(r"\.(dcm|dicom|ima)$", re.IGNORECASE)


def discover(
    source: Path | str | Location,
    out: Path,
    columns: TableConfig | None = None,
    labels: Path | Location | None = None,
) -> ArchiveSource:
    """The archive at `source`: a folder of DICOM files or a table of pictures.

    out: where its shards will be. columns: what the columns of a table mean. labels: a table of labels, if any.
    Raises DataError where there is nothing to read, a table is unreadable, or `out` lies inside the folder;
    StorageError where a URL cannot be read.
    """
    source, columns = Location(source), columns or TableConfig()
    more = Path(labels) if labels else None
    if not source.is_local:
        url, is_table = str(source), False
        files, root = filesystem(url)
        with explained(url), suppress(FileNotFoundError):
            is_table = files.info(root)["type"] == "file"
        return (
            _from_table(localized(source), url.rpartition("/")[0], columns, more)
            if is_table
            else _from_folder(url, columns, more)
        )
    path = source.path
    if path.is_file():
        return _from_table(path, path.parent, columns, more)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or table; give a DICOM folder or a .csv/.parquet table")
    if out.resolve().is_relative_to(path.resolve()):
        raise DataError(f"{out}: lies inside the source; choose an output folder outside {path}")
    return _from_folder(path, columns, more)


def open_bytes(root: Path | str, task: DecodeTask) -> IO[bytes]:
    """The file of a task, open for reading and seeking. Raises OSError; DicomError for a file in a container."""
    if task.member is not None:
        return _MemberFile(root, task)
    if isinstance(root, Path):
        return open(root / task.path, "rb")
    files, folder = filesystem(root)
    return files.open(f"{folder}/{task.path}", "rb")


class _MemberFile(BytesIO):
    """The bytes of a file in a container, and what `has_changed` compares: its size, and the container's state."""

    def __init__(self, root: Path | str, task: DecodeTask) -> None:
        assert task.member is not None, "it lies in a container"
        container = DecodeTask(task.file)
        name = Path(f"{root}/{task.file}")
        super().__init__(_reader.read(name, task.member, lambda: open_bytes(root, container)))
        self.details = {"size": task.member.size, "ETag": _container_stamp(*state_of(root, task.file))}


def _container_stamp(size: int, stamp: str) -> str:
    return f"{size} {stamp}"


def place_of(entry: ListedFile) -> tuple[str, str, int, str]:
    """The order of an archive's files, and so of the views of a study."""
    task = entry.task
    study = task.named[1] if task.named else ""
    return (
        (task.file, task.member.name, task.member.offset, study) if task.member else (task.path, "", 0, study)
    )


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
    return int(info["size"] or 0), version_tag(info)


def _from_folder(source: Path | str, columns: TableConfig, table: Path | None) -> ArchiveSource:
    if columns.labels and not table:
        raise ConfigError(
            f"--table.labels {columns.labels} names columns, but {source} is a folder; give a table with --labels"
        )
    findings, labels = read_labels(table, columns) if table else ((), {})
    archive = ArchiveSource(
        source, findings, labels, _tables_digest([table] if table else []), left_out=table
    )
    if next(archive.entries(), None) is None:
        raise DataError(f"{source}: an empty folder; give a folder that holds DICOM files")
    return archive


def _from_table(
    source: Path, root: Path | str, columns: TableConfig, more_labels: Path | None
) -> ArchiveSource:
    """root: the folder, or its URL, below which the table's pictures are."""
    findings, rows = read_images(source, columns)
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
        more, of_studies = read_labels(more_labels, replace(columns, labels=""), by_patient=restart)
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
            except HIDDEN:
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


def _expanded(root: Path | str, entry: ListedFile) -> Iterator[ListedFile]:
    """A file itself, or the files in a container, or those that a DICOMDIR names and its medium lacks.

    Opening a file takes longer than listing it, so those of a store are looked into by their names, and of a disk all
    but those that are called DICOM files.
    """
    path = entry.task.path
    head = data = b""
    is_container_name = bool(CONTAINER_NAME.fullmatch(path))
    if entry.size > 0 and (is_container_name or (isinstance(root, Path) and not DICOM_NAME.search(path))):
        try:
            with open_bytes(root, entry.task) as file:
                head = file.read(HEAD)
                data = head + file.read(SIZE_LIMIT) if is_dicomdir(head) else b""
        except HIDDEN:  # decoding says why
            pass
        except OSError as error:  # what is in it may be there the next time
            reason = error.strerror or type(error).__name__
            failed = Member("", code="UNREADABLE_HEADER", detail=reason)
            yield ListedFile(DecodeTask(path, member=failed), entry.size, entry.stamp)
            return
    kind = kind_of(head)
    stamp = _container_stamp(entry.size, entry.stamp)
    if kind in ("zip", "tar", "tgz"):
        for member in sorted(_members(root, path, kind), key=lambda member: (member.name, member.offset)):
            inside = f"{path}{INSIDE}{member.name}" if member.name else path
            yield ListedFile(DecodeTask(inside, member=member), member.size, stamp)
    elif data and isinstance(root, Path) and (names := named_files(data)) is not None:
        for name in sorted(missing_below((root / path).parent, names)):
            yield ListedFile(
                DecodeTask(f"{path}{INSIDE}{name}", member=replace(MISSING, name=name)), 0, stamp
            )
    elif data and named_files(data) is not None:
        return  # whether its files are there would take a request for each
    else:
        yield entry


def _members(root: Path | str, path: str, kind: Kind) -> Iterator[Member]:
    """The files in a container but a DICOMDIR, and those that such a DICOMDIR names in vain."""
    names: set[str] = set()
    named: dict[str, None] = {}
    name, container = Path(f"{root}/{path}"), DecodeTask(path)
    reader = MemberReader()  # of this listing: the container may be another one than before
    for member in members(name, kind, lambda: open_bytes(root, container)):
        names.add(member.name.casefold())
        if (
            os.path.basename(member.name).upper() == "DICOMDIR"
            and not member.code
            and member.size < SIZE_LIMIT
        ):
            with suppress(DicomError, OSError):
                data = reader.read(name, member, lambda: open_bytes(root, container))
                files = named_files(data) if is_dicomdir(data) else None
                if files is not None:
                    folder = member.name[: -len("DICOMDIR")]
                    named.update(dict.fromkeys(folder + file for file in files))
                    continue
        yield member
    reader.close()
    for missing in named:
        if missing.casefold() not in names:
            yield replace(MISSING, name=missing)


def _names(folder: Path, below: str) -> list[tuple[str, bool]]:
    """(path below `folder`, whether it is a folder) of what lies in its subfolder `below`, in the order of the paths.

    Raises DataError where `folder` itself cannot be listed, or a subfolder cannot this time; an error of HIDDEN where
    the subfolder may not be listed.
    """
    try:
        with os.scandir(folder / below) as found:
            names = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
    except OSError as error:
        if below and isinstance(error, HIDDEN):
            raise
        if below:  # to go on would take all that is in it for gone
            raise DataError(
                f"{folder}: one of its folders cannot be listed ({error.strerror}); run again"
            ) from None
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
    """Every object below a URL, one prefix after another. Raises StorageError where one cannot be listed this time."""
    files, root = filesystem(url)
    try:
        with explained(url):
            waiting = [iter(_listed(files, root, ""))]
    except FileNotFoundError:
        return
    while waiting:
        name, info = next(waiting[-1], ("", {}))
        if not name:
            waiting.pop()
        elif info["type"] == "directory":
            try:
                waiting.append(iter(_listed(files, root, name)))
            except HIDDEN:
                yield ListedFile(DecodeTask(name))
            except OSError:  # to go on would take all that is in it for gone
                with explained(url):
                    raise
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
