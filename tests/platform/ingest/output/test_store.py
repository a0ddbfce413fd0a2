"""Rows on disk: whole or not at all, and sorted in any number."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from vetdino.platform.ingest.output import store
from vetdino.platform.ingest.output.store import (
    SCHEMA,
    FileRow,
    RowWriter,
    Sorter,
    hex_bounds,
    intervals_for,
    read_rows,
    read_tables,
    rows_of,
    table_of,
)

ROW = FileRow(
    b"\0sealed", 12, "345", 6, 1, 78, "r", "C", "d", "s", "p", "f", "x", "h", "train", "t.tar", 2, "l", True
)


def test_a_file_of_no_rows_has_none(tmp_path):
    with RowWriter(tmp_path / "r.arrow") as writer:
        pass
    assert (list(read_rows(tmp_path / "r.arrow")), writer.rows) == ([], 0)


def test_rows_come_back_as_they_were(tmp_path):
    rows = [replace(ROW, ordinal=number) for number in range(2500)]
    with RowWriter(tmp_path / "r.arrow") as writer:
        for row in rows:
            writer.write(row)
    assert writer.rows == 2500
    assert list(read_rows(tmp_path / "r.arrow")) == rows
    assert max(table.num_rows for table in read_tables(tmp_path / "r.arrow")) == store.BATCH_ROWS
    assert list(rows_of(table_of(rows[:3]))) == rows[:3]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def rows():
        yield ROW
        raise KeyError

    def write() -> None:
        with RowWriter(tmp_path / "r.arrow") as writer:
            for row in rows():
                writer.write(row)

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_nothing_sorted_is_nothing(tmp_path):
    [table] = Sorter(tmp_path, "route").intervals(hex_bounds(1))
    assert (table.num_rows, table.schema) == (0, SCHEMA)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_rows_come_by_key_in_the_interval_that_they_belong_to(tmp_path, monkeypatch, count):
    monkeypatch.setattr(store, "RUN_ROWS", 50)
    monkeypatch.setattr(store, "RUN_BATCH", 7)
    random = Random(count)
    rows = [
        FileRow(b"", ordinal=number, route=f"{random.randrange(16**3):03x}" + "0" * 21)
        for number in range(1000)
    ]
    sorter = Sorter(tmp_path, "route")
    for start in range(0, 1000, 30):
        sorter.add(table_of(rows[start : start + 30]))
    bounds = hex_bounds(count)
    tables = list(sorter.intervals(bounds))
    assert len(tables) == count
    found = [list(rows_of(table)) for table in tables]
    assert [row for part in found for row in part] == sorted(rows, key=lambda row: (row.route, row.ordinal))
    for low, high, part in zip(["", *bounds], bounds, found, strict=False):
        assert all(low <= row.route < high for row in part)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_sorted_by_number_too(tmp_path):
    sorter = Sorter(tmp_path, "ordinal")
    sorter.add(table_of([FileRow(b"", ordinal=number) for number in (5, 1, 9, 0)]))
    tables = sorter.intervals([5, 10])
    assert [[row.ordinal for row in rows_of(table)] for table in tables] == [[0, 1], [5, 9]]


def test_intervals_hold_half_a_run():
    assert intervals_for(10) == 1
    assert intervals_for(store.RUN_ROWS * 4) == 8
