"""What every test shares: quiet, repeatable surroundings, and which files come first."""

from __future__ import annotations

import os
import tempfile

import pytest

# Set before any library is imported: no telemetry, no progress bars, no look at the network.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Indexes and copies of earlier runs are not used, and those of this run are removed with it.
_cache = tempfile.TemporaryDirectory(prefix="vetdino-tests-")
os.environ.setdefault("VETDINO_CACHE", _cache.name)
# Two processes with two threads each wait for one another on two cores: `make quick` took 176 s instead of 66 s.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


LONGEST = ("tests/pretrain/test_job.py", "tests/test_tutorials.py")
"""Files that start many Ray jobs: begun last, they would keep one process busy while the other has nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    items.sort(key=lambda item: item.location[0] not in LONGEST)
