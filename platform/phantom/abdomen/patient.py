"""A patient in a scanner: body size and position, and the grid of the scan.

Standard torso, mm: x to the patient's left, y to the back, z to the head; the origin lies in front of the first lumbar
vertebra.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LAYERS = 3
"""Thin layers of a slice; the middle one gives the labels, the mean of all the image (partial volume)."""


@dataclass(frozen=True, slots=True)
class ScanGrid:
    """Position and resolution of a scan's slices.

    side: pixels of a row and of a column; pixel, thickness: mm; top: z of the middle of the highest slice, mm;
    shift: x and y of the middle of every slice, mm.
    """

    side: int
    pixel: float
    slices: int
    thickness: float
    top: float
    shift: tuple[float, float]

    def axes(self, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """z of all thin layers from the feet up, y and x of `cells` cells across the slice; float32 mm."""
        layers = self.slices * LAYERS
        z = self.top - self.thickness * (
            (layers - 1 - np.arange(layers)) / LAYERS - (LAYERS - 1) / 2 / LAYERS
        )
        across = (np.arange(cells) + 0.5) / cells * self.side * self.pixel - self.side * self.pixel / 2
        left, back = self.shift
        return z.astype(np.float32), (across + back).astype(np.float32), (across + left).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Patient:
    """Body size, fat and position of a patient; the shapes of the organs vary beyond these.

    scale: width, depth and height relative to the standard torso; fat: thickness under the skin, mm; inner: share of
    the space between organs that is fat; turn: degrees about x, y, z on the table; breath: mm by which the organs
    below the diaphragm have moved to the feet; full: how full stomach and bowel are, 0 to 1.
    """

    scale: tuple[float, float, float]
    fat: float
    inner: float
    turn: tuple[float, float, float]
    breath: float
    full: float


def draw_patient(random: np.random.Generator) -> Patient:
    """A patient: small or tall, lean or fat, straight or crooked on the table."""
    size, build, flat = np.clip(random.normal(0, (0.04, 0.04, 0.04)), -0.08, 0.08)
    return Patient(
        scale=tuple(np.exp([size + build, size - build / 2 + flat, size]).tolist()),
        fat=float(np.clip(random.gamma(2.6, 5.5), 4, 38)),
        inner=float(random.uniform(0.15, 0.6)),
        turn=tuple(np.clip(random.normal(0, (2.5, 2.5, 4.0)), -8, 8).tolist()),
        breath=float(np.clip(random.normal(0, 6), -12, 12)),
        full=float(random.uniform(0.15, 1)),
    )
