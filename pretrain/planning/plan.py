"""A plan: what a training takes on given hardware, from counted work, measured parts and stated assumptions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...platform.core.errors import ConfigError
from ...platform.data.manifest import load_manifest
from ..config import PretrainConfig
from .config import PlanConfig
from .hardware import Hardware, hardware
from .memory import WorkerMemory, checkpoint_bytes, sent_bytes, worker_memory
from .step_work import StepWork, step_work

LOADED = {"device": 600.0, "cpu": 267.0}
"""Studies a second of one loader process, by where crops are cut: two of seven views of 512 px, VET-DINO's 24 crops
(`python -m benchmarks.loader`)."""

STUDY_BYTES = 7 * 45_000
"""Bytes of a study in shards where there are none yet: seven views of 512 px, 45 kB each (`benchmarks.loader`)."""

PEAK_SHARE = {"cuda": 0.3, "cpu": 0.8}
"""GPUs: between DINOv3's ViT-L/16 (an H100, 0.17 to 0.24) and DINOv2's (an A100, 93 images a second, 0.45). CPU:
`benchmarks.step`, 0.55 to 0.92 for a ViT-S."""

UPDATE_BYTES = 8 + 28
"""Bytes read and written for each number of the student: clipping 8, AdamW 28."""

EMA_BYTES = 12

GPUS_A_MACHINE = 8


@dataclass(frozen=True, slots=True)
class Archive:
    """The studies that are trained on."""

    studies: int
    bytes: int
    counted: bool
    """Whether shards were read; else `bytes` is assumed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training takes."""

    config: PretrainConfig
    plan: PlanConfig
    hardware: Hardware
    work: StepWork
    memory: tuple[WorkerMemory, ...]
    """Of one worker, by ZeRO stage."""
    compute_seconds: float
    """Of a step: matrix products."""
    update_seconds: float
    """Of a step: gradients clipped, AdamW, the teacher's EMA."""
    network_seconds: float
    sent: int
    """Bytes that a worker sends in a step."""
    archive: Archive | None
    advice: tuple[str, ...]
    """The settings with which it fits where it does not; empty where it does, or where nothing helps."""

    @property
    def step_seconds(self) -> float:
        """Of a whole step, where nothing overlaps."""
        return self.compute_seconds + self.update_seconds + self.network_seconds

    @property
    def studies_a_second(self) -> float:
        """Of all workers."""
        return self.config.batch / self.step_seconds

    @property
    def fits(self) -> bool:
        """Whether the chosen ZeRO stage fits a worker's memory."""
        return self.memory[self.config.optim.zero].total <= self.hardware.memory

    @property
    def cuts_on(self) -> str:
        """Where crops are cut: `cpu` or `device`."""
        chosen = self.config.crops.cut_on
        return ("device" if self.hardware.device_type == "cuda" else "cpu") if chosen == "auto" else chosen

    @property
    def loaders(self) -> int:
        """Loader processes that a worker needs, each with a core."""
        return math.ceil(self.studies_a_second / self.config.workers / LOADED[self.cuts_on])

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint."""
        return checkpoint_bytes(self.work)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the checkpoints at their most: those kept, the best one, and the one being written."""
        return (self.config.keep + 2) * self.checkpoint_bytes

    @property
    def peak_share(self) -> float:
        """The share of the peak that is assumed."""
        return self.plan.peak_share or PEAK_SHARE[self.hardware.device_type]


def training_plan(config: PretrainConfig, plan: PlanConfig) -> Plan:
    """The plan of a training. Shards are read where there are any; the default folder may be missing.

    Raises ConfigError where settings contradict each other or the hardware, ShardError for shards that cannot be read.
    """
    plan.check_plan()
    config = replace(config, workers=plan.gpus or config.workers)
    config.check()
    device = hardware(plan.gpu, config.workers)
    config.optim.check(device.device_type)
    archive = _archive(config, plan)
    peak = device.peak(config.optim.precision)
    if peak is None:
        raise ConfigError(f"gpu {device.name} has no bfloat16; set --optim.precision float32")
    work = step_work(config, device.device_type)
    zero, workers = config.optim.zero, config.workers
    share = plan.peak_share or PEAK_SHARE[device.device_type]
    sent = sent_bytes(work.student, zero, workers, config.optim.micro_batches(config.batch, workers))
    line = device.link if workers <= GPUS_A_MACHINE else plan.network * 1e9 / 8
    update = work.student * (UPDATE_BYTES / (workers if zero else 1) + EMA_BYTES)
    memory = tuple(worker_memory(work, stage, workers, device.reserved) for stage in range(4))
    fits = memory[zero].total <= device.memory
    return Plan(
        config=config,
        plan=plan,
        hardware=device,
        work=work,
        memory=memory,
        compute_seconds=work.flops / (peak * share),
        update_seconds=update / device.bandwidth,
        network_seconds=sent / line,
        sent=sent,
        archive=archive,
        advice=() if fits else _advice(config, device),
    )


def _archive(config: PretrainConfig, plan: PlanConfig) -> Archive | None:
    """The studies of the shards; of `studies` where the default folder is not there; None without either."""
    if config.shards == PretrainConfig().shards and not Path(str(config.shards[0])).exists():
        return Archive(plan.studies, plan.studies * STUDY_BYTES, counted=False) if plan.studies else None
    manifests = [load_manifest(folder) for folder in config.shards]
    studies = plan.studies or sum(manifest.studies("train") for manifest in manifests)
    size = sum(shard.bytes for manifest in manifests for shard in manifest.shards)
    return Archive(studies, size, counted=True)


def _advice(config: PretrainConfig, device: Hardware) -> tuple[str, ...]:
    """The nearest settings that fit, as flags: first what costs no time, then smaller micro-batches, a higher ZeRO
    stage, and blocks computed twice. Empty where nothing helps."""
    works: dict[tuple[int, bool], StepWork] = {}

    def fits(zero: int, size: int, again: bool) -> bool:
        if (size, again) not in works:
            optim = replace(config.optim, micro_batch=size, checkpoint_activations=again)
            works[size, again] = step_work(replace(config, optim=optim), device.device_type)
        return worker_memory(works[size, again], zero, config.workers, device.reserved).total <= device.memory

    candidates = list(_candidates(config))
    _, smallest, _ = candidates[-1]
    if not any(fits(zero, smallest, True) for zero in range(4)):
        return ()
    for zero, size, again in candidates:
        if not fits(zero, size, again):
            continue
        flags = []
        if zero != config.optim.zero:
            flags.append(f"--optim.zero {zero}")
        if size != config.optim.micro_batch:
            flags.append(f"--optim.micro-batch {size}")
        if again and not config.optim.checkpoint_activations:
            flags.append("--optim.checkpoint-activations")
        return tuple(flags)
    return ()


def _candidates(config: PretrainConfig) -> Iterator[tuple[int, int, bool]]:
    """(ZeRO stage, micro-batch, activation checkpointing), the nearest first."""
    share, optim = config.batch // config.workers, config.optim
    stages = [stage for stage in (optim.zero, 0, 2, 3) if config.workers > 1 or stage == 0]
    stages = sorted(dict.fromkeys(stages), key=lambda stage: (stage < optim.zero, stage))
    now = optim.micro_batch or share
    smaller = [size for size in range(now // 2, 0, -1) if share % size == 0]
    for again in dict.fromkeys((optim.checkpoint_activations, True)):
        for size in (optim.micro_batch, *smaller):
            yield from ((stage, size, again) for stage in stages)
