"""The dashboard asks for metrics that exist: those that the service prints, those of Ray's own dashboards, and those of
our jobs that Ray's exporter has while they run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vetdino
from vetdino.platform.core.gauges import METRICS
from vetdino.platform.dicom.header import CODES

FILE = Path(vetdino.__file__).parent / "infra" / "grafana" / "vetdino.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queried(prefix: str) -> set[str]:
    expressions = (target["expr"] for panel in PANELS for target in panel["targets"])
    # Labels stand in braces, in `by (…)`, or before a comparison, and are no metrics.
    bare = (re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression) for expression in expressions)
    return {name for expression in bare for name in re.findall(rf"\b{prefix}_\w+", expression)}


def service_metrics() -> set[str]:
    """Every name that GET /metrics prints once each has a value."""
    from prometheus_client.parser import text_string_to_metric_families

    from vetdino.serving.service.metrics import Metrics

    metrics = Metrics(SimpleNamespace(models=[], decoder=SimpleNamespace(waiting=0), uploads=[]))
    metrics.answered("/v1/embed", "POST", 503, 0.1, "Overloaded")
    metrics.batch(1, 0.1)
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name for family in families for sample in family.samples}


def test_every_metric_of_ours_is_one_that_the_service_prints():
    pytest.importorskip("prometheus_client")
    assert len(queried("vetdino")) > 5
    assert queried("vetdino") - service_metrics() == set()


def test_every_metric_that_the_service_counts_is_shown():
    pytest.importorskip("prometheus_client")
    families = {re.sub(r"_(total|created|bucket|count|sum)$", "", name) for name in service_metrics()}
    shown = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in queried("vetdino")}
    assert families == shown


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, Any]:
    """What an ingest, an embed and a drained training left, on one Ray."""
    pytest.importorskip("ray")
    script = Path(__file__).with_name("jobs_on_ray.py")
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("jobs"))]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout) | {"stderr": done.stderr}


def printed_name(name: str) -> str:
    """As Ray's exporter prints a figure of ours."""
    return f"ray_{name}_total" if METRICS[name].kind == "counter" else f"ray_{name}"


@pytest.mark.slow
def test_every_figure_of_a_job_is_at_the_exporter_under_the_name_that_the_dashboard_asks_for(jobs):
    assert jobs["codes"] == [0, 0, 0], jobs["stderr"][-3000:]
    assert set(jobs["found"]) == {printed_name(name) for name in METRICS}
    assert queried("ray_vetdino") == set(jobs["found"])


@pytest.mark.slow
def test_the_labels_of_a_job_are_its_run_and_closed_reasons(jobs):
    ours = {
        name: {label for labels in rows for label in re.findall(r'(?:run|reason)="(.*?)"', labels)}
        for name, rows in jobs["found"].items()
    }
    assert ours["ray_vetdino_training_step"] == {"run"}
    assert ours["ray_vetdino_ingest_refused_total"] <= set(CODES)
    assert ours["ray_vetdino_embed_images_total"] == set()
    assert not [labels for rows in jobs["found"].values() for labels in rows if "archive" in labels]


@pytest.mark.slow
def test_a_drained_machine_is_a_line_and_a_checkpoint_at_once(jobs):
    (step,) = re.findall(
        r"machines will be taken away; a checkpoint is written after step (\d+)", jobs["stderr"]
    )
    assert jobs["checkpoints"] == [f"step_{int(step):08d}", "step_00000300"]


@pytest.mark.slow
def test_every_line_of_a_job_is_json_with_time_level_and_verb(jobs):
    lines = [json.loads(line) for line in jobs["stderr"].splitlines() if line.startswith("{")]
    assert {line["verb"] for line in lines} == {"ingest", "embed", "pretrain"}
    assert {line["level"] for line in lines} == {"info", "warning"}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    last = [line for line in lines if line.get("progress") == "pretrain"][-1]
    assert (last["run"], last["step"], last["finished"]) == ("run", 300, True)


def test_every_metric_of_ray_is_one_of_its_own_dashboards():
    folder = (
        Path(pytest.importorskip("ray").__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    )
    known = set(re.findall(r"\bray_\w+", "\n".join(path.read_text() for path in folder.glob("*_panels.py"))))
    assert len(queried("ray")) > 5
    assert queried("ray") - queried("ray_vetdino") - known == set()


def overlaps(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    seen: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in seen:
                    yield seen[x, y], panel["title"]
                seen[x, y] = panel["title"]


def test_panels_have_names_units_and_places_of_their_own():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert list(overlaps(DASHBOARD["panels"])) == []
    for panel in PANELS:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
