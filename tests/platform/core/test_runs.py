"""A run leaves its files, with or without MLflow; `test_tracking` has what MLflow shows."""

from __future__ import annotations

import json
import logging

from vetdino.platform.core import tracking
from vetdino.platform.core.run_folder import history
from vetdino.platform.core.runs import open_run


def opened(folder, uri, **changes):
    description = {
        "experiment": "vetdino/pretrain",
        "name": "demo",
        "params": {"optim.lr": 0.1, "patch": None},
        "tags": {"manifest": "m1", "config": "c1", "seed": 0},
    }
    return open_run(folder, tracking_uri=uri, **{**description, **changes})


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.name == tracking.log.name]


def use_every_method(run):
    run.log_metrics(0, {"view/loss": 1.0})
    run.log_table("findings", [{"finding": "mass"}])
    run.log_figure("seen", b"png")
    run.log_artifact(run.folder)
    run.log_dataset("archive", "f" * 64, "pretraining", {})
    assert run.log_trained_model("small", "d", 1) is run.log_evaluated_model("small", "d", 1) is None
    run.log_best("view/loss")


def test_without_mlflow_the_files_are_written_and_one_line_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tracking, "has_extra", lambda name: False)
    with caplog.at_level(logging.WARNING), opened(tmp_path / "r", "sqlite:///no.db") as run:
        use_every_method(run)
    (line,) = warnings_in(caplog)
    assert line == "no MLflow run: pip install 'vetdino[train]'"
    assert run.view_hint == f"no run was recorded; see {tmp_path / 'r' / 'metrics.jsonl'}"
    assert run.run_id == ""
    assert history(tmp_path / "r")[0]["view/loss"] == 1.0
    assert (tmp_path / "r" / "findings.csv").exists()
    assert (tmp_path / "r" / "figures" / "seen.png").exists()
    assert not (tmp_path / "r" / "run.json").exists()


def test_only_the_first_rank_records(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with opened(tmp_path / "r", "sqlite:///no.db") as run:
        use_every_method(run)
    assert not (tmp_path / "r").exists()


def test_params_and_tags_are_those_of_the_last_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "has_extra", lambda name: False)
    for seed in (1, 2):
        with opened(tmp_path / "r", None, tags={"seed": seed}) as run:
            assert repr(run) == "Run(r)"
    content = json.loads((tmp_path / "r" / "params.json").read_text())
    assert content["params"] == {"optim.lr": 0.1, "patch": None}
    assert content["tags"]["seed"] == 2
    assert "git_revision" in content["tags"]


def test_metric_names_are_those_that_mlflow_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "has_extra", lambda name: False)
    with opened(tmp_path / "r", None) as run:
        run.log_metrics(0, {"probe/recall@10": 0.5})
        run.log_metrics(1, {})
    (line,) = history(tmp_path / "r")
    assert line["probe/recall_at_10"] == 0.5
