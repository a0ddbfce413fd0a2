"""Example slices before and after the audited step: those whose Dice changes most."""

# H, W rows and columns of a slice.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scores import slice_score
from .targets import AuditTarget

EXAMPLES = 4
"""Slices kept of those that gain most, and of those that lose most."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceExample:
    """A slice before and after the audited step: image (H, W) uint8, masks (H, W) bool, Dice 0..1."""

    title: str
    image_HW: np.ndarray
    before_HW: np.ndarray
    after_HW: np.ndarray
    truth_HW: np.ndarray
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def slice_example(target: AuditTarget, z: int, before_HW: np.ndarray, after_HW: np.ndarray) -> SliceExample:
    """One slice with its two predicted masks."""
    before, after = (slice_score("", target, z, mask_HW).dice for mask_HW in (before_HW, after_HW))
    title = f"{target.support.name}, scan {target.query.name}, slice {z}"
    image_HW = target.query.image_ZHW[z].astype(np.uint8)
    return SliceExample(title, image_HW, before_HW, after_HW, target.truth[z], before, after)


class ExtremeExamples:
    """The slices with the largest gains and losses of all that are added, whatever their order."""

    def __init__(self) -> None:
        self.gains: list[SliceExample] = []
        self.losses: list[SliceExample] = []

    def add(self, example: SliceExample) -> None:
        if example.gain > 0:
            self.gains = sorted([*self.gains, example], key=lambda e: (-e.gain, e.title))[:EXAMPLES]
        elif example.gain < 0:
            self.losses = sorted([*self.losses, example], key=lambda e: (e.gain, e.title))[:EXAMPLES]
