"""Settings of a plan. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError

HardwareName = Literal["a100-40", "a100", "h100", "h200", "l40s", "rtx4090", "v100", "cpu"]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """On what a training would run, and what is assumed of it."""

    gpus: int = 0
    """GPUs, each with one worker; 0 takes the recipe's `workers`."""
    gpu: HardwareName = "a100"
    """Kind of GPU; `cpu` is this machine, whose speed is measured by a matrix product."""
    studies: int = 0
    """Training studies; 0 counts those of `shards`."""
    peak_share: float = 0.0
    """Share of the peak of matrix products that a step reaches; 0 takes 0.3 on a GPU and 0.8 on a CPU."""
    network: float = 100.0
    """Gigabits a second of each worker's network between machines, for more than 8 GPUs."""
    price: float = 0.0
    """Price of a GPU hour, in any currency; 0 leaves out the cost."""

    def check_plan(self) -> None:
        """Raises ConfigError for a setting out of its range."""
        if self.gpus < 0 or self.studies < 0 or self.price < 0:
            raise ConfigError("gpus, studies and price must be at least 0")
        if not 0 <= self.peak_share <= 1:
            raise ConfigError(f"peak_share {self.peak_share} is no share of the peak, 0 to 1")
        if self.network <= 0:
            raise ConfigError(f"network {self.network} must be above 0 gigabits a second")
