"""Settings that contradict one another are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.ingest.config import IngestConfig


def test_settings_that_leave_nothing_to_train_are_refused():
    with pytest.raises(ConfigError, match="must leave something for train"):
        IngestConfig(val=0.5, test=0.5)
    with pytest.raises(ConfigError, match="at least 1 view"):
        IngestConfig(min_views=0)


def test_settings_need_no_heavy_library():
    code = (
        "import sys, vetdino.platform.ingest.config; "
        "print({'torch', 'numpy', 'pandas', 'pydicom'} & set(sys.modules))"
    )
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
