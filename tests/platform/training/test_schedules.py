"""Schedules against numpy's own curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vetdino.platform.training.schedules import Cosine, Ramp


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("steps", [2, 7, 100])
def test_cosine_is_dinos_schedule(steps, warmup):
    rise = int(warmup * steps)
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
