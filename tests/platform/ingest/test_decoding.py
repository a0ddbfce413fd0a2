"""Files are decoded in worker processes; a failure costs one file."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.archive.discovery import DecodeTask, ListedFile
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import DecodePool, DecodeResult, decode
from vetdino.platform.ingest.pseudonyms import pseudonym


class Deadly(str):
    """A path that ends the process which unpickles it, as a crashing decoder would."""

    def __reduce__(self):
        return os._exit, (11,)


def listed(path: str, *named: object) -> ListedFile:
    return ListedFile(DecodeTask(path, *named))


def decoded(root: Path, files: list[ListedFile], config: IngestConfig) -> list[DecodeResult]:
    with DecodePool(root, b"key", config) as pool:
        return list(pool.map((decode, file) for file in files))


def test_a_worker_that_dies_costs_only_its_file(archive, config):
    files = [
        listed("Rex/00"),
        listed(Deadly("Rex/01")),
        listed("Bello/20"),
        listed(Deadly("x")),
        listed("Bello/21"),
    ]
    codes = [part.code for part in decoded(archive, files, config)]
    assert codes == ["", "DECODER_CRASHED", "", "DECODER_CRASHED", ""]


def suicide(root: Path, number: int, secret: bytes, config: IngestConfig) -> bytes:
    """Every third time, a worker that is killed while it answers, as one that the kernel ends for its memory."""
    if number % 3 == 2:
        threading.Timer(0.02 * (number % 5), os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.01 * (number % 7))
    return bytes(3_000_000)


def test_a_worker_that_is_killed_while_it_answers_harms_no_other(tmp_path, config):
    with DecodePool(tmp_path, b"key", config) as pool:
        answers = list(pool.map((suicide, number) for number in range(60)))
    whole = [number for number, answer in enumerate(answers) if answer == bytes(3_000_000)]
    crashed = [answer for answer in answers if isinstance(answer, DecodeResult)]
    assert len(whole) + len(crashed) == 60
    assert {answer.code for answer in crashed} == {"DECODER_CRASHED"}
    assert len(whole) >= 20


def late(root: Path, seconds: float, secret: bytes, config: IngestConfig) -> float:
    time.sleep(seconds)
    return seconds


def test_answers_come_in_the_order_of_the_tasks(tmp_path, config):
    tasks = [(late, 0.2), None, (late, 0.0), (late, 0.1), None]
    with DecodePool(tmp_path, b"key", config) as pool:
        assert list(pool.map(tasks)) == [0.2, None, 0.0, 0.1, None]
        assert list(pool.map([(late, 0.01)] * 600)) == [0.01] * 600  # more than the pool holds back


def test_a_worker_that_does_not_answer_is_ended(tmp_path, config):
    os.mkfifo(tmp_path / "pipe")  # opening it waits for a writer, for ever
    [part] = decoded(tmp_path, [listed("pipe")], replace(config, timeout_s=0.5))
    assert part.code == "DECODER_CRASHED"
    assert part.detail == "no answer within 0.5 s"


def test_a_file_that_wants_too_much_memory_is_refused(tmp_path, config):
    write_dicom(
        tmp_path / "a" / "big", "Rex", "1.2", 0, Rows=8000, Columns=8000, PixelData=bytes(128_000_000)
    )
    [part] = decoded(tmp_path / "a", [listed("big")], replace(config, memory_gib=0.05))
    assert part.code == "DECODE_FAILED"


def test_a_file_that_changed_since_it_was_listed_is_refused(archive, config):
    status = (archive / "Rex/00").stat()
    file = ListedFile(DecodeTask("Rex/00"), status.st_size, str(status.st_mtime_ns))
    assert decode(archive, file, b"key", config).code == ""
    write_dicom(archive / "Rex/00", "Rex", "1.2.3.0", 777)
    assert decode(archive, file, b"key", config).code == "FILE_CHANGED"


def test_a_file_becomes_a_view_under_pseudonyms(archive, config):
    result = decode(archive, listed("Rex/00"), b"key", config)
    assert (result.code, result.view.projection) == ("", "VD")
    assert result.patient == pseudonym(b"key", "patient:\x00Rex")
    assert result.study == pseudonym(b"key", "study:1.2.3.0")
    same = decode(archive, listed("same-pixels"), b"key", config)
    assert result.file_hash != same.file_hash


def test_what_a_table_names_comes_before_the_header(archive, config):
    result = decode(archive, listed("Rex/00", ("p", "s", "LLAT")), b"key", config)
    assert result.patient == pseudonym(b"key", "patient:p")
    assert result.view.projection == "LLAT"
    assert result.view.facts["projection_source"] == "table"
    assert result.view.laterality == ""
    sided = decode(archive, listed("Rex/00", ("p", "s", "CC"), "L"), b"key", config)
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
    assert decode(archive, listed(path), b"key", config).code == code


def test_no_tasks_start_no_worker(archive, config):
    assert decoded(archive, [], config) == []
