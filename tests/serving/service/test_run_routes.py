"""Zero-shot and few-shot runs over HTTP."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.serving.runs import FIGURE, write_run
from vetdino.serving.engine.runs import ShownRuns
from vetdino.serving.service.api import create_app


@pytest.fixture
def runs(engine, tmp_path, monkeypatch):
    """A client of a service that shows two runs."""
    write_run(tmp_path / "zero", kind="zero-shot")
    write_run(tmp_path / "few", kind="few-shot")
    monkeypatch.setattr(engine, "runs", ShownRuns(tmp_path))
    with TestClient(create_app(engine), base_url="http://127.0.0.1") as client:
        yield client


def test_without_a_folder_there_are_none(http):
    assert http.get("/v1/runs").json() == {"runs": []}
    answer = http.get(f"/v1/runs/{'0' * 12}")
    assert answer.status_code == 404
    assert "--runs" in answer.json()["error"]


def test_runs_are_listed_and_opened(runs):
    few, zero = runs.get("/v1/runs").json()["runs"]
    assert [few["kind"], zero["kind"]] == ["few-shot", "zero-shot"]
    opened = runs.get(f"/v1/runs/{zero['number']}").json()
    assert opened | zero == opened
    assert opened["metrics"] == {"dice/phantom": 0.5, "dice/empty": None}
    assert opened["rows"] == [["phantom", "cosegment", "0.5"], ["phantom", "otsu", "nan"]]
    figure = runs.get(f"/v1/runs/{zero['number']}/figures/dice.png")
    assert (figure.content, figure.headers["content-type"]) == (FIGURE, "image/png")


def test_no_table_by_image_is_given_away(runs):
    listed = runs.get("/v1/runs")
    texts = [listed.text]
    texts += [runs.get(f"/v1/runs/{one['number']}").text for one in listed.json()["runs"]]
    assert not any("canary" in text for text in texts)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("zero", 422),
        ("0" * 12, 404),
        ("{number}/figures/..%2F..%2Fzero%2Ffigures%2Fdice.png", 404),
        ("{number}/figures/images.png", 404),
        ("{number}/figures/dice.jpg", 404),
    ],
)
def test_what_is_no_run_or_figure_is_refused(runs, path, status):
    number = runs.get("/v1/runs").json()["runs"][0]["number"]
    assert runs.get("/v1/runs/" + path.format(number=number)).status_code == status
