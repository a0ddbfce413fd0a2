"""Tables of pictures and tables of labels, CSV or Parquet.

An image table names for every picture its file, patient, study, view and findings, as that of MIMIC-JPG, or that of
NIH or CheXpert with columns for patient and study. A label table names studies and has a column of labels for each
finding.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..dicom.projection import laterality_of_text, view_of_text
from .config import TableConfig

log = logging.getLogger(__name__)

ALIASES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "image", "image_path", "file_path", "filename", "file_name", "image_index"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "study": ("study", "study_id", "studyid", "study_uid", "study_instance_uid", "studyinstanceuid"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "laterality": ("laterality", "image_laterality", "imagelaterality"),
    "labels": ("labels", "findings", "finding_labels"),
}
"""Usual names of each column; capitals, spaces and dashes do not matter."""

NEEDED = ("path", "patient", "study")

MISSING = frozenset(
    ("", "-", "?", "na", "n/a", "#n/a", "nan", "nat", "<na>", "null", "\\n", "none", "unknown"),
)
"""Texts, in lower case, that stand for no value."""

ANSWERS = {"true": 1.0, "yes": 1.0, "y": 1.0, "false": 0.0, "no": 0.0, "n": 0.0}
"""Words for present and absent, in lower case."""

NUMBERS = {1.0: 1.0, 0.0: 0.0, -1.0: math.nan}
"""Numbers that are labels: present, absent, uncertain."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)

Labels = Mapping[str, float]
"""Finding -> 1.0 present, 0.0 absent, NaN unknown."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One picture of an image table, identifiers in clear text, empty where the table has none."""

    path: str
    patient: str
    study: str
    projection: str
    laterality: str
    labels: Labels


@dataclass(frozen=True, slots=True, eq=False)
class TextTable:
    """Cells as text without outer blanks.

    columns: name -> cells. rows: the number of each row; in a CSV the header is row 1, in Parquet the first row is.
    """

    path: Path
    columns: dict[str, list[str]]
    rows: Sequence[int]


def read_images(path: Path, config: TableConfig) -> tuple[tuple[str, ...], tuple[ImageRow, ...]]:
    """(findings, rows) of an image table; labels are 1.0, 0.0 or NaN for every finding.

    Raises DataError where the table cannot be read, is empty, lacks a column, holds something that is no label in a
    column of labels, or has no finding where `config.labels` names some.
    """
    table = _read_table(path)
    columns = {name: _find_column(table, name, getattr(config, name, "")) for name in ALIASES}
    if config.labels:
        used = {column for name, column in columns.items() if name != "labels"}
        findings, labels = _configured_findings(table, config, used)
    elif columns["labels"]:
        findings, labels = _findings_in(table, columns["labels"], config)
    else:
        findings, labels = (), [{}] * len(table.rows)
    nothing = [""] * len(table.rows)
    paths, patients, studies, views, sides = (
        table.columns[columns[name]] if columns[name] else nothing
        for name in ("path", "patient", "study", "view", "laterality")
    )
    rows = []
    for number, file, view, side, patient, study, values in zip(
        table.rows, paths, views, sides, patients, studies, labels, strict=True
    ):
        projection, laterality = view_of_text(view)
        column_laterality = laterality_of_text(side)
        if laterality and column_laterality and laterality != column_laterality:
            raise DataError(
                f"{path}: row {number}: laterality is {column_laterality}, but the view names {laterality}; correct one"
            )
        rows.append(
            ImageRow(
                file,
                _identifier(patient),
                _identifier(study),
                projection,
                laterality or column_laterality,
                values,
            )
        )
    return findings, tuple(rows)


def read_labels(
    path: Path, config: TableConfig, by_patient: bool = False
) -> tuple[tuple[str, ...], Mapping[str, Labels]]:
    """(findings, labels of each study) of a label table.

    It holds a `study` column with StudyInstanceUIDs, or with the studies of an image table, and a column of labels
    for each finding: 1, 0, yes or no, -1 or nothing where unknown. Other columns are ignored unless `config.labels`
    names them. Rows of one study are merged. by_patient: studies are named by `patient_study`, which needs a column of
    patients.

    Raises DataError where the table cannot be read, lacks a column, has no finding, names no study, or holds
    something that is no label in a column of labels.
    """
    table = _read_table(path)
    study = _find_column(table, "study", config.study if config.study in table.columns else "")
    patient = _find_column(
        table, "patient", config.patient if config.patient in table.columns else "", needed=by_patient
    )
    others = {_find_column(table, name, "", needed=False) for name in ("path", "view", "laterality")}
    findings, labels = _configured_findings(table, config, {study, patient, *others})
    names = [_identifier(cell) for cell in table.columns[study]]
    if by_patient:
        patients = map(_identifier, table.columns[patient])
        names = [patient_study(*pair) if all(pair) else "" for pair in zip(patients, names, strict=True)]
    merged = merged_labels((name, values) for name, values in zip(names, labels, strict=True) if name)
    if not merged:
        raise DataError(f"{path}: column '{study}' names no study; give the study of each row")
    return findings, merged


def merged_labels(rows: Iterable[tuple[str, Labels]]) -> dict[str, dict[str, float]]:
    """Study -> labels from one or several (study, labels): present in one row is present, else absent in one is absent.

    >>> merged_labels([("s", {"mass": 0.0}), ("s", {"mass": 1.0}), ("s", {"mass": math.nan})])
    {'s': {'mass': 1.0}}
    """
    merged: dict[str, dict[str, float]] = {}
    for study, labels in rows:
        known = merged.setdefault(study, {})
        for finding, value in labels.items():
            known[finding] = float(np.fmax(known.get(finding, math.nan), value))
    return merged


def patient_study(patient: str, study: str) -> str:
    """The name of a study whose number means something for its patient only."""
    return f"{patient}\0{study}"


def studies_restart(pairs: Collection[tuple[str, str]]) -> bool:
    """Whether study names start anew for each patient: most rows' study is a study of several patients, too.

    pairs: (patient, study) of each row that has both.

    >>> studies_restart([("p", "1"), ("p", "2"), ("q", "1"), ("q", "2")])
    True
    """
    patients = Counter(study for _, study in set(pairs))
    return 2 * sum(patients[study] > 1 for _, study in pairs) > len(pairs)


def _read_table(path: Path) -> TextTable:
    """The table, rows without any text left out. Raises DataError."""
    try:
        header, numbered = _parquet_cells(path) if path.suffix.lower() == ".parquet" else _csv_cells(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; give an existing CSV or Parquet file") from None
    except (ValueError, OSError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"{path}: not a readable CSV or Parquet table ({type(error).__name__})") from None
    if not numbered:
        raise DataError(f"{path}: a table without rows")
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DataError(
            f"{path}: {header.count(twice[0])} columns '{twice[0]}'; each needs a name of its own"
        )
    rows, cells = zip(*numbered, strict=True)
    columns = dict(zip(header, map(list, zip(*cells, strict=True)), strict=True))
    columns.pop("", None)  # the row numbers that pandas writes
    return TextTable(path, columns, rows)


def _csv_cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(header, (row number, cells) of each row) of a CSV file, compressed where its name says so.

    csv and not pandas, which fills short rows up and takes the first column for row names where rows are too long.
    Raises DataError for a row of another length, csv.Error for an open quote.
    """
    import fsspec

    header: list[str] = []
    numbered = []
    with fsspec.open(str(path), "rt", compression="infer", encoding="utf-8-sig", newline="") as file:
        for number, cells in enumerate(csv.reader(file, strict=True), start=1):
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                continue
            extra = cells[len(header) :]
            if len(cells) < len(header) or any(extra):
                raise DataError(
                    f"{path}: row {number} has {len(cells)} cells, the header {len(header)}; correct that row"
                )
            numbered.append((number, cells[: len(header)]))
    return header, numbered


def _parquet_cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(header, (row number, cells) of each row) of a Parquet file."""
    import pandas as pd

    table = pd.read_parquet(path)
    table = table.astype(object).where(table.notna(), "").astype(str)
    rows = ([cell.strip() for cell in row] for row in table.itertuples(index=False, name=None))
    numbered = [(number, cells) for number, cells in enumerate(rows, start=1) if any(cells)]
    return [str(column).strip() for column in table.columns], numbered


def _find_column(table: TextTable, name: str, configured: str, needed: bool | None = None) -> str:
    """The column for `name`: the configured one, else one of the usual names; empty where an optional one is absent.

    Raises DataError.
    """
    present = ", ".join(table.columns)
    if configured and name != "labels":
        if configured in table.columns:
            return configured
        raise DataError(f"{table.path}: no column '{configured}'; found {present}; change --table.{name}")
    by_name = {re.sub(r"\W+", "_", column.lower()): column for column in reversed(table.columns)}
    match = next((by_name[alias] for alias in ALIASES[name] if alias in by_name), "")
    if not match and (name in NEEDED if needed is None else needed):
        raise DataError(
            f"{table.path}: no column for the {name}; found {present}; name it with --table.{name}"
        )
    return match


def _identifier(cell: str) -> str:
    return "" if cell.casefold() in MISSING else cell


def _configured_findings(
    table: TextTable, config: TableConfig, used: Collection[str]
) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """(findings, labels of each row) of the columns that `config.labels` names; empty or `*`: all that hold labels.

    used: columns that hold something else. Raises DataError where there is no finding.
    """
    present = ", ".join(table.columns)
    if config.labels in ("", "*"):
        columns: list[str] = []
        ignored: list[str] = []
        for column in [column for column in table.columns if column not in used]:
            labels, others = _counts(table.columns[column], config)
            (columns if labels >= max(others, 1) else ignored).append(column)
        if not columns:
            raise DataError(f"{table.path}: no column of 0 and 1; found {present}")
        if ignored:
            log.warning("%s: columns that are not of 0 and 1 are ignored: %s", table.path, ", ".join(ignored))
        return _findings_in_columns(table, columns, config)
    if config.labels in table.columns:
        findings, rows = _findings_in(table, config.labels, config)
        if not findings:
            raise DataError(f"{table.path}: column '{config.labels}' names no finding; change --table.labels")
        return findings, rows
    columns = [name.strip() for name in config.labels.split(",")]
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise DataError(f"{table.path}: no column '{absent[0]}'; found {present}; change --table.labels")
    return _findings_in_columns(table, columns, config)


def _findings_in(
    table: TextTable, column: str, config: TableConfig
) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """(findings, labels of each row) of one column: the column itself where it holds labels, else what it lists."""
    cells = table.columns[column]
    labels, others = _counts(cells, config)
    is_class_number = others and any(cell.isdecimal() and _label(cell, config) is None for cell in cells)
    if labels >= max(others, 1) and not is_class_number:
        return _findings_in_columns(table, [column], config)
    return _findings_in_texts(cells, config)


def _findings_in_texts(
    texts: Sequence[str], config: TableConfig
) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """(findings, labels of each row) from one text a row, such as `Pneumonia|Effusion`; capitals do not matter."""
    absent = {word.casefold() for word in config.absent}
    unknown = _unknown_words(config) - absent
    separator = re.compile(f"[{re.escape(config.separators)}]") if config.separators else re.compile(r"(?!)")
    listed = [[word.strip() for word in separator.split(text)] for text in texts]
    spellings = {
        word.casefold(): word for word in sorted({word for words in listed for word in words}, reverse=True)
    }
    present = [
        {spellings[word.casefold()] for word in words if word.casefold() not in absent | unknown}
        for words in listed
    ]
    findings = tuple(sorted(set().union(*present)))
    labels = []
    for words, row_findings in zip(listed, present, strict=True):
        is_unknown = not row_findings and not any(word.casefold() in absent for word in words)
        labels.append(
            {finding: math.nan if is_unknown else float(finding in row_findings) for finding in findings}
        )
    return findings, labels


def _findings_in_columns(
    table: TextTable, columns: Sequence[str], config: TableConfig
) -> tuple[tuple[str, ...], list[dict[str, float]]]:
    """(findings, labels of each row): each column is a finding. Raises DataError where a cell is no label."""
    values = []
    for column in columns:
        of_cell = {cell: _label(cell, config) for cell in set(table.columns[column])}
        for row, cell in zip(table.rows, table.columns[column], strict=True):
            if of_cell[cell] is None:
                found = f"'{cell}'" if _NUMBER.fullmatch(cell) else "this text"  # it might name somebody
                raise DataError(
                    f"{table.path}: column '{column}', row {row}: {found} is no label; write 1, 0, or nothing "
                    "where unknown, or list the columns of findings in --table.labels"
                )
        values.append([of_cell[cell] for cell in table.columns[column]])
    return tuple(columns), [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _counts(cells: Sequence[str], config: TableConfig) -> tuple[int, int]:
    """How many cells are 1 or 0, and how many are neither that nor unknown."""
    labels = others = 0
    for cell, count in Counter(cells).items():
        value = _label(cell, config)
        if value is None:
            others += count
        elif not math.isnan(value):
            labels += count
    return labels, others


def _label(cell: str, config: TableConfig) -> float | None:
    """1.0, 0.0, or NaN where unknown; None where the cell is no label.

    >>> [_label(cell, TableConfig()) for cell in ("1.00", "No", "-1", "N/A", "2")]
    [1.0, 0.0, nan, nan, None]
    """
    word = cell.casefold()
    if word in _unknown_words(config):
        return math.nan
    return NUMBERS.get(float(word)) if _NUMBER.fullmatch(word) else ANSWERS.get(word)


def _unknown_words(config: TableConfig) -> frozenset[str]:
    return MISSING | {word.casefold() for word in config.unknown}
