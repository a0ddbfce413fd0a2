"""Settings of the generators: cheap to import, and impossible values are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.phantom.config import FINDINGS, PhantomConfig, SonogramConfig, TorsoConfig

ROOT = Path(__file__).resolve().parents[3]

HEAVY = {"torch", "numpy", "pandas", "scipy", "cv2", "pydicom", "nibabel"}


def test_the_settings_are_there_without_heavy_libraries():
    code = f"import sys, vetdino.platform.phantom.config; print(sorted({HEAVY} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_finding_has_its_share_among_the_settings():
    assert all(0 < getattr(PhantomConfig(), finding) < 1 for finding in FINDINGS)


@pytest.mark.parametrize(
    ("config", "wrong", "fact"),
    [
        (PhantomConfig, {"studies": 0}, "studies is 0"),
        (PhantomConfig, {"side": 8}, "side is 8"),
        (PhantomConfig, {"lung_mass": 2}, "lung_mass is 2"),
        (SonogramConfig, {"frames": 0}, "frames 0"),
        (SonogramConfig, {"domains": 0}, "domains 0"),
        (SonogramConfig, {"side": 8}, "side is 8"),
        (TorsoConfig, {"scans": 0}, "scans is 0"),
        (TorsoConfig, {"side": 32}, "side is 32"),
        (TorsoConfig, {"side": 1024}, "side is 1024"),
    ],
)
def test_impossible_settings_are_refused(config, wrong, fact):
    with pytest.raises(ConfigError, match=fact):
        config(**wrong)
