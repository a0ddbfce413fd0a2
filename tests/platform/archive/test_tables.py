"""Tables: columns are found by their usual names, findings become 1, 0 or unknown."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.archive.config import TableConfig
from vetdino.platform.archive.tables import patient_study, read_images, read_labels, studies_restart
from vetdino.platform.core.errors import DataError


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
    findings, labels = read_labels(path, TableConfig())
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
        read_labels(a_table(tmp_path / "l.csv", study=["1.2"], note=["fine"]), TableConfig())


@pytest.mark.parametrize(
    ("name", "content"), [("t.parquet", b"PAR?"), ("t.csv", b""), ("t.csv", b"file,study\n")]
)
def test_what_is_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_images(tmp_path / name, TableConfig())
    with pytest.raises(DataError, match="no such table"):
        read_images(tmp_path / f"other-{name}", TableConfig())


def one_finding(path: Path, *cells: str) -> dict[str, float | None]:
    """What a label table of one finding, `mass`, says of studies s0, s1, ..."""
    path.write_text("study,mass\n" + "".join(f"s{number},{cell}\n" for number, cell in enumerate(cells)))
    findings, labels = read_labels(path, TableConfig())
    assert findings == ("mass",)
    return {study: with_none(values)["mass"] for study, values in labels.items()}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *[(cell, 1) for cell in ("1", "1.0", "1.00", "+1", "01", "TRUE", "True", "yes", "Y", " 1 ")],
        *[(cell, 0) for cell in ("0", "0.0", "0.00", "-0", "FALSE", "no", "N", "n")],
        *[
            (cell, None)
            for cell in ("", "-1", "-1.0", "NA", "NaN", "N/A", "#N/A", "nan", "None", "NULL", "<NA>")
        ],
        *[(cell, None) for cell in ("?", "-", "unknown", "Unlabelled")],
    ],
)
def test_the_usual_spellings_of_a_label_are_read(tmp_path, cell, value):
    assert one_finding(tmp_path / "l.csv", "1", "0", cell) == {"s0": 1, "s1": 0, "s2": value}


@pytest.mark.parametrize("cell", ["x", "2", "11", "yes?", "1;0", "0.5", "1_0", "1e0", "positve"])
def test_a_cell_that_is_no_label_is_named_with_its_column_and_row(tmp_path, cell):
    with pytest.raises(DataError) as caught:
        one_finding(tmp_path / "l.csv", "1", "0", cell, "1")
    assert "column 'mass', row 4" in str(caught.value)
    assert ("'2' is" in str(caught.value)) == (cell == "2")  # a text might name somebody
    images_path = images(tmp_path / "t.csv", mass=["1", cell])
    with pytest.raises(DataError, match="column 'mass', row 3"):
        read_images(images_path, TableConfig(labels="*"))


def test_columns_that_are_mostly_something_else_are_ignored_and_named(tmp_path, caplog):
    path = a_table(
        tmp_path / "l.csv", study=["s", "t", "u"], age=[1, 7, 12], sex=["F", "M", "F"], mass=[1, 0, 0]
    )
    assert read_labels(path, TableConfig())[0] == ("mass",)
    assert caplog.messages == [f"{path}: columns that are not of 0 and 1 are ignored: age, sex"]


def test_patients_views_and_row_numbers_are_no_findings(tmp_path):
    path = tmp_path / "l.csv"
    table = pd.DataFrame({"study": ["s", "t"], "patient": [0, 1], "view": [1, 0], "mass": [1, 0]})
    table.to_csv(path)  # with row numbers, in a column without a name
    assert read_labels(path, TableConfig())[0] == ("mass",)


def test_columns_of_findings_can_be_listed(tmp_path):
    path = images(tmp_path / "t.csv", mass=[1, 0], edema=[0, 1], visits=[1, 0])
    findings, rows = read_images(path, TableConfig(labels="edema, mass"))
    assert findings == ("edema", "mass")
    assert rows[0].labels == {"edema": 0.0, "mass": 1.0}
    path = a_table(tmp_path / "l.csv", study=["s", "t", "u"], mass=[1, 0, 2], edema=[0, 1, 1])
    assert read_labels(path, TableConfig(labels="edema"))[0] == ("edema",)
    with pytest.raises(DataError, match="'mass', row 4"):
        read_labels(path, TableConfig(labels="edema,mass"))
    with pytest.raises(DataError, match="no column 'tumor'"):
        read_labels(path, TableConfig(labels="edema,tumor"))


@pytest.mark.parametrize("labels", ["*", "note"])
def test_labels_that_were_named_and_hold_nothing_are_an_error(tmp_path, labels):
    path = images(tmp_path / "t.csv", note=["", "NA"])
    with pytest.raises(DataError, match=r"finding|no column of 0 and 1"):
        read_images(path, TableConfig(labels=labels))
    assert read_images(images(tmp_path / "u.csv", labels=["", ""]), TableConfig())[0] == ()


def test_a_column_of_labels_is_one_finding_and_not_a_list_of_names(tmp_path):
    path = images(tmp_path / "t.csv", label=["1", "0"])
    findings, rows = read_images(path, TableConfig(labels="label"))
    assert (findings, rows[1].labels) == (("label",), {"label": 0.0})
    path = images(tmp_path / "u.csv", labels=["1", "3"])  # numbers of classes
    assert read_images(path, TableConfig())[0] == ("1", "3")


def test_missing_in_a_list_is_no_finding_and_capitals_do_not_divide_one(tmp_path):
    path = a_table(
        tmp_path / "t.csv", file=list("abcd"), patient=list("pqrs"), study=list("stuv"),
        findings=["Mass", "nan", "mass|Edema", "NONE"],
    )  # fmt: skip
    findings, rows = read_images(path, TableConfig())
    assert findings == ("Edema", "Mass")
    assert [with_none(row.labels)["Mass"] for row in rows] == [1, None, 1, None]
    _, rows = read_images(path, TableConfig(absent=("none",)))
    assert with_none(rows[3].labels)["Mass"] == 0


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "None", "null", "unknown"])
def test_a_missing_patient_or_study_is_no_name(tmp_path, word):
    path = a_table(tmp_path / "t.csv", file=["a", "b"], patient=["p", word], study=[word, "s"])
    first, second = read_images(path, TableConfig())[1]
    assert (first.patient, first.study) == ("p", "")
    assert (second.patient, second.study) == ("", "s")
    with pytest.raises(DataError, match="names no study"):
        read_labels(a_table(tmp_path / "l.csv", study=[word], mass=[1]), TableConfig())


@pytest.mark.parametrize(
    ("cells", "value"),
    [(("1", "0"), 1), (("0", "1"), 1), (("1", ""), 1), (("0", "NA"), 0), (("", "0"), 0), (("", "-1"), None)],
)
def test_rows_of_one_study_are_merged(tmp_path, cells, value):
    path = tmp_path / "l.csv"
    path.write_text("study,mass\nother,1\n" + "".join(f"s,{cell}\n" for cell in cells))
    assert with_none(read_labels(path, TableConfig())[1]["s"]) == {"mass": value}


def test_labels_of_a_patient_with_their_own_study_numbers(tmp_path):
    path = a_table(tmp_path / "l.csv", patient=["p", "q"], study=["1", "1"], mass=[1, 0])
    assert read_labels(path, TableConfig())[1] == {"1": {"mass": 1.0}}
    labels = read_labels(path, TableConfig(), by_patient=True)[1]
    assert labels == {patient_study("p", "1"): {"mass": 1.0}, patient_study("q", "1"): {"mass": 0.0}}
    with pytest.raises(DataError, match="no column for the patient"):
        read_labels(a_table(tmp_path / "m.csv", study=["1"], mass=[1]), TableConfig(), by_patient=True)


@pytest.mark.parametrize(
    ("pairs", "restart"),
    [
        ([], False),
        ([("p", "1")], False),
        ([("p", "1"), ("p", "2"), ("q", "3")], False),
        ([("p", "1"), ("q", "1")], True),
        ([("p", "1"), ("p", "2"), ("q", "1"), ("q", "2"), ("q", "3")], True),
        ([("p", "1"), ("p", "1"), ("p", "2"), ("q", "3"), ("q", "2")], False),  # one wrong patient
    ],
)
def test_study_numbers_restart_where_most_are_those_of_several_patients(pairs, restart):
    assert studies_restart(pairs) == restart


def test_a_column_of_sides_and_sides_in_the_view_are_read(tmp_path):
    path = images(tmp_path / "t.csv", view=["L-CC", "MLO"], laterality=["", "RIGHT"])
    rows = read_images(path, TableConfig())[1]
    assert [(row.projection, row.laterality) for row in rows] == [("CC", "L"), ("MLO", "R")]
    path = images(tmp_path / "u.csv", view=["L-CC", "MLO"], laterality=["R", "B"])
    with pytest.raises(DataError, match="row 2: laterality is R"):
        read_images(path, TableConfig())


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ("b,q,1", "row 3 has 3 cells, the header 4"),
        ("b,q,t,1,0", "row 3 has 5 cells, the header 4"),
        ('"b,q,t,1', "not a readable"),
    ],
)
def test_a_row_of_another_length_is_refused_and_never_shifted(tmp_path, row, fact):
    path = tmp_path / "t.csv"
    path.write_text(f"path,patient,study,mass\na,p,s,1\n{row}\n")
    with pytest.raises(DataError, match=fact):
        read_images(path, TableConfig())


def test_empty_cells_beyond_the_header_and_blank_rows_change_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,patient,study,mass\na,p,s,1,\n\n,,,\nb,q,t,0,\n")
    rows = read_images(path, TableConfig(labels="*"))[1]
    assert [(row.path, row.patient, row.labels["mass"]) for row in rows] == [("a", "p", 1), ("b", "q", 0)]
    path.write_text("path,patient,study,mass\na,p,s,1,\n\n,,,\nb,q,t,x,\n")
    with pytest.raises(DataError, match="row 5"):
        read_images(path, TableConfig(labels="*"))


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "l.csv").write_text("study,mass, mass\ns,1,0\n")
    with pytest.raises(DataError, match="2 columns 'mass'"):
        read_labels(tmp_path / "l.csv", TableConfig())


# Property tests: the expected labels are worked out here, from the file as the csv module reads it.

YES = ("1", "1.0", "1.00", "true", "TRUE", "Yes", "y")
NO = ("0", "0.0", "0.000", "False", "no", "N")
UNKNOWN = ("", "-1", "-1.0", "na", "NaN", "n/a", "#N/A", "None", "null", "<NA>", "unknown")
STUDIES = ("1.2.3", "1.2.4", "s 5", "ä,6", 'q"7')
NOTHING = ("", "nan", "NA", "None")
PADDING = st.sampled_from(("", " ", "  "))


def padded(words: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.tuples(PADDING, st.sampled_from(words), PADDING).map("".join)


CELLS = st.one_of(padded(YES), padded(NO), padded(UNKNOWN))
TABLES = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.tuples(padded(STUDIES), padded((*"pq", *NOTHING)), *[CELLS] * width), min_size=1, max_size=9
    )
)


def write_rows(folder: Path, rows: list[tuple[str, ...]], form: tuple[str, str, str]) -> Path:
    """The rows as CSV with the columns file, study, patient, f0, f1, ... form: line end, blank line or none, suffix."""
    end, blank, suffix = form
    path = folder / f"table.{suffix}"
    kind = gzip.open if suffix.endswith("gz") else open
    with kind(path, "wt", newline="", encoding="utf-8-sig" if end == "\r\n" else "utf-8") as file:
        writer = csv.writer(file, lineterminator=end)
        writer.writerow(("file", "study", "patient", *(f"f{number}" for number in range(len(rows[0]) - 2))))
        for number, row in enumerate(rows):
            writer.writerow((f"{number}.png", *row))
            file.write(blank)
    return path


def oracle(path: Path) -> Mapping[tuple[str, str], float | None]:
    """(study, finding) -> 1, 0 or None: 1 in any of the study's rows, else 0 in any."""
    kind = gzip.open if path.suffix == ".gz" else open
    expected: dict[tuple[str, str], float | None] = {}
    with kind(path, "rt", newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            for name in row.keys() - {"file", "study", "patient"}:
                place, cell = (row["study"].strip(), name), row[name].strip()
                before = expected.setdefault(place, None)
                if cell in YES:
                    expected[place] = 1
                elif cell in NO and before is None:
                    expected[place] = 0
    return expected


FORMS = st.sampled_from([("\n", "", "csv"), ("\r\n", "", "csv"), ("\n", "\n", "csv"), ("\n", "", "csv.gz")])


@settings(max_examples=50, deadline=None)
@given(rows=TABLES, form=FORMS)
def test_labels_are_those_of_a_reader_written_by_hand(tmp_path_factory, rows, form):
    path = write_rows(tmp_path_factory.getbasetemp(), rows, form)
    expected = oracle(path)
    findings = {name for (_, name), value in expected.items() if value is not None}
    if not findings:
        with pytest.raises(DataError, match="no column of 0 and 1"):
            read_labels(path, TableConfig())
        return
    names, labels = read_labels(path, TableConfig())
    assert set(names) == findings
    read = {
        (study, name): value for study, values in labels.items() for name, value in with_none(values).items()
    }
    assert read == {place: value for place, value in expected.items() if place[1] in findings}


@settings(max_examples=50, deadline=None)
@given(
    rows=TABLES,
    cell=st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=12),
    data=st.data(),
)
def test_any_other_text_in_a_column_of_labels_is_read_or_named(tmp_path_factory, rows, cell, data):
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(2, len(rows[0]) - 1))
    rows = [
        *rows,
        (" 1.2.3", "p", *["1"] * (len(rows[0]) - 2)),
    ]  # one label, so that the other text is no majority
    rows[row] = (*rows[row][:column], cell, *rows[row][column + 1 :])
    path = write_rows(tmp_path_factory.getbasetemp(), rows, ("\n", "", "csv"))
    value = label_of(cell)
    if value is None:
        with pytest.raises(DataError) as caught:
            read_labels(path, TableConfig())
        assert f"column 'f{column - 2}', row {row + 2}: " in str(caught.value)
    else:
        assert f"f{column - 2}" in read_labels(path, TableConfig())[0]


def label_of(cell: str) -> float | None:
    """What a text means as a label, worked out by hand; None where it is none."""
    word = cell.strip().lower()
    if word in {text.lower() for text in (*UNKNOWN, "?", "-", "nat", "\\n", "unlabelled", "unlabeled")}:
        return math.nan
    if word in ("yes", "y", "true", "no", "n", "false"):
        return float(word in ("yes", "y", "true"))
    digits = word.removeprefix("-") if word.startswith("-") else word.removeprefix("+")
    if not digits.isascii() or not digits.replace(".", "", 1).isdigit():
        return None
    return {"0": 0.0, "1": 1.0, "-1": math.nan}.get(f"{Decimal(word).normalize():f}".replace("-0", "0"))


@settings(max_examples=50, deadline=None)
@given(rows=TABLES, form=FORMS)
def test_rows_of_an_image_table_keep_their_identifiers_and_labels(tmp_path_factory, rows, form):
    rows = [*rows, ("s", "p", *["1"] * (len(rows[0]) - 2))]
    path = write_rows(tmp_path_factory.getbasetemp(), rows, form)
    read = read_images(path, TableConfig(labels="*"))[1]
    assert len(read) == len(rows)
    for number, (row, (study, patient, *cells)) in enumerate(zip(read, rows, strict=True)):
        assert row.path == f"{number}.png"
        assert row.study == study.strip()
        assert row.patient == (patient.strip() if patient.strip() not in NOTHING else "")
        values = [1 if cell.strip() in YES else 0 if cell.strip() in NO else None for cell in cells]
        assert list(with_none(row.labels).values()) == values
