"""Settings out of range are refused by name; the module stays light enough for the command line's help."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.platform.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "finetune.epochs 0 must be at least 1"),
        ({"fraction": 0.0}, "finetune.fraction 0.0 must be above 0"),
        ({"fraction": 1.5}, "finetune.fraction 1.5 must lie between 0 and 1"),
        ({"lr": math.nan}, "finetune.lr nan must be above 0"),
        ({"drop_path": 1.0}, "drop_path 1"),
        ({"seed": -1}, "finetune.seed -1 must not be below 0"),
        ({"batch": 2, "workers": 3}, "finetune.batch 2 leaves some of finetune.workers 3 without a study"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_named(wrong, said, quick):
    with pytest.raises(ConfigError, match=said):
        replace(quick, **wrong).check()


@pytest.mark.parametrize("module", ["config", "common.config", "findings.config", "views.config"])
def test_settings_import_no_heavy_library(module):
    code = (
        f"import sys, vetdino.downstream.{module};"
        "print(sorted({'torch', 'numpy', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
