"""Rows about files, in Arrow files on disk: written whole, streamed, and sorted without all of them in memory.

A row knows its file only under seal (`pseudonyms.seal`): paths may name a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from ...core.files import atomic_path

BATCH_ROWS = 1024
"""Rows that are read at once from a file of rows."""

RUN_ROWS = 1 << 14
"""Rows that are sorted in memory."""

RUN_BATCH = 64
"""Rows of each sorted run that a merge holds: 6,000 runs are 100 million rows, 120 MB of them in memory."""

NEW, KNOWN, GONE = 0, 1, 2
"""States of a row: its file is to be decoded; what became of it is known; it was in the archive once."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file of an archive, and what became of it. Patients and studies are pseudonyms.

    task: the sealed DecodeTask. ordinal: place in the archive's order. estimate: bytes of its stored view, at most.
    route: where it is sorted in: its study, or a hash of its own where it names none. split, shard, view: where its
    view is, the view's index in its study; -1 for none. dhash: `difference_hash` of its picture. labels: hash of its
    study's labels.
    """

    task: bytes
    size: int = -1
    stamp: str = ""
    ordinal: int = -1
    state: int = NEW
    estimate: int = 0
    route: str = ""
    code: str = ""
    detail: str = ""
    study: str = ""
    patient: str = ""
    file_hash: str = ""
    pixel_hash: str = ""
    dhash: str = ""
    split: str = ""
    shard: str = ""
    view: int = -1
    labels: str = ""
    labelled: bool = False


SCHEMA = pa.schema(
    [
        (
            field.name,
            {"bytes": pa.binary(), "int": pa.int64(), "str": pa.string(), "bool": pa.bool_()}[
                str(field.type)
            ],
        )
        for field in fields(FileRow)
    ]
)


class RowWriter:
    """Writes rows to a file that appears whole, or not at all where its `with` block fails."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._pending: list[FileRow] = []
        self._whole = atomic_path(path)
        self._file = pa.ipc.new_file(str(self._whole.__enter__()), SCHEMA)

    def write(self, row: FileRow) -> None:
        """Appends one row."""
        self._pending.append(row)
        if len(self._pending) == BATCH_ROWS:
            self._flush()

    def write_table(self, table: pa.Table, batch: int = BATCH_ROWS) -> None:
        """Appends a table of rows."""
        self._flush()
        self.rows += table.num_rows
        self._file.write_table(table, max_chunksize=batch)

    def _flush(self) -> None:
        if self._pending:
            rows, self._pending = self._pending, []
            self.write_table(table_of(rows))

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._file.close()
        except BaseException as refused:
            self._whole.__exit__(type(refused), refused, refused.__traceback__)
            raise
        self._whole.__exit__(kind, error, trace)


def table_of(rows: Sequence[FileRow]) -> pa.Table:
    """The rows as a table."""
    return pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, SCHEMA)


def rows_of(table: pa.Table | pa.RecordBatch) -> Iterator[FileRow]:
    """The rows of a table."""
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    return (FileRow(*values) for values in zip(*columns, strict=True))


def read_tables(path: Path) -> Iterator[pa.Table]:
    """The rows of a file, in tables of at most BATCH_ROWS."""
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])


def read_rows(path: Path) -> Iterator[FileRow]:
    """The rows of a file, one after another."""
    for table in read_tables(path):
        yield from rows_of(table)


class Sorter:
    """Any number of rows in the order of a key, then of `ordinal`: sorted runs on disk, merged an interval at a time.

    In memory are RUN_ROWS rows while they are added, and RUN_BATCH rows of each run while they are merged.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.rows = 0
        self._folder, self._key = folder, key
        self._pending: list[pa.Table] = []
        self._runs: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, table: pa.Table) -> None:
        """Adds a table of rows."""
        self.rows += table.num_rows
        self._pending.append(table)
        if sum(part.num_rows for part in self._pending) >= RUN_ROWS:
            self._write_run()

    def intervals(self, bounds: Sequence[str | int]) -> Iterator[pa.Table]:
        """For each bound a table of the rows below it and not below the bound before; the last has all the rest."""
        self._write_run()
        runs = [_Run(path, self._key) for path in self._runs]
        for bound in [*bounds[:-1], None]:
            parts = [part for run in runs for part in run.below(bound)]
            yield self._sorted(pa.concat_tables(parts) if parts else SCHEMA.empty_table())
        for path in self._runs:
            path.unlink()

    def _sorted(self, table: pa.Table) -> pa.Table:
        return table.sort_by([(key, "ascending") for key in dict.fromkeys((self._key, "ordinal"))])

    def _write_run(self) -> None:
        if self._pending:
            table, self._pending = pa.concat_tables(self._pending), []
            path = self._folder / f"{self._key}-{len(self._runs):06d}.arrow"
            with RowWriter(path) as writer:
                writer.write_table(self._sorted(table), RUN_BATCH)
            self._runs.append(path)


class _Run:
    """A sorted file of rows that is taken from its start. It is closed between reads: there may be thousands."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._next = 0
        self._rest: pa.Table | None = None

    def below(self, bound: str | int | None) -> Iterator[pa.Table]:
        while (table := self._rest or self._read()) is not None:
            count = table.num_rows if bound is None else pc.sum(pc.less(table[self._key], bound)).as_py()
            if count:
                yield table.slice(0, count)
            self._rest = table.slice(count) if count < table.num_rows else None
            if self._rest is not None:
                return

    def _read(self) -> pa.Table | None:
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            if self._next == reader.num_record_batches:
                return None
            self._next += 1
            return pa.Table.from_batches([reader.get_batch(self._next - 1)])


def hex_bounds(count: int) -> list[str]:
    """Upper bounds of `count` equal intervals of hexadecimal hashes, as texts; g comes after every digit.

    >>> hex_bounds(2)
    ['80000000', 'g0000000']
    """
    return [*(f"{number * 16**8 // count:08x}" for number in range(1, count)), "g0000000"]


def intervals_for(rows: int) -> int:
    """How many equal intervals of a hash leave about RUN_ROWS / 2 rows in each."""
    return max(1, 2 * rows // RUN_ROWS)
