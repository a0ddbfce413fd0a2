"""Settings that cannot be are refused by name."""

from __future__ import annotations

import pytest

from vetdino.downstream.volumes.config import PrepareConfig, world_axes
from vetdino.platform.core.errors import ConfigError, DataError


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": 0},
        {"ct_border": 0.5},
        {"mri_spacing": (7.7, -1.0, 1.0)},
        {"ct_window": (10.0, 10.0)},
        {"mri_top": 100.0},
        {"stack_axes": "SPX"},
        {"stack_axes": "SIL"},
        {"stack_spacing": (5.0, 0.0, 0.0)},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PrepareConfig(**wrong)


@pytest.mark.parametrize(("axes", "expected"), [("RAS", [0, 1, 2]), ("SPL", [2, 1, 0]), ("PIR", [1, 2, 0])])
def test_letters_name_world_axes(axes, expected):
    assert world_axes(axes) == expected


@pytest.mark.parametrize("axes", ["", "SP", "SPLR", "SPX", "SIL", "spl"])
def test_letters_that_do_not_name_three_directions_are_refused(axes):
    with pytest.raises(DataError, match="three letters"):
        world_axes(axes)
