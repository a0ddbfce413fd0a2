"""The record of an experiment is written whole to its folder and to MLflow, and never in place of somebody's files."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import dataclass, replace

import pytest
from rich.table import Table

from vetdino.downstream.common.record import (
    DatasetUse,
    ExperimentRecord,
    MetricSeries,
    check_ours,
    finite_or_none,
    publish,
    replaced,
    run_tags,
    write_record,
)
from vetdino.platform.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class Settings:
    seed: int = 3
    rate: float = 0.5


def record_of(**changes) -> ExperimentRecord:
    table = Table(title="found")
    table.add_column("dice")
    table.add_row("0.5")
    record = ExperimentRecord(
        experiment="vetdino/fewshot",
        name="evaluate, tiny",
        config=Settings(),
        tags=run_tags(Settings(), "d" * 64, "b" * 64, "tiny", experiment="evaluate"),
        identity={"experiment": "evaluate", "data": "d" * 64},
        metrics={"dice/mean": 0.5, "hd95/mean": float("nan")},
        details={"left_out": {"kidney": "in no scan"}},
        series=[MetricSeries({"dice/mean": 0.5}, step=7)],
        datasets=[DatasetUse("scans", "d" * 64, {"scans": 4})],
        tables={"summary": [{"row": "a", "dice": 0.5}], "empty": []},
        figures={"dice": b"\x89PNG"},
        pages={"page.html": "<p>hello</p>"},
        terminal=[table, "left out: [kidney]"],
        warnings=["kidney: few scans"],
    )
    return replace(record, **changes)


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory):
    """One database for all: making its tables takes MLflow seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")
        yield


def test_json_has_null_where_a_value_is_not_finite():
    values = {"a": 0.0, "b": float("nan"), "c": float("inf")}
    assert finite_or_none(values) == {"a": 0.0, "b": None, "c": None}


def test_tags_name_the_backbone_only_where_there_is_one():
    alone = run_tags(Settings(), "data", "", "pixels", experiment="evaluate")
    assert list(alone) == ["backbone", "backbone_label", "manifest", "config", "seed", "experiment"]
    assert (alone["backbone"], alone["seed"]) == ("", 3)
    assert set(run_tags(Settings(), "data")) == {"manifest", "config", "seed"}


@pytest.mark.slow
def test_a_published_record_is_files_a_run_and_a_table(tmp_path, capsys, caplog):
    from vetdino.platform.core.tracking import connect, tracking_address

    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        publish(record_of(), out)
    content = json.loads((out / "metrics.json").read_text())
    assert list(content) == ["experiment", "data", "metrics", "left_out"]
    assert content["metrics"] == {"dice/mean": 0.5, "hd95/mean": None}
    assert json.loads((out / "config.json").read_text()) == {"seed": 3, "rate": 0.5}
    with (out / "summary.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"row": "a", "dice": "0.5"}]
    assert not (out / "empty.csv").exists()
    assert (out / "figures" / "dice.png").read_bytes() == b"\x89PNG"
    assert (out / "page.html").read_text() == "<p>hello</p>"
    check_ours(out)
    said = capsys.readouterr().out
    assert "found" in said
    assert "left out: [kidney]" in said  # brackets are no markup
    assert "MLflow: " in said
    assert "kidney: few scans" in caplog.text
    client = connect(tracking_address(out))
    run = client.get_run(json.loads((out / "run.json").read_text())["run_id"])
    assert run.info.run_name == "evaluate, tiny"
    assert run.data.metrics == {"dice/mean": 0.5}
    assert run.data.params == {"seed": "3", "rate": "0.5"}
    assert run.data.tags["experiment"] == "evaluate"
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["scans"]
    files = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert files >= {"metrics.json", "config.json", "summary.json", "figures", "page.html"}


@pytest.mark.slow
def test_every_call_is_a_run_of_its_own_and_replaces_the_files(tmp_path):
    first = write_record(record_of(), tmp_path / "same")
    second = write_record(record_of(), tmp_path / "same")
    assert first.run_id != second.run_id
    publish(record_of(tables={"other": [{"a": 1}]}, pages={}), tmp_path / "out")
    publish(record_of(pages={}), tmp_path / "out")
    assert not (tmp_path / "out" / "other.csv").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_without_mlflow_the_hint_names_a_file_that_is_there(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-store://nowhere")
    publish(record_of(), tmp_path / "out")
    assert str(tmp_path / "out" / "metrics.jsonl") in capsys.readouterr().out
    assert (tmp_path / "out" / "metrics.jsonl").is_file()


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


def test_what_an_unfinished_measurement_keeps_is_ours(tmp_path):
    out = tmp_path / "out"
    (out / "finished_queries" / "0f").mkdir(parents=True)
    (out / "finished_queries" / "0f" / "0-a.npz").write_text("kept")
    check_ours(out)
    with replaced(out) as folder:
        (folder / "metrics.json").write_text("whole")
    assert [path.name for path in out.iterdir()] == ["metrics.json"]
    (out / "finished_queries").mkdir()
    check_ours(out)
    (out / "metrics.json").unlink()
    (out / "thesis.docx").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.docx"):
        check_ours(out)


def test_a_url_is_refused_and_no_folder_of_its_name_made(tmp_path, monkeypatch):
    """The commands write a record to a folder of this machine, and upload it."""
    monkeypatch.chdir(tmp_path)
    for write in (publish, write_record):
        with pytest.raises(ConfigError, match=r"^s3://bucket/out: a URL, and only a local path"):
            write(record_of(), "s3://bucket/out")
    with pytest.raises(ConfigError, match="only a local path"):
        check_ours("s3://bucket/out")
    assert list(tmp_path.iterdir()) == []
