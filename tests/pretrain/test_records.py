"""A record has the means of the good steps since the last one."""

from __future__ import annotations

import json
import math

import pytest
import torch

from vetdino.pretrain.distillation.distiller import LOSS_NAMES
from vetdino.pretrain.records import STATUS, RecordWindow, window_metrics, write_status

SETTINGS = {"lr": 0.1}


def window_of(*steps: tuple[float, float]) -> RecordWindow:
    """Steps of (every loss, bad), half of whose studies are pairs."""
    window = RecordWindow(len(steps), torch.device("cpu"), world=1)
    window.begin(10)
    for loss, bad in steps:
        losses = torch.full((len(LOSS_NAMES),), loss)
        vectors = [torch.eye(4)[:2], torch.eye(4)[2:]]
        window.add(losses, torch.tensor(bad), 0.5, SETTINGS, vectors)
    return window


def test_means_are_over_the_good_steps():
    means = window_of((1.0, 0.0), (float("nan"), 1.0), (2.0, 0.0)).means()
    assert means.means == pytest.approx(dict.fromkeys(LOSS_NAMES, 1.5) | {"pairs": 0.5})
    assert means.flags == [0.0, 1.0, 0.0]
    assert torch.equal(means.vectors_BD, torch.eye(4))


def test_a_new_window_forgets_the_steps_before():
    window = window_of((5.0, 0.0), (7.0, 1.0))
    window.begin(12)
    window.add(torch.zeros(len(LOSS_NAMES)), torch.tensor(0.0), 0.0, SETTINGS, [torch.eye(4)])
    assert window.first == 12
    means = window.means()
    assert means.means["total"] == 0.0
    assert means.flags == [0.0]


def test_a_record_has_speed_schedules_losses_and_health(run_config):
    window = window_of((1.0, 0.0), (3.0, 0.0))
    metrics = window_metrics(run_config, window.means(), window.settings)
    assert metrics["schedule/lr"] == 0.1
    assert metrics["loss/view"] == metrics["health/teacher_entropy"] == 2.0
    assert metrics["health/view_loss_minus_ln_k"] == pytest.approx(2 - math.log(32))
    assert metrics["health/mean_cosine"] == pytest.approx(0.0)
    assert metrics["health/effective_rank"] == pytest.approx(3.0)
    assert metrics["speed/studies_per_second"] > 0
    assert "loss/teacher_entropy" not in metrics


def test_without_a_good_step_a_record_has_no_losses_and_after_a_bad_one_no_spread(run_config):
    window = window_of((1.0, 1.0))
    metrics = window_metrics(run_config, window.means(), window.settings)
    assert set(metrics) == {"speed/studies_per_second", "schedule/lr"}


def test_time_that_is_excluded_does_not_count_as_training(run_config):
    window = window_of((1.0, 0.0))
    before = window.means().seconds
    window.exclude(-100.0)
    assert window.means().seconds >= before + 100


def test_the_status_file_has_step_warnings_and_values(run_config):
    write_status(run_config, 2, ["a warning"], {"loss/total": 1.5})
    status = json.loads((run_config.out / STATUS).read_text())
    assert status == {"step": 2, "steps": run_config.steps, "warnings": ["a warning"], "loss/total": 1.5}
