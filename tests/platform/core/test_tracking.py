"""Where MLflow is, and the pages that it serves."""

from __future__ import annotations

import logging

import pytest

from vetdino.platform.core import tracking
from vetdino.platform.core.tracking import connect, create_database, pages_hint, tracking_address


def test_the_address_is_absolute_and_the_environment_names_another(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_address("runs/a") == f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_address("runs/a") == "http://tracking:5000"
    assert tracking_address("runs/a", "sqlite:////x.db") == "sqlite:////x.db"


def test_a_page_on_a_running_server_needs_no_command():
    runs = "http://tracking:5000/#/experiments/7/runs"
    assert pages_hint("http://tracking:5000/", "7", "abc") == (
        f"{runs}/abc?workflowType=machine_learning "
        f"(all runs: {runs}?workflowType=machine_learning&compareRunsMode=CHART)"
    )


def test_a_page_of_a_database_comes_with_the_command_that_serves_it():
    hint = pages_hint("sqlite:////data/mlflow.db", "7", "abc")
    command, _, pages = hint.partition(", then ")
    assert command == "mlflow server --backend-store-uri sqlite:////data/mlflow.db"
    assert pages.startswith("http://127.0.0.1:5000/#/experiments/7/runs/abc?")


@pytest.mark.slow
def test_a_database_is_made_with_its_folder(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    create_database(uri)
    assert connect(uri).search_experiments(max_results=1)


@pytest.mark.slow
def test_an_address_that_mlflow_does_not_know_is_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        create_database("nothing://here")
    (record,) = (record for record in caplog.records if record.name == tracking.log.name)
    assert "no tracking at" in record.getMessage()


def test_without_mlflow_no_database_is_made(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "has_extra", lambda name: False)
    create_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []
