"""Settings of feature extraction, for backbones and for the baselines without a network."""

from __future__ import annotations

from dataclasses import dataclass

from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """How features are extracted, and what the baselines without a network see."""

    pixel_side: int = 32
    """Side to which views are resized for the pixel and PCA baselines, in pixels."""
    components: int = 128
    """Principal components of the pixels, fitted on the train split alone."""
    batch: int = 64
    """Views in each forward pass of a backbone."""
    workers: int = 2
    """Threads that decode views."""

    def check(self) -> None:
        """Raises ConfigError for a setting out of range; the message names it."""
        for name in ("pixel_side", "components", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sources.{name} {getattr(self, name)} must be at least 1")
