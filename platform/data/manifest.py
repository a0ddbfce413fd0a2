"""The manifest of a folder of shards: which tars there are, their studies and digests, and what was refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec

from ..core.errors import ShardError
from ..core.storage import Place, explained, filesystem, is_local

VERSION = 1
"""Version of the sample layout and of manifest.json."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of one split. path is relative to the manifest's folder; sha256 in hexadecimal."""

    path: str
    split: str
    studies: int
    views: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The shards of a folder. counts: files, views, studies and refusals of the ingest."""

    version: int
    name: str
    findings: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: Mapping[str, int]
    config_digest: str

    def studies(self, split: str) -> int:
        """Number of studies in one split."""
        return sum(shard.studies for shard in self.of(split))

    def of(self, split: str) -> tuple[Shard, ...]:
        """The shards of one split, in reading order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal over the whole manifest, the shards' digests included."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def save_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes manifest.json under a temporary name and renames it."""
    files, root = filesystem(folder)
    path = f"{root}/{MANIFEST}"
    files.pipe_file(f"{path}.part", (json.dumps(asdict(manifest), indent=1) + "\n").encode())
    files.mv(f"{path}.part", path)


def load_manifest(folder: Place) -> Manifest:
    """The manifest of a folder. Raises ShardError where it is missing, damaged or of another version."""
    from pydantic import TypeAdapter, ValidationError

    files, root = filesystem(folder)
    try:
        with explained(folder):
            text = files.cat_file(f"{root}/{MANIFEST}")
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(
            f"{folder}: no {MANIFEST} here; give a folder that `vetdino ingest` finished"
        ) from None
    try:
        manifest = TypeAdapter(Manifest).validate_json(text)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "the whole file"
        raise ShardError(f"{folder}/{MANIFEST}: damaged at {place}; run `vetdino ingest` again") from None
    if manifest.version != VERSION:
        raise ShardError(
            f"{folder}/{MANIFEST}: version {manifest.version}, this vetdino reads {VERSION}; ingest again"
        )
    return manifest


def open_shard(files: fsspec.AbstractFileSystem, path: str, *, cache: bool = True) -> Any:
    """The file of a shard, open for reading; that of object storage through the cache of this machine, or without.

    Raises ShardError where it is missing, StorageError.
    """
    from .shard_cache import ShardFile

    try:
        return files.open(path, "rb") if is_local(files) else ShardFile(files.unstrip_protocol(path), cache)
    except FileNotFoundError:
        raise missing(path) from None


def missing(path: str) -> ShardError:
    """The error for a shard that is not there."""
    return ShardError(f"{path}: missing, though the manifest lists it; ingest again")
