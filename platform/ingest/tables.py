"""Tables of pictures and tables of labels, CSV or Parquet.

An image table names for every picture its file, patient, study, view and findings, as those of CheXpert, NIH or
MIMIC-JPG. A label table names studies and has one column of 0 and 1 for each finding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DataError
from .config import TableConfig
from .projection import projection_of_text

if TYPE_CHECKING:
    import pandas as pd

ALIASES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "image", "image_path", "file_path", "filename", "file_name", "image_index"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "study": ("study", "study_id", "studyid", "study_uid", "study_instance_uid", "studyinstanceuid"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "labels": ("labels", "findings", "finding_labels"),
}
"""Usual names of each column; capitals, spaces and dashes do not matter."""

NEEDED = ("path", "patient", "study")


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One picture of an image table, identifiers in clear text."""

    path: str
    patient: str
    study: str
    projection: str
    labels: Mapping[str, float]


def read_images(path: Path, config: TableConfig) -> tuple[tuple[str, ...], tuple[ImageRow, ...]]:
    """(findings, rows) of an image table; labels are 1.0, 0.0 or NaN for every finding.

    Raises DataError where the table cannot be read, is empty or lacks a column.
    """
    table = _read_table(path)
    columns = {
        name: _find_column(path, table, name, getattr(config, name)) for name in ALIASES if name != "labels"
    }
    if config.labels == "*":
        used = {column for column in columns.values() if column}
        findings, labels = _findings_in_columns(
            table, [column for column in table.columns if column not in used]
        )
    else:
        column = _find_column(path, table, "labels", config.labels)
        findings, labels = _findings_in_texts(list(table[column]) if column else [""] * len(table), config)
    views = table[columns["view"]] if columns["view"] else [""] * len(table)
    rows = zip(
        table[columns["path"]], table[columns["patient"]], table[columns["study"]], views, labels, strict=True
    )
    return findings, tuple(
        ImageRow(file, patient, study, projection_of_text(view), values)
        for file, patient, study, view, values in rows
    )


def read_labels(path: Path) -> tuple[tuple[str, ...], Mapping[str, Mapping[str, float]]]:
    """(findings, labels of each study) of a label table.

    It holds a `study` column with StudyInstanceUIDs and a column of 1, 0, -1 (unknown) or nothing for each
    finding; other columns are ignored. Raises DataError where the table cannot be read, has no study
    column or no finding.
    """
    table = _read_table(path)
    study = _find_column(path, table, "study", "")
    findings, labels = _findings_in_columns(table, [column for column in table.columns if column != study])
    if not findings:
        raise DataError(f"{path}: no column of 0 and 1 beside '{study}'; found {', '.join(table.columns)}")
    return findings, dict(zip(table[study], labels, strict=True))


def _read_table(path: Path) -> pd.DataFrame:
    """The table with all cells as text, "" where there is nothing. Raises DataError."""
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            table = table.astype(object).where(table.notna(), "").astype(str)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; give an existing CSV or Parquet file") from None
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        raise DataError(f"{path}: not a readable CSV or Parquet table ({type(error).__name__})") from None
    if table.empty:
        raise DataError(f"{path}: a table without rows")
    return table.apply(lambda column: column.str.strip())


def _find_column(path: Path, table: pd.DataFrame, name: str, configured: str) -> str:
    """The column for `name`: the configured one, else one of the usual names; empty where an optional one is absent.

    Raises DataError.
    """
    if configured:
        if configured in table.columns:
            return configured
        raise DataError(
            f"{path}: no column '{configured}'; found {', '.join(table.columns)}; change --table.{name}"
        )
    by_name = {re.sub(r"\W+", "_", column.strip().lower()): column for column in reversed(table.columns)}
    match = next((by_name[alias] for alias in ALIASES[name] if alias in by_name), "")
    if not match and name in NEEDED:
        raise DataError(
            f"{path}: no column for the {name}; found {', '.join(table.columns)}; name it with --table.{name}"
        )
    return match


def _findings_in_texts(
    texts: list[str], config: TableConfig
) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """(findings, labels of each row) from one text a row, such as `Pneumonia|Effusion`."""
    absent = {word.casefold() for word in config.absent}
    unknown = {word.casefold() for word in config.unknown}
    separator = re.compile(f"[{re.escape(config.separators)}]") if config.separators else re.compile(r"(?!)")
    listed = [[word.strip() for word in separator.split(text) if word.strip()] for text in texts]
    present = [{word for word in words if word.casefold() not in absent | unknown} for words in listed]
    findings = tuple(sorted(set().union(*present)))
    labels = []
    for words, row_findings in zip(listed, present, strict=True):
        is_unknown = not row_findings and not any(word.casefold() in absent for word in words)
        labels.append(
            {finding: math.nan if is_unknown else float(finding in row_findings) for finding in findings}
        )
    return findings, labels


_VALUES = {"1": 1.0, "1.0": 1.0, "True": 1.0, "0": 0.0, "0.0": 0.0, "False": 0.0}
_UNKNOWN = {"", "-1", "-1.0", "nan", "None"}


def _findings_in_columns(
    table: pd.DataFrame, columns: list[str]
) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """(findings, labels of each row): the columns of only 1, 0, -1 (unknown) or nothing, with at least one 1 or 0."""
    values = {column: set(table[column]) for column in columns}
    findings = tuple(
        column
        for column in columns
        if values[column] <= _VALUES.keys() | _UNKNOWN and values[column] & _VALUES.keys()
    )
    cells = [[_VALUES.get(cell, math.nan) for cell in table[finding]] for finding in findings]
    return findings, [
        dict(zip(findings, row, strict=True))
        for row in (zip(*cells, strict=True) if cells else [()] * len(table))
    ]
