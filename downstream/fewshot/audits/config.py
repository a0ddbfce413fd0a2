"""Settings of the audits of connected components and of test-time training; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....platform.core.errors import ConfigError
from ..learn.config import AdaptConfig, LearnConfig
from ..method.config import FoldsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig(FoldsConfig):
    """Which slices of a prepared folder an audit measures."""

    shots: int = 1
    """Support scans."""
    together: tuple[str, ...] = ()
    """Classes segmented as one organ, by number or name, such as `2+3` for both kidneys."""
    scans: int = 0
    """Number of scans to measure, spread evenly over all; 0: all."""
    per_organ: int = 0
    """Number of slices to measure of each organ and scan, spread evenly from end to end; 0: all."""

    def __post_init__(self) -> None:
        FoldsConfig.__post_init__(self)
        for name in ("scans", "per_organ"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class CcaConfig(AuditConfig):
    """How the connected-component step is audited."""


def _published() -> AdaptConfig:
    return AdaptConfig(steps=100)


@dataclass(frozen=True, kw_only=True, slots=True)
class TttConfig(AuditConfig):
    """How test-time training is audited. It takes minutes per scan, hence only three slices per organ by default."""

    per_organ: int = 3
    """Number of slices to measure of each organ and scan, spread evenly from end to end; 0: all."""
    adapt: AdaptConfig = field(default_factory=_published)
    """The test-time training; the audit trains for at most `steps`."""
    also: tuple[int, ...] = (10, 30)
    """Fewer steps after which the audit measures, too; each is a row of its own."""
    noise: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Rows trained on the true mask, with this fraction of its pixels replaced by pixels around it."""
    learn: LearnConfig = field(default_factory=LearnConfig)
    """Which weights are trained where no trained encoder is given."""

    def __post_init__(self) -> None:
        AuditConfig.__post_init__(self)
        if self.adapt.steps < 1 or any(not 0 < steps < self.adapt.steps for steps in self.also):
            raise ConfigError(
                f"adapt.steps {self.adapt.steps}, also {self.also}; give at least 1 step, and fewer steps in `also`"
            )
        if any(not 0 <= share < 1 for share in self.noise):
            raise ConfigError(f"noise is {self.noise}; fractions lie from 0 to below 1")
