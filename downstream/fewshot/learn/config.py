"""Settings of episodes, of what a backbone learns, of training and of test-time training; imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ....platform.core.device import DeviceConfig
from ....platform.core.errors import ConfigError
from ..method.config import PrototypeConfig, SliceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnConfig:
    """Which weights of a backbone are trained."""

    rank: int = 4
    """Rank of the LoRA layers beside qkv, proj, fc1 and fc2 of every block; 0: no LoRA."""
    neighbours: Literal[0, 3] = 0
    """3: a slice is joined with the slices below and above by a trained 1x1 convolution and an instance norm, as one
    image; 0: each slice alone."""
    channels: Literal[1, 3] = 1
    """Output channels of that convolution; a backbone with one input channel sees their mean. The text of
    arXiv 2403.03273 says 1, its code 3."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ConfigError(f"learn.rank is {self.rank}; give 0 or more")
        if not self.rank and not self.neighbours:
            raise ConfigError("learn: rank 0 and neighbours 0 leave nothing to train; set one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeConfig:
    """How superpixels are cut and slices augmented. Augmentation parameters are drawn uniformly from their ranges."""

    min_size: int = 400
    """Smallest superpixel, in pixels; where the body's edge cuts one, at least half of that must lie inside."""
    scale: float = 1.0
    """Felzenszwalb's k for gray values from 0 to 1: the larger, the larger the superpixels."""
    sigma: float = 1.0
    """Gaussian blur before superpixels are cut, in pixels."""
    rotation: float = 5.0
    """Largest rotation either way, in degrees."""
    shift: float = 5.0
    """Largest translation along rows and along columns, in pixels."""
    shear: float = 5.0
    """Largest shear either way, in degrees."""
    zoom: tuple[float, float] = (0.9, 1.2)
    """Smallest and largest scale factor."""
    elastic_alpha: float = 10.0
    """Factor of the smoothed displacement field, which is drawn from -1 to 1 pixel for every pixel."""
    elastic_sigma: float = 5.0
    """Gaussian blur of the displacement field, in pixels."""
    gamma: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest exponent of the gray values."""

    def __post_init__(self) -> None:
        for name in ("scale", "sigma", "rotation", "shift", "shear", "elastic_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"episodes.{name} is {getattr(self, name)}; give 0 or more")
        for name in ("zoom", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ConfigError(
                    f"episodes.{name} is {low} {high}; give two factors above 0, the smaller first"
                )
        if self.min_size < 1 or not 0 < self.elastic_sigma < math.inf:
            raise ConfigError(
                f"episodes: min_size {self.min_size}, elastic_sigma {self.elastic_sigma}; both must be above 0"
            )
        if max(self.rotation, self.shear) >= 90:
            raise ConfigError("episodes: rotation and shear must be below 90 degrees")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(DeviceConfig):
    """How encoders are trained on episodes; the defaults are the published recipe."""

    slices: SliceConfig = field(default_factory=SliceConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    episodes: EpisodeConfig = field(default_factory=EpisodeConfig)
    prototypes: PrototypeConfig = field(default_factory=PrototypeConfig)
    setting: Literal["I", "II"] = "II"
    """I: episodes from all slices; II: none from slices that show a test organ, so one encoder per group."""
    groups: tuple[str, ...] = ()
    """Test organs that share an encoder in Setting II: names or class numbers joined by `+`, such as `liver+spleen`.
    Default: left and right of an organ together, every other organ alone."""
    folds: int = 5
    """Cross-validation folds; use the same number in evaluation."""
    steps: int = 100_100
    """Training steps of each encoder, one episode per step."""
    lr: float = 1e-3
    """Learning rate of SGD at the first step."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    decay: float = 0.95
    """Factor of the learning rate every `decay_every` steps."""
    decay_every: int = 1000
    """Steps between two reductions of the learning rate."""
    record_every: int = 100
    """Steps between two log entries of the mean losses; each also writes a state to resume from."""
    seed: int = 0
    """Seed for the LoRA start and the episodes."""

    def __post_init__(self) -> None:
        for name in ("steps", "decay_every", "record_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 0 < self.lr < math.inf or not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"lr {self.lr}, weight_decay {self.weight_decay}; give above 0 and at least 0")
        if not 0 <= self.momentum < 1 or not 0 < self.decay <= 1:
            raise ConfigError(
                f"momentum {self.momentum}, decay {self.decay}; momentum must lie in [0, 1), decay in (0, 1]"
            )
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; give 0 or more")
        if self.groups and self.setting == "I":
            raise ConfigError(
                "groups: Setting I trains one encoder per fold for all organs; leave groups out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptConfig:
    """Test-time training: how the encoder is trained on a slice before it segments that slice."""

    steps: int = 0
    """Training steps on each slice; 0: no test-time training. Published: 100."""
    rate: float = 1e-3
    """Learning rate."""
    looks: EpisodeConfig = field(default_factory=EpisodeConfig)
    """Augmentations of the slice; the superpixel settings are not used."""
    seed: int = 0
    """Seed for the augmentations, together with the scan's name, the organ and the slice."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"adapt.steps is {self.steps}; give 0 or more")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"adapt.rate is {self.rate}; give a number above 0")
