"""Everything that one worker trains with, built from the settings: data, student and teacher, engine, probe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..platform.core.errors import ConfigError
from ..platform.models.backbone import Backbone
from ..platform.models.convnet import ConvNet
from ..platform.training.cluster import WorkerContext
from .batches.batch import CropBatch
from .batches.config import MaskConfig
from .batches.device_crops import PlannedBatch, crops_on_device, cuts_on_device
from .batches.loader import CropDataset, crop_loader, remade_batch
from .batches.order import MixedOrder, StepSampler, StudyOrder
from .checkpoints import POSITION, checkpoint_backbone
from .config import FeatureDistillationConfig, PretrainConfig, TrainingConfig
from .distillation.distiller import Distiller
from .distillation.engine import Engine
from .feature_distillation.distiller import FeatureDistiller
from .feature_distillation.networks import load_teacher, student_network
from .mixture import Mixture, load_mixture, study_order
from .objective import Objective
from .start import StartingPoint, starting_point
from .watch.alarms import Alarms
from .watch.config import AlarmConfig
from .watch.probe import Probe


@dataclass(frozen=True, slots=True, eq=False)
class Trainer:
    """The parts of a training on one worker."""

    config: TrainingConfig
    worker: WorkerContext
    mixture: Mixture
    """As it was when the training began: an archive may grow meanwhile."""
    dataset: CropDataset
    order: StudyOrder | MixedOrder
    distiller: Objective
    engine: Engine
    probe: Probe
    alarms: Alarms

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


def build_trainer(config: TrainingConfig, worker: WorkerContext, newest: Path | None) -> Trainer:
    """Build the parts; newest: the checkpoint that will be loaded afterwards, if any.

    The order of construction is part of every result, since untrained heads draw from torch's random numbers.
    """
    torch.manual_seed(config.seed)
    mixture = load_mixture(config)
    masks, grid = MaskConfig(probability=0.0), 1
    if isinstance(config, PretrainConfig):
        masks, grid = config.distill.masks, config.crops.global_side // config.patch_side
    dataset = CropDataset(
        mixture.folders,
        config.crops,
        masks,
        grid,
        config.seed,
        planned_only=cuts_on_device(config.crops, worker.device),
    )
    order = study_order(config, mixture)
    assert order.studies == len(dataset), "the index has as many studies as the manifests"
    if isinstance(config, FeatureDistillationConfig):
        distiller, alarms, frozen_steps = _feature_objective(config, worker, newest, dataset, order)
    else:
        assert isinstance(config, PretrainConfig)
        distiller, alarms, frozen_steps = _self_objective(config, worker, newest, dataset, order)
    engine = Engine(
        distiller.student,
        config.optim,
        batch=config.batch,
        world=worker.world_size,
        steps=config.steps,
        device=worker.device,
        frozen_steps=frozen_steps,
    )
    probe = Probe(mixture.folders, config.probe, mixture.findings, mixture.weights)
    return Trainer(config, worker, mixture, dataset, order, distiller, engine, probe, alarms)


def _self_objective(
    config: PretrainConfig,
    worker: WorkerContext,
    newest: Path | None,
    dataset: CropDataset,
    order: StudyOrder | MixedOrder,
) -> tuple[Objective, Alarms, int]:
    """A student that learns from its own EMA; the alarms, and for how many steps the backbone is frozen."""
    start = starting_point(config) if newest is None else _resumed_start(config, newest)
    distiller = Distiller(start.backbone, config.distill)
    start.load_heads_into(distiller)
    distiller = distiller.to(worker.device)
    if newest is None and config.distill.spread_head and not start.has_heads:
        distiller.whiten_heads(_sample(256, dataset, order, worker))
    alarms = Alarms(
        config.alarms,
        prototypes=config.distill.head.prototypes,
        width=start.backbone.width,
        batch=config.batch,
        steps=config.steps,
    )
    return distiller, alarms, start.frozen_steps


def _feature_objective(
    config: FeatureDistillationConfig,
    worker: WorkerContext,
    newest: Path | None,
    dataset: CropDataset,
    order: StudyOrder | MixedOrder,
) -> tuple[Objective, Alarms, int]:
    """A student that learns from a frozen teacher. Nothing alarms: with targets that stay it cannot collapse."""
    side = config.crops.global_side
    teacher, teacher_side = load_teacher(config.teacher, side, config.teacher_side)
    student = student_network(config.student, config.backbone, side, config.seed)
    check_student(config, student, worker)
    distiller = FeatureDistiller(student, teacher, config.loss, crop_side=side, teacher_side=teacher_side)
    if isinstance(student, ConvNet) and worker.world_size > 1:
        student.share_batch_norms()
    distiller = distiller.to(worker.device)
    if newest is None:
        distiller.fit_scales(_sample(config.loss.sample, dataset, order, worker))
    alarms = Alarms(AlarmConfig(grace=1.0), prototypes=2, width=2, batch=2, steps=config.steps)
    return distiller, alarms, 0


def check_student(
    config: FeatureDistillationConfig, student: Backbone | ConvNet, worker: WorkerContext | None = None
) -> None:
    """Raises ConfigError where a CNN cannot be trained as the settings say: batch norms look at all that is shown
    together. worker: None where it is not known yet."""
    if not isinstance(student, ConvNet):
        return
    name, optim = student.card.config.name, config.optim
    if optim.zero == 3 or optim.compile or optim.checkpoint_activations:
        raise ConfigError(
            f"student {name}: optim.zero 3, optim.compile and optim.checkpoint_activations are for Vision Transformers"
        )
    if student.batch_norms and optim.micro_batches(config.batch, config.workers) > 1:
        raise ConfigError(
            f"student {name} has batch norms, which optim.micro_batch {optim.micro_batch} would change; leave it out, "
            "or lower batch"
        )
    workers, device = (
        (config.workers, config.device) if worker is None else (worker.world_size, worker.device.type)
    )
    if student.batch_norms and workers > 1 and device == "cpu":
        raise ConfigError(
            f"student {name} has batch norms, which {workers} workers share on GPUs only; set --workers 1"
        )


def _resumed_start(config: PretrainConfig, newest: Path) -> StartingPoint:
    """Shape and frozen steps of a training that will be loaded: its source of weights is not needed again."""
    position = json.loads((newest / POSITION).read_text())
    return StartingPoint(checkpoint_backbone(config, newest), frozen_steps=position["head_warmup"])


def _sample(
    most: int, dataset: CropDataset, order: StudyOrder | MixedOrder, worker: WorkerContext
) -> CropBatch:
    """The crops of so many studies at most, the same on every worker."""
    # All studies shuffled, whatever order and mix are: a few shards may show too little.
    sample = StudyOrder(order.studies, min(order.studies, most), order.seed)
    return crops_on_device(worker.device, remade_batch(dataset, sample, 0, 1), dataset.crops)
