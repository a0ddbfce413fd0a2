"""A study as the files of one sample: `KEY.json`, then `KEY.view0.jpg`, `KEY.view1.jpg`, ... in the order of its views.

webdataset and its tools read this layout. A label that is unknown (NaN) is null in the JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any, Literal

import numpy as np

from ..core.errors import ShardError
from .config import ShardConfig
from .study import StoredView, Study, View, description

BLOCK = 512
"""Bytes: the unit of a tar; a file is one block of header and its content padded to whole blocks."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def stored_view(view: View | StoredView, config: ShardConfig) -> StoredView:
    """The view with its pixels (H, W) of 8 or 16 bits encoded; a stored view as it is."""
    if isinstance(view, StoredView):
        return view
    import cv2

    assert view.pixels.dtype in (np.uint8, np.uint16), "a stored view has 8 or 16 bits"
    assert view.pixels.ndim == 2, "a stored view has one channel"
    suffix, options = {
        "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, config.quality]),
        "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]),
        "png16": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]),
    }[config.encoding]
    succeeded, encoded = cv2.imencode(suffix, view.decode(stored_bits(config)).pixels, options)
    assert succeeded, "cv2 encodes every picture of one channel"
    return StoredView(encoded.tobytes(), **description(view))


def stored_bits(config: ShardConfig) -> Literal[8, 16]:
    """Bits of a pixel of stored views."""
    return 16 if config.encoding == "png16" else 8


def sample_files(study: Study, config: ShardConfig) -> list[tuple[str, bytes]]:
    """The files of one sample as (name, content), JSON first, then the views in order."""
    assert study.views, "a sample has views"
    assert "." not in study.key, "a dot ends the key of a sample"
    views = [stored_view(view, config) for view in study.views]
    names = [
        f"view{i}.{'png' if view.encoded.startswith(PNG_SIGNATURE) else 'jpg'}"
        for i, view in enumerate(views)
    ]
    record = {
        "key": study.key,
        "patient": study.patient,
        "split": study.split,
        "labels": {finding: _json_label(value) for finding, value in study.labels.items()},
        "views": [
            {"file": name, **description(view), "facts": dict(view.facts)}
            for name, view in zip(names, views, strict=True)
        ],
    }
    content = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    pictures = [(f"{study.key}.{name}", view.encoded) for name, view in zip(names, views, strict=True)]
    return [(f"{study.key}.json", content), *pictures]


def study_from_files(key: str, files: Mapping[str, bytes]) -> Study:
    """The study in the files of a sample, name -> content. Raises ShardError where they do not fit together."""
    try:
        record = json.loads(files[f"{key}.json"])
        if record["key"] != key:
            raise ShardError("its JSON names another study; ingest again")
        return Study(
            key=record["key"],
            patient=record["patient"],
            split=record["split"],
            labels={
                name: math.nan if value is None else float(value) for name, value in record["labels"].items()
            },
            views=tuple(_view_from_record(view, files[f"{key}.{view['file']}"]) for view in record["views"]),
        )
    except KeyError as error:
        missing = str(error.args[0]).removeprefix(f"{key}.")
        raise ShardError(f"it lacks {missing}; ingest again") from None
    except (ValueError, TypeError, AttributeError):
        raise ShardError("its JSON is damaged; ingest again") from None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The files of one study, name -> content in their order, and the bytes of the tar that they take.

    offset: of its first header. length: to the end of its last file, padding included.
    """

    key: str
    offset: int
    length: int
    files: Mapping[str, bytes]

    @property
    def digest(self) -> bytes:
        """SHA-256 over the names and contents of the files."""
        total = hashlib.sha256()
        for name, content in self.files.items():
            total.update(f"{name} {len(content)}\n".encode())
            total.update(content)
        return total.digest()

    def check(self, digest: bytes | None) -> None:
        """Raises ShardError where this is not the sample with the digest."""
        if self.digest != digest:
            raise ShardError(
                "its bytes are not those that were written; copy the shard again, or ingest again"
            )

    def study(self) -> Study:
        """The study, its views undecoded. Raises ShardError where the files do not fit together."""
        return study_from_files(self.key, self.files)

    def __repr__(self) -> str:
        return f"Sample({self.key}, {len(self.files)} files at byte {self.offset})"


def tar_samples(file: IO[bytes], path: str) -> Iterator[Sample]:
    """The samples of a tar, in order. Raises ShardError, which names `path`, where it is cut."""
    for key, group in groupby(_tar_files(file, path), key=lambda member: sample_key(member[0].name)):
        members = list(group)
        first, last = members[0][0], members[-1][0]
        stop = last.offset_data + padded_size(last.size)
        files = {header.name: content for header, content in members}
        yield Sample(key, first.offset, stop - first.offset, files)


def plain_sample(content: bytes) -> Sample | None:
    """The sample whose part of a tar these bytes are, where all headers are as plain as those that we write.

    None where one is not: `tar_samples` reads any. It takes a third of the time. The checksums of headers are not
    compared, so that of the sample has to be.
    """
    files: dict[str, bytes] = {}
    position = 0
    while position < len(content):
        header = content[position : position + BLOCK]
        size = header[124:135]
        is_plain = header[257:263] == b"ustar\0" and header[156:157] == b"0" and header[345:346] == b"\0"
        if not is_plain or size.strip(b"01234567") or not size or b"\0" not in header[:100]:
            return None
        start, length = position + BLOCK, int(size, 8)
        files[header[: header.index(b"\0")].decode(errors="replace")] = content[start : start + length]
        position = start + padded_size(length)
    keys = {sample_key(name) for name in files}
    return Sample(keys.pop(), 0, position, files) if len(keys) == 1 and position == len(content) else None


def _tar_files(file: IO[bytes], path: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for header in tar:
                if header.isfile() and (content := tar.extractfile(header)) is not None:
                    yield header, content.read()
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a whole tar ({error}); ingest again") from None


def sample_key(name: str) -> str:
    """The key of the sample that a file of this name belongs to.

    >>> sample_key("4f2a.view0.jpg")
    '4f2a'
    """
    return name.partition(".")[0]


def padded_size(size: int) -> int:
    """Bytes that a content of this size takes in a tar.

    >>> padded_size(0), padded_size(1), padded_size(512)
    (0, 512, 512)
    """
    return -(-size // BLOCK) * BLOCK


def _view_from_record(record: Mapping[str, Any], encoded: bytes) -> StoredView:
    return StoredView(
        encoded=encoded,
        projection=record["projection"],
        laterality=record["laterality"],
        modality=record["modality"],
        spacing=None if record["spacing"] is None else tuple(record["spacing"]),
        facts=record["facts"],
    )


def _json_label(value: float) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if value == int(value) else value
