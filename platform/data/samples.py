"""A study as the files of one sample: `KEY.json`, then `KEY.view0.jpg`, `KEY.view1.jpg`, ... in the order of its views.

webdataset and its tools read this layout. A label that is unknown (NaN) is null in the JSON.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Iterator, Mapping
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


def tar_files(file: IO[bytes], path: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file of a tar, in order. Raises ShardError, which names `path`, where it is cut."""
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for header in tar:
                if header.isfile() and (content := tar.extractfile(header)) is not None:
                    yield header.name, content.read()
    except tarfile.TarError as error:
        raise not_a_tar(path, error) from None


def not_a_tar(path: str, error: tarfile.TarError) -> ShardError:
    """The error for a tar that is cut or damaged."""
    return ShardError(f"{path}: not a whole tar ({error}); ingest again")


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
