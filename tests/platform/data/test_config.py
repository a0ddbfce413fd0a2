"""The settings of shards are light, and their defaults are those of the format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vetdino.platform.data.config import ShardConfig


def test_defaults_are_jpeg_and_a_quarter_of_a_gibibyte():
    assert ShardConfig() == ShardConfig(encoding="jpeg", quality=95, max_bytes=2**28)


def test_settings_need_no_heavy_library():
    code = "import sys, vetdino.platform.data.config; print({'torch', 'numpy', 'cv2'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
