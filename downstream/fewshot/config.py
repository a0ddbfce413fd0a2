"""Settings of the few-shot experiments and of `vetdino fewshot segment`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ...platform.core.errors import ConfigError
from ..volumes.config import PrepareConfig
from .learn.config import AdaptConfig, LearnConfig
from .method.config import Compat, Components, FoldsConfig, ScanConfig, TaskConfig

Baseline: TypeAlias = Literal["copy", "pixels", "random", "oracle"]
"""The support's mask copied, pixel features, an encoder of random weights, the ground truth through the grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FewshotConfig(FoldsConfig):
    """How segmentation from a few labeled scans is measured over a prepared folder."""

    shots: tuple[int, ...] = (1,)
    """Numbers of support scans; several numbers become rows of their own, on the same queries."""
    beside: tuple[Compat, ...] = ()
    """Other `prototypes.compat` modes on the same features, as rows of their own."""
    components_beside: tuple[Components, ...] = ()
    """Other values of `components` on the same scores, as rows of their own."""
    floors: tuple[Baseline, ...] = ("copy", "pixels", "random", "oracle")
    """Baselines: the support's mask copied, pixel features, an encoder of the same shape with random weights; and the
    ground truth at the resolution of the grid, which is the upper bound."""
    scan: ScanConfig = field(default_factory=ScanConfig)

    def __post_init__(self) -> None:
        FoldsConfig.__post_init__(self)
        if not self.shots or len(set(self.shots)) < len(self.shots):
            raise ConfigError(f"shots is {self.shots}; give numbers of scans, each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class FewshotEvaluateConfig(FewshotConfig):
    """How segmentation from a few labeled scans is measured, with or without test-time training."""

    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    """Training on each query slice before it is segmented; with steps, rows of their own."""
    learn: LearnConfig = field(default_factory=LearnConfig)
    """Which weights of a frozen backbone test-time training may change; encoders of `--trained` bring their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KshotConfig(FewshotConfig):
    """How more support scans are compared with fewer."""

    shots: tuple[int, ...] = (1, 2, 4)
    """Numbers of support scans; each is compared with the first, on the same queries."""
    beside: tuple[Compat, ...] = ("alpnet", "levayz")
    """Other `prototypes.compat` modes, which pool several supports differently, as rows of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class XdomainConfig(FewshotConfig):
    """How supports of one folder are used on queries of another."""

    floors: tuple[Baseline, ...] = ("copy", "pixels", "oracle")
    """Baselines in every cell of the matrix, see `vetdino fewshot evaluate`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FewshotSegmentConfig(TaskConfig):
    """How new scans are segmented."""

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How files become slices; the same for the labeled scan and the new ones."""
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    """Training on each query slice before it is segmented; its `steps` are 0 by default."""
    learn: LearnConfig = field(default_factory=LearnConfig)
    """Which weights of the backbone test-time training may change."""
    scan: ScanConfig = field(default_factory=ScanConfig)
