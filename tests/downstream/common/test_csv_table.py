"""Tables that people write: columns in any case, spaces around values, and clear refusals."""

import pytest

from vetdino.downstream.common.csv_table import read_csv_rows
from vetdino.platform.core.errors import DataError


def read(path, text):
    path.write_text(text, encoding="utf-8")
    return read_csv_rows(path, "scan", ("image",), ("label",))


def test_rows_have_columns_in_lower_case_and_values_without_spaces(tmp_path):
    rows = read(tmp_path / "a.csv", "\ufeffImage , Label\n a.nii ,b.nii\nc.nii\n")
    assert rows == [{"image": "a.nii", "label": "b.nii"}, {"image": "c.nii", "label": ""}]


@pytest.mark.parametrize(
    ("text", "fact"), [("", "image,label"), ("image\n", "without rows"), ("label\na\n", "no column 'image'")]
)
def test_a_table_without_rows_or_a_needed_column_is_refused(tmp_path, text, fact):
    with pytest.raises(DataError, match=fact):
        read(tmp_path / "a.csv", text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(DataError, match="UnicodeDecodeError"):
        read_csv_rows(tmp_path / "a.csv", "scan", ("image",), ())
