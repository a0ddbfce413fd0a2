"""Recipes: functions that return all settings of a pretraining. Imports no torch and no numpy.

A recipe is a starting point: any setting of it can be changed on the command line. Its docstring says what it is for,
the command, and time and figures where they were measured.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from ..platform.core.errors import ConfigError
from ..platform.models.config import BackboneConfig
from ..platform.training.schedules import Cosine, Ramp
from .batches.config import CropConfig
from .config import PretrainConfig
from .distillation.config import DistillConfig, HeadConfig, OptimConfig
from .watch.config import ProbeConfig

_CONTRAST = DistillConfig(
    targets="sinkhorn",
    teacher_temperature=Ramp(start=0.04, end=0.04),
    patch_weight=0.3,
    contrast_weight=1.0,
)
"""DINO's losses and the contrast between studies: for trainings that go on from an encoder."""


def demo() -> PretrainConfig:
    """Minutes on two CPU cores: `vet_s14_small` for a ViT-Ti/16, 40 steps on generated studies of 256 px.

    `vetdino demo` runs it, starting from the shipped backbone. It shows that everything works; no figure is expected.
    """
    base = vet_s14_small()
    return replace(
        base,
        recipe="demo",
        start="",
        backbone=BackboneConfig(name="vit_tiny_patch16_224", side=128),
        embed_side=192,
        crops=replace(base.crops, global_side=128, local_side=64),
        steps=40,
        checkpoint_every=20,
        probe=ProbeConfig(every=20, bank=300),
    )


def small() -> PretrainConfig:
    """A small ViT from random weights: width 128, 1.2 M parameters, 900 steps, 20 minutes on two CPU cores.

    `vetdino pretrain small --shards SHARDS`. On 1,313 generated training studies: 47 studies a second on an otherwise
    idle machine; k-NN AUROC over eight findings 0.621 (0.604 to 0.639) against 0.545 for random weights and 0.598 for
    raw pixels (docs/results.md).

    What short trainings seem to need, from a few trainings of one seed each that changed several things at a time:
    targets that differ from the first step (`spread_head`), few prototypes, sharp targets (0.02: at 0.04 they drifted
    towards uniform), crops that overlap, a patch loss, which is solvable from the start, and single views first: pairs
    are hard for an untrained encoder.
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
    """`small` for archives of mostly single radiographs, such as public chest images: 400 steps.

    `vetdino pretrain small_single --shards SHARDS --threads 1`: 24 minutes on one core beside other work, on 549
    studies of public chest radiographs, with crops of 40 to 100 % of the area as they were then (docs/results.md).
    Studies of one view fall back to a single view by themselves; pairs are drawn from the first step.
    """
    base = small()
    crops = replace(base.crops, p_multiview=1.0, multiview_from=0.0)
    return replace(base, recipe="small_single", crops=crops, steps=400)


def multi_view_s14() -> PretrainConfig:
    """VET-DINO's crops on a ViT-S/14: 2 views x (2 global of 224 + 10 local of 98), for GPUs.

    `vetdino pretrain multi_view_s14 --shards SHARDS --workers 4`. No training to the end has been measured yet.
    """
    return PretrainConfig(
        recipe="multi_view_s14",
        backbone=BackboneConfig(name="vit_small_patch14_dinov2", side=224, drop_path=0.1),
        batch=256,
    )


def single_view_s14() -> PretrainConfig:
    """The baseline of `multi_view_s14`: the same crops and steps, both halves from one radiograph.

    `vetdino pretrain single_view_s14 --shards SHARDS --workers 4`. No training to the end has been measured yet.
    """
    multi = multi_view_s14()
    return replace(multi, recipe="single_view_s14", crops=replace(multi.crops, p_multiview=0.0))


def multi_view_b14() -> PretrainConfig:
    """`multi_view_s14` on a ViT-B/14 with DINOv2's losses, for 8 GPUs.

    `vetdino pretrain multi_view_b14 --shards SHARDS`. VET-DINO's losses and schedules are not public beyond its crops;
    this takes DINOv2's (arXiv 2304.07193, section 4): Sinkhorn targets, patch loss with a head of its own, KoLeo 0.1.
    Planned for 8 GPUs of 80 GB at 64 studies each (1.2 TFLOP of products a study); `--optim.micro-batch` makes it fit
    smaller ones. Neither its time nor what it learns has been measured yet.
    """
    base = multi_view_s14()
    distill = replace(
        base.distill,
        targets="sinkhorn",
        momentum=Cosine(start=0.992, end=1.0),
        patch_weight=1.0,
        spread_weight=0.1,
    )
    backbone = BackboneConfig(name="vit_base_patch14_dinov2", side=224, drop_path=0.2)
    return replace(
        base, recipe="multi_view_b14", backbone=backbone, distill=distill, batch=512, workers=8, loaders=8
    )


def multi_view_l14() -> PretrainConfig:
    """`multi_view_b14` on a ViT-L/14, for 32 GPUs.

    `vetdino pretrain multi_view_l14 --shards SHARDS`. Planned for 32 GPUs of 80 GB at 32 studies each (4.1 TFLOP of
    products a study); on fewer, set `--workers` and `--optim.micro-batch` or `--optim.checkpoint-activations`. Neither
    its time nor what it learns has been measured yet.
    """
    backbone = BackboneConfig(name="vit_large_patch14_dinov2", side=224, drop_path=0.3)
    return replace(multi_view_b14(), recipe="multi_view_l14", backbone=backbone, batch=1024, workers=32)


def dino_v1_s8() -> PretrainConfig:
    """DINO (arXiv 2104.14294) on a ViT-S/8, each image by itself, for ultrasound frames; for 16 GPUs.

    `vetdino pretrain dino_v1_s8 --shards FRAMES`, where a frame is a study of one view. Centering, no patch loss, no
    KoLeo, one learning rate for all layers; DINO's 5e-4 for each 256 images is 2e-3 at this batch. Both halves of the
    crops come from the one frame: 4 global crops of 224, of which the teacher sees 2, and 8 local ones of 96, where
    DINO has 2 and 8. Planned for 16 GPUs at 64 frames each. Neither its time nor what it learns has been measured yet.
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
    """Slices of CT and MRI volumes: two slices of one slab are the two views of a study; for 4 GPUs.

    `vetdino pretrain slices_s14 --shards SLABS`, where a study is a slab of neighboring slices of one volume, each a
    view in 8-bit gray (windowed, for CT). Any two slices of a study may become a pair, so a slab should be no thicker
    than what two slices still share, say 2 to 4 cm. A volume of many slabs is many studies of one patient, who stays on
    one side of the splits. DINOv2's losses as in `multi_view_b14`; crops cover more of the image than those of
    radiographs, since much of a slice is table and air. Planned for 4 GPUs at 64 studies each. Neither its time nor
    what it learns has been measured yet.
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


def vet_s14() -> PretrainConfig:
    """VET-DINO from DINOv2's published ViT-S/14: its crops (2 x 2 of 224, 2 x 10 of 98), for 4 GPUs.

    `vetdino pretrain vet_s14 --shards SHARDS`; timm downloads the weights, `--start FILE` takes them from a file. The
    losses are those that `vet_s14_small` was measured with. Pairs are two projections of one side of the body; the
    single-view twin is `--crops.p-multiview 0`. Heads are fitted for a tenth of the steps before the backbone moves,
    and early blocks move least. No training of this size has been measured yet.
    """
    base = multi_view_s14()
    return replace(
        base,
        recipe="vet_s14",
        start="timm:vit_small_patch14_dinov2.lvd142m",
        head_warmup=0.1,
        crops=replace(base.crops, pairs="same_side"),
        distill=_CONTRAST,
        optim=OptimConfig(lr=Cosine(start=5e-4, end=1e-6, warmup=0.1), layer_decay=0.85),
        batch=256,
        steps=20_000,
        workers=4,
    )


def vet_b14() -> PretrainConfig:
    """`vet_s14` on a ViT-B/14, for 8 GPUs.

    `vetdino pretrain vet_b14 --shards SHARDS`. Neither its time nor what it learns has been measured yet.
    """
    return replace(
        vet_s14(),
        recipe="vet_b14",
        start="timm:vit_base_patch14_dinov2.lvd142m",
        backbone=multi_view_b14().backbone,
        batch=512,
        workers=8,
        loaders=8,
    )


def vet_l14() -> PretrainConfig:
    """`vet_s14` on a ViT-L/14, for 32 GPUs.

    `vetdino pretrain vet_l14 --shards SHARDS`. Neither its time nor what it learns has been measured yet.
    """
    return replace(
        vet_b14(),
        recipe="vet_l14",
        start="timm:vit_large_patch14_dinov2.lvd142m",
        backbone=multi_view_l14().backbone,
        batch=1024,
        workers=32,
    )


def vet_s14_small() -> PretrainConfig:
    """`vet_s14` for two CPU cores and a few hundred studies: crops of 112 and 56 px, 150 steps of 32 studies.

    `vetdino pretrain vet_s14_small --shards SHARDS --start dinov2_vits14_pretrain.pth`. Twelve minutes, seven studies
    a second on one core with bfloat16 instructions. On 437 training studies of mammograms the other
    projection is among the ten nearest in 0.52 of the queries, before in 0.24 (docs/results.md).
    """
    base = vet_s14()
    return replace(
        base,
        recipe="vet_s14_small",
        backbone=BackboneConfig(name="vit_small_patch14_dinov2", side=112),
        embed_side=224,
        crops=replace(base.crops, global_side=112, local_side=56, locals_per_view=2, local_area=(0.1, 0.32)),
        distill=replace(
            base.distill,
            head=HeadConfig(prototypes=256),
            momentum=Cosine(start=0.99, end=1.0),
        ),
        optim=OptimConfig(
            lr=Cosine(start=2e-3, end=1e-6, warmup=0.1),
            weight_decay=Cosine(start=0.04, end=0.1),
            layer_decay=0.85,
            zero=0,
        ),
        probe=ProbeConfig(every=75, bank=400),
        batch=32,
        steps=150,
        checkpoint_every=75,
        workers=1,
        loaders=1,
    )


_ALL = (
    demo,
    small,
    small_single,
    multi_view_s14,
    single_view_s14,
    multi_view_b14,
    multi_view_l14,
    dino_v1_s8,
    vet_s14,
    vet_s14_small,
    vet_b14,
    vet_l14,
)

RECIPES: dict[str, Callable[[], PretrainConfig]] = {make.__name__: make for make in (*_ALL, slices_s14)}
"""Name -> function that returns the settings."""


def recipe(name: str) -> PretrainConfig:
    """The settings of a recipe by its name. Raises ConfigError, which offers the nearest name."""
    if name in RECIPES:
        return RECIPES[name]()
    near = difflib.get_close_matches(name, RECIPES, 1, 0.3)
    offer = f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(RECIPES)
    raise ConfigError(f"unknown recipe {name!r}; {offer}")
