"""Refusals that need the whole archive, and the count of every file."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

from vetdino.platform.ingest.assembly import counts_of, judged, no_views_message, save_quarantine
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import DecodeResult
from vetdino.platform.ingest.discovery import DecodeTask


def accepted(name: str, study: str = "s", patient: str = "p") -> DecodeResult:
    return DecodeResult(patient=patient, study=study, file_hash=f"file {name}", pixel_hash=f"pixels {name}")


def codes(results: list[DecodeResult], min_views: int = 1) -> list[str]:
    return [result.code for result in judged(results, IngestConfig(min_views=min_views))]


def test_nothing_is_judged_as_nothing():
    assert judged([], IngestConfig()) == []
    assert counts_of([]) == {
        "files": 0, "views": 0, "refused": 0, "duplicates": 0, "studies": 0, "patients": 0
    }  # fmt: skip


def test_the_second_of_two_equal_files_or_pictures_is_a_duplicate():
    same_pixels = replace(accepted("b"), pixel_hash="pixels a")
    assert codes([accepted("a"), accepted("a"), same_pixels, accepted("c")]) == [
        "", "DUPLICATE", "DUPLICATE", "",
    ]  # fmt: skip


def test_a_study_of_two_patients_is_refused_whole():
    results = [accepted("a"), accepted("b", patient="q"), accepted("c", study="t")]
    assert codes(results) == ["PATIENT_CLASH", "PATIENT_CLASH", ""]


def test_views_are_counted_without_duplicates():
    results = [accepted("a"), accepted("a"), accepted("b", study="t"), accepted("c", study="t")]
    assert codes(results, min_views=2) == ["TOO_FEW_VIEWS", "DUPLICATE", "", ""]


def test_a_refused_file_stays_refused_and_every_file_is_counted():
    refused = DecodeResult(code="NOT_DICOM", detail="text")
    results = judged([refused, accepted("a"), accepted("a"), accepted("b", "t", "q")], IngestConfig())
    assert results[0] is refused
    assert counts_of(results) == {
        "files": 4,
        "views": 2,
        "refused": 1,
        "duplicates": 1,
        "studies": 2,
        "patients": 2,
        "refused.NOT_DICOM": 1,
    }


def test_an_archive_without_views_names_the_commonest_reasons():
    results = [DecodeResult(code="TOO_FEW_VIEWS")] * 3 + [DecodeResult(code="NOT_DICOM")]
    message = no_views_message(Path("in"), results)
    assert "TOO_FEW_VIEWS 3, NOT_DICOM 1" in message
    assert "--min-views" in message
    assert "--min-views" not in no_views_message(Path("in"), results[3:])


def test_the_quarantine_lists_what_was_refused_for_its_owner_alone(tmp_path):
    tasks = [DecodeTask("a"), DecodeTask("b, c")]
    save_quarantine(tmp_path, tasks, [accepted("a"), DecodeResult(code="NOT_DICOM", detail="text")])
    path = tmp_path / "quarantine.csv"
    assert path.read_text() == 'path,code,detail\n"b, c",NOT_DICOM,text\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
