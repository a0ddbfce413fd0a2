"""A record has the means of the good steps since the last one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.pretrain.examples import distiller_of
from vetdino.pretrain.distillation.distiller import LOSS_NAMES
from vetdino.pretrain.records import RecordWindow


def window_of(config, *steps: tuple[float, float]) -> RecordWindow:
    """Steps of (every loss, bad), half of whose studies are pairs."""
    window = RecordWindow(replace(config, log_every=5), distiller_of(config), torch.device("cpu"), world=1)
    window.begin(10)
    for loss, bad in steps:
        losses = torch.full((len(LOSS_NAMES),), loss)
        window.add(losses, torch.tensor(bad), 0.5, {"lr": 0.1}, [torch.eye(4)[:2], torch.eye(4)[2:]])
    return window


def test_a_record_has_speed_schedules_health_and_the_mean_losses_of_good_steps(run_config):
    flags, metrics = window_of(run_config, (1.0, 0.0), (float("nan"), 1.0), (2.0, 0.0)).close()
    assert flags == [0.0, 1.0, 0.0]
    assert metrics["loss/view"] == metrics["loss/total"] == metrics["health/teacher_entropy"] == 1.5
    assert metrics["health/view_loss_minus_ln_k"] == pytest.approx(1.5 - math.log(32))
    assert (metrics["schedule/lr"], metrics["data/pairs"]) == (0.1, 0.5)
    assert metrics["health/mean_cosine"] == pytest.approx(0.0)
    assert metrics["health/effective_rank"] == pytest.approx(3.0)
    assert metrics["speed/studies_per_second"] > 0
    assert "loss/teacher_entropy" not in metrics


def test_a_new_window_forgets_the_steps_before(run_config):
    window = window_of(run_config, (5.0, 0.0), (7.0, 1.0))
    window.begin(12)
    window.add(torch.zeros(len(LOSS_NAMES)), torch.tensor(0.0), 0.0, {}, [torch.eye(4)])
    flags, metrics = window.close()
    assert (window.first, flags, metrics["loss/total"]) == (12, [0.0], 0.0)


def test_without_a_good_step_a_record_has_no_losses_and_after_a_bad_one_no_spread(run_config):
    flags, metrics = window_of(run_config, (1.0, 1.0)).close()
    assert flags == [1.0]
    assert set(metrics) == {"speed/studies_per_second", "schedule/lr"}


def test_time_that_is_excluded_does_not_count_as_training(run_config):
    window = window_of(run_config, (1.0, 0.0))
    window.exclude(-100.0)
    assert window.close()[1]["speed/studies_per_second"] < run_config.batch / 100


def test_the_share_of_the_time_that_batches_are_waited_for_is_known(run_config, monkeypatch):
    window = window_of(run_config, (1.0, 0.0))
    clock = iter([100.0, 103.0, 103.0, 104.0])
    monkeypatch.setattr("vetdino.pretrain.records.time.monotonic", lambda: next(clock))
    assert list(window.timed(iter("a"))) == ["a"]
    monkeypatch.setattr("vetdino.pretrain.records.time.monotonic", lambda: window.clock + 12.0)
    window.close()
    assert window.data_wait == 3.0 / 12.0
    window.begin(11)
    window.add(torch.zeros(len(LOSS_NAMES)), torch.tensor(0.0), 0.0, {}, [torch.eye(4)])
    window.close()
    assert window.data_wait == 0.0
