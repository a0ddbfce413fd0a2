"""Settings of collapse alarms and of the probe. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmConfig:
    """When a training counts as collapsed, and what is done then.

    The limits are between healthy trainings and collapsed ones of this project: the recipe `small`, whose whole
    curve is in docs/experiments.md, and trainings on one image shown again and again.
    """

    policy: Literal["warn", "stop", "rewind"] = "warn"
    """What an alarm does: print a warning; stop the training; or rewind it to the checkpoint before the trouble, at
    half the learning rate."""
    grace: float = 0.02
    """Share of the steps before which nothing alarms: random weights see all images as one, and the teacher is
    uniform until they do not. At least 20 steps."""
    patience: int = 4
    """Bad records in a row before an alarm: one may be chance. With a record each 10 steps four are 40 steps."""
    trials: int = 3
    """The same for the probe's values, which come less often."""
    uniform: float = 0.98
    """Teacher's entropy as a share of ln K above which its targets count as uniform. Healthy trainings of few
    prototypes are at 0.60 to 0.90, those whose loss hardly moved at 0.92 to 0.97, one image alone above 0.98."""
    certain: float = 0.02
    """The same below which all images count as having one prototype: a sharp teacher of 65,536 prototypes that
    uses only three is at 0.1."""
    guessing: float = 0.01
    """Nats below ln K that the view loss must reach; above that the student only guesses. A healthy training is 0.03
    below within 20 steps; with pairs only, which are hardest, 0.04 within 100."""
    rank: float = 0.02
    """Effective rank of studies' vectors, as a share of the largest possible, below which they are nearly on a
    line. Healthy: 0.2 and more of the width; without the KoLeo loss 0.04 in the first steps."""
    cosine: float = 0.95
    """Mean cosine between different studies above which all look alike. Healthy trainings fall below 0.7, those
    that did not learn were at 0.84 to 0.92, collapsed ones at 0.96 and above."""
    auroc_drop: float = 0.05
    """Drop of the probe's AUROC below its best that counts as bad. With a hundred validation studies it varies by
    0.03."""
    rewinds: int = 3
    """How often a training is rewound, the learning rate halved each time, before it is stopped."""

    def check(self) -> None:
        """Raises ConfigError if a limit could never or always be passed."""
        for name in ("patience", "trials"):
            if getattr(self, name) < 1:
                raise ConfigError(f"alarms.{name} {getattr(self, name)} must be at least 1")
        if self.rewinds < 0:
            raise ConfigError(f"alarms.rewinds {self.rewinds} must be 0 or more")
        for name in ("grace", "uniform", "certain", "rank", "cosine"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"alarms.{name} {getattr(self, name)} must lie between 0 and 1")
        if self.certain >= self.uniform:
            raise ConfigError(
                f"alarms.certain {self.certain} must lie below alarms.uniform {self.uniform}: "
                "both bound the teacher's entropy"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """How the teacher's backbone is evaluated during training, by k-NN.

    Each evaluation puts bank + queries studies times `views` images through the backbone, without gradient; a
    training step of 64 studies and 8 crops each costs as much as some 1,500 images. Images are decoded once and kept
    in memory, one byte a pixel, divided among the workers.
    """

    every: int = 500
    """Steps between two evaluations; 0 for none. The last step always has one."""
    bank: int = 1000
    """Most training studies among which neighbors are searched."""
    queries: int = 500
    """Most validation studies that are queried."""
    views: int = 2
    """Most views of a study, the first ones. Cross-view recall needs two."""
    k: int = 20
    """Neighbors that vote."""

    def check(self) -> None:
        """Raises ConfigError if there would be nothing to evaluate."""
        for name in ("bank", "queries", "views", "k"):
            if getattr(self, name) < 1:
                raise ConfigError(f"probe.{name} {getattr(self, name)} must be at least 1")
