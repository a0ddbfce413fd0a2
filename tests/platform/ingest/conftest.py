"""An archive of DICOM files that holds one file for each way to be refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.platform.ingest.radiographs import NAMES, write_dicom
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.ingest.config import IngestConfig


@pytest.fixture
def archive(tmp_path) -> Path:
    """Six studies of three patients, two views each, and one file for each way to be refused."""
    folder = tmp_path / "archive"
    for number in range(6):
        for view in range(2):
            name = folder / NAMES[number // 2] / f"{number}{view}"
            write_dicom(name, NAMES[number // 2], f"1.2.3.{number}", 10 * number + view)
    (folder / "copy").write_bytes((folder / "Rex" / "00").read_bytes())
    write_dicom(folder / "same-pixels", "Rex", "1.2.3.0", 1, SeriesDescription="again")
    (folder / "notes.txt").write_text("Rex came by today")
    write_dicom(folder / "ct.dcm", "Rex", "1.2.3.0", 101, Modality="CT")
    write_dicom(folder / "nobody.dcm", "", "1.2.3.0", 102)
    write_dicom(folder / "clash1", "Rex", "1.2.4", 103)
    write_dicom(folder / "clash2", "Bello", "1.2.4", 104)
    write_dicom(folder / "alone", "Hasso", "1.2.5", 105)
    return folder


@pytest.fixture
def config(tmp_path) -> IngestConfig:
    secret = tmp_path / "key"
    secret.write_bytes(bytes(range(32)))
    dicom = DicomConfig(search_text="none")  # the networks take a second to load in every worker
    return IngestConfig(secret=secret, min_views=2, workers=2, val=0.3, test=0.3, dicom=dicom)
