"""Recipes: functions that return a whole configuration of a pretraining."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..platform.backbone import BackboneConfig
from ..platform.errors import ConfigError
from .crops import CropConfig
from .distiller import DistillConfig
from .engine import OptimConfig
from .heads import HeadConfig
from .probe import ProbeConfig
from .schedules import Cosine, Ramp


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
    """Where the student starts: empty for random weights, or those of a backbone folder or a weights file."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    embed_side: int | None = None
    """Side of the images that the finished backbone is shown, in pixels; None takes backbone.side. Things look
    larger in random crops than in a whole image: one and a half times the global crops' side makes up for it
    (FixRes, arXiv 1906.06423, section 3)."""
    crops: CropConfig = field(default_factory=CropConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    batch: int = 64
    """Studies a step, over all workers."""
    steps: int = 100_000
    """Steps of the whole training."""
    seed: int = 0
    """Draws weights, order, pairs and crops."""
    workers: int = 1
    """Ray workers; each has one GPU where `device` is cuda."""
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
    """Checkpoints kept."""
    restarts: int = 3
    """How often Ray starts the workers anew after one was lost."""
    resume: bool = False
    """Go on from the newest whole checkpoint in `out`."""

    def check(self) -> None:
        """Raises ConfigError where settings quarrel; asked before the first worker is."""
        for name in ("steps", "log_every", "checkpoint_every", "keep", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must be at least 1")
        patch = self.backbone.patch or native_patch(self.backbone.name)
        self.crops.check(patch)
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
            local_area=(0.1, 0.5),
            rotation=5.0,
            p_multiview=0.5,
            multiview_from=0.4,
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
        probe=ProbeConfig(every=100, bank=1000),
        batch=64,
        steps=1100,
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


RECIPES: dict[str, Callable[[], PretrainConfig]] = {
    recipe.__name__: recipe for recipe in (demo, small, small_single, multi_view_s14, single_view_s14)
}


def recipe(name: str) -> PretrainConfig:
    """The configuration of a recipe by its name. Raises ConfigError that offers the nearest name."""
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, 1, 0.3)
    offer = f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(RECIPES)
    raise ConfigError(f"unknown recipe {name!r}; {offer}")
