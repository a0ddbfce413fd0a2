"""Settings of collapse alarms and of the probe. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmConfig:
    """When a training counts as collapsed, and what is done then.

    The limits lie between healthy trainings and collapsed ones of this project: the recipe `small`, whose whole
    curve stands in docs/results.md, and trainings on one image shown again and again.
    """

    policy: Literal["warn", "stop", "rewind"] = "warn"
    """What an alarm does: it is told; it ends the training; or it takes the training back to the checkpoint
    before the trouble, at half the learning rate."""
    grace: float = 0.02
    """Share of the steps before which nothing alarms: random weights see all images as one, and the teacher is
    uniform until they do not. At least 20 steps."""
    patience: int = 4
    """Records in a row that must be bad. One may be chance; with a record each 10 steps four are 40 steps."""
    trials: int = 3
    """The same for what the probe finds, which comes more rarely."""
    uniform: float = 0.98
    """Teacher's entropy, as a share of ln K, above which it tells nothing. Healthy trainings of few prototypes
    lie at 0.60 to 0.90, those whose loss hardly moved at 0.92 to 0.97, one image alone above 0.98."""
    certain: float = 0.02
    """The same, below which all images have one prototype: a sharp teacher of 65,536 prototypes who wavers among
    three only is at 0.1."""
    guessing: float = 0.01
    """Distance of the view loss from ln K, in nats, within or above which the student guesses. A healthy
    training is 0.03 below within 20 steps; with pairs only, which are hardest, 0.04 within 100."""
    rank: float = 0.02
    """Effective rank of studies' vectors, as a share of the largest possible, below which they lie on a line or
    little more. Healthy: 0.2 and more of the width; without the KoLeo loss 0.04 in the first steps."""
    cosine: float = 0.95
    """Mean cosine between different studies above which all look alike. Healthy trainings fall below 0.7, those
    that did not learn stood at 0.84 to 0.92, collapsed ones at 0.96 and above."""
    auroc_drop: float = 0.05
    """How far below its best the probe's AUROC must lie. With a hundred validation studies it wavers by 0.03."""
    rewinds: int = 3
    """How often a training is taken back, the learning rate halved each time, before it is stopped."""

    def check(self) -> None:
        """Raises ConfigError where a limit could never or always be passed."""
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
    """How the teacher's backbone is tried during training.

    A trial is bank + queries studies times `views` images through the backbone, without gradient: a step of
    64 studies and 8 crops each has the cost of some 1,500 images. What is shown is decoded once and kept, one
    byte a pixel, divided among the workers.
    """

    every: int = 500
    """Steps between two trials; 0 for none. The last step is tried always."""
    bank: int = 1000
    """Most training studies that are looked among."""
    queries: int = 500
    """Most validation studies that are asked for."""
    views: int = 2
    """Most views of a study that are looked at: the first ones. Two are enough to ask one for the other."""
    k: int = 20
    """Neighbours that vote."""

    def check(self) -> None:
        """Raises ConfigError where there would be nothing to try."""
        for name in ("bank", "queries", "views", "k"):
            if getattr(self, name) < 1:
                raise ConfigError(f"probe.{name} {getattr(self, name)} must be at least 1")
