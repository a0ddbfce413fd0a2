"""Figures for Prometheus: silent without Ray, and a fault of the exporter stops nothing. With Ray: test_grafana.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vetdino.platform.core import gauges
from vetdino.platform.core.gauges import METRICS, report


def test_without_ray_nothing_is_done_and_ray_is_not_imported():
    code = (
        "import sys\n"
        "from vetdino.platform.core.gauges import report\n"
        "report('vetdino_training_loss', 0.5, 'mine')\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_listed_is_our_mistake():
    with pytest.raises(KeyError):
        report("vetdino_made_up", 1)


def test_a_fault_of_the_exporter_is_one_warning(monkeypatch, caplog):
    class Broken:
        @staticmethod
        def is_initialized() -> bool:
            raise RuntimeError("no core worker")

    monkeypatch.setitem(sys.modules, "ray", Broken)
    gauges._warn_once.cache_clear()
    for _ in range(3):
        report("vetdino_training_loss", 0.5, "mine")
    gauges._warn_once.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "Ray's exporter takes no figures (RuntimeError); the work goes on"
    ]


def test_names_say_whose_they_are_and_labels_are_of_two_kinds():
    assert all(
        name.startswith(("vetdino_training_", "vetdino_ingest_", "vetdino_embed_")) for name in METRICS
    )
    assert {metric.label for metric in METRICS.values()} == {"", "run", "reason"}
