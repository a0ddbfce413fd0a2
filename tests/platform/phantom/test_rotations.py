"""Rotation matrices."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.phantom.rotations import rotation, rotation_to


def test_rotations_are_orthonormal_and_right_handed():
    for matrix in (
        rotation(10, 20, 30),
        rotation_to((1, 2, 3)),
        rotation_to((1, 0, 0)),
        rotation_to((-5, 0.1, 0)),
    ):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)


def test_the_angles_turn_about_x_then_y_then_z():
    x, y, z = np.eye(3)
    np.testing.assert_allclose(rotation(pitch=90) @ y, z, atol=1e-12)
    np.testing.assert_allclose(rotation(yaw=90) @ z, x, atol=1e-12)
    np.testing.assert_allclose(rotation(roll=90) @ x, y, atol=1e-12)
    np.testing.assert_allclose(
        rotation(10, 20, 30), rotation(roll=30) @ rotation(yaw=20) @ rotation(pitch=10)
    )


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (0, -2, 0), (-0.3, 0.4, 2), (0.91, 0.1, -0.4)])
def test_the_z_axis_turns_to_the_direction(direction):
    np.testing.assert_allclose(rotation_to(direction)[:, 2], np.array(direction) / np.linalg.norm(direction))
