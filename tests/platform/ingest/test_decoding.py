"""Files are decoded in worker processes; a failure costs one file."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.ingest.decoding import decode, decode_all
from vetdino.platform.ingest.discovery import DecodeTask
from vetdino.platform.ingest.pseudonyms import pseudonym


class Deadly(str):
    """A path that ends the process which unpickles it, as a crashing decoder would."""

    def __reduce__(self):
        return os._exit, (11,)


def test_a_worker_that_dies_costs_only_its_file(archive, config):
    tasks = [
        DecodeTask("Rex/00"),
        DecodeTask(Deadly("Rex/01")),
        DecodeTask("Bello/20"),
        DecodeTask(Deadly("x")),
        DecodeTask("Bello/21"),
    ]
    parts = dict(decode_all(archive, tasks, b"key", config))
    assert [parts[task].code for task in tasks] == ["", "DECODER_CRASHED", "", "DECODER_CRASHED", ""]


def test_a_worker_that_does_not_answer_is_ended(tmp_path, config):
    os.mkfifo(tmp_path / "pipe")  # opening it waits for a writer, for ever
    [(_, part)] = decode_all(tmp_path, [DecodeTask("pipe")], b"key", replace(config, timeout_s=0.5))
    assert part.code == "DECODER_CRASHED"
    assert part.detail == "no answer within 0.5 s"


def test_a_file_that_wants_too_much_memory_is_refused(tmp_path, config):
    write_dicom(
        tmp_path / "a" / "big", "Rex", "1.2", 0, Rows=8000, Columns=8000, PixelData=bytes(128_000_000)
    )
    parts = dict(decode_all(tmp_path / "a", [DecodeTask("big")], b"key", replace(config, memory_gib=0.05)))
    assert parts[DecodeTask("big")].code == "DECODE_FAILED"


def test_a_file_becomes_a_view_under_pseudonyms(archive, config):
    result = decode(archive, DecodeTask("Rex/00"), b"key", config)
    assert (result.code, result.view.projection) == ("", "VD")
    assert result.patient == pseudonym(b"key", "patient:\x00Rex")
    assert result.study == pseudonym(b"key", "study:1.2.3.0")
    same = decode(archive, DecodeTask("same-pixels"), b"key", config)
    assert result.file_hash != same.file_hash


def test_what_a_table_names_comes_before_the_header(archive, config):
    result = decode(archive, DecodeTask("Rex/00", ("p", "s", "LLAT")), b"key", config)
    assert result.patient == pseudonym(b"key", "patient:p")
    assert result.view.projection == "LLAT"
    assert result.view.facts["projection_source"] == "table"
    assert result.view.laterality == ""
    sided = decode(archive, DecodeTask("Rex/00", ("p", "s", "CC"), "L"), b"key", config)
    assert (sided.view.projection, sided.view.laterality) == ("CC", "L")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("gone", "MISSING_FILE"),
        ("notes.txt", "NOT_DICOM"),
        ("ct.dcm", "NOT_RADIOGRAPH"),
        ("nobody.dcm", "NO_IDENTITY"),
        ("Rex", "UNREADABLE_HEADER"),
    ],
)
def test_every_failure_is_a_code(archive, config, path, code):
    assert decode(archive, DecodeTask(path), b"key", config).code == code


def test_no_tasks_start_no_worker(archive, config):
    assert list(decode_all(archive, [], b"key", config)) == []
