"""Shards: tars of whole studies beside one manifest; written whole or not at all, read in order or by place.

A sample is `KEY.json` followed by `KEY.view0.jpg`, `KEY.view1.jpg`, ... in the order of the study's views:
what the webdataset tools read. Folders are local paths or any fsspec URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import fsspec
import numpy as np

from ..core.errors import ShardError
from .study import SPLITS, StoredView, Study, View

VERSION = 1
"""Of the sample layout and of manifest.json."""

MANIFEST = "manifest.json"

BLOCK = 512
"""Bytes: the unit of a tar; a member is one block of header and its content rounded up."""

OnError = Literal["raise", "skip"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    """How views are stored and how large a shard grows."""

    encoding: Literal["jpeg", "png"] = "jpeg"
    """Of a stored view: jpeg is half the size and three times as fast to read, png is lossless."""
    quality: int = 95
    """Of a JPEG, 1 to 100; 95 keeps 48 dB on radiographs."""
    max_bytes: int = 256 * 1024**2
    """A shard is closed before it grows beyond this; one study is never divided."""


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
    """What a folder of shards holds, and what was refused on the way in."""

    version: int
    name: str
    findings: tuple[str, ...]
    shards: tuple[Shard, ...]
    counts: Mapping[str, int]
    config_digest: str

    def studies(self, split: str) -> int:
        """Number of studies in one split."""
        return sum(shard.studies for shard in self.shards if shard.split == split)

    def of(self, split: str) -> tuple[Shard, ...]:
        """The shards of one split, in reading order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal over everything the manifest says, the shards' own digests included."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def stored(view: View | StoredView, config: ShardConfig) -> StoredView:
    """The view with its pixels (H, W) uint8 encoded; a stored view as it is."""
    if isinstance(view, StoredView):
        return view
    import cv2

    assert view.pixels.dtype == np.uint8, "a stored view has 8 bits"
    assert view.pixels.ndim == 2, "a stored view is grey"
    suffix, how = {
        "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, config.quality]),
        "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]),
    }[config.encoding]
    whole, encoded = cv2.imencode(suffix, view.pixels, how)
    assert whole, "cv2 encodes every 8-bit grey picture"
    return StoredView(
        encoded=encoded.tobytes(),
        projection=view.projection,
        laterality=view.laterality,
        modality=view.modality,
        spacing=view.spacing,
        facts=view.facts,
    )


class ShardWriter:
    """Fills the shards of one split, one after another; `shards` holds those that are whole.

    A context manager: leaving it closes the last shard, and an exception removes the one being written.
    Raises ShardError where the storage refuses (a full disk), leaving nothing half-written.
    """

    def __init__(self, folder: str | Path, split: str, config: ShardConfig | None = None) -> None:
        assert split in SPLITS, f"a split is one of {SPLITS}"
        self.split = split
        self.config = config or ShardConfig()
        self.shards: list[Shard] = []
        self._files, self._root = fsspec.core.url_to_fs(str(folder))
        self._open: _OpenShard | None = None

    def write(self, study: Study) -> None:
        """Appends one study; its views are encoded unless they are already."""
        assert study.split == self.split, "a study goes into the shards of its own split"
        members = members_of(study, self.config)
        size = sum(BLOCK + _rounded(len(content)) for _, content in members)
        try:
            if self._open and self._open.studies and self._open.written + size > self.config.max_bytes:
                self._close()
            if self._open is None:
                self._files.makedirs(self._root, exist_ok=True)
                name = f"{self.split}-{len(self.shards):06d}.tar"
                self._open = _OpenShard(self._files, f"{self._root}/{name}")
            self._open.append(members)
        except OSError as error:
            raise self._refused(error) from error

    def _close(self) -> None:
        shard, self._open = self._open, None
        self.shards.append(shard.close(self.split))

    def _refused(self, error: OSError) -> ShardError:
        if self._open is not None:
            self._open.abandon()
            self._open = None
        reason = error.strerror or type(error).__name__
        return ShardError(
            f"{self._root}: a shard of {self.split} cannot be written ({reason}); "
            "make room or choose another output folder, then run the same command again"
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is None:
            return
        if kind is not None:
            self._open.abandon()
            self._open = None
            return
        opened = self._open
        try:
            self._close()
        except OSError as refusal:
            self._open = opened
            raise self._refused(refusal) from refusal


class _OpenShard:
    """A tar under a temporary name that hashes and counts what it is given."""

    def __init__(self, files: fsspec.AbstractFileSystem, path: str) -> None:
        self._files, self._path, self._part = files, path, f"{path}.part"
        self._file = files.open(self._part, "wb")
        self._hash = hashlib.sha256()
        self.written = self.studies = self.views = 0

    def append(self, members: list[tuple[str, bytes]]) -> None:
        for name, content in members:
            header = tarfile.TarInfo(name)  # mtime, uid and gid are 0: equal studies give equal bytes
            header.size = len(content)
            self._write(header.tobuf(format=tarfile.USTAR_FORMAT))
            self._write(content.ljust(_rounded(len(content)), b"\0"))
        self.studies += 1
        self.views += len(members) - 1

    def close(self, split: str) -> Shard:
        self._write(bytes(2 * BLOCK))  # the end of a tar
        self._file.close()
        self._files.mv(self._part, self._path)
        return Shard(
            path=self._path.rsplit("/", 1)[-1],
            split=split,
            studies=self.studies,
            views=self.views,
            bytes=self.written,
            sha256=self._hash.hexdigest(),
        )

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and the disk may still be full
            self._file.close()
        with contextlib.suppress(OSError):
            self._files.rm_file(self._part)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.written += len(content)


def members_of(study: Study, config: ShardConfig) -> list[tuple[str, bytes]]:
    """The files of one sample as (name, content), JSON first, then the views in order."""
    assert study.views, "a sample has views"
    assert "." not in study.key, "a dot ends the key of a sample"
    views = [stored(view, config) for view in study.views]
    names = [f"view{i}.{'png' if v.encoded.startswith(_PNG) else 'jpg'}" for i, v in enumerate(views)]
    record = {
        "key": study.key,
        "patient": study.patient,
        "split": study.split,
        "labels": {finding: _stored_label(value) for finding, value in study.labels.items()},
        "views": [
            {
                "file": name,
                "projection": view.projection,
                "laterality": view.laterality,
                "modality": view.modality,
                "spacing": None if view.spacing is None else list(view.spacing),
                "facts": dict(view.facts),
            }
            for name, view in zip(names, views, strict=True)
        ],
    }
    content = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    pictures = [(f"{study.key}.{name}", view.encoded) for name, view in zip(names, views, strict=True)]
    return [(f"{study.key}.json", content), *pictures]


_PNG = b"\x89PNG\r\n\x1a\n"


def _rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _stored_label(value: float) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if value == int(value) else value


def save_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Writes manifest.json under a temporary name and renames it."""
    files, root = fsspec.core.url_to_fs(str(folder))
    path = f"{root}/{MANIFEST}"
    files.pipe_file(f"{path}.part", (json.dumps(asdict(manifest), indent=1) + "\n").encode())
    files.mv(f"{path}.part", path)


def load_manifest(folder: str | Path) -> Manifest:
    """The manifest of a folder. Raises ShardError where it is missing, damaged or of another version."""
    from pydantic import TypeAdapter, ValidationError

    files, root = fsspec.core.url_to_fs(str(folder))
    try:
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


def verify(folder: str | Path) -> Manifest:
    """The manifest, after every shard was compared with its SHA-256. Raises ShardError where one differs."""
    manifest = load_manifest(folder)
    files, root = fsspec.core.url_to_fs(str(folder))
    for shard in manifest.shards:
        with _opened(files, f"{root}/{shard.path}") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            raise ShardError(f"{root}/{shard.path}: its content is not what was written; ingest again")
    return manifest


def read(folder: str | Path, split: str, *, on_error: OnError = "raise") -> Iterator[Study]:
    """The studies of one split in the order they were written, views undecoded.

    on_error: `raise` stops with ShardError at a damaged sample, `skip` logs it and goes on with the next
    (where the tar itself is cut, with the next shard).
    """
    manifest = load_manifest(folder)
    files, root = fsspec.core.url_to_fs(str(folder))
    for shard in manifest.of(split):
        path = f"{root}/{shard.path}"
        try:
            with _opened(files, path) as file:
                yield from _studies(file, path, shard.studies, on_error)
        except ShardError as error:
            if on_error == "raise":
                raise
            log.warning("%s; going on with the next shard", error)


def _studies(file: io.IOBase, path: str, promised: int, on_error: OnError) -> Iterator[Study]:
    seen = 0
    for key, members in groupby(_members(file, path), key=lambda member: _key(member[0])):
        seen += 1
        try:
            yield study_of(key, dict(members))
        except ShardError as error:
            refusal = ShardError(f"{path}: study {seen} of {promised}: {error}")
            if on_error == "raise":
                raise refusal from None
            log.warning("%s; left out", refusal)
    if seen != promised:  # cut between two files, a tar looks whole
        raise ShardError(f"{path}: {seen} studies, the manifest promises {promised}; ingest again")


def _members(file: io.IOBase, path: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file of a tar, in order."""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for header in tar:
                if header.isfile():
                    yield header.name, tar.extractfile(header).read()
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a whole tar ({error}); ingest again") from None


def study_of(key: str, members: Mapping[str, bytes]) -> Study:
    """A study from the files of its sample. Raises ShardError where they do not fit together."""
    try:
        record = json.loads(members[f"{key}.json"])
        return Study(
            key=record["key"],
            patient=record["patient"],
            split=record["split"],
            labels={
                name: math.nan if value is None else float(value) for name, value in record["labels"].items()
            },
            views=tuple(_stored_view(view, members[f"{key}.{view['file']}"]) for view in record["views"]),
        )
    except KeyError as error:
        missing = str(error.args[0]).removeprefix(f"{key}.")
        raise ShardError(f"it lacks {missing}; ingest again") from None
    except (ValueError, TypeError, AttributeError):
        raise ShardError("its JSON is damaged; ingest again") from None


def _stored_view(view: Mapping[str, Any], encoded: bytes) -> StoredView:
    return StoredView(
        encoded=encoded,
        projection=view["projection"],
        laterality=view["laterality"],
        modality=view["modality"],
        spacing=None if view["spacing"] is None else tuple(view["spacing"]),
        facts=view["facts"],
    )


class StudyIndex:
    """Studies of one split by position: where each sample lies, found by one walk over the tars' headers.

    Pickles small (three integers and a key a study) and opens its files again in each process that loads, so
    it may be handed to the workers of a loader. Position i is the i-th study that `read` gives.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        """Raises ShardError where a shard is missing, cut, or holds another number of studies than told."""
        self.folder, self.split = str(folder), split
        self._files, root = fsspec.core.url_to_fs(self.folder)
        shards = load_manifest(folder).of(split)
        self._paths = [f"{root}/{shard.path}" for shard in shards]
        self._keys: list[str] = []
        rows = [row for number, shard in enumerate(shards) for row in self._scan(number, shard)]
        self._rows = np.array(rows, np.int64).reshape(-1, 3)  # shard, first byte, last byte + 1
        self._handles: dict[tuple[int, int], io.IOBase] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"StudyIndex({self.split}, {len(self)} studies in {len(self._paths)} shards)"

    def keys(self) -> list[str]:
        """Keys of the studies, by position."""
        return list(self._keys)

    def load(self, index: int) -> Study:
        """The study at a position, in one read, its views undecoded. Raises ShardError if it is damaged."""
        shard, start, stop = map(int, self._rows[index])
        path = self._paths[shard]
        file = self._handle(shard)
        file.seek(start)
        content = file.read(stop - start)
        if len(content) < stop - start:
            raise ShardError(f"{path}: shorter than it was; ingest again")
        try:
            return study_of(self._keys[index], dict(_members(io.BytesIO(content), path)))
        except ShardError as error:
            raise ShardError(f"{path}: at byte {start}: {error}") from None

    def _scan(self, number: int, shard: Shard) -> Iterator[tuple[int, int, int]]:
        path = self._paths[number]
        with _opened(self._files, path) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    spans = [
                        (_key(header.name), header.offset, header.offset_data + _rounded(header.size))
                        for header in tar
                        if header.isfile()
                    ]
            except tarfile.TarError as error:
                raise ShardError(f"{path}: not a whole tar ({error}); ingest again") from None
        samples = [(key, list(group)) for key, group in groupby(spans, key=lambda span: span[0])]
        if len(samples) != shard.studies:
            raise ShardError(
                f"{path}: {len(samples)} studies, the manifest promises {shard.studies}; ingest again"
            )
        for key, group in samples:
            self._keys.append(key)
            yield number, group[0][1], group[-1][2]

    def _handle(self, shard: int) -> io.IOBase:
        # A forked worker shares file positions with its parent: a handle belongs to one process.
        place = (os.getpid(), shard)
        if place not in self._handles:
            self._handles[place] = _opened(self._files, self._paths[shard])
        return self._handles[place]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def __del__(self) -> None:
        for (process, _), file in self.__dict__.get("_handles", {}).items():
            if process == os.getpid():
                file.close()


def _opened(files: fsspec.AbstractFileSystem, path: str) -> Any:
    try:
        return files.open(path, "rb")
    except FileNotFoundError:
        raise ShardError(f"{path}: missing, though the manifest lists it; ingest again") from None


def _key(name: str) -> str:
    return name.partition(".")[0]
