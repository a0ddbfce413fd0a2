"""Refusals that need the whole archive, and the count of every file."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.platform.archive.discovery import DecodeTask, ListedFile
from vetdino.platform.data.manifest import Manifest
from vetdino.platform.ingest.assembly import (
    counts_of,
    foreseen,
    judged,
    quarantine_table,
    refusal_of_archive,
    summary,
)
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import DecodeResult


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
    results = [DecodeResult(code="NOT_DICOM")] + [DecodeResult(code="TOO_FEW_VIEWS")] * 3
    message = refusal_of_archive(Path("in"), counts_of(results), IngestConfig())
    assert "none of its 4 files" in message
    assert "TOO_FEW_VIEWS 3, NOT_DICOM 1" in message
    assert "--min-views" in message
    assert "--min-views" not in refusal_of_archive(Path("in"), counts_of(results[:1]), IngestConfig())


@pytest.mark.parametrize(("share", "refused"), [(1.0, False), (0.29, False), (0.28, True), (0.0, True)])
def test_more_refused_than_allowed_is_a_refusal_of_the_archive(share, refused):
    good = [accepted(f"{number}") for number in range(71)]
    counts = counts_of([*good, *[DecodeResult(code="NOT_DICOM")] * 29])  # 0.29 * 100 is 28.999999999999996
    message = refusal_of_archive(Path("in"), counts, IngestConfig(max_refused=share))
    assert bool(message) == refused
    assert not refused or "29 of 100 files are refused (NOT_DICOM 29)" in message


def test_duplicates_are_no_loss():
    counts = counts_of(judged([accepted("a"), accepted("a")], IngestConfig()))
    assert refusal_of_archive(Path("in"), counts, IngestConfig(max_refused=0.0)) == ""


def test_a_table_tells_what_will_be_refused():
    files = [
        ListedFile(DecodeTask("a", named), 10, "1")
        for named in (("p", "s", "AP"), ("", "s", "AP"), ("p", "", "AP"), ("p", "s", "PA"))
    ]
    gone = ListedFile(DecodeTask("gone", ("p", "s", "AP")))
    results = judged(foreseen([*files, gone]), IngestConfig())
    assert [result.code for result in results] == [
        "",
        "NO_IDENTITY",
        "NO_IDENTITY",
        "DUPLICATE",
        "MISSING_FILE",
    ]


def test_the_summary_says_what_was_read_written_refused_and_found():
    counts = {"files": 9, "views": 4, "refused": 4, "duplicates": 1, "studies": 3, "labelled_studies": 2}
    codes = {"refused.NOT_DICOM": 1, "refused.PATIENT_CLASH": 3}
    line = summary(Manifest(1, "dogs", ("mass", "edema"), (), {**counts, **codes}, ""))
    assert line == (
        "read 9 files: wrote 4 views of 3 studies; refused 4 (PATIENT_CLASH 3, NOT_DICOM 1); 1 duplicates left out; "
        "2 findings (mass, edema), 2 of 3 studies labelled"
    )
    nothing = {**counts, "refused": 0, "duplicates": 0}
    assert summary(Manifest(1, "dogs", (), (), nothing, "")).endswith("refused 0; no findings")


def test_the_quarantine_lists_what_was_refused_for_its_owner_alone(tmp_path):
    path = tmp_path / "quarantine.csv"
    path.write_text("left by a run before, for everybody")
    with quarantine_table(path) as refuse:
        refuse(DecodeTask("b, c"), "NOT_DICOM", "text")
    assert path.read_text() == 'path,code,detail\n"b, c",NOT_DICOM,text\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
