"""Figures of a job for Prometheus, through the exporter of the Ray that this process uses; elsewhere nothing is done.

Ray prints each as `ray_NAME` (a counter as `ray_NAME_total`) on the machine's metrics port. No port is opened here.
A label is a run's name or a reason of a closed list, never a path, a patient or a study.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from functools import cache
from typing import Literal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobMetric:
    """A figure: whether it is set (gauge) or only grows (counter), what it is, and its label, if it has one."""

    kind: Literal["gauge", "counter"]
    meaning: str
    label: str = ""


METRICS = {
    "vetdino_training_step": JobMetric("gauge", "Steps done.", "run"),
    "vetdino_training_steps": JobMetric("gauge", "Steps of the whole training.", "run"),
    "vetdino_training_studies": JobMetric("gauge", "Studies seen, repetitions counted.", "run"),
    "vetdino_training_studies_per_second": JobMetric("gauge", "Speed since the record before.", "run"),
    "vetdino_training_loss": JobMetric("gauge", "Loss, mean since the record before.", "run"),
    "vetdino_training_teacher_entropy": JobMetric(
        "gauge", "Entropy of the teacher's targets, in nats.", "run"
    ),
    "vetdino_training_learning_rate": JobMetric("gauge", "Learning rate.", "run"),
    "vetdino_training_skipped_steps": JobMetric("gauge", "Steps without a finite loss and gradient.", "run"),
    "vetdino_training_alarms": JobMetric("gauge", "Collapse alarms since the workers started.", "run"),
    "vetdino_training_checkpoint_seconds": JobMetric(
        "gauge", "Seconds in which the newest checkpoint was written and uploaded.", "run"
    ),
    "vetdino_training_data_wait": JobMetric(
        "gauge", "Share of the time that the first worker waited for a batch.", "run"
    ),
    "vetdino_ingest_headers": JobMetric("counter", "Files whose header was read."),
    "vetdino_ingest_files": JobMetric("counter", "Files decoded."),
    "vetdino_ingest_studies": JobMetric("counter", "Studies written into shards."),
    "vetdino_ingest_refused": JobMetric("counter", "Files refused, by reason.", "reason"),
    "vetdino_embed_images": JobMetric("counter", "Images embedded."),
}
"""Every figure, by name."""


def report(name: str, value: float, label: str = "") -> None:
    """Set a gauge, or add to a counter; name: one of METRICS. A fault of the exporter stops nothing."""
    metric = METRICS[name]
    ray = sys.modules.get("ray")
    try:
        if ray is None or not ray.is_initialized():
            return
        from ray.util.metrics import Counter, Gauge

        tags = {metric.label: label} if metric.label else {}
        if metric.kind == "gauge":
            Gauge(name, metric.meaning, tuple(tags)).set(value, tags)
        elif value > 0:
            Counter(name, metric.meaning, tuple(tags)).inc(value, tags)
    except Exception as error:
        _warn_once(type(error).__name__)


@cache
def _warn_once(reason: str) -> None:
    log.warning("Ray's exporter takes no figures (%s); the work goes on", reason)
