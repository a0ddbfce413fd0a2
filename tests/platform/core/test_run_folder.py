"""The files of a run: what is measured is a line of JSON, and a resumed run replaces what it measures again."""

from __future__ import annotations

import json
import logging
import math

import pytest

from vetdino.platform.core.run_folder import RunFolder, history, metric_name


def test_a_run_that_measured_nothing_has_no_history(tmp_path):
    folder = RunFolder(tmp_path / "r")
    assert folder.history() == []
    with pytest.raises(FileNotFoundError):
        history(tmp_path / "r")


def test_a_history_is_in_order_of_its_steps_with_the_last_values_of_each(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(1, {"a": 1.0, "b": 2.0})
    folder.append_metrics(0, {"a": 0.0})
    folder.append_metrics(1, {"a": 3.0})
    lines = [{name: value for name, value in line.items() if name != "time"} for line in history(tmp_path)]
    assert lines == [{"step": 0, "a": 0.0}, {"step": 1, "a": 3.0, "b": 2.0}]


def test_a_line_that_a_kill_cut_off_is_left_out_and_ended(tmp_path):
    RunFolder(tmp_path).append_metrics(0, {"a": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "a')
    RunFolder(tmp_path).append_metrics(2, {"a": 2.0})
    assert [line["step"] for line in history(tmp_path)] == [0, 2]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_is_null(tmp_path, value):
    RunFolder(tmp_path).append_metrics(0, {"view/loss": value})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["view/loss"] is None


def test_params_tables_and_figures_are_files(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_params({"lr": 0.1, "out": tmp_path}, {"seed": 0})
    folder.write_table("findings", [{"finding": "mass", "auroc": 0.8}, {"finding": "a, b", "auroc": 0.7}])
    assert folder.write_figure("a.png", b"png") == folder.write_figure("a", b"png")
    assert json.loads((tmp_path / "params.json").read_text()) == {
        "params": {"lr": 0.1, "out": str(tmp_path)},
        "tags": {"seed": 0},
    }
    assert (tmp_path / "findings.csv").read_text() == 'finding,auroc\nmass,0.8\n"a, b",0.7\n'
    assert (tmp_path / "figures" / "a.png").read_bytes() == b"png"


def test_metrics_that_cannot_be_written_are_one_warning(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with caplog.at_level(logging.WARNING):
        folder.append_metrics(0, {"a": 1.0})
        folder.append_metrics(1, {"a": 1.0})
    (record,) = caplog.records
    assert "metrics.jsonl" in record.getMessage()


def test_a_metric_name_holds_only_what_mlflow_takes():
    assert metric_name("view/loss") == "view/loss"
    assert metric_name("knn/AP (mass)@5") == "knn/AP _mass__at_5"
