"""The order of the studies: what step t uses is a function of (seed, t), never of rank or worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .seeds import derived_seed


@dataclass(frozen=True, slots=True)
class StudyOrder:
    """The global order: each epoch is a permutation of all studies, cut into batches; the rest is dropped.

    >>> order = StudyOrder(studies=10, batch=4, seed=0)
    >>> order.per_epoch, order.epoch(2), len(order.rows(2))
    (2, 1, 4)
    """

    studies: int
    batch: int
    """Studies a step, over all workers."""
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return self.studies // self.batch

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return step // self.per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Rows of the studies of a step, for all workers together: (batch,)."""
        start = step % self.per_epoch * self.batch
        return _permutation(self.studies, self.seed, self.epoch(step))[start : start + self.batch]


@lru_cache(maxsize=2)
def _permutation(studies: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch in order: (studies,). Cached, since a million take longer to shuffle than a step."""
    return np.random.default_rng(derived_seed(seed, epoch, "order")).permutation(studies)


class StepSampler:
    """Batch sampler of one worker: one list of (row, epoch, progress) a step, from `first` to `steps`."""

    def __init__(self, order: StudyOrder, *, first: int, steps: int, rank: int, world: int) -> None:
        self.order, self.first, self.steps, self.rank, self.world = order, first, steps, rank, world

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int, float]]]:
        share = self.order.batch // self.world
        for step in range(self.first, self.steps):
            epoch = self.order.epoch(step)
            progress = epoch * self.order.per_epoch / self.steps
            rows = self.order.rows(step)[self.rank * share : (self.rank + 1) * share]
            yield [(int(row), epoch, progress) for row in rows]
