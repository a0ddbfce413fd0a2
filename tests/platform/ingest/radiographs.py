"""Generated DICOM files for the tests."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from vetdino.platform.core.errors import DicomError
from vetdino.platform.data.study import View
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.dicom.header import CODES, check_radiograph, read_header
from vetdino.platform.dicom.pixels import normalized_view, raw_pixels

RAMP = np.add.outer(np.arange(60) * 30, np.arange(80) * 25).astype(np.uint16)
"""A grey wedge of 12 bits, 60 x 80."""

NAMES = ("Rex", "Bello", "Hasso")
"""Patients whose names must not appear anywhere in the output."""


def radiograph(pixels: np.ndarray = RAMP, **tags: object) -> Dataset:
    """A DX data set; a tag given as None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    usual = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": "2.25.1",
        "Modality": "DX",
        "PatientID": "k9-0412",
        "StudyInstanceUID": "2.25.2",
        "ViewPosition": "VD",
        "ImagerPixelSpacing": [0.1, 0.2],
        "PixelSpacing": [9, 9],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": 12 if pixels.itemsize == 2 else 8,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    usual["HighBit"] = usual["BitsStored"] - 1
    for name, value in {**usual, **tags}.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def lut_item(entries: np.ndarray, first: int = 0, bits: int = 12, vr: str = "US", **tags: object) -> Dataset:
    """An item of a VOI or modality LUT sequence, its first value unsigned or signed (vr US or SS)."""
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries).astype("<u2").tobytes())
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def compressed(dataset: Dataset, syntax: str) -> Dataset:
    """The data set with its words compressed whole: 16 bits of them, whatever BitsStored and HighBit say."""
    declared = dataset.BitsStored, dataset.HighBit
    dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = declared
    return dataset


def saved(dataset: Dataset) -> bytes:
    """The data set as a file."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_dicom(path: Path, patient: str, study: str, seed: int, **tags: object) -> None:
    """A file of noise that the seed decides, 48 x 40."""
    pixels = np.random.default_rng(seed).integers(0, 4096, (48, 40)).astype(np.uint16)
    named = {"PatientID": patient, "PatientName": f"{patient}^Huber", "StudyInstanceUID": study}
    dataset = radiograph(pixels, **{"SOPInstanceUID": f"2.25.9{seed}", **named, **tags})
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(dataset))


def view_in(data: bytes, config: DicomConfig) -> View:
    """What ingest makes of one DICOM file."""
    dataset = read_header(data)
    check_radiograph(dataset, config)
    return normalized_view(dataset, raw_pixels(dataset), config)


def the_view(dataset: Dataset, **settings: object) -> View:
    """The view of a data set that was saved and read again."""
    return view_in(saved(dataset), DicomConfig(**settings))


def the_code(data: bytes | Dataset, **settings: object) -> str:
    """The code of the error that a file or data set raises; it names no patient."""
    data = data if isinstance(data, bytes) else saved(data)
    with pytest.raises(DicomError) as caught:
        view_in(data, DicomConfig(**settings))
    assert caught.value.code in CODES
    assert "0412" not in str(caught.value)
    return caught.value.code
