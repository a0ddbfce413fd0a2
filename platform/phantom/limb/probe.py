"""Ultrasound probes: geometry, resolution and settings, and how a probe is held on a limb.

Probe frame, mm: x along the probe, y into the body, origin in the middle of the probe's face.
S samples along a beam, L beams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class UltrasoundProbe:
    """A probe and the settings of its scanner."""

    megahertz: float = 10.0
    """Center frequency."""
    width: float = 48.0
    """Face of a linear probe, mm."""
    radius: float = 0.0
    """Radius of a curved probe's face, mm; 0 for a linear one."""
    angle: float = 0.0
    """Half of a curved probe's fan, radians."""
    depth: float = 45.0
    """Depth shown, mm."""
    focus: float = 20.0
    """Depth of the focus, mm."""
    f_number: float = 2.8
    """Focus over aperture."""
    looks: int = 3
    """Directions averaged (compounding)."""
    white: float = 30.0
    """Level drawn white, dB above the mean echo of muscle."""
    dynamic: float = 56.0
    """Dynamic range from black to white, dB."""
    fade: float = 3.0
    """Attenuation that the time-gain leaves uncompensated, dB per cm of depth."""
    noise: float = -24.0
    """Receiver noise at the greatest depth, dB."""
    smoothing: float = 0.06
    """Standard deviation of the image's final blur, mm."""

    @property
    def wavelength(self) -> float:
        """Wavelength in mm at 1540 m/s."""
        return 1.54 / self.megahertz

    @property
    def axial(self) -> float:
        """Standard deviation in mm of depth of the pulse's envelope: two and a half cycles, there and back."""
        return 2.5 * self.wavelength / 2 / 2.355

    @property
    def step(self) -> float:
        """Distance between samples along a beam, mm."""
        return 0.7 * self.axial

    @property
    def beams(self) -> np.ndarray:
        """Where each beam leaves the probe, (L,) float32: mm along a linear face, radians on a curved one."""
        half = self.angle if self.radius else self.width / 2
        pitch = 0.45 * self.wavelength * self.f_number / (self.radius + self.focus if self.radius else 1)
        return np.linspace(-half, half, 2 * int(half / pitch) + 1, dtype=np.float32)

    @property
    def samples(self) -> np.ndarray:
        """Depth of the samples along a beam, (S,) float32 mm."""
        return np.arange(0, self.depth, self.step, dtype=np.float32)

    def pitch(self, depth: np.ndarray) -> np.ndarray:
        """Distance between neighboring beams at each depth, mm."""
        spacing = float(self.beams[1] - self.beams[0])
        return spacing * (self.radius + depth) if self.radius else np.full_like(depth, spacing)

    def lateral(self, depth: np.ndarray) -> np.ndarray:
        """Standard deviation of the beam's width at each depth, mm; smallest at the focus."""
        waist = self.wavelength * self.f_number / 2.355
        return waist * np.sqrt(1 + ((depth - self.focus) / (0.8 * self.focus)) ** 2)


LINEAR = UltrasoundProbe()
CURVED = UltrasoundProbe(
    megahertz=5.0, radius=45.0, angle=0.48, depth=60.0, focus=28.0, f_number=2.0, looks=1,
    white=33.0, dynamic=66.0, fade=1.0, noise=-30.0, smoothing=0.12,
)  # fmt: skip
"""The probe of device 1 is LINEAR, that of device 2 CURVED."""


@dataclass(frozen=True, slots=True)
class ProbePose:
    """How a probe is held on a limb."""

    x: float
    """Position along the skin, mm."""
    z: float
    """Position along the limb, mm."""
    tilt: float
    """Radians."""
    press: float
    """Share of the soft tissue's thickness that pressure takes away."""
    gel: tuple[float, float, float]
    """Gel in mm: more at the left edge, everywhere, more at the right edge."""


BEND = 12.0
"""Depth in mm over which the deformation by the probe's face and pressure fades."""


def limb_coordinates(
    probe: UltrasoundProbe, pose: ProbePose, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) in the limb frame (see `limb`) of points in the probe frame, float32 mm; y < 0 is gel.

    The skin lies along the probe's face or the gel before it. Its deformation and the compression fade with depth,
    so that bones keep their shape.
    """
    half = probe.radius * np.sin(probe.angle) if probe.radius else probe.width / 2
    across = np.clip(x, -half, half)
    left, middle, right = pose.gel
    share = across / half
    skin = middle + left * np.clip(-share, 0, 1) ** 2 + right * np.clip(share, 0, 1) ** 2
    if probe.radius:
        skin += np.sqrt(probe.radius**2 - across * across) - probe.radius
    below = y - skin
    below += skin * (1 - np.exp(-np.maximum(below, 0) / BEND))
    below += pose.press * BEND * (1 - np.exp(-np.maximum(below, 0) / BEND))
    return (x + pose.x + np.tan(pose.tilt) * below).astype(np.float32), below.astype(np.float32)
