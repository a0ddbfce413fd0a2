"""The record of an audit: its metrics, notes, and table; mean costs of training by row and organ."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from vetdino.downstream.fewshot.audits import record as module
from vetdino.downstream.fewshot.audits.config import CcaConfig
from vetdino.downstream.fewshot.audits.record import AuditRecord, backbone_label, mean_costs, record


def line(row, before, organ, dice, **more):
    values = {"dice": dice, "change": dice - 0.5, "worse": 0.2, "better": 0.3}
    bounds = {f"{name}_{end}": values[name] for name in values for end in ("low", "high")}
    return {"row": row, "before": before, "organ": organ, "parts": 1.5} | values | bounds | more


SUMMARY = [
    line("all", "all", "liver", 0.5),
    line("all", "all", "mean", 0.5),
    line("components 1", "all", "liver", 0.6),
    line("components 1", "all", "mean", 0.4),
]


class Scans:
    folder = SimpleNamespace(name="abdomen")
    digest = "d1"

    def __len__(self):
        return 4


def written(monkeypatch, tmp_path, backbone, summary=SUMMARY, **more):
    records = []
    monkeypatch.setattr(module, "publish", lambda record, out: records.append(record))
    audit = AuditRecord("cca-audit", summary, {"summary": summary}, {}, {"spleen": "in no scan"}, **more)
    record(audit, Scans(), backbone, CcaConfig(), tmp_path)
    [one] = records
    console = Console(file=io.StringIO(), width=200)
    console.print(*one.terminal)
    return one, console.file.getvalue()


def test_metrics_are_those_of_the_summary_and_of_the_audit(monkeypatch, tmp_path, tiny):
    one, text = written(monkeypatch, tmp_path, tiny, metrics={"order/all": 0.0}, notes="a note.")
    assert one.metrics["dice/components 1.mean"] == 0.4
    assert one.metrics["order/all"] == 0.0
    assert one.name == f"cca-audit, {tiny.card.label}, abdomen"
    assert one.details["notes"].endswith("a note.")
    assert one.series[0].card == tiny.card
    row = next(row for row in text.splitlines() if "components 1" in row)
    assert "-10.0 [-10.0, -10.0]" in row
    assert "1.50" in row
    assert one.warnings == ["left out: spleen: in no scan"]


def test_without_a_network_it_is_pixels(monkeypatch, tmp_path, tiny):
    one, _ = written(monkeypatch, tmp_path, None)
    assert (one.tags["backbone"], one.tags["backbone_label"], one.series[0].card) == ("", "pixels", None)
    assert backbone_label(tiny) == tiny.card.label


def test_a_table_of_training_shows_drift_and_seconds(monkeypatch, tmp_path):
    summary = [one | {"drift": 0.125, "seconds": 2.0 if one["row"] == "all" else math.nan} for one in SUMMARY]
    _, text = written(monkeypatch, tmp_path, None, summary)
    assert "s/slice" in text
    assert "12.5" in text
    assert "2.00" in next(row for row in text.splitlines() if " all " in row)


def test_costs_are_means_over_the_slices_of_a_row_by_organ_and_over_all():
    def cost(organ, drift, seconds, steps=1):
        return SimpleNamespace(row="1 step", organ=organ, drift=drift, seconds=seconds, steps=steps)

    costs = mean_costs([cost("liver", 0.1, 1.0), cost("liver", 0.3, 3.0), cost("kidney", 0.0, 0.5, 0)])
    assert costs["1 step", "liver"] == pytest.approx({"drift": 0.2, "seconds": 2.0, "trained": 2})
    assert costs["1 step", "mean"] == pytest.approx({"drift": 0.4 / 3, "seconds": 1.5, "trained": 2})
