"""All settings of a training. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..platform.core.errors import ConfigError
from ..platform.core.location import Location
from ..platform.models.config import BackboneConfig
from ..platform.training.schedules import Cosine
from .batches.config import CropConfig, OrderConfig
from .distillation.config import DistillConfig, OptimConfig
from .feature_distillation.config import FeatureLossConfig, StudentConfig
from .watch.config import AlarmConfig, ProbeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """What every training here has: data, crops, optimizer, workers and what is kept."""

    fixed: ClassVar[tuple[str, ...]] = ("mix", "order", "crops", "batch", "seed")
    """Settings that a training which continues must have as it began."""

    shards: tuple[Location, ...] = (Location("shards"),)
    """Folders of shards that `vetdino ingest` wrote; `mix` says how much of each."""
    mix: tuple[float, ...] = ()
    """Weight of each folder of `shards` where there are several: its part of every batch, whatever its size. Nothing
    weighs them by their numbers of training studies."""
    order: OrderConfig = field(default_factory=OrderConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    out: Location = Location("runs/pretrain")
    """Folder for the checkpoints, the metrics and the backbone."""
    batch: int = 64
    """Studies a step, over all workers."""
    steps: int = 100_000
    """Steps of the whole training."""
    seed: int = 0
    """Seed for weights, order, pairs and crops."""
    workers: int = 1
    """Ray workers; each has one GPU if `device` is cuda."""
    min_workers: int = 0
    """Fewest workers to train with while the cluster has no more; `workers` as soon as it has. The batch must divide
    among each number between. 0 waits for all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the workers train; `auto` takes CUDA if the cluster has GPUs."""
    threads: int = 0
    """CPU threads a worker; 0 divides the machine's cores among its workers."""
    loaders: int = 2
    """Data loading processes a worker; 0 makes crops in the worker itself."""
    log_every: int = 10
    """Steps between two records of losses and speed."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; the last step always has one."""
    keep: int = 2
    """Newest checkpoints to keep; the one with the probe's highest AUROC is kept as well."""
    bad_in_a_row: int = 5
    """Skipped steps in a row (non-finite loss or gradient) after which the training stops."""
    restarts: int = 3
    """How often Ray restarts the workers after one was lost."""
    resume: bool = False
    """Continue from the newest whole checkpoint in `out`; where there is none yet, start from the beginning."""

    def check(self) -> None:
        """Raises ConfigError if settings contradict each other; called before the first worker starts."""
        for name in ("steps", "log_every", "checkpoint_every", "keep", "workers", "bad_in_a_row"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
        self.probe.check()
        if not 0 <= self.min_workers <= self.workers:
            raise ConfigError(f"min_workers {self.min_workers} must lie between 0 and workers {self.workers}")
        self._check_mix()
        self.order.check(self.batch)
        self._check_shares("batch", self.batch)
        if self.order.window:
            self._check_shares("order.lanes", self.order.lanes)
        if self.batch < 2 * self.workers:
            raise ConfigError(
                f"batch {self.batch} gives some of the workers {self.workers} fewer than 2 studies"
            )
        for workers in self._worker_counts():
            self.optim.micro_batches(self.batch, workers)

    def _check_mix(self) -> None:
        """Raises ConfigError if there is no weight above 0 for each folder of shards."""
        if not self.shards:
            raise ConfigError("shards names no folder; give at least one")
        if not self.mix:
            return
        if len(self.mix) != len(self.shards):
            raise ConfigError(
                f"mix has {len(self.mix)} weights, shards names {len(self.shards)} folders; give one weight for each"
            )
        for folder, weight in zip(self.shards, self.mix, strict=True):
            if not 0 < weight < math.inf:
                raise ConfigError(
                    f"mix {weight:g} of {folder} must be above 0; leave out a folder not wanted"
                )

    def _worker_counts(self) -> range:
        """Every number of workers that may train: Ray takes as many as the cluster has."""
        return range(self.min_workers or self.workers, self.workers + 1)

    def _check_shares(self, name: str, value: int) -> None:
        """Raises ConfigError if a setting cannot be divided among every number of workers that may train."""
        for workers in self._worker_counts():
            if value % workers:
                allowed = f", which min_workers {self.min_workers} allows" if workers < self.workers else ""
                raise ConfigError(f"{name} {value} cannot be divided among workers {workers}{allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(TrainingConfig):
    """A whole pretraining: data, network, crops, losses, optimizer, workers and what is kept."""

    fixed: ClassVar[tuple[str, ...]] = (
        *("start", "backbone", "distill", "mix", "order", "crops", "batch", "seed", "head_warmup"),
    )

    recipe: str = ""
    """Name of the recipe that these settings started from."""
    start: str = ""
    """Initial weights: empty for random ones, a backbone folder, a weights file (DINO, DINOv2, timm; `PATH#heads=N`
    where its tensors do not tell), `timm:NAME` for published weights that timm downloads, each with `#depth=N` for its
    first N blocks, or the folder of a training of ours or of one of its checkpoints, whose heads are reused."""
    head_warmup: float = 0.05
    """Share of the steps during which the backbone is frozen, if `start` brings one without heads; 0 for none."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    embed_side: int | None = None
    """Image side of the exported backbone in pixels; None takes backbone.side. Things look larger in random crops
    than in a whole image: one and a half times the global crops' side makes up for it (FixRes, arXiv 1906.06423,
    section 3)."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    alarms: AlarmConfig = field(default_factory=AlarmConfig)

    @property
    def patch_side(self) -> int:
        """Side of the backbone's patch in pixels. Raises ConfigError if it is unknown."""
        return self.backbone.patch or native_patch_side(self.backbone.name)

    def check(self) -> None:
        """Raises ConfigError if settings contradict each other; called before the first worker starts."""
        TrainingConfig.check(self)
        patch = self.patch_side
        self.crops.check(patch)
        self.alarms.check()
        self._check_rewind()
        if not 0 <= self.head_warmup <= 1:
            raise ConfigError(f"head_warmup {self.head_warmup} is not a share of the steps, 0 to 1")
        for name, side in (("backbone.side", self.backbone.side), ("embed_side", self.embed_side or patch)):
            if side % patch:
                near = max(1, round(side / patch)) * patch
                raise ConfigError(f"{name} {side} is not a multiple of the patch, {patch}; nearest is {near}")

    def _check_rewind(self) -> None:
        if self.alarms.policy != "rewind":
            return
        window = max(self.alarms.patience * self.log_every, self.alarms.trials * self.probe.every)
        if self.keep * self.checkpoint_every <= window:
            raise ConfigError(
                f"keep {self.keep} checkpoints each {self.checkpoint_every} steps reach no further back than the "
                f"{window} steps before an alarm; raise keep or checkpoint_every for alarms.policy rewind"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureDistillationConfig(TrainingConfig):
    """A small network learns from a strong one: teacher, student, loss, data, optimizer, workers and what is kept.

    Each study gives a crop of each of two views, or two of the only one; teacher and student are shown the same crops.
    """

    fixed: ClassVar[tuple[str, ...]] = (
        *("teacher", "student", "backbone", "loss", "teacher_side", "mix", "order", "crops", "batch", "seed"),
    )

    teacher: str
    """Backbone whose CLS and patch tokens are learned."""
    student: str
    """Network that learns them."""
    backbone: StudentConfig = field(default_factory=StudentConfig)
    loss: FeatureLossConfig = field(default_factory=FeatureLossConfig)
    teacher_side: int | None = None
    """Side in pixels of the crops as the teacher is shown them, a multiple of its patch; None takes the multiple that
    is nearest to crops.global_side. A larger one costs time and gives the student finer patch tokens to learn."""
    embed_side: int | None = None
    """Image side of the exported student in pixels; None takes one and a half times crops.global_side: things look
    larger in random crops than in a whole image (FixRes, arXiv 1906.06423, section 3)."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the exported weights; float16 halves the file and moves a cosine by less than 1e-5."""
    crops: CropConfig = field(
        default_factory=lambda: CropConfig(
            global_side=128,
            local_side=128,
            globals_per_view=1,
            locals_per_view=0,
            global_area=(0.4, 1.0),
            aspect=(0.85, 1.176),
            rotation=8.0,
        )
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=Cosine(start=4e-3, end=1e-5, warmup=0.05),
            weight_decay=Cosine(start=0.04, end=0.04),
            layer_decay=1.0,
            patch_embed=1.0,
            zero=0,
        )
    )
    probe: ProbeConfig = field(default_factory=lambda: ProbeConfig(every=100, bank=800))
    out: Location = Location("runs/distill")
    """Folder for the checkpoints, the metrics and the student."""
    steps: int = 400
    """Steps of the whole training."""
    checkpoint_every: int = 100
    """Steps between two checkpoints; the last step always has one."""
    loaders: int = 1
    """Data loading processes a worker; 0 makes crops in the worker itself."""

    def check(self) -> None:
        """Raises ConfigError if settings contradict each other; called before the first worker starts."""
        TrainingConfig.check(self)
        self.loss.check()
        self.crops.check(1)
        if self.crops.locals_per_view:
            raise ConfigError(
                f"crops.locals_per_view {self.crops.locals_per_view} must be 0: teacher and student are shown the same "
                "crops; crops.globals_per_view says how many"
            )
        for name in ("teacher_side", "embed_side"):
            side = getattr(self, name)
            if side is not None and side < 1:
                raise ConfigError(f"{name} {side} must be above 0")


def native_patch_side(name: str) -> int:
    """Side of a timm ViT's patch in pixels, read from its name. Raises ConfigError if the name has none."""
    match = re.search(r"patch(\d+)", name)
    if not match:
        raise ConfigError(f"backbone.name {name!r} does not tell its patch; set backbone.patch")
    return int(match[1])
