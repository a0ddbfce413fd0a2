"""What every test shares: quiet, repeatable surroundings."""

from __future__ import annotations

import os

# Set before any library is imported: no telemetry, no progress bars, no look at the network.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
