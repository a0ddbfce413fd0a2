"""What an output folder holds: its newest version, and the way to the next one.

Shards never change. A new version lists those of the version before that are still right, and new ones; its
`manifest.json` takes the place of the old by one rename, last of all. The old one stays as `manifest-000001.json`,
with its shards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...core.errors import DataError, ShardError
from ...core.files import atomic_write
from ...data.manifest import MANIFEST, Manifest, load_manifest
from .store import SCHEMA, FileRow, rows_of

PROVENANCE = "ingest.json"

STORED = tuple(name for name in SCHEMA.names if name not in ("ordinal", "state", "estimate"))
"""Columns of the table of files."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an output was made with: digests of the settings, of the secret and of the tables."""

    settings: str
    secret: str
    tables: str


@dataclass(frozen=True, slots=True)
class Version:
    """The newest version of an output. number: 1 for the first. made: what it was made with."""

    out: Path
    number: int
    manifest: Manifest
    made: Provenance

    def rows(self) -> Iterator[FileRow]:
        """What became of each file, in the order of the archive."""
        path = self.out / files_name(self.number)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=1024):
                    for column in (name for name in SCHEMA.names if name not in STORED):
                        batch = batch.append_column(SCHEMA.field(column), _zeros(batch.num_rows))
                    yield from rows_of(batch)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(
                f"{path}: damaged ({type(error).__name__}); choose another output folder"
            ) from None

    def last_number(self, split: str) -> int:
        """The highest number of a shard of a split in this and all earlier versions; -1 where there is none."""
        texts = [path.read_text() for path in self.out.glob("manifest*.json")]
        return max(
            (int(digits) for text in texts for digits in re.findall(rf'"{split}-(\d+)\.tar"', text)),
            default=-1,
        )


def _zeros(count: int) -> pa.Array:
    return pa.array([0] * count, pa.int64())


def files_name(number: int) -> str:
    """Name of a version's table of files.

    >>> files_name(1)
    'files-000001.parquet'
    """
    return f"files-{number:06d}.parquet"


def manifest_name(number: int) -> str:
    """Name of the manifest of an earlier version.

    >>> manifest_name(1)
    'manifest-000001.json'
    """
    return f"manifest-{number:06d}.json"


def newest_version(out: Path, wanted: Provenance) -> Version | None:
    """The version in an output folder; None where there is no folder, or an empty one.

    Raises DataError where it holds something else, or was made with other settings or another secret.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        made = Provenance(**json.loads((out / PROVENANCE).read_text()))
        manifest = load_manifest(out)
    except (OSError, ValueError, TypeError, ShardError):
        raise DataError(
            f"{out}: already holds something else; choose another output folder or remove it"
        ) from None
    if made.secret != wanted.secret:
        raise DataError(
            f"{out}: was made with another secret; give its file with --secret, or choose another output folder"
        )
    if made.settings != wanted.settings:
        raise DataError(
            f"{out}: already holds something else, made with other settings; choose another output folder (with "
            "--dicom.search-text auto, whether the extra `ocr` is installed is one of them)"
        )
    number = _number(out)
    if not (out / files_name(number)).exists():
        raise DataError(
            f"{out}: {files_name(number)} is missing, so what is new cannot be known; choose another output folder"
        )
    return Version(out, number, manifest, made)


def _number(out: Path) -> int:
    """The number of the version that manifest.json is. A run that was killed may have copied it already."""
    earlier = sorted(out.glob("manifest-??????.json"))
    if not earlier:
        return 1
    last = int(earlier[-1].stem.rpartition("-")[2])
    return last if earlier[-1].read_bytes() == (out / MANIFEST).read_bytes() else last + 1


def keep_manifest(version: Version) -> None:
    """Copies the manifest of a version to its name as an earlier one."""
    atomic_write(version.out / manifest_name(version.number), (version.out / MANIFEST).read_bytes())


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system knows no links; what had that name is replaced."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copy(source, part)  # with its mode: quarantine.csv is its owner's
    os.replace(part, target)


def remove_older_files(version: Version) -> None:
    """Removes the table of files of a version that is no longer the newest."""
    with suppress(OSError):
        (version.out / files_name(version.number)).unlink()
