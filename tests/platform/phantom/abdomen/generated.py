"""Generated scans, made once for all tests of the abdomen."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from vetdino.platform.phantom.abdomen.scans import GeneratedScan, generate_scan
from vetdino.platform.phantom.abdomen.tissues import CLASSES
from vetdino.platform.phantom.config import TorsoConfig

SMALL = TorsoConfig(side=64, scans=1, seed=2, workers=1)


NUMBER = {name: number for number, name in CLASSES.items()}


EIGHT = [(modality, number) for modality in ("ct", "mri") for number in range(1, 5)]


@cache
def scan(modality: str, number: int, side: int = 96) -> GeneratedScan:
    return generate_scan(replace(SMALL, side=side), modality, number)


def center(of: GeneratedScan, organ: str) -> np.ndarray:
    """mm in RAS+ of an organ's middle."""
    z, y, x = np.argwhere(of.labels_ZHW == NUMBER[organ]).mean(0)
    return (of.affine @ (x, y, z, 1))[:3]


def median(of: GeneratedScan, organ: str) -> float:
    return float(np.median(of.image_ZHW[of.labels_ZHW == NUMBER[organ]]))
