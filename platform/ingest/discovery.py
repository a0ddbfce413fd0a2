"""What there is to read: the files of a DICOM folder, or the rows of a table of pictures, and their labels."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import ConfigError, DataError
from ..core.location import Location
from .config import IngestConfig
from .tables import Labels, merged_labels, patient_study, read_images, read_labels, studies_restart

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


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """All files of an archive in the order of their paths, and what is known about their studies.

    labels: study in clear text -> finding -> 1, 0 or NaN. digest: over paths, sizes, tables.
    """

    root: Path
    tasks: tuple[DecodeTask, ...]
    findings: tuple[str, ...]
    labels: Mapping[str, Labels]
    digest: str


def discover(source: Path, out: Path, config: IngestConfig) -> ArchiveSource:
    """The archive at `source`, a folder of DICOM files or a table of pictures.

    Raises DataError where there is nothing to read, a table is unreadable, or `out` lies inside the folder.
    """
    return _from_table(source, config) if source.is_file() else _from_folder(source, out, config)


def _from_folder(source: Path, out: Path, config: IngestConfig) -> ArchiveSource:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or table; give a DICOM folder or a .csv/.parquet table")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out}: lies inside the source; choose an output folder outside {source}")
    if config.table.labels and not config.labels:
        raise ConfigError(
            f"--table.labels {config.table.labels} names columns, but {source} is a folder; give a table with --labels"
        )
    findings, labels = read_labels(config.labels.path, config.table) if config.labels else ((), {})
    paths = [path for path in _files_below(source) if not _is_same_file(source / path, config.labels)]
    if not paths:
        raise DataError(f"{source}: an empty folder; give a folder that holds DICOM files")
    digest = _inputs_digest(source, paths, [config.labels.path] if config.labels else [])
    return ArchiveSource(source, tuple(DecodeTask(path) for path in paths), findings, labels, digest)


def _from_table(source: Path, config: IngestConfig) -> ArchiveSource:
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
    if config.labels:
        more, of_studies = read_labels(
            config.labels.path, replace(config.table, labels=""), by_patient=restart
        )
        findings = tuple(dict.fromkeys((*findings, *more)))
        labels = merged_labels([*labels.items(), *of_studies.items()])
        studies = {row.study for row in rows if row.study}
        if studies.isdisjoint(of_studies):
            raise DataError(no_labels_message(config.labels.path, len(studies)))
    tasks = tuple(
        DecodeTask(row.path, (row.patient, row.study, row.projection), row.laterality) for row in rows
    )
    tables = [source, config.labels.path] if config.labels else [source]
    digest = _inputs_digest(source.parent, [row.path for row in rows], tables, TABLE_RULES)
    return ArchiveSource(source.parent, tasks, findings, labels, digest)


def no_labels_message(table: Path, studies: int) -> str:
    """The error for a label table of another archive."""
    return f"{table}: names none of the {studies} studies; give the labels of this archive"


def _files_below(folder: Path) -> list[str]:
    """Every regular file below a folder, relative, in the order of their names.

    What cannot be looked at (a folder without permission, a broken link) and links to folders, which are not followed,
    are listed too: decoding refuses each of them with its reason, so that nothing is passed over in silence.
    """
    paths: list[str] = []

    def add_unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise DataError(f"{folder}: cannot be listed ({error.strerror}); give a folder that you may read")
        paths.append(error.filename)

    for parent, folders, names in os.walk(folder, onerror=add_unreadable):
        paths += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
        for name in names:
            path = os.path.join(parent, name)
            try:
                if stat.S_ISREG(os.stat(path).st_mode):
                    paths.append(path)
            except OSError:
                paths.append(path)
    return sorted(Path(path).relative_to(folder).as_posix() for path in paths)


def _is_same_file(path: Path, other: Location | None) -> bool:
    return other is not None and other.path.exists() and path.exists() and path.samefile(other)


def _inputs_digest(root: Path, paths: Iterable[str], tables: Sequence[Path], rules: bytes = b"") -> str:
    """SHA-256 over the names and sizes of all files, the content of tables, and the rules by which these are read."""
    digest = hashlib.sha256(b"".join(table.read_bytes() for table in tables) + rules)
    for path in paths:
        with suppress(OSError):
            digest.update(os.fsencode(f"{path}\0{os.stat(root / path).st_size}\0"))
    return digest.hexdigest()
