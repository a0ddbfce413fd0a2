"""Everything that one worker trains with, built from the settings: data, student and teacher, engine, probe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..platform.training.cluster import WorkerContext
from .batches.batch import CropBatch
from .batches.device_crops import PlannedBatch, crops_on_device, cuts_on_device
from .batches.loader import CropDataset, crop_loader, remade_batch
from .batches.order import MixedOrder, StepSampler, StudyOrder
from .checkpoints import POSITION, checkpoint_backbone
from .config import PretrainConfig
from .distillation.distiller import Distiller
from .distillation.engine import Engine
from .mixture import Mixture, load_mixture, study_order
from .start import StartingPoint, starting_point
from .watch.probe import Probe


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """The parts of a training on one worker."""

    config: PretrainConfig
    worker: WorkerContext
    mixture: Mixture
    """As it was when the training began: an archive may grow meanwhile."""
    dataset: CropDataset
    order: StudyOrder | MixedOrder
    distiller: Distiller
    engine: Engine
    probe: Probe

    def batches(self, first: int) -> Iterator[CropBatch | PlannedBatch]:
        """This worker's batches from a step to the last."""
        worker, steps = self.worker, self.config.steps
        sampler = StepSampler(self.order, first=first, steps=steps, rank=worker.rank, world=worker.world_size)
        return iter(
            crop_loader(self.dataset, sampler, self.config.loaders, pinned=worker.device.type == "cuda")
        )

    def remade_micro_batches(self, step: int) -> list[CropBatch]:
        """The batch of a step once more on the CPU, as all workers computed it."""
        batch = remade_batch(self.dataset, self.order, step, self.config.steps)
        crops = crops_on_device(torch.device("cpu"), batch, self.config.crops)
        return crops.split(self.engine.micro_batches * self.worker.world_size)


def build_trainer(config: PretrainConfig, worker: WorkerContext, newest: Path | None) -> Trainer:
    """Build the parts; newest: the checkpoint that will be loaded afterwards, if any.

    The order of construction is part of every result, since untrained heads draw from torch's random numbers.
    """
    torch.manual_seed(config.seed)
    mixture = load_mixture(config)
    dataset = CropDataset(
        mixture.folders,
        config.crops,
        config.distill.masks,
        config.crops.global_side // config.patch_side,
        config.seed,
        planned_only=cuts_on_device(config.crops, worker.device),
    )
    order = study_order(config, mixture)
    assert order.studies == len(dataset), "the index has as many studies as the manifests"
    start = starting_point(config) if newest is None else _resumed_start(config, newest)
    distiller = Distiller(start.backbone, config.distill)
    start.load_heads_into(distiller)
    distiller = distiller.to(worker.device)
    if newest is None and config.distill.spread_head and not start.has_heads:
        _whiten_heads(distiller, dataset, order, worker)
    engine = Engine(
        distiller.student,
        config.optim,
        batch=config.batch,
        world=worker.world_size,
        steps=config.steps,
        device=worker.device,
        frozen_steps=start.frozen_steps,
    )
    probe = Probe(mixture.folders, config.probe, mixture.findings, mixture.weights)
    return Trainer(config, worker, mixture, dataset, order, distiller, engine, probe)


def _resumed_start(config: PretrainConfig, newest: Path) -> StartingPoint:
    """Shape and frozen steps of a training that will be loaded: its source of weights is not needed again."""
    position = json.loads((newest / POSITION).read_text())
    return StartingPoint(checkpoint_backbone(config, newest), frozen_steps=position["head_warmup"])


def _whiten_heads(
    distiller: Distiller, dataset: CropDataset, order: StudyOrder | MixedOrder, worker: WorkerContext
) -> None:
    # All studies shuffled, whatever order and mix are: a few shards may show too little.
    sample = StudyOrder(order.studies, min(order.studies, 256), order.seed)
    batch = remade_batch(dataset, sample, 0, 1)
    distiller.whiten_heads(crops_on_device(worker.device, batch, dataset.crops))
