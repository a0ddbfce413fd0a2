"""Reads the CSV tables that people write to name their data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ...platform.core.errors import DataError


def read_csv_rows(
    table: Path, row_of: str, required: Sequence[str], optional: Sequence[str]
) -> list[dict[str, str]]:
    """Rows as column -> value, without spaces around either; column names in lower case.

    row_of: what a row describes ("scan"), for the error. Raises DataError where the table cannot be read, has no
    row, or lacks a required column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                {(key or "").strip().casefold(): (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a readable CSV table ({type(error).__name__})") from None
    if not rows:
        columns = ",".join([*required, *optional])
        raise DataError(f"{table}: a table without rows; write one for each {row_of}: {columns}")
    for name in required:
        if name not in rows[0]:
            raise DataError(f"{table}: no column '{name}'; found {', '.join(rows[0])}")
    return rows
