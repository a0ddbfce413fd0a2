"""Recipes: functions that return a whole configuration of a pretraining."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..platform.core.errors import ConfigError
from ..platform.models.backbone import BackboneConfig
from ..platform.training.schedules import Cosine, Ramp
from .batches.config import CropConfig
from .distillation.config import DistillConfig, HeadConfig, OptimConfig
from .watch.config import AlarmConfig, ProbeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """A whole pretraining: data, network, crops, losses, optimiser, workers and what is kept."""

    recipe: str = ""
    """Name of the recipe that this began as."""
    shards: Path = Path("shards")
    """Folder of shards that `vetdino ingest` left."""
    out: Path = Path("runs/pretrain")
    """Folder for the checkpoints, the record and the backbone."""
    start: str = ""
    """Where the training starts: empty for random weights, a backbone folder, a weights file (DINO, DINOv2, timm),
    `timm:NAME` for published weights that timm fetches, or the folder of a training of ours or of one of its
    checkpoints, whose heads are gone on with."""
    head_warmup: float = 0.05
    """Share of the steps during which the backbone stays as it is, where `start` brings one without heads; 0 for
    none."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    embed_side: int | None = None
    """Side of the images that the finished backbone is shown, in pixels; None takes backbone.side. Things look
    larger in random crops than in a whole image: one and a half times the global crops' side makes up for it
    (FixRes, arXiv 1906.06423, section 3)."""
    crops: CropConfig = field(default_factory=CropConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    batch: int = 64
    """Studies a step, over all workers."""
    steps: int = 100_000
    """Steps of the whole training."""
    seed: int = 0
    """Draws weights, order, pairs and crops."""
    workers: int = 1
    """Ray workers; each has one GPU where `device` is cuda."""
    min_workers: int = 0
    """Workers with which the training goes on where a cluster has no more for a while, `workers` as soon as it
    has; the batch must divide among each number between. 0 waits for all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the workers train; auto takes CUDA where the cluster has GPUs."""
    threads: int = 0
    """CPU threads a worker; 0 divides the machine's cores among its workers."""
    loaders: int = 2
    """Processes a worker that cut crops; 0 cuts them in the worker itself."""
    log_every: int = 10
    """Steps between two records of losses and speed."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; the last step has one always."""
    keep: int = 2
    """Newest checkpoints kept; the one with the probe's highest AUROC stays beside them."""
    bad_in_a_row: int = 5
    """Steps in a row whose loss or gradient is no finite number, all skipped, after which the training stops."""
    restarts: int = 3
    """How often Ray starts the workers anew after one was lost."""
    resume: bool = False
    """Go on from the newest whole checkpoint in `out`."""

    def check(self) -> None:
        """Raises ConfigError where settings quarrel; asked before the first worker is."""
        for name in ("steps", "log_every", "checkpoint_every", "keep", "workers", "bad_in_a_row"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
        patch = self.backbone.patch or native_patch(self.backbone.name)
        self.crops.check(patch)
        self.alarms.check()
        self.probe.check()
        if self.alarms.policy == "rewind":
            window = max(self.alarms.patience * self.log_every, self.alarms.trials * self.probe.every)
            if self.keep * self.checkpoint_every <= window:
                raise ConfigError(
                    f"keep {self.keep} checkpoints each {self.checkpoint_every} steps reach no further back than the "
                    f"{window} steps that an alarm looks at; raise keep or checkpoint_every for alarms.policy rewind"
                )
        if not 0 <= self.min_workers <= self.workers:
            raise ConfigError(f"min_workers {self.min_workers} must lie between 0 and workers {self.workers}")
        if not 0 <= self.head_warmup <= 1:
            raise ConfigError(f"head_warmup {self.head_warmup} is no share of the steps, 0 to 1")
        for name, side in (("backbone.side", self.backbone.side), ("embed_side", self.embed_side or patch)):
            if side % patch:
                near = max(1, round(side / patch)) * patch
                raise ConfigError(f"{name} {side} is no multiple of the patch, {patch}; nearest is {near}")
        if self.batch % self.workers:
            raise ConfigError(f"batch {self.batch} cannot be divided among workers {self.workers}")
        if self.batch < 2 * self.workers:
            raise ConfigError(
                f"batch {self.batch} gives some of the workers {self.workers} fewer than 2 studies"
            )
        self.optim.parts(self.batch, self.workers)


def native_patch(name: str) -> int:
    """Side of a timm ViT's patch in pixels, read off its name's figure. Raises ConfigError for unknown names."""
    import re

    found = re.search(r"patch(\d+)", name)
    if not found:
        raise ConfigError(f"backbone.name {name!r} does not tell its patch; set backbone.patch")
    return int(found[1])


def demo() -> PretrainConfig:
    """Minutes on two cores: the 1.2 M-parameter ViT of `small` on generated studies of 256 px.

    `vetdino demo` runs it, going on from the shipped backbone.
    """
    return replace(
        small(), recipe="demo", steps=120, checkpoint_every=60, probe=ProbeConfig(every=60, bank=300)
    )


def small() -> PretrainConfig:
    """From nothing on one or two cores: the hour that made the shipped backbone; see docs/results.md.

    What short trainings seem to need, found in a few trials of one seed each that changed several things at a
    time: targets that differ from the first step (`spread_head`), few prototypes, sharp targets (0.02: at 0.04
    they drifted towards uniform), crops that overlap, a patch loss, which is solvable from the start, and single
    views first: pairs are hard for an untrained encoder.
    """
    return PretrainConfig(
        recipe="small",
        backbone=BackboneConfig(name="vit_tiny_patch16_224", side=128, width=128, depth=6, heads=2),
        embed_side=192,
        crops=CropConfig(
            global_side=128,
            local_side=64,
            locals_per_view=2,
            global_area=(0.4, 1.0),
            local_area=(0.15, 0.4),
            aspect=(0.85, 1.176),
            rotation=8.0,
            p_multiview=0.5,
            multiview_from=0.5,
        ),
        distill=DistillConfig(
            head=HeadConfig(prototypes=256, hidden=512, bottleneck=128),
            targets="sinkhorn",
            teacher_temperature=Ramp(start=0.02, end=0.02),
            momentum=Cosine(start=0.985, end=1.0),
            patch_weight=0.5,
            spread_weight=0.05,
            spread_head=True,
        ),
        optim=OptimConfig(
            lr=Cosine(start=4e-3, end=1e-5, warmup=0.05),
            weight_decay=Cosine(start=0.04, end=0.1),
            layer_decay=1.0,
            patch_embed=1.0,
            zero=0,
        ),
        probe=ProbeConfig(every=100, bank=800),
        batch=64,
        steps=900,
        checkpoint_every=100,
        loaders=1,
    )


def small_single() -> PretrainConfig:
    """`small` for archives of mostly single radiographs, such as public chest images; half an hour on one core.

    Studies of one view fall back to a single view by themselves; pairs are drawn from the first step.
    """
    whole = small()
    crops = replace(whole.crops, p_multiview=1.0, multiview_from=0.0)
    return replace(whole, recipe="small_single", crops=crops, steps=400)


def multi_view_s14() -> PretrainConfig:
    """VET-DINO's crops on a ViT-S/14: 2 views x (2 global of 224 + 10 local of 98), for clusters of GPUs."""
    return PretrainConfig(
        recipe="multi_view_s14",
        backbone=BackboneConfig(name="vit_small_patch14_dinov2", side=224, drop_path=0.1),
        batch=256,
    )


def single_view_s14() -> PretrainConfig:
    """The baseline of `multi_view_s14`: the same crops and steps, both halves from one radiograph."""
    multi = multi_view_s14()
    return replace(multi, recipe="single_view_s14", crops=replace(multi.crops, p_multiview=0.0))


def multi_view_b14() -> PretrainConfig:
    """`multi_view_s14` on a ViT-B/14 with DINOv2's losses: `vetdino pretrain multi_view_b14 --shards SHARDS`.

    VET-DINO's losses and schedules are not public beyond its crops. This takes DINOv2's (arXiv 2304.07193,
    section 4): Sinkhorn targets, patch loss with a head of its own, KoLeo 0.1. Planned for 8 GPUs of 80 GB at
    64 studies each (1.2 TFLOP of products a study); `--optim.micro-batch` makes it fit smaller ones. Neither its
    time nor what it learns has been measured yet.
    """
    whole = multi_view_s14()
    distill = replace(
        whole.distill,
        targets="sinkhorn",
        momentum=Cosine(start=0.992, end=1.0),
        patch_weight=1.0,
        spread_weight=0.1,
    )
    backbone = BackboneConfig(name="vit_base_patch14_dinov2", side=224, drop_path=0.2)
    return replace(
        whole, recipe="multi_view_b14", backbone=backbone, distill=distill, batch=512, workers=8, loaders=8
    )


def multi_view_l14() -> PretrainConfig:
    """`multi_view_b14` on a ViT-L/14: `vetdino pretrain multi_view_l14 --shards SHARDS`.

    Planned for 32 GPUs of 80 GB at 32 studies each (4.1 TFLOP of products a study); on fewer, set `--workers` and
    `--optim.micro-batch` or `--optim.checkpoint-activations`. Neither its time nor what it learns has been measured
    yet.
    """
    backbone = BackboneConfig(name="vit_large_patch14_dinov2", side=224, drop_path=0.3)
    return replace(multi_view_b14(), recipe="multi_view_l14", backbone=backbone, batch=1024, workers=32)


def dino_v1_s8() -> PretrainConfig:
    """DINO (arXiv 2104.14294) on a ViT-S/8, each picture by itself, for ultrasound frames:
    `vetdino pretrain dino_v1_s8 --shards FRAMES`.

    Expects shards in which a frame is a study of one view. Centring, no patch loss, no KoLeo, one rate for all
    layers; DINO's 5e-4 for each 256 pictures is 2e-3 at this batch. The two halves that our crops are made of are
    both of the one frame: 4 global crops of 224, of which the teacher sees 2, and 8 local ones of 96, where DINO
    has 2 and 8. Planned for 16 GPUs at 64 frames each. Neither its time nor what it learns has been measured yet.
    """
    return PretrainConfig(
        recipe="dino_v1_s8",
        backbone=BackboneConfig(name="vit_small_patch8_224", side=224, drop_path=0.1),
        crops=CropConfig(
            local_side=96,
            locals_per_view=4,
            global_area=(0.4, 1.0),
            local_area=(0.05, 0.4),
            p_multiview=0.0,
        ),
        optim=OptimConfig(lr=Cosine(start=2e-3, end=1e-6, warmup=0.1), layer_decay=1.0, patch_embed=1.0),
        batch=1024,
        workers=16,
        loaders=8,
    )


def slices_s14() -> PretrainConfig:
    """Slices of CT and MRI volumes: two slices of one slab are the two views of a study;
    `vetdino pretrain slices_s14 --shards SLABS`.

    Expects shards in which a study is a slab of neighbouring slices of one volume, each a view in 8-bit grey
    (windowed, for CT): any two slices of a study may become a pair, so a slab should be no thicker than what two
    slices still share, say 2 to 4 cm. A volume of many slabs is many studies of one patient, who stays on one
    side of the splits. DINOv2's losses as in `multi_view_b14`; crops cover more of the picture than radiographs'
    do, since much of a slice is table and air. Planned for 4 GPUs at 64 studies each. Neither its time nor what
    it learns has been measured yet.
    """
    base = multi_view_b14()
    return replace(
        base,
        recipe="slices_s14",
        backbone=multi_view_s14().backbone,
        crops=CropConfig(global_area=(0.4, 1.0), local_area=(0.1, 0.4), locals_per_view=6),
        batch=256,
        workers=4,
    )


RECIPES: dict[str, Callable[[], PretrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        demo,
        small,
        small_single,
        multi_view_s14,
        single_view_s14,
        multi_view_b14,
        multi_view_l14,
        dino_v1_s8,
        slices_s14,
    )
}


def recipe(name: str) -> PretrainConfig:
    """The configuration of a recipe by its name. Raises ConfigError that offers the nearest name."""
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, 1, 0.3)
    offer = f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(RECIPES)
    raise ConfigError(f"unknown recipe {name!r}; {offer}")
