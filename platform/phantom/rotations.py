"""Rotation matrices, (3, 3) float64, that turn column vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def rotation(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation by angles in degrees: pitch about x, then yaw about y, then roll about z."""
    (cp, sp), (cy, sy), (cr, sr) = (
        (math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in (pitch, yaw, roll)
    )
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def rotation_to(direction: Sequence[float] | np.ndarray) -> np.ndarray:
    """A rotation that turns the z axis to `direction` (3,), which need not have unit length."""
    x, y, z = (float(part) for part in direction)
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    # Second column: direction x the x axis, or x the y axis where direction is close to x. First: second x third.
    a, b, c = (0.0, z, -y) if abs(x) < 0.9 else (-z, 0.0, x)
    length = math.sqrt(a * a + b * b + c * c)
    a, b, c = a / length, b / length, c / length
    return np.array([[b * z - c * y, a, x], [c * x - a * z, b, y], [a * y - b * x, c, z]])
