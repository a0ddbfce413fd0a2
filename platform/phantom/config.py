"""Settings of the three generators of test data: radiographs, ultrasound sweeps, CT and MRI scans.

Light on purpose: the command line shows these classes without importing numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.errors import ConfigError

FINDINGS = (
    "cardiomegaly", "pleural_effusion", "lung_mass", "hepatomegaly",
    "gastric_dilatation", "rib_fracture", "long_bone_fracture", "bladder_stones",
)  # fmt: skip
"""Findings that a generated dog may have; the columns of labels.csv in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomConfig:
    """Generated radiographs: number of studies, image size, and how frequent each finding is."""

    studies: int = 200
    """Studies to generate."""
    side: int = 512
    """Long side of an image, in pixels."""
    seed: int = 0
    """Seed for animals, diseases and exposures."""
    workers: int = 0
    """Worker processes; 0 means one per CPU core. The bytes do not depend on it."""
    cardiomegaly: float = 0.22
    """Share of studies with an enlarged heart."""
    pleural_effusion: float = 0.18
    """Share of studies with fluid around the lungs."""
    lung_mass: float = 0.18
    """Share of studies with a mass in a lung."""
    hepatomegaly: float = 0.20
    """Share of studies with an enlarged liver."""
    gastric_dilatation: float = 0.15
    """Share of studies with a stomach full of gas."""
    rib_fracture: float = 0.15
    """Share of studies with broken ribs."""
    long_bone_fracture: float = 0.18
    """Share of studies with a broken humerus or femur."""
    bladder_stones: float = 0.16
    """Share of studies with stones in the bladder."""

    def __post_init__(self) -> None:
        if self.studies < 1:
            raise ConfigError(f"studies is {self.studies}; choose at least 1")
        _check_side(self.side, 32, 4096)
        for finding in FINDINGS:
            share = getattr(self, finding)
            if not 0 <= share <= 1:
                raise ConfigError(f"{finding} is {share}; a share lies between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SonogramConfig:
    """Generated b-mode ultrasound: frames per sweep, number of domains, image size."""

    frames: int = 12
    """Frames in the sweep of each domain."""
    domains: int = 4
    """Number of combinations of subject, device and body part. 4: the first combination and three that differ
    from it in one of these each; 8: two subjects, two devices, arm and leg, all combinations; beyond 8 come new
    subjects and new devices."""
    side: int = 512
    """Long side of a frame, in pixels."""
    seed: int = 0
    """Seed for limbs, devices, probe motion and scatterers."""
    workers: int = 0
    """Worker processes; 0 means one per CPU core. The bytes do not depend on it."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.domains < 1:
            raise ConfigError(f"frames {self.frames} and domains {self.domains}; choose at least 1 of each")
        _check_side(self.side, 64, 2048)


@dataclass(frozen=True, kw_only=True, slots=True)
class TorsoConfig:
    """Generated abdominal scans: number of scans, modality, image size."""

    scans: int = 20
    """Scans of each modality; every scan is of a new patient."""
    modality: Literal["ct", "mri", "both"] = "both"
    """ct (Hounsfield units), mri (T2-weighted, fat-suppressed), or both with `scans` of each."""
    side: int = 256
    """Largest side of a slice in pixels; a scan has this size, 7/8 or 3/4 of it."""
    seed: int = 0
    """Seed for patients, fields of view and scanner noise."""
    workers: int = 0
    """Worker processes; 0 means one per CPU core. The bytes do not depend on it."""

    def __post_init__(self) -> None:
        if self.scans < 1:
            raise ConfigError(f"scans is {self.scans}; choose at least 1")
        _check_side(self.side, 64, 512)


def _check_side(side: int, low: int, high: int) -> None:
    """Raise ConfigError unless low <= side <= high pixels."""
    if not low <= side <= high:
        raise ConfigError(f"side is {side}; choose between {low} and {high} pixels")
