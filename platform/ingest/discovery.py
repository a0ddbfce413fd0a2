"""What there is to read: the files of a DICOM folder, or the rows of a table of pictures, and their labels."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from .config import IngestConfig
from .tables import read_images, read_labels


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """One file to decode. named: patient, study (in clear text) and projection where a table names them."""

    path: str
    named: tuple[str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """All files of an archive in the order of their paths, and what is known about their studies.

    labels: study in clear text -> finding -> 1, 0 or NaN. digest: over paths, sizes, tables.
    """

    root: Path
    tasks: tuple[DecodeTask, ...]
    findings: tuple[str, ...]
    labels: Mapping[str, Mapping[str, float]]
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
    findings, labels = read_labels(config.labels) if config.labels else ((), {})
    paths = [path for path in _files_below(source) if not _is_same_file(source / path, config.labels)]
    if not paths:
        raise DataError(f"{source}: an empty folder; give a folder that holds DICOM files")
    digest = _inputs_digest(source, paths, config.labels)
    return ArchiveSource(source, tuple(DecodeTask(path) for path in paths), findings, labels, digest)


def _from_table(source: Path, config: IngestConfig) -> ArchiveSource:
    findings, rows = read_images(source, config.table)
    rows = tuple(sorted(rows, key=lambda row: (row.path, row.study)))
    labels: dict[str, dict[str, float]] = {}
    for row in rows:
        known = labels.setdefault(row.study, dict(row.labels))
        for finding, value in row.labels.items():  # present in one view is present in the study
            known[finding] = float(np.fmax(known[finding], value))
    tasks = tuple(DecodeTask(row.path, (row.patient, row.study, row.projection)) for row in rows)
    digest = _inputs_digest(source.parent, [row.path for row in rows], source)
    return ArchiveSource(source.parent, tasks, findings, labels, digest)


def _files_below(folder: Path) -> list[str]:
    """Every regular file below a folder, relative, in the order of their names."""
    paths = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(OSError):
                if stat.S_ISREG(os.stat(path).st_mode):
                    paths.append(Path(path).relative_to(folder).as_posix())
    return sorted(paths)


def _is_same_file(path: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and path.samefile(other)


def _inputs_digest(root: Path, paths: Iterable[str], table: Path | None) -> str:
    """SHA-256 over the names and sizes of all files, and the content of a table."""
    digest = hashlib.sha256(table.read_bytes() if table else b"")
    for path in paths:
        with suppress(OSError):
            digest.update(os.fsencode(f"{path}\0{os.stat(root / path).st_size}\0"))
    return digest.hexdigest()
