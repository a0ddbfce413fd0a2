"""Records: losses and health of the steps since the last record, and the status file for whoever shows progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..platform.core.files import atomic_write
from ..platform.training.ranks import gather_over_ranks, sum_over_ranks
from .config import PretrainConfig
from .distillation.distiller import LOSS_NAMES
from .watch.spread import cosine_and_rank

STATUS = "status.json"
"""In the run's folder: step, newest values and warnings."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowMeans:
    """The steps since the last record, over all workers."""

    means: dict[str, float]
    """Losses and share of pairs by name, over the good steps; empty if there was none."""
    flags: list[float]
    """Of each step: 1 if it was bad."""
    vectors_BD: Tensor
    """The student's CLS tokens of the newest step."""
    seconds: float


class RecordWindow:
    """The steps since the last record: sums on the device, for which nothing waits until `means` is called."""

    def __init__(self, steps: int, device: torch.device, world: int) -> None:
        """steps: most steps between two records."""
        self.world = world
        self.sums = torch.zeros(len(LOSS_NAMES) + 1, device=device)
        self.flags = torch.zeros(steps, device=device)
        self.begin(0)

    def begin(self, first: int) -> None:
        """Forget all steps; the next one is `first`."""
        self.first, self.count, self.clock = first, 0, time.monotonic()
        self.sums.zero_()
        self.flags.zero_()

    def add(
        self,
        losses: Tensor,
        bad: Tensor,
        pairs: float,
        settings: Mapping[str, float],
        vectors: Sequence[Tensor],
    ) -> None:
        """Add one step: losses in the order of LOSS_NAMES, which count if the step was good."""
        values = torch.cat([losses, losses.new_full((1,), pairs)])
        self.sums += torch.where(bad > 0, 0.0, values)
        self.flags[self.count] = bad
        self.count += 1
        self.settings, self.vectors = settings, vectors

    def exclude(self, seconds: float) -> None:
        """Leave time that was not spent on steps out of the speed."""
        self.clock += seconds

    def means(self) -> WindowMeans:
        """Means over the window; here the host waits for the device. All workers call this together."""
        vectors_BD = gather_over_ranks(torch.cat(list(self.vectors)), dim=0)
        sum_over_ranks(self.sums)
        numbers = torch.cat([self.sums / self.world, self.flags[: self.count]]).tolist()
        seconds = max(time.monotonic() - self.clock, 1e-9)
        sums, flags = numbers[: len(self.sums)], numbers[len(self.sums) :]
        good = self.count - sum(flags)
        names = (*LOSS_NAMES, "pairs")
        means = {name: value / good for name, value in zip(names, sums, strict=True)} if good else {}
        return WindowMeans(means, flags, vectors_BD, seconds)


def window_metrics(
    config: PretrainConfig, window: WindowMeans, settings: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of a record by their logged names; settings: schedule values of the newest step."""
    studies = len(window.flags) * config.batch
    metrics = {"speed/studies_per_second": studies / window.seconds}
    metrics |= {f"schedule/{name}": value for name, value in settings.items()}
    if window.means:
        means = window.means
        metrics |= {f"loss/{name}": means[name] for name in LOSS_NAMES if name != "teacher_entropy"}
        metrics |= {
            "health/teacher_entropy": means["teacher_entropy"],
            "health/view_loss_minus_ln_k": means["view"] - math.log(config.distill.head.prototypes),
            "data/pairs": means["pairs"],
        }
    if not window.flags[-1]:
        cosine, rank = cosine_and_rank(window.vectors_BD)
        metrics |= {"health/mean_cosine": cosine.item(), "health/effective_rank": rank.item()}
    return metrics


def write_status(
    config: PretrainConfig, step: int, warnings: Sequence[str], values: Mapping[str, float]
) -> None:
    """Write the status file."""
    status = {"step": step, "steps": config.steps, "warnings": list(warnings), **values}
    atomic_write(config.out / STATUS, json.dumps(status))
