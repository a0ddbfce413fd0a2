"""A header tells the study, and what is surely no radiograph; never anything that decoding would say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.platform.ingest.radiographs import RAMP, compressed, radiograph, saved, write_dicom
from vetdino.platform.archive.discovery import DecodeTask, ListedFile, state_of
from vetdino.platform.ingest import scanning
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import decode
from vetdino.platform.ingest.pseudonyms import pseudonym
from vetdino.platform.ingest.scanning import HeaderResult, scan_files, scan_header


def listed(folder: Path, name: str) -> ListedFile:
    return ListedFile(DecodeTask(name), *state_of(folder, name))


def scan(folder: Path, name: str = "x") -> HeaderResult:
    return scan_header(folder, listed(folder, name), b"key", IngestConfig())


def test_no_files_have_no_headers(tmp_path):
    assert scan_files(tmp_path, [], b"key", IngestConfig()) == []


def test_a_radiograph_has_its_study_and_a_size_without_being_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "decode", lambda *arguments: pytest.fail("decoded"))
    write_dicom(tmp_path / "x", "Rex", "1.2.3", 0)
    assert scan(tmp_path) == HeaderResult(study=pseudonym(b"key", "study:1.2.3"), estimate=1536 + 48 * 40)


def test_another_modality_is_refused_by_its_header_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "decode", lambda *arguments: pytest.fail("decoded"))
    write_dicom(tmp_path / "x", "Rex", "1.2.3", 0, Modality="CT")
    assert scan(tmp_path) == HeaderResult("NOT_RADIOGRAPH", "CT")
    (tmp_path / "y").write_bytes(saved(compressed(radiograph(RAMP, Modality="CT"), "1.2.840.10008.1.2.5")))
    assert scan(tmp_path, "y") == HeaderResult("NOT_RADIOGRAPH", "CT")
    (tmp_path / "z").write_text("Rex came by")
    assert scan(tmp_path, "z").code == "NOT_DICOM"


@pytest.mark.parametrize("modality", ["DX", "CT", "RTSTRUCT"])
@pytest.mark.parametrize("syntax", ["", "1.2.840.10008.1.2.5"])
def test_what_a_scan_refuses_decoding_refuses_for_the_same_reason(tmp_path, modality, syntax):
    dataset = radiograph(RAMP, Modality=modality, StudyInstanceUID="1.2.3", PatientID="Rex")
    content = saved(compressed(dataset, syntax) if syntax else dataset)
    for kept in (len(content), len(content) - 1, len(content) - 700, 700, 400, 200, 140, 100, 0):
        (tmp_path / "x").write_bytes(content[:kept])
        header = scan(tmp_path)
        result = decode(tmp_path, listed(tmp_path, "x"), b"key", IngestConfig())
        if header.code:
            assert (header.code, header.detail) == (result.code, result.detail), kept
        elif not result.code:
            assert header.study == result.study, kept


def test_tags_that_lie_are_refused_for_the_same_reason(tmp_path):
    for tags in (
        {"Rows": 5000},
        {"BitsAllocated": 12},
        {"PhotometricInterpretation": None},
        {"PixelData": None},
    ):
        (tmp_path / "x").write_bytes(saved(radiograph(RAMP, Modality="CT", **tags)))
        result = decode(tmp_path, listed(tmp_path, "x"), b"key", IngestConfig())
        header = scan(tmp_path)
        assert (header.code, header.detail) == (result.code, result.detail), tags
        assert header.code != "NOT_RADIOGRAPH"


def test_what_a_table_names_is_not_opened(tmp_path):
    file = ListedFile(DecodeTask("gone", ("p", "s", "VD")))
    assert scan_header(tmp_path, file, b"key", IngestConfig()).study == pseudonym(b"key", "study:s")
