"""The DICOMDIR of a medium: an index of its files and no picture. What it names and the medium lacks is missing."""

from __future__ import annotations

import os
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

from ..dicom.tags import quiet, tag_items, tag_value
from .containers import printable

STORAGE_CLASS = b"UI\x14\x001.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR as its file's meta header holds it (PS3.4 annex I)."""

SIZE_LIMIT = 64 << 20
"""Bytes beyond which a DICOMDIR is not read; that of a DVD has about one million."""


def is_dicomdir(head: bytes) -> bool:
    """Whether a file that begins with these bytes (512 or more) is a DICOMDIR."""
    return head[128:132] == b"DICM" and STORAGE_CLASS in head[:512]


def named_files(data: bytes) -> list[str] | None:
    """The files that a DICOMDIR names, relative to its folder, in its order; None where it cannot be read.

    Its records are read in the order in which they are stored, whatever they say about their order.
    """
    import pydicom

    try:
        with quiet():
            dataset = pydicom.dcmread(BytesIO(data), defer_size=None)
            if dataset.file_meta.TransferSyntaxUID.is_deflated or "DirectoryRecordSequence" not in dataset:
                return None
            parts = [
                tag_value(item, "ReferencedFileID") for item in tag_items(dataset, "DirectoryRecordSequence")
            ]
    except Exception:  # decoding then says what is wrong with it
        return None
    names = ["/".join([part] if isinstance(part, str) else map(str, part)) for part in parts if part]
    return list(dict.fromkeys(map(printable, names)))


def missing_below(folder: Path, names: Collection[str]) -> list[str]:
    """Those of the named files that are not below the folder; capitals do not matter, as on a medium."""
    listings: dict[str, dict[str, str]] = {}
    return [name for name in names if not _is_below(str(folder), name.split("/"), listings)]


def _is_below(folder: str, parts: list[str], listings: dict[str, dict[str, str]]) -> bool:
    for part in parts:
        if part in ("", ".", ".."):
            return False
        if folder not in listings:
            try:
                listings[folder] = {name.casefold(): name for name in os.listdir(folder)}
            except OSError:
                listings[folder] = {}
        if part.casefold() not in listings[folder]:
            return False
        folder = os.path.join(folder, listings[folder][part.casefold()])
    return os.path.isfile(folder)
