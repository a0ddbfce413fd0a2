"""The order of studies and the loader: what step t sees is a function of (seed, t), never of rank or worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from ...platform.core.errors import ConfigError
from ...platform.data.shards import StudyIndex
from .batch import CropBatch, batch_of
from .config import CropConfig, MaskConfig
from .crops import StudyCrops, WholeStudy, crops_from, seed_of, whole_of
from .device_crops import WholeViews, views_of
from .masks import mask_of


@dataclass(frozen=True, slots=True)
class Order:
    """The global order: each epoch a permutation of all studies, cut into batches; the rest waits for another
    epoch's permutation.

    >>> order = Order(studies=10, batch=4, seed=0)
    >>> order.per_epoch, order.epoch(2), len(order.rows(2))
    (2, 1, 4)
    """

    studies: int
    batch: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return self.studies // self.batch

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.per_epoch

    def rows(self, step: int) -> np.ndarray:
        """Rows of the studies of a step, for all workers together: (batch,)."""
        at = step % self.per_epoch * self.batch
        return _permutation(self.studies, self.seed, self.epoch(step))[at : at + self.batch]


@lru_cache(maxsize=2)
def _permutation(studies: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch in order: (studies,). Kept, since a million take longer to shuffle than a step."""
    return np.random.default_rng(seed_of(seed, epoch, "order")).permutation(studies)


class CropDataset(Dataset):
    """Item (row, epoch, progress) -> the study's crops and its hidden patches.

    whole: leave the crops to the device; an item then is the study's two views and what is to be cut from them.
    """

    def __init__(
        self, shards: str, crops: CropConfig, masks: MaskConfig, grid: int, seed: int, *, whole: bool = False
    ) -> None:
        # A forked process waits for ever for OpenCV's threads, which stayed behind with its parent.
        cv2.setNumThreads(0)
        self.index = StudyIndex(shards, "train")
        self.crops, self.masks, self.grid, self.seed, self.whole = crops, masks, grid, seed, whole

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: tuple[int, int, float]) -> tuple[StudyCrops | WholeStudy, np.ndarray]:
        row, epoch, progress = item
        study = self.index.load(row)
        generator = np.random.default_rng(seed_of(self.seed, epoch, study.key + "/hidden"))
        hidden = [mask_of(self.grid, self.masks, generator) for _ in range(self.crops.globals_per_view)]
        planned = whole_of(study, self.crops, seed=self.seed, epoch=epoch, progress=progress)
        return planned if self.whole else crops_from(planned, self.crops), np.stack(hidden)


class StepSampler:
    """The items of one worker, a list a step, from a first step to the last."""

    def __init__(self, order: Order, *, first: int, steps: int, rank: int, world: int) -> None:
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


def loader_of(
    dataset: CropDataset,
    order: Order,
    *,
    first: int,
    steps: int,
    rank: int,
    world: int,
    processes: int,
    pinned: bool = False,
) -> DataLoader[CropBatch | WholeViews]:
    """Batches of one worker, in order. Raises ConfigError where there are fewer studies than a batch.

    pinned: in memory that a GPU fetches by itself.
    """
    if order.per_epoch < 1:
        raise ConfigError(f"batch {order.batch} is more than the {order.studies} training studies; lower it")
    return DataLoader(
        dataset,
        batch_sampler=StepSampler(order, first=first, steps=steps, rank=rank, world=world),
        num_workers=processes,
        collate_fn=_collate,
        prefetch_factor=4 if processes else None,
        multiprocessing_context="fork" if processes else None,
        pin_memory=pinned,
    )


def batch_again(dataset: CropDataset, order: Order, step: int, steps: int) -> CropBatch | WholeViews:
    """The batch of one step once more, of all workers together: a step's data follow from its number alone."""
    items = next(iter(StepSampler(order, first=step, steps=steps, rank=0, world=1)))
    return _collate([dataset[item] for item in items])


def _collate(items: list[tuple[StudyCrops | WholeStudy, np.ndarray]]) -> CropBatch | WholeViews:
    studies, hidden = [study for study, _ in items], [hidden for _, hidden in items]
    return views_of(studies, hidden) if isinstance(studies[0], WholeStudy) else batch_of(studies, hidden)
