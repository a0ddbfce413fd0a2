"""The header scan: which study a file belongs to, before its pixels are read, and what is surely no radiograph.

A CT slice costs its header and its last bytes here, and nothing later. A file that this cannot judge with
certainty is decoded at once, so that its code never depends on the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..archive.containers import HEAD, check_no_container
from ..archive.discovery import ListedFile, open_bytes
from ..core.errors import DicomError
from ..dicom.header import check_pixel_tags, check_radiograph, is_dicom, modality_of
from ..dicom.tags import quiet, tag_text
from .config import IngestConfig
from .decoding import decode
from .pseudonyms import pseudonym

if TYPE_CHECKING:
    from pydicom import Dataset

OVERHEAD = 1536
"""Bytes that a view takes in a shard beside its picture: headers, padding, its part of the JSON."""

PIXEL_DATA = b"\xe0\x7f\x10\x00"
"""The tag (7FE0,0010), little endian."""

SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
"""The last bytes of encapsulated pixel data."""


@dataclass(frozen=True, slots=True)
class HeaderResult:
    """What a header says: the code of a file that is refused already, else the study's pseudonym.

    study: empty where the file names none. estimate: bytes of the stored view, at most; 0 where it is refused.
    """

    code: str = ""
    detail: str = ""
    study: str = ""
    estimate: int = 0


def scan_files(
    root: Path | str, entries: Sequence[ListedFile], secret: bytes, config: IngestConfig
) -> list[HeaderResult]:
    """The header of each file."""
    return [scan_header(root, entry, secret, config) for entry in entries]


def scan_header(root: Path | str, entry: ListedFile, secret: bytes, config: IngestConfig) -> HeaderResult:
    """The header of one file; every failure becomes a result with a code. secret: the key of the pseudonyms."""
    side = config.dicom.side
    if entry.task.named is not None:
        _, study, _ = entry.task.named
        return HeaderResult(
            study=_pseudonym(secret, study), estimate=OVERHEAD + min(entry.size * 8, side * side)
        )
    try:
        with open_bytes(root, entry.task) as file, quiet():
            head = file.read(HEAD)
            if not is_dicom(head):
                check_no_container(head, is_inside=entry.task.member is not None)
                return HeaderResult("NOT_DICOM", "no DICM mark and no leading tag")
            dataset = _header(file)
            study = tag_text(dataset, "StudyInstanceUID")
            if modality_of(dataset) not in config.dicom.modalities:
                if head[128:132] == b"DICM":
                    _refuse(dataset, file, entry.size, config)
            elif study:
                rows, columns = int(dataset.Rows), int(dataset.Columns)
                scale = min(1.0, side / max(rows, columns, 1))
                estimate = OVERHEAD + int(rows * columns * scale * scale)
                return HeaderResult(study=_pseudonym(secret, study), estimate=estimate)
    except DicomError as error:
        return HeaderResult(error.code, error.detail)
    except Exception:  # decoding says why
        pass
    return _decoded(root, entry, secret, config)


def _pseudonym(secret: bytes, study: str) -> str:
    return pseudonym(secret, f"study:{study}") if study else ""


def _header(file: IO[bytes]) -> Dataset:
    import pydicom

    file.seek(0)
    return pydicom.dcmread(file, force=True, stop_before_pixels=True)


def _refuse(dataset: Dataset, file: IO[bytes], size: int, config: IngestConfig) -> None:
    """Raises DicomError where an intact file is of another modality; returns where it may be damaged."""
    if (stored := _pixel_bytes(file, size)) is not None:
        check_pixel_tags(dataset, stored)
        check_radiograph(dataset, config.dicom)


def _pixel_bytes(file: IO[bytes], size: int) -> int | None:
    """Bytes of pixel data that begin where the header ended; None where they are not there, or not all of them."""
    start = file.tell()
    head = file.read(12)
    if head[:4] != PIXEL_DATA:
        return None
    explicit = head[4:6] in (b"OB", b"OW")
    length = int.from_bytes(head[8:12] if explicit else head[4:8], "little")
    if length == 0xFFFFFFFF:
        file.seek(-len(SEQUENCE_END), 2)
        return size - start if file.read() == SEQUENCE_END else None
    return length if start + (12 if explicit else 8) + length <= size else None


def _decoded(root: Path | str, entry: ListedFile, secret: bytes, config: IngestConfig) -> HeaderResult:
    """What decoding says of a file whose header cannot tell."""
    result = decode(root, entry, secret, config)
    if result.code:
        return HeaderResult(result.code, result.detail)
    return HeaderResult(study=result.study, estimate=OVERHEAD + config.dicom.side**2)
