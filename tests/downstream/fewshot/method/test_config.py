"""Settings of the method: refused values are named, and the module imports no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vetdino.downstream.fewshot.method.config import FoldsConfig, PrototypeConfig, ScanConfig, SliceConfig
from vetdino.platform.core.errors import ConfigError


@pytest.mark.slow
def test_settings_are_read_without_torch_or_numpy():
    code = (
        "import sys, vetdino.downstream.fewshot.config; "
        "print(*{'torch', 'numpy', 'pandas', 'scipy', 'cv2'} & set(sys.modules))"
    )
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert heavy.split() == []


@pytest.mark.parametrize(
    "setting",
    [
        {"window": 0},
        {"training_window": 0},
        {"tau": 0.0},
        {"tau": float("inf")},
        {"training_tau": float("nan")},
        {"foreground_share": 1.0},
        {"background_share": -0.1},
        {"background_weight": 0.0},
    ],
)
def test_settings_that_cannot_be_obeyed_are_named(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"prototypes\.{name} "):
        PrototypeConfig(**setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"grid": 0},
        {"side": -1},
        {"coordinates": float("nan")},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": (1.0, float("inf"))},
    ],
)
def test_slice_settings_that_cannot_be_obeyed_are_named(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"slices\.{name} "):
        SliceConfig(**setting)


def test_refinement_is_of_our_mode_only():
    config = ScanConfig(smooth=2.0, edges=0.1)
    ours, *released = [config.refinement(compat) for compat in ("ours", "alpnet", "levayz")]
    assert ours == {"smooth": 2.0, "edges": 0.1}
    assert released == [{}, {}]


def test_scan_and_fold_settings_that_cannot_be_obeyed_are_named():
    for name in ("reach", "smooth", "edges"):
        with pytest.raises(ConfigError, match=name):
            ScanConfig(**{name: -1.0})
    with pytest.raises(ConfigError, match="resamples"):
        FoldsConfig(resamples=0)
