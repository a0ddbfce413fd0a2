"""The dashboard asks for metrics that exist: those that the service prints, and those of Ray's own dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vetdino

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


def test_every_metric_of_ray_is_one_of_its_own_dashboards():
    folder = (
        Path(pytest.importorskip("ray").__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    )
    known = set(re.findall(r"\bray_\w+", "\n".join(path.read_text() for path in folder.glob("*_panels.py"))))
    assert len(queried("ray")) > 5
    assert queried("ray") - known == set()


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
