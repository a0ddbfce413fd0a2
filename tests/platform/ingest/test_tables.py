"""Tables: columns are found by their usual names, findings become 1, 0 or unknown."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from vetdino.platform.core.errors import DataError
from vetdino.platform.ingest.config import TableConfig
from vetdino.platform.ingest.tables import read_images, read_labels


def a_table(path: Path, **columns: list[object]) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def with_none(labels) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in labels.items()}


def images(path: Path, **more: list[object]) -> Path:
    return a_table(path, file=["a.png", "b.png"], patient=["p", "q"], study=["s", "t"], **more)


def test_a_table_of_nothing_but_pictures_has_no_findings(tmp_path):
    findings, rows = read_images(images(tmp_path / "t.csv"), TableConfig())
    assert findings == ()
    assert [(row.path, row.patient, row.study, row.projection) for row in rows] == [
        ("a.png", "p", "s", "UNKNOWN"),
        ("b.png", "q", "t", "UNKNOWN"),
    ]


def test_usual_names_of_columns_are_found(tmp_path):
    path = a_table(
        tmp_path / "nih.csv",
        **{"Image Index": ["a.png"], "Patient ID": [7], "study-id": ["s"], "View Position": ["PA"]},
    )
    (row,) = read_images(path, TableConfig())[1]
    assert (row.path, row.patient, row.study, row.projection) == ("a.png", "7", "s", "PA")


def test_other_names_are_set_in_the_config(tmp_path):
    path = a_table(tmp_path / "t.csv", jpg=["a.png"], animal=["rex"], visit=["s"])
    config = TableConfig(path="jpg", patient="animal", study="visit")
    assert read_images(path, config)[1][0].patient == "rex"


def test_findings_in_one_text_are_divided(tmp_path):
    path = images(tmp_path / "t.csv", findings=["Pneumonia|Effusion", "ARDS, Pneumonia"])
    findings, rows = read_images(path, TableConfig())
    assert findings == ("ARDS", "Effusion", "Pneumonia")
    assert with_none(rows[0].labels) == {"ARDS": 0, "Effusion": 1, "Pneumonia": 1}
    assert with_none(rows[1].labels) == {"ARDS": 1, "Effusion": 0, "Pneumonia": 1}


@pytest.mark.parametrize(
    ("text", "value"), [("No Finding", 0.0), ("no finding", 0.0), ("", None), ("unlabelled", None)]
)
def test_no_finding_is_absence_and_silence_is_not(tmp_path, text, value):
    path = images(tmp_path / "t.csv", labels=["Mass", text])
    findings, rows = read_images(path, TableConfig())
    assert findings == ("Mass",)
    assert with_none(rows[1].labels) == {"Mass": value}


def test_every_column_of_flags_is_a_finding_with_a_star(tmp_path):
    path = images(tmp_path / "t.csv", Mass=[1, 0], Edema=[-1.0, None], age=[40, 61], empty=[None, None])
    assert read_images(path, TableConfig())[0] == ()
    findings, rows = read_images(path, TableConfig(labels="*"))
    assert findings == ("Mass",)
    path = images(tmp_path / "u.csv", Mass=[1, 0], Edema=[-1.0, 1.0])
    findings, rows = read_images(path, TableConfig(labels="*"))
    assert [with_none(row.labels) for row in rows] == [{"Mass": 1, "Edema": None}, {"Mass": 0, "Edema": 1}]


def test_parquet_says_the_same_as_csv(tmp_path):
    path = images(tmp_path / "t.csv", Mass=[1, None], view=["VD", None])
    table = pd.read_csv(path)
    table.to_parquet(tmp_path / "t.parquet")
    config = TableConfig(labels="*")
    from_csv, from_parquet = read_images(path, config), read_images(tmp_path / "t.parquet", config)
    assert repr(from_csv) == repr(from_parquet)


def test_labels_of_studies_come_from_flags(tmp_path):
    path = a_table(tmp_path / "l.csv", study=["1.2", "1.3"], effusion=[1, 0], animal=["rex", "bo"])
    findings, labels = read_labels(path)
    assert findings == ("effusion",)
    assert labels["1.2"] == {"effusion": 1.0}


@pytest.mark.parametrize("missing", ["file", "patient", "study"])
def test_a_missing_column_names_what_is_there_and_the_flag(tmp_path, missing):
    columns = {"file": ["a"], "patient": ["p"], "study": ["s"], "weight": [3]}
    del columns[missing]
    flag = {"file": "path"}.get(missing, missing)
    with pytest.raises(DataError, match=rf"no column for the {flag}; found .*weight; .*--table\.{flag}"):
        read_images(a_table(tmp_path / "t.csv", **columns), TableConfig())


def test_a_configured_column_that_is_absent_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no column 'lesions'.*--table\.labels"):
        read_images(images(tmp_path / "t.csv"), TableConfig(labels="lesions"))


def test_a_label_table_without_flags_is_refused(tmp_path):
    with pytest.raises(DataError, match="no column of 0 and 1"):
        read_labels(a_table(tmp_path / "l.csv", study=["1.2"], note=["fine"]))


@pytest.mark.parametrize(
    ("name", "content"), [("t.parquet", b"PAR?"), ("t.csv", b""), ("t.csv", b"file,study\n")]
)
def test_what_is_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_images(tmp_path / name, TableConfig())
    with pytest.raises(DataError, match="no such table"):
        read_images(tmp_path / f"other-{name}", TableConfig())
