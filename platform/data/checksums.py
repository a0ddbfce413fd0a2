"""A checksum for each sample of a shard, in a text file beside its tar: `train-000000.samples.sha256`.

A byte that changed inside a JPEG mostly leaves a picture that decodes, but another one; so a sample is compared with
its checksum whenever it is read. Shards from before there were checksums are read without; `verify` compares
them, like all others, with the manifest's sha256 of the whole tar.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import fsspec

from ..core.errors import ShardError
from ..core.progress import track
from .manifest import Manifest, Shard, load_manifest, open_shard
from .samples import sample_key, tar_files

SUFFIX = ".samples.sha256"

CHUNK = 2**22
"""Bytes that `verify` reads at once."""


def sample_digest(files: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 in hexadecimal over the names and contents of a sample's files, in their order."""
    total = hashlib.sha256()
    for name, content in files:
        total.update(f"{name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def sums_path(shard: str) -> str:
    """Where the checksums of a shard are.

    >>> sums_path("shards/train-000000.tar")
    'shards/train-000000.samples.sha256'
    """
    return shard.removesuffix(".tar") + SUFFIX


def save_sums(files: fsspec.AbstractFileSystem, shard: str, sums: Mapping[str, str]) -> None:
    """Writes the checksums of a shard, key -> hexadecimal, under a temporary name and renames it."""
    path = sums_path(shard)
    text = "".join(f"{digest}  {key}\n" for key, digest in sums.items())
    files.pipe_file(f"{path}.part", text.encode())
    files.mv(f"{path}.part", path)


def load_sums(files: fsspec.AbstractFileSystem, shard: str) -> dict[str, str]:
    """Key -> checksum of each sample of a shard; none where the shard has no checksums. Raises ShardError."""
    path = sums_path(shard)
    try:
        text = files.cat_file(path).decode(errors="replace")
    except FileNotFoundError:
        return {}
    lines = text.splitlines()
    pairs = [match.groups() for line in lines if (match := re.fullmatch(r"([0-9a-f]{64})  ([^.]+)", line))]
    if not pairs or len(pairs) < len(lines):
        raise ShardError(f"{path}: damaged; copy it again, or remove it to read the shard unchecked")
    return {key: digest for digest, key in pairs}


def check_sample(key: str, files: Mapping[str, bytes], sums: Mapping[str, str]) -> None:
    """Raises ShardError where a sample's files are not those that were written. sums: of its shard; none: unchecked."""
    if sums and sample_digest(files.items()) != sums.get(key):
        raise ShardError("its bytes are not those that were written; copy the shard again, or ingest again")


def verify(folder: str | Path) -> Manifest:
    """The manifest, after every shard was compared with its SHA-256.

    Raises ShardError that names every shard that differs and, where there are checksums, its damaged studies.
    """
    manifest = load_manifest(folder)
    files, root = fsspec.core.url_to_fs(str(folder))
    faults = []
    for shard in track(manifest.shards, label="verify", unit="shards"):
        fault = _fault(files, root, shard)
        faults += [fault] if fault else []
    if faults:
        shards = f"{len(faults)} of {len(manifest.shards)} shards"
        raise ShardError(
            f"{folder}: {shards} are not what was written; copy them again, or ingest again: {'; '.join(faults)}"
        )
    return manifest


def without_sums(folder: str | Path, manifest: Manifest) -> list[str]:
    """The shards that have no checksum for each sample, so that reading them does not notice a change."""
    files, root = fsspec.core.url_to_fs(str(folder))
    return [shard.path for shard in manifest.shards if not files.exists(sums_path(f"{root}/{shard.path}"))]


def _fault(files: fsspec.AbstractFileSystem, root: str, shard: Shard) -> str:
    """What is wrong with a shard; "" for nothing."""
    path, total = f"{root}/{shard.path}", hashlib.sha256()
    try:
        with open_shard(files, path) as file:
            while chunk := file.read(CHUNK):
                total.update(chunk)
        damaged = list(_damaged(files, path))
    except ShardError as error:
        return str(error)
    if total.hexdigest() == shard.sha256:
        return f"{sums_path(shard.path)} does not belong to its shard" if damaged else ""
    return shard.path + (f" (studies {', '.join(damaged)})" if damaged else "")


def _damaged(files: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """The keys of the samples that differ from their checksums, are missing or too many. Raises ShardError."""
    sums = load_sums(files, path)
    if not sums:
        return
    missing = set(sums)
    with open_shard(files, path) as file:
        for key, sample in groupby(tar_files(file, path), key=lambda member: sample_key(member[0])):
            if sample_digest(sample) != sums.get(key):
                yield key
            missing.discard(key)
    yield from sorted(missing)
