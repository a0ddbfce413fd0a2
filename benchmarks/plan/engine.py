"""The step that trains, on random crops."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from vetdino.platform.models.backbone import random_backbone
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.distillation.engine import Engine


@contextmanager
def one_worker(device: torch.device) -> Iterator[None]:
    """Within the block there is a process group of this process alone."""
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def engine_step(config: PretrainConfig, steps: int, device: torch.device) -> Callable[[int, CropBatch], None]:
    """One step as `loop.train` makes it, from random weights: called with its number and a batch on the device.

    A process group exists; a batch is this worker's share of the config's.
    """
    distiller = Distiller(random_backbone(config.backbone, 0), config.distill).to(device)
    engine = Engine(
        distiller.student,
        config.optim,
        batch=config.batch,
        world=dist.get_world_size(),
        steps=steps,
        device=device,
    )

    def step(number: int, batch: CropBatch) -> None:
        engine.schedule(number)
        with engine.autocast():
            micro_batches = batch.split(engine.micro_batches)
            targets = distiller.make_targets(micro_batches, 0.05, [0] * len(micro_batches))
            for micro_batch, wanted in zip(micro_batches, targets, strict=True):
                engine.backward(distiller.losses(engine.model, micro_batch, wanted).total)
        distiller.update_teacher(0.99, engine.step(), engine.full_parameters())

    return step


def random_batch(config: PretrainConfig) -> CropBatch:
    """Random gray crops; as many patches are hidden as on average."""
    crops, masks, studies = config.crops, config.distill.masks, config.batch
    generator = torch.Generator().manual_seed(0)

    def gray(count: int, side: int) -> torch.Tensor:
        shape = (count, studies, 1, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    patches = (crops.global_side // config.patch_side) ** 2
    hidden = torch.rand(crops.globals_per_view, studies, patches, generator=generator)
    return CropBatch(
        gray(2 * crops.globals_per_view, crops.global_side),
        gray(2 * crops.locals_per_view, crops.local_side),
        hidden < masks.probability * sum(masks.ratio) / 2,
        tuple(map(str, range(studies))),
        (True,) * studies,
    )
