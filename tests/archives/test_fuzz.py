"""Damaged and malicious files: no crash of the run, no hang, bounded memory, and every file accounted for.

FUZZ_CASES=10000 python -m pytest tests/archives/test_fuzz.py -s
"""

from __future__ import annotations

import csv
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.archives.mutations import bombs, generated, mutated, mutated_container
from tests.archives.test_conformance import DATA
from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.archive.discovery import DecodeTask, ListedFile, discover
from vetdino.platform.dicom.header import CODES
from vetdino.platform.ingest.assembly import QUARANTINE
from vetdino.platform.ingest.decoding import decode
from vetdino.platform.ingest.ingest import ingest

CASES = int(os.environ.get("FUZZ_CASES", "200"))

BATCH = 500
"""Files of one run of ingest."""

MEMORY_GIB = 1.0

OWN_MEMORY_GIB = 0.7
"""What a worker has before its first file: libraries; address space that is resident later."""

pytestmark = pytest.mark.slow


def real_files() -> list[bytes]:
    """Small real files, where they lie beside the checkout and many cases are asked for: CI has none."""
    if CASES <= 200 or not DATA.is_dir():
        return []
    files = [path for path in sorted(DATA.rglob("*")) if path.is_file() and path.stat().st_size < 300_000]
    return [path.read_bytes() for path in files]


@contextmanager
def peak_of_children() -> Iterator[list[float]]:
    """Yields a list that holds the most GiB that any process below this one had resident inside of the block."""
    peak, is_over = [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            peak[0] = max([peak[0], *(resident(pid) for pid in descendants(os.getpid()))])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()


def descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def resident(pid: int) -> float:
    """Most GiB that a process ever had resident; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next(
        (int(line.split()[1]) / 2**20 for line in status.splitlines() if line.startswith("VmHWM")), 0.0
    )


def write_good(folder: Path) -> None:
    """Three files of three studies, so that there is something to write."""
    for number in range(3):
        write_dicom(folder / f"good{number}", f"P{number}", f"1.2.{number}", number)


def rows_of(out: Path) -> list[dict[str, str]]:
    """The rows of the quarantine table; in a damaged container a path may stand twice."""
    with open(out / QUARANTINE, newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def quarantined(out: Path) -> dict[str, str]:
    """Path -> code, where each path stands once."""
    rows = rows_of(out)
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row["code"] for row in rows}


def test_damaged_files_are_refused_one_by_one(tmp_path, config):
    config = replace(config, min_views=1, timeout_s=20, memory_gib=MEMORY_GIB)
    real, codes, begun = real_files(), Counter[str](), time.monotonic()
    worst = 0.0
    for start in range(0, CASES, BATCH):
        folder, out = tmp_path / f"in{start}", tmp_path / f"out{start}"
        write_good(folder)
        numbers = range(start, min(CASES, start + BATCH))
        for number in numbers:
            (folder / str(number)).write_bytes(mutated(number, real))
        tasks = list(discover(folder, out).entries())  # a change may make an index of a medium of a file
        with peak_of_children() as peak:
            manifest = ingest(folder, out, config)
        worst = max(worst, peak[0])
        assert peak[0] < MEMORY_GIB + OWN_MEMORY_GIB
        assert manifest.counts["files"] == len(tasks)
        assert manifest.counts["views"] >= 3
        refused = quarantined(out)
        assert set(refused.values()) <= set(CODES)
        assert len(refused) + manifest.counts["views"] == len(tasks)
        codes.update(refused.values())
        codes["view"] += manifest.counts["views"] - 3
    seconds = time.monotonic() - begun
    print(f"\n{CASES} files: {codes.most_common()}, {seconds:.0f} s, a worker's peak {worst:.2f} GiB")
    assert codes["DECODER_CRASHED"] <= CASES / 200
    assert len(codes) > 8


def test_bombs_are_refused(tmp_path, config):
    config = replace(config, min_views=1, timeout_s=30, memory_gib=MEMORY_GIB)
    folder = tmp_path / "in"
    write_good(folder)
    for name, data in bombs().items():
        (folder / name).write_bytes(data)
    with peak_of_children() as peak:
        manifest = ingest(folder, tmp_path / "out", config)
    assert peak[0] < MEMORY_GIB + OWN_MEMORY_GIB
    refused = quarantined(tmp_path / "out")
    assert manifest.counts["views"] == 3
    expected = {
        "deflate": {"UNREADABLE_HEADER"},
        "rle": {"DECODE_FAILED", "TRUNCATED_PIXEL_DATA"},
        "sequences": {"UNREADABLE_HEADER"},
        "values": {"NO_PIXEL_DATA"},
        "zip": {"OVERSIZED_MEMBER"},
        "nested!/inner.zip": {"NESTED_CONTAINER"},
    }
    assert set(refused) == set(expected)
    assert {path: code for path, code in refused.items() if code not in expected[path]} == {}


def test_damaged_containers_lose_nothing_in_silence(tmp_path, config):
    config = replace(config, min_views=1, timeout_s=20, memory_gib=MEMORY_GIB)
    for start in range(0, max(40, CASES // 10), BATCH):
        folder, out = tmp_path / f"in{start}", tmp_path / f"out{start}"
        write_good(folder)
        numbers = range(start, min(max(40, CASES // 10), start + BATCH))
        for number in numbers:
            mutated_container(number, folder / f"c{number}")
        tasks = list(discover(folder, out).entries())
        assert {entry.task.file for entry in tasks} == {path.name for path in folder.iterdir()}
        manifest = ingest(folder, out, config)
        assert manifest.counts["files"] == len(tasks)
        assert len(rows_of(out)) == len(tasks) - manifest.counts["views"]


@pytest.mark.parametrize("number", range(16))
def test_the_files_that_are_damaged_were_whole(tmp_path, config, number):
    (tmp_path / "x").write_bytes(generated()[number])
    code = decode(tmp_path, ListedFile(DecodeTask("x")), b"key", config).code
    assert code == ("NOT_RADIOGRAPH" if number == 14 else "")
