"""Ranges of studies: each study whole in one, whatever the number of ranges and of sorted runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from vetdino.platform.data.config import ShardConfig
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.cut import cut_ranges, range_count
from vetdino.platform.ingest.headers import Block, block_at
from vetdino.platform.ingest.output import store
from vetdino.platform.ingest.output.store import KNOWN, NEW, FileRow, RowWriter, read_rows
from vetdino.platform.ingest.pseudonyms import pseudonym
from vetdino.platform.ingest.ranges import Job


def job(folder: Path, max_bytes: int = 1000) -> Job:
    config = IngestConfig(shards=ShardConfig(max_bytes=max_bytes))
    return Job(
        folder, folder, folder / "out", b"key", config, ("mass",), {pseudonym(b"key", "3"): {"mass": 1.0}}
    )


def block(path: Path, rows: list[FileRow], start: int = 0) -> Block:
    with RowWriter(path) as writer:
        for number, row in enumerate(rows):
            writer.write(replace(row, ordinal=number))
    return block_at(path, start)


def row(study: int, **fields: object) -> FileRow:
    name = pseudonym(b"key", str(study))
    return FileRow(**{"task": b"", "route": name, "study": name, "estimate": 400, **fields})


def test_an_archive_of_refused_files_has_no_range(tmp_path):
    cut = cut_ranges(job(tmp_path), [block(tmp_path / "b", [row(1, code="NOT_DICOM")])], (), "")
    assert (cut.ranges, cut.studies) == ((), 0)


@pytest.mark.parametrize("run_rows", [16, 1 << 15])
def test_a_study_is_whole_in_one_range_and_its_files_in_order(tmp_path, monkeypatch, run_rows):
    monkeypatch.setattr(store, "RUN_ROWS", run_rows)
    random = Random(0)
    rows = [row(random.randrange(60)) for _ in range(500)]
    blocks = [
        block(tmp_path / "1", rows[:200]),
        block(tmp_path / "2", [*rows[200:], row(61, code="NOT_RADIOGRAPH")], start=200),
    ]
    cut = cut_ranges(job(tmp_path), blocks, (), "")
    assert 10 < len(cut.ranges) <= range_count(500 * 400, 500, 1000) == 16  # some have no study
    found = [list(read_rows(task.rows)) for task in cut.ranges]
    assert Counter(r.route for part in found for r in part) == Counter(r.route for r in rows)
    assert sum(len({r.route for r in part}) for part in found) == cut.studies
    assert cut.labelled == 1
    for part, task in zip(found, cut.ranges, strict=True):
        low, high = task.bounds
        assert all(low <= r.route < high for r in part)
        assert part == sorted(part, key=lambda r: (r.route, r.ordinal))
    ordinals = sorted(r.ordinal for part in found for r in part)
    assert ordinals == list(range(500))


def test_the_name_of_a_range_changes_with_what_its_result_depends_on(tmp_path):
    def name(rows: list[FileRow], digest: str) -> str:
        [task] = cut_ranges(job(tmp_path, 10**6), [block(tmp_path / "b", rows)], (), digest).ranges
        return task.name

    names = {name([row(1)], "x"), name([row(1)], "x"), name([row(1)], "y"), name([row(1, stamp="2")], "x")}
    assert len(names) == 3


def test_a_duplicate_without_its_first_view_is_decoded_again(tmp_path):
    rows = [
        row(1, state=KNOWN, code="DUPLICATE", pixel_hash="a"),
        row(2, state=KNOWN, code="DUPLICATE", pixel_hash="b"),
    ]
    [task] = cut_ranges(job(tmp_path, 10**6), [block(tmp_path / "b", rows)], {"b"}, "").ranges
    assert {r.pixel_hash: r.state for r in read_rows(task.rows)} == {"a": KNOWN, "b": NEW}
