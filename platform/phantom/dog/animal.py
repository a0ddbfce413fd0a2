"""What is drawn at random about a generated dog or cat: the animal, its diseases, and how it lies for one view.

`Animal` is the same in all studies of a patient, `Disease` in all views of a study; `DogPose` belongs to one view.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

GRAVITY = {"VD": (0, 1, 0), "DV": (0, -1, 0), "LLAT": (1, 0, 0), "RLAT": (-1, 0, 0)}
"""Position -> direction of gravity in the animal frame (see `solids`); LLAT lies on its left side."""


@dataclass(frozen=True, slots=True)
class Animal:
    """Build of a patient. Sizes are factors relative to a 15 kg dog."""

    size: float
    width: float
    depth: float
    length: float
    limb: float
    fat: float
    """Thickness of the subcutaneous fat, cm."""
    age: float
    """0 young … 1 old: thinner cortex, spurs between vertebrae, calcified costal cartilage."""
    male: bool
    cat: bool
    seed: int
    """Seed for vessels, gut loops and the rest of the individual anatomy."""


@dataclass(frozen=True, slots=True)
class Disease:
    """Severity of each finding, 0 absent, else (0, 1]; `seed` decides where and in what shape."""

    severity: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def get(self, finding: str) -> float:
        """Severity of a finding, 0 where it is absent."""
        return self.severity.get(finding, 0.0)


@dataclass(frozen=True, slots=True)
class DogPose:
    """How the animal lies for one view. Angles in degrees, shifts in cm."""

    position: str
    """VD, DV, LLAT or RLAT."""
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """About the long axis, the transverse axis and the ray."""
    bend: tuple[float, float] = (0.0, 0.0)
    """Sideways and dorsal displacement of the spine 20 cm from the last rib; it grows with the square."""
    breath: float = 0.0
    """How far the diaphragm has moved caudally."""
    fore: tuple[float, float] = (0.0, 0.0)
    hind: tuple[float, float] = (0.0, 0.0)
    """Swing of the left and right limb from ventral towards cranial, added to the position's usual angle."""
    fill: float = 0.5
    """How full stomach and bladder are, 0 to 1."""


def draw_animal(random: np.random.Generator) -> Animal:
    """A patient: toy breeds to giants, deep and barrel chests, lean and fat, young and old; one in four is a cat."""
    cat = bool(random.uniform() < 0.25)
    log_weight = random.uniform(np.log(3.0), np.log(7.0 if cat else 50.0))
    size = float(np.exp(log_weight) / 15) ** (1 / 3)
    build = random.normal(0, 0.5 if cat else 1)  # from barrel (-) to greyhound (+)
    return Animal(
        size=size,
        width=float(np.clip(1 - 0.08 * build + random.normal(0, 0.04), 0.75, 1.3)),
        depth=float(np.clip(1 + 0.07 * build + random.normal(0, 0.04), 0.8, 1.25)),
        length=float(np.clip(random.normal(1.08 if cat else 1, 0.06), 0.85, 1.25)),
        limb=float(np.clip(random.normal(1, 0.18), 0.5, 1.35)),
        fat=float(np.clip(random.gamma(2.2, 0.35), 0.15, 2.2)),
        age=float(random.uniform()),
        male=bool(random.uniform() < 0.5),
        cat=cat,
        seed=int(random.integers(2**31)),
    )


def draw_pose(random: np.random.Generator, position: str) -> DogPose:
    """One positioning of the animal on the table."""
    lateral = position in ("LLAT", "RLAT")
    rotation = random.normal(0, (5.0, 2.0, 2.5) if lateral else (4.0, 2.0, 2.5))
    bend = random.normal(0, (0.4, 0.7) if lateral else (1.0, 0.4))
    return DogPose(
        position=position,
        rotation=tuple(rotation.tolist()),
        bend=tuple(bend.tolist()),
        breath=float(random.normal(0, 0.8)),
        fore=tuple(random.normal(0, 14, 2).tolist()),
        hind=tuple(random.normal(0, 14, 2).tolist()),
        fill=float(random.uniform(0.1, 1)),
    )
