"""Tables of pictures and tables of labels, CSV or Parquet, as rows that ingest understands.

An image table names for every picture its file, patient, study, view and findings, the way CheXpert, NIH or
MIMIC-JPG come. A label table names studies and holds one column of 0 and 1 for each finding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DataError
from .dicom import projection_of_text

if TYPE_CHECKING:
    import pandas as pd

ALIASES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "image", "image_path", "file_path", "filename", "file_name", "image_index"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "study": ("study", "study_id", "studyid", "study_uid", "study_instance_uid", "studyinstanceuid"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "labels": ("labels", "findings", "finding_labels"),
}
"""Names under which each column is found by itself; capitals, spaces and dashes do not matter."""

NEEDED = ("path", "patient", "study")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Which columns of an image table mean what; an empty name is looked for among the usual ones."""

    path: str = ""
    """Column of the picture's file, relative to the table's folder."""
    patient: str = ""
    """Column of the patient; no patient is ever divided between splits."""
    study: str = ""
    """Column of the study; views of one study form pairs."""
    view: str = ""
    """Column of the projection (AP, PA, LATERAL, VD, ...)."""
    labels: str = ""
    """Column of the findings as one text, or `*`: every other column that holds only 1, 0, -1 or nothing."""
    separators: str = "|,;"
    """Each of these characters divides two findings of one text."""
    absent: tuple[str, ...] = ("No Finding", "Normal", "No Fracture")
    """Texts that mean: examined, and every finding of the table is absent."""
    unknown: tuple[str, ...] = ("unlabelled", "unlabeled", "unknown")
    """Texts that mean, as nothing at all does: every finding is unknown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of an image table, identifiers in clear."""

    path: str
    patient: str
    study: str
    projection: str
    labels: Mapping[str, float]


def read_images(path: Path, config: TableConfig) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """(findings, rows) of an image table; labels are 1.0, 0.0 or NaN for every finding.

    Raises DataError where the table cannot be read, is empty or lacks a column.
    """
    table = _table(path)
    columns = {
        name: _column(path, table, name, getattr(config, name)) for name in ALIASES if name != "labels"
    }
    if config.labels == "*":
        used = {column for column in columns.values() if column}
        findings, labels = _flags(table, [column for column in table.columns if column not in used])
    else:
        column = _column(path, table, "labels", config.labels)
        findings, labels = _spelled(list(table[column]) if column else [""] * len(table), config)
    views = table[columns["view"]] if columns["view"] else [""] * len(table)
    rows = zip(
        table[columns["path"]], table[columns["patient"]], table[columns["study"]], views, labels, strict=True
    )
    return findings, tuple(
        Row(file, patient, study, projection_of_text(view), values)
        for file, patient, study, view, values in rows
    )


def read_labels(path: Path) -> tuple[tuple[str, ...], Mapping[str, Mapping[str, float]]]:
    """(findings, labels of each study) of a label table.

    It holds a `study` column with StudyInstanceUIDs and a column of 1, 0, -1 (unknown) or nothing for each
    finding; other columns are passed over. Raises DataError where the table cannot be read, has no study
    column or no finding.
    """
    table = _table(path)
    study = _column(path, table, "study", "")
    findings, labels = _flags(table, [column for column in table.columns if column != study])
    if not findings:
        raise DataError(f"{path}: no column of 0 and 1 beside '{study}'; found {', '.join(table.columns)}")
    return findings, dict(zip(table[study], labels, strict=True))


def _table(path: Path) -> pd.DataFrame:
    """All cells as text, an empty one where there is nothing."""
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


def _column(path: Path, table: pd.DataFrame, name: str, wanted: str) -> str:
    """The column that means `name`, empty where it is absent and can be done without. Raises DataError."""
    if wanted:
        if wanted in table.columns:
            return wanted
        raise DataError(
            f"{path}: no column '{wanted}'; found {', '.join(table.columns)}; change --table.{name}"
        )
    plain = {re.sub(r"\W+", "_", column.strip().lower()): column for column in reversed(table.columns)}
    found = next((plain[alias] for alias in ALIASES[name] if alias in plain), "")
    if not found and name in NEEDED:
        raise DataError(
            f"{path}: no column for the {name}; found {', '.join(table.columns)}; name it with --table.{name}"
        )
    return found


def _spelled(texts: list[str], config: TableConfig) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """Findings written as one text a row, e.g. `Pneumonia|Effusion`."""
    absent = {word.casefold() for word in config.absent}
    unknown = {word.casefold() for word in config.unknown}
    divide = re.compile(f"[{re.escape(config.separators)}]") if config.separators else re.compile(r"(?!)")
    spelled = [[word.strip() for word in divide.split(text) if word.strip()] for text in texts]
    named = [{word for word in words if word.casefold() not in absent | unknown} for words in spelled]
    findings = tuple(sorted(set().union(*named)))
    labels = []
    for words, present in zip(spelled, named, strict=True):
        silent = not present and not any(word.casefold() in absent for word in words)
        labels.append({finding: math.nan if silent else float(finding in present) for finding in findings})
    return findings, labels


_VALUES = {"1": 1.0, "1.0": 1.0, "True": 1.0, "0": 0.0, "0.0": 0.0, "False": 0.0}
_UNKNOWN = {"", "-1", "-1.0", "nan", "None"}


def _flags(table: pd.DataFrame, columns: list[str]) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """Those of the columns that hold only 1, 0, -1 (unknown) or nothing, and not nothing throughout."""
    known = set(_VALUES) | _UNKNOWN
    seen = {column: set(table[column]) for column in columns}
    findings = tuple(column for column in columns if seen[column] <= known and seen[column] & set(_VALUES))
    cells = [[_VALUES.get(cell, math.nan) for cell in table[finding]] for finding in findings]
    return findings, [
        dict(zip(findings, row, strict=True))
        for row in (zip(*cells, strict=True) if cells else [()] * len(table))
    ]
