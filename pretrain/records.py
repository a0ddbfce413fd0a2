"""Records: losses, speed and health of the steps since the last record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from ..platform.training.ranks import gather_over_ranks, sum_over_ranks
from .config import TrainingConfig
from .objective import Objective
from .watch.spread import cosine_and_rank

Batch = TypeVar("Batch")

STATUS = "status.json"
"""In the run's folder: step, newest values and warnings, for the progress bar and the card."""


class RecordWindow:
    """The steps since the last record: sums on the device, for which nothing waits until `close` is called."""

    def __init__(
        self, config: TrainingConfig, objective: Objective, device: torch.device, world: int
    ) -> None:
        self.config, self.objective, self.world = config, objective, world
        self.names = (*objective.loss_names, "pairs")
        self.sums = torch.zeros(len(self.names), device=device)
        self.flags = torch.zeros(config.log_every, device=device)
        self.data_wait = 0.0
        """Share of the time of the newest record in which this worker waited for batches."""
        self.begin(0)

    def begin(self, first: int) -> None:
        """Forget all steps; the next one is `first`."""
        self.first, self.count, self.clock, self.waited = first, 0, time.monotonic(), 0.0
        self.sums.zero_()
        self.flags.zero_()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time that they are waited for is counted."""
        batches = iter(batches)
        while True:
            began = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.monotonic() - began
            yield batch

    def add(
        self, losses: Tensor, bad: Tensor, pairs: float, settings: dict[str, float], vectors: list[Tensor]
    ) -> None:
        """Add one step: losses in the order of the objective's, share of pairs, schedule values, CLS tokens (B, D)."""
        values = torch.cat([losses, losses.new_full((1,), pairs)])
        self.sums += torch.where(bad > 0, 0.0, values)
        self.flags[self.count] = bad
        self.count += 1
        self.settings, self.vectors = settings, vectors

    def exclude(self, seconds: float) -> None:
        """Leave time that was not spent on steps out of the speed."""
        self.clock += seconds

    def close(self) -> tuple[list[float], dict[str, float]]:
        """Of each step whether it was bad (1.0), and the metrics of the record by their logged names.

        Losses are means over the good steps; without any they are missing, and after a bad step so is the spread of
        the newest vectors. Here the host waits for the device. All workers call this together.
        """
        vectors_BD = gather_over_ranks(torch.cat(self.vectors), dim=0)
        sum_over_ranks(self.sums)
        numbers = torch.cat([self.sums / self.world, self.flags[: self.count]]).tolist()
        seconds = max(time.monotonic() - self.clock, 1e-9)
        sums, flags = numbers[: len(self.sums)], numbers[len(self.sums) :]
        self.data_wait = min(1.0, self.waited / seconds)
        metrics = {"speed/studies_per_second": len(flags) * self.config.batch / seconds}
        metrics |= {f"schedule/{name}": value for name, value in self.settings.items()}
        if good := self.count - sum(flags):
            means = {name: value / good for name, value in zip(self.names, sums, strict=True)}
            metrics |= self.objective.loss_metrics(means) | {"data/pairs": means["pairs"]}
        if not flags[-1]:
            cosine, rank = cosine_and_rank(vectors_BD)
            metrics |= {"health/mean_cosine": cosine.item(), "health/effective_rank": rank.item()}
        return flags, metrics
