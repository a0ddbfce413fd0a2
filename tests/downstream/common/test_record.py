"""What an experiment leaves stands whole in its folder, and nothing of anybody else's goes for it."""

from __future__ import annotations

import pytest

from vetdino.downstream.common.record import check_ours, replaced
from vetdino.platform.core.errors import DataError


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with replaced(out) as folder:
        (folder / "metrics.json").write_text("first")
        (folder / "old.csv").write_text("old")

    def stopped() -> None:
        with replaced(out) as folder:
            (folder / "metrics.json").write_text("second")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stopped()
    assert (out / "metrics.json").read_text() == "first"
    with replaced(out) as folder:
        (folder / "metrics.json").write_text("third")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["metrics.json"]


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path):
    check_ours(tmp_path / "not there")
    check_ours(tmp_path)
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.docx"):
        check_ours(tmp_path)
    (tmp_path / "thesis.docx").unlink()
    (tmp_path / "table.csv").write_text("somebody's")
    with pytest.raises(DataError, match=r"table\.csv"):
        check_ours(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        check_ours(tmp_path / "table.csv")
