"""Zip, tar and tar.gz files for the tests, well-formed and malicious."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.platform.ingest.radiographs import saved


def tree_of(folder: Path) -> dict[str, bytes]:
    """Name relative to the folder -> content of every file below it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pack(path: Path, files: Mapping[str, bytes], kind: str) -> Path:
    """A zip, tar or tgz of these files in this order, under any name; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
            for name, content in files.items():
                container.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as tar:
        for name, content in files.items():
            add(tar, tarfile.TarInfo(name), content)
    return path


def add(tar: tarfile.TarFile, member: tarfile.TarInfo, content: bytes = b"") -> None:
    """Adds a member with this content."""
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def zipped(files: Iterable[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    """A zip in memory, stored."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as container:
        for name, content in files:
            container.writestr(name, content)
    return data.getvalue()


def dicomdir(names: Iterable[str]) -> bytes:
    """A DICOMDIR with a record for each of the files."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.3"
    dataset.FileSetID = "CANARY"
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = name.split("/")
        records.append(record)
    patient = Dataset()
    patient.DirectoryRecordType = "PATIENT"
    dataset.DirectoryRecordSequence = [patient, *records]
    return saved(dataset)
