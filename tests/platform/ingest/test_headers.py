"""Blocks of rows: found again when the archive grows, and joined with the version before."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from vetdino.platform.archive.discovery import DecodeTask, ListedFile, discover
from vetdino.platform.ingest import headers, scanning
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import DecodePool
from vetdino.platform.ingest.headers import block_at, blocks_of, rows_of_archive, scan_block
from vetdino.platform.ingest.output.store import GONE, KNOWN, NEW, FileRow, read_rows
from vetdino.platform.ingest.pseudonyms import unseal
from vetdino.platform.ingest.ranges import Job


def files(*names: str, size: int = 1) -> list[ListedFile]:
    return [ListedFile(DecodeTask(name), size, "1") for name in names]


def joined(now: list[ListedFile], before: list[FileRow] = ()) -> tuple[list[tuple[str, int]], Counter[str]]:
    tally: Counter[str] = Counter()
    rows = list(rows_of_archive(now, iter(before), b"key", tally))
    return [(DecodeTask.from_text(unseal(b"key", row.task)).path, row.state) for row in rows], tally


def known(*names: str, **fields: object) -> list[FileRow]:
    return [replace(row, **fields) for row in rows_of_archive(files(*names), iter(()), b"key", Counter())]


def test_nothing_joined_with_nothing_is_nothing():
    assert joined([]) == ([], Counter())


def test_files_are_new_known_changed_gone_or_read_again():
    assert joined(files("a", "b")) == ([("a", NEW), ("b", NEW)], Counter(new=2))
    assert joined(files("a", "c"), known("a", "b")) == (
        [("a", KNOWN), ("b", GONE), ("c", NEW)],
        Counter(new=1, gone=1),
    )
    assert joined(files("a", size=2), known("a")) == ([("a", GONE), ("a", NEW)], Counter(changed=1))
    assert joined([], known("a", "z")) == ([("a", GONE), ("z", GONE)], Counter(gone=2))
    assert joined(files("a"), known("a", code="DECODER_CRASHED")) == ([("a", NEW)], Counter(again=1))
    assert joined(files("a"), known("a", code="LOW_CONTRAST")) == ([("a", KNOWN)], Counter())


def test_a_new_file_changes_its_own_block_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "BLOCK_FILES", 20)
    names = [f"{number:04d}" for number in range(1000)]

    def blocks(names: list[str]) -> list[str]:
        rows = rows_of_archive(files(*names), iter(()), b"key", Counter())
        return [task.path.name for task in blocks_of(rows, tmp_path)]

    before = blocks(names)
    assert 10 < len(before) < 200
    after = blocks(sorted([*names, "0500x"]))
    assert len(set(before) - set(after)) == 1


def test_a_block_has_a_row_for_each_file_and_is_not_read_twice(archive, tmp_path, config, monkeypatch):
    job = Job(archive, tmp_path, tmp_path / "out", b"key", config, (), {})
    rows = rows_of_archive(discover(archive, tmp_path / "out").entries(), iter(()), b"key", Counter())
    [task] = blocks_of(rows, tmp_path)
    with DecodePool(archive, b"key", config) as pool:
        scan_block(job, pool, task, lambda read, reused: None)
        monkeypatch.setattr(pool, "map", None)
        scan_block(job, pool, task, lambda read, reused: None)
    found = list(read_rows(task.path))
    assert [row.ordinal for row in found] == list(range(20))
    assert Counter(row.code for row in found) == {"": 18, "NOT_DICOM": 1, "NOT_RADIOGRAPH": 1}
    assert len({row.study for row in found if row.study}) == 8
    block = block_at(task.path, start=7)
    assert (block.start, block.files, block.new, block.known) == (7, 20, 18, 0)
    assert not any(b"Rex" in path.read_bytes() for path in tmp_path.glob("*.arrow"))


def deadly(root: Path, chunk: list[ListedFile], secret: bytes, config: IngestConfig) -> list:
    if any(file.task.path.endswith("copy") for file in chunk):
        os._exit(11)
    return scanning.scan_files(root, chunk, secret, config)


def test_a_header_that_ends_its_worker_costs_only_its_file(archive, tmp_path, config, monkeypatch):
    monkeypatch.setattr(headers, "scan_files", deadly)
    job = Job(archive, tmp_path, tmp_path / "out", b"key", config, (), {})
    rows = rows_of_archive(discover(archive, tmp_path / "out").entries(), iter(()), b"key", Counter())
    [task] = blocks_of(rows, tmp_path)
    with DecodePool(archive, b"key", config) as pool:
        scan_block(job, pool, task, lambda read, reused: None)
    crashed = [row for row in read_rows(task.path) if row.code == "DECODER_CRASHED"]
    assert [DecodeTask.from_text(unseal(b"key", row.task)).path for row in crashed] == ["copy"]


def test_a_block_with_a_header_that_may_be_read_now_is_read_again(archive, tmp_path, config, monkeypatch):
    job = Job(archive, tmp_path, tmp_path / "out", b"key", config, (), {})
    rows = rows_of_archive(discover(archive, tmp_path / "out").entries(), iter(()), b"key", Counter())
    [task] = blocks_of(rows, tmp_path)
    with DecodePool(archive, b"key", config) as pool, monkeypatch.context() as patched:
        patched.setattr(headers, "scan_files", deadly)
        scan_block(job, pool, task, lambda read, reused: None)
    assert "DECODER_CRASHED" in {row.code for row in read_rows(task.path)}
    with DecodePool(archive, b"key", config) as pool:
        scan_block(job, pool, task, lambda read, reused: None)
    assert "DECODER_CRASHED" not in {row.code for row in read_rows(task.path)}
