"""Folders as `vetdino zeroshot` and `vetdino fewshot` leave them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

_, _ENCODED = cv2.imencode(".png", np.full((90, 160, 3), (40, 120, 200), np.uint8))
FIGURE = _ENCODED.tobytes()
"""A PNG."""


def write_run(folder: Path, kind: str = "zero-shot") -> None:
    """A run with two metrics, a summary of two rows, a table by image, and one figure."""
    (folder / "figures").mkdir(parents=True)
    content = {
        "experiment": "same-domain" if kind == "zero-shot" else "kshot",
        "backbone": {"digest": "0" * 64, "label": "a label"},
        "data": "1" * 64,
        **({"domains": {"phantom": {}}} if kind == "zero-shot" else {"asked": {}}),
        "metrics": {"dice/phantom": 0.5, "dice/empty": None},
        "intervals": "95 % over images, by bootstrap",
        "left_out": {"one": "too small"},
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "summary.csv").write_text("domain,row,dice\nphantom,cosegment,0.5\nphantom,otsu,nan\n")
    (folder / "images.csv").write_text("name,dice\ncanary-image,0.5\n")
    (folder / "figures" / "dice.png").write_bytes(FIGURE)
