"""Data set and loader: studies from shards become batches of crops, or batches for the device to cut."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from ...platform.core.errors import ConfigError
from ...platform.data.joined import JoinedIndex
from .batch import CropBatch, collate_crops
from .config import CropConfig, MaskConfig
from .crop_plan import PlannedStudy, planned_study
from .crops import StudyCrops, cut_crops
from .device_crops import PlannedBatch, collate_plans
from .masks import block_mask
from .order import MixedOrder, StepSampler, StudyOrder
from .seeds import derived_seed


class CropDataset(Dataset):
    """Item (row, epoch, progress) -> the study's crops and its hidden patches (T, N) bool.

    shards: folders of shards; rows count through their training studies, one folder after the other. epoch: in a mix,
    the pass through the study's folder, so that a study that comes twice in an epoch has other crops. grid: patches
    along a side of a global crop. planned_only: leave the cutting to the device; an item then holds the study's two
    views and the transforms of their crops.
    """

    def __init__(
        self,
        shards: Sequence[str],
        crops: CropConfig,
        masks: MaskConfig,
        grid: int,
        seed: int,
        *,
        planned_only: bool = False,
    ) -> None:
        # A forked process would wait forever for OpenCV's threads, which stay in the parent process.
        cv2.setNumThreads(0)
        self.index = JoinedIndex(shards, "train")
        self.crops, self.masks, self.grid, self.seed = crops, masks, grid, seed
        self.planned_only = planned_only

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: tuple[int, int, float]) -> tuple[StudyCrops | PlannedStudy, np.ndarray]:
        row, epoch, progress = item
        study = self.index.load(row)
        generator = np.random.default_rng(derived_seed(self.seed, epoch, study.key + "/hidden"))
        hidden = [block_mask(self.grid, self.masks, generator) for _ in range(self.crops.globals_per_view)]
        planned = planned_study(study, self.crops, seed=self.seed, epoch=epoch, progress=progress)
        return planned if self.planned_only else cut_crops(planned, self.crops), np.stack(hidden)


def crop_loader(
    dataset: CropDataset, sampler: StepSampler, processes: int, *, pinned: bool = False
) -> DataLoader[CropBatch | PlannedBatch]:
    """Batches of one worker, in order. Raises ConfigError if there are fewer studies than a batch.

    pinned: in page-locked memory, which a GPU reads by itself.
    """
    order = sampler.order
    if order.per_epoch < 1:
        raise ConfigError(f"batch {order.batch} is more than the {order.studies} training studies; lower it")
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=processes,
        collate_fn=_collate,
        prefetch_factor=4 if processes else None,
        multiprocessing_context="fork" if processes else None,
        pin_memory=pinned,
    )


def remade_batch(
    dataset: CropDataset, order: StudyOrder | MixedOrder, step: int, steps: int
) -> CropBatch | PlannedBatch:
    """Make the batch of one step once more, for all workers together: it depends on the step's number alone."""
    items = next(iter(StepSampler(order, first=step, steps=steps, rank=0, world=1)))
    return _collate([dataset[item] for item in items])


def _collate(items: list[tuple[StudyCrops | PlannedStudy, np.ndarray]]) -> CropBatch | PlannedBatch:
    """One batch; the studies are either all cut or all planned only."""
    hidden = [mask for _, mask in items]
    crops = [study for study, _ in items if isinstance(study, StudyCrops)]
    planned = [study for study, _ in items if isinstance(study, PlannedStudy)]
    return collate_plans(planned, hidden) if planned else collate_crops(crops, hidden)
