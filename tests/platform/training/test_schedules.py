"""Schedules against NumPy's curves and timm's schedulers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from vetdino.platform.training.schedules import Cosine, Ramp, share_of_steps, steps_begun, warmup_cosine


@given(st.integers(0, 100), st.integers(1, 2000))
def test_a_whole_number_of_steps_is_that_number(percent, steps):
    """Against integers: no share of whole percent loses or gains a step to floating point."""
    exact = percent * steps
    whole = share_of_steps(percent / 100, steps)
    assert abs(100 * whole - exact) <= 50
    assert steps_begun(percent / 100, steps) == -(-exact // 100)
    if exact % 100 == 0:
        assert whole == exact // 100
        peak = [Cosine(start=1.0, end=0.0, warmup=percent / 100).at(step, steps) for step in range(steps)]
        assert all(value < 1 for value in peak[: max(whole - 1, 0)])
        assert whole < 2 or peak[whole - 1] == 1


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.29])
@pytest.mark.parametrize("steps", [2, 7, 100])
def test_cosine_is_dinos_schedule(steps, warmup):
    rise = round(warmup * steps)
    iters = np.arange(steps - rise)
    fall = 0.1 + 0.5 * (2.0 - 0.1) * (1 + np.cos(np.pi * iters / len(iters)))
    expected = np.concatenate([np.linspace(0, 2.0, rise), fall])
    found = [Cosine(start=2.0, end=0.1, warmup=warmup).at(step, steps) for step in range(steps)]
    assert found == pytest.approx(expected.tolist())


def test_a_single_step_has_the_value_of_the_start():
    assert Cosine(start=2.0, end=0.1).at(0, 1) == 2.0
    assert Ramp(start=2.0, end=0.1).at(0, 1) == 2.0


def test_ramp_rises_in_a_straight_line_and_stays():
    found = [Ramp(start=0.04, end=0.07, over=0.3).at(step, 100) for step in range(100)]
    assert found == pytest.approx(np.interp(np.arange(100), [0, 30], [0.04, 0.07]).tolist())


@given(st.integers(1, 1000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_no_value_leaves_the_span_of_start_and_end(steps, start, end, over):
    low, high = min(start, end) - 1e-9, max(start, end) + 1e-9
    for step in {0, steps // 3, steps - 1, steps, 2 * steps}:
        assert low <= Ramp(start=start, end=end, over=over).at(step, steps) <= high
        assert low <= Cosine(start=start, end=end).at(step, steps) <= high


def test_fine_tuning_rises_to_its_peak_then_falls_to_nearly_nothing():
    rates = [warmup_cosine(step, 40, peak=2.0, warmup=0.25) for step in range(40)]
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] < 0.02
    assert np.all(np.diff(rates[10:]) < 0)
    assert warmup_cosine(0, 1, peak=2.0, warmup=1.0) == 2.0


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.35])
def test_fine_tunings_schedule_is_this_formula_to_the_last_bit(warmup):
    for steps in (1, 7, 240):
        rise = round(warmup * steps)
        for step in range(steps):
            fall = 5e-4 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
            expected = 5e-4 * (step + 1) / rise if step < rise else fall
            assert warmup_cosine(step, steps, peak=5e-4, warmup=warmup) == expected


def test_timms_cosine_falls_alike_but_rises_otherwise():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    timms = CosineLRScheduler(optimizer, 30, warmup_t=10, warmup_prefix=True, t_in_epochs=False)
    rises = []
    for step in range(40):
        timms.step_update(step)
        ours, theirs = warmup_cosine(step, 40, peak=2.0, warmup=0.25), optimizer.param_groups[0]["lr"]
        if step < 10:
            rises.append(ours != theirs)
        else:
            assert ours == theirs
    assert all(rises)


@pytest.mark.parametrize(("decay", "every"), [(0.95, 1000), (0.5, 3)])
def test_timms_steps_are_a_power_to_the_last_bit(decay, every):
    """Few-shot training relies on this: the rate of a step depends on its number alone."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    timms = StepLRScheduler(optimizer, every, decay, t_in_epochs=False)
    for step in (0, 1, every - 1, every, 7 * every + 1, 100_099, 2):
        timms.step_update(step)
        assert optimizer.param_groups[0]["lr"] == 1e-3 * decay ** (step // every)
