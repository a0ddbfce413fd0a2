"""Settings of an evaluation: which tasks, on how much of the training data, and each task's own settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..platform.core.device import DeviceConfig
from ..platform.core.errors import ConfigError
from .common.config import SourceConfig
from .findings.config import FinetuneConfig, KnnConfig, LinearConfig
from .views.config import ConsistencyConfig, SynthesisConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(DeviceConfig):
    """Which tasks are evaluated, and how."""

    tasks: tuple[str, ...] = ("knn",)
    """Names of tasks: knn, linear, finetune, consistency, synthesis."""
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Fractions of the train patients that knn and linear learn from; a smaller set is a subset of a larger one."""
    resamples: int = 1000
    """Bootstrap resamples of patients behind each 95 % interval."""
    seed: int = 0
    """Seed for the random backbone, the choice of patients and the bootstrap."""
    sources: SourceConfig = field(default_factory=SourceConfig)
    """How features are extracted."""
    knn: KnnConfig = field(default_factory=KnnConfig)
    """How the nearest neighbors vote."""
    linear: LinearConfig = field(default_factory=LinearConfig)
    """How the linear probe is fitted."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """How backbones are fine-tuned."""
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    """How the views of a study are compared with one another."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """How one view is decoded from another."""

    def check(self) -> None:
        """Raises ConfigError for a setting of the chosen tasks that is out of range; the message names it."""
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ConfigError(
                    f"fractions: {fraction:g} of the patients; choose more than 0, and 1 at most"
                )
        if self.resamples < 1:
            raise ConfigError(f"resamples {self.resamples} must be at least 1")
        self.sources.check()
        # The settings of consistency are checked where they are made.
        for name in ("knn", "linear", "finetune", "synthesis"):
            if name in self.tasks:
                getattr(self, name).check()
