"""The order of the studies: what step t uses is a function of (seed, t), never of rank or worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .seeds import derived_seed


@dataclass(frozen=True, slots=True)
class StudyOrder:
    """The global order of each epoch, cut into batches; the rest, fewer studies than a batch, is dropped.

    Without a window each epoch is a permutation of all studies. With one the shards are permuted, and studies are
    shuffled among `window` shards in a row. The linear order is cut into lanes of equal length, and a batch takes the
    next studies of each lane, lane after lane. A worker that computes a whole number of lanes, next to each other,
    reads few shards at a time, and none of this depends on how many workers there are.

    >>> order = StudyOrder(studies=10, batch=4, seed=0)
    >>> order.per_epoch, order.epoch(2), len(order.rows(2))
    (2, 1, 4)
    >>> lanes = StudyOrder(studies=12, batch=4, seed=0, shards=(3, 3, 3, 3), window=1, lanes=2)
    >>> [(lanes.rows(step) // 3).tolist() for step in range(3)]  # the shards that each step reads
    [[3, 3, 1, 1], [3, 0, 1, 2], [0, 0, 2, 2]]
    """

    studies: int
    batch: int
    """Studies a step, over all workers."""
    seed: int
    shards: tuple[int, ...] = ()
    """Studies of each shard, in the order of their rows; needed where there is a window."""
    window: int = 0
    """Shards whose studies are shuffled together; 0 shuffles all."""
    lanes: int = 1
    """Parts of the epoch that are read side by side; divides the batch."""

    def __post_init__(self) -> None:
        assert not self.window or sum(self.shards) == self.studies, "the shards hold the studies"
        assert self.batch % self.lanes == 0, "a batch takes equally many studies of each lane"

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return self.studies // self.batch

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return step // self.per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Rows of the studies of a step, for all workers together: (batch,)."""
        epoch, place = divmod(step, self.per_epoch)
        linear = _linear_order(self.studies, self.seed, epoch, self.shards, self.window)
        lanes = linear[: self.per_epoch * self.batch].reshape(self.lanes, self.per_epoch, -1)
        return lanes[:, place].reshape(-1)


@lru_cache(maxsize=2)
def _linear_order(studies: int, seed: int, epoch: int, shards: tuple[int, ...], window: int) -> np.ndarray:
    """The rows of an epoch in order: (studies,). Cached, since a million take longer to shuffle than a step."""
    rows = np.random.default_rng(derived_seed(seed, epoch, "order")).permutation(studies)
    if not window:
        return rows
    places = np.random.default_rng(derived_seed(seed, epoch, "shards")).permutation(len(shards))
    window_of_row = np.repeat(places // window, shards)
    return rows[np.argsort(window_of_row[rows], kind="stable")]


class StepSampler:
    """Batch sampler of one worker: one list of (row, epoch, progress) a step, from `first` to `steps`."""

    def __init__(self, order: StudyOrder, *, first: int, steps: int, rank: int, world: int) -> None:
        assert order.batch % world == 0, "all workers have equally many studies of a batch"
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
