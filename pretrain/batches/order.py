"""The order of the studies: what step t uses is a function of (seed, t), never of rank or worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .seeds import derived_seed

# A archives, L lanes; a batch of L x I studies, I of each lane.


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
        linear = _passes(self.studies, self.seed, self.shards, self.window)(epoch)
        lanes = linear[: self.per_epoch * self.batch].reshape(self.lanes, self.per_epoch, -1)
        return lanes[:, place].reshape(-1)

    def draws(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the studies of a step, and for each how often its archive was gone through before: twice (batch,)."""
        rows = self.rows(step)
        return rows, np.full_like(rows, self.epoch(step))


@dataclass(frozen=True, slots=True)
class MixedOrder:
    """The studies of several archives, drawn by weight; rows number the studies of the first archive, then the next.

    Each archive goes round at its own rate: pass after pass, each with a permutation of its own that is cut into lanes
    as that of a `StudyOrder` is. A pass uses equally many studies in each lane; the rest, fewer than there are lanes,
    is dropped. A lane begins its part of the next pass when it is through with this one.

    Which archive a place of a lane belongs to is arithmetic, not chance: of the first n places the first archive has
    the rounded n x weight, of what is left the second has its share, and so on. Rounding begins in each lane at another
    phase, so that lanes make up for each other: of two archives each batch holds its exact share rounded up or down.

    >>> order = MixedOrder(archives=((10,), (6,)), weights=(3, 1), batch=4, seed=0)
    >>> order.studies, order.per_epoch, [(order.rows(step) < 10).sum().item() for step in range(3)]
    (16, 4, [3, 3, 3])
    """

    archives: tuple[tuple[int, ...], ...]
    """Studies of each shard of each archive."""
    weights: tuple[int, ...]
    """Parts of the whole that each archive has in a batch; at least 1."""
    batch: int
    seed: int
    window: int = 0
    lanes: int = 1

    def __post_init__(self) -> None:
        assert len(self.archives) == len(self.weights), "each archive has a weight"
        assert min(self.weights) > 0, "an archive without weight is left out"
        assert self.batch % self.lanes == 0, "a batch takes equally many studies of each lane"
        assert min(map(sum, self.archives)) >= self.lanes, "each lane has studies of each archive"

    @property
    def studies(self) -> int:
        """All studies of all archives."""
        return sum(map(sum, self.archives))

    @property
    def per_epoch(self) -> int:
        """Steps an epoch: as many as it takes to read as many studies as there are."""
        return self.studies // self.batch

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return step // self.per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Rows of the studies of a step, for all workers together: (batch,)."""
        return self.draws(step)[0]

    def draws(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the studies of a step, and for each how often its archive was gone through before: twice (batch,)."""
        archive_LI, place_LI = self._places(step)
        lane_LI = np.broadcast_to(np.arange(self.lanes)[:, None], place_LI.shape)
        rows_LI, passes_LI = np.empty_like(place_LI), np.empty_like(place_LI)
        first = 0
        for number, shards in enumerate(self.archives):
            here = archive_LI == number
            length = sum(shards) // self.lanes
            passes, places = np.divmod(place_LI[here], length)
            places += lane_LI[here] * length
            rows = np.empty_like(places)
            linear = _passes(sum(shards), self.seed, shards, self.window, f" {number}")
            for each in np.unique(passes):
                rows[passes == each] = linear(int(each))[places[passes == each]]
            rows_LI[here], passes_LI[here] = first + rows, passes
            first += sum(shards)
        return rows_LI.reshape(-1), passes_LI.reshape(-1)

    def _places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """For each place of a batch its archive, and how many studies its lane took from that before: twice (L, I)."""
        share = self.batch // self.lanes
        place_LI = np.tile(np.arange(step * share, (step + 1) * share), (self.lanes, 1))
        archive_LI = np.full_like(place_LI, len(self.weights) - 1)
        is_free_LI = np.ones(place_LI.shape, bool)
        for number, phase_L in enumerate(_phases(len(self.weights) - 1, self.lanes)):
            weight, total = self.weights[number], sum(self.weights[number:])
            # `place_LI` are those that the archives before left; each of them goes here or stays.
            before_LI = _rounded(place_LI, weight, total, phase_L[:, None], self.lanes)
            after_LI = _rounded(place_LI + 1, weight, total, phase_L[:, None], self.lanes)
            here = is_free_LI & (after_LI > before_LI)
            archive_LI[here] = number
            is_free_LI &= ~here
            place_LI = np.where(here, before_LI, np.where(is_free_LI, place_LI - before_LI, place_LI))
        return archive_LI, place_LI


def _rounded(count: np.ndarray, weight: int, total: int, phase: np.ndarray, lanes: int) -> np.ndarray:
    """count x weight / total, rounded up from where its fraction reaches 1 - (phase + 1/2) / lanes; exact."""
    rounds, rest = np.divmod(count, total)
    return rounds * weight + (2 * lanes * weight * rest + (2 * phase + 1) * total) // (2 * lanes * total)


@lru_cache(maxsize=8)
def _phases(levels: int, lanes: int) -> np.ndarray:
    """For each level a permutation of the lanes: (levels, L). Together they are spread evenly (a Halton sequence).

    Neighboring lanes, which one worker has, have phases that are spread evenly; and so have, at the next level, the
    lanes that a level leaves over.
    """
    from scipy.stats import qmc

    points_LK = qmc.Halton(levels, scramble=False).random(lanes)
    return np.argsort(np.argsort(points_LK, axis=0), axis=0).T


@lru_cache(maxsize=64)
def _passes(
    studies: int, seed: int, shards: tuple[int, ...], window: int, name: str = ""
) -> Callable[[int], np.ndarray]:
    """From the number of a pass through an archive to its rows in order: (studies,).

    The newest two are kept, since a million take longer to shuffle than a step. name: of one archive among several.
    """

    @lru_cache(maxsize=2)
    def linear_order(number: int) -> np.ndarray:
        rows = np.random.default_rng(derived_seed(seed, number, f"order{name}")).permutation(studies)
        if not window:
            return rows
        places = np.random.default_rng(derived_seed(seed, number, f"shards{name}")).permutation(len(shards))
        window_of_row = np.repeat(places // window, shards)
        return rows[np.argsort(window_of_row[rows], kind="stable")]

    return linear_order


class StepSampler:
    """Batch sampler of one worker: one list of (row, pass, progress) a step, from `first` to `steps`.

    pass: how often the study's archive was gone through before; without a mix, the epoch.
    """

    def __init__(
        self, order: StudyOrder | MixedOrder, *, first: int, steps: int, rank: int, world: int
    ) -> None:
        assert order.batch % world == 0, "all workers have equally many studies of a batch"
        self.order, self.first, self.steps, self.rank, self.world = order, first, steps, rank, world

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int, float]]]:
        share = self.order.batch // self.world
        for step in range(self.first, self.steps):
            progress = self.order.epoch(step) * self.order.per_epoch / self.steps
            rows, passes = (
                part[self.rank * share : (self.rank + 1) * share] for part in self.order.draws(step)
            )
            yield [(int(row), int(number), progress) for row, number in zip(rows, passes, strict=True)]
