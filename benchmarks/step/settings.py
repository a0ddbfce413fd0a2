"""Settings of a step (network, crops, losses), its random input, and its floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vetdino.pretrain.batches.batch import CropBatch

# B studies, G global and L local crops of a study, T of them the teacher's, N patches, D width, K prototypes.

TEMPERATURE = 0.04
MOMENTUM = 0.996
CLIP = 3.0
RATE = 1e-4
"""Learning rate of all steps: small, so that repeated steps stay alike."""
DECAY = 0.04


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One step's network, crops and losses."""

    backbone: str
    """A timm ViT."""
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    global_side: int = 224
    local_side: int
    globals_: int
    """Global crops of a study that the student sees."""
    locals_: int
    """Local crops of a study; only the student sees them."""
    teachers: int = 2
    """Global crops of a study that the teacher sees."""
    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    patch_weight: float = 0.0
    spread_weight: float = 0.0


SETTINGS = {
    "dino_s16": Setting(backbone="vit_small_patch16_224", local_side=96, globals_=2, locals_=8),
    "vetdino_s14": Setting(backbone="vit_small_patch14_dinov2", local_side=98, globals_=4, locals_=20),
    "dinov2_s14": Setting(
        backbone="vit_small_patch14_dinov2",
        local_side=98,
        globals_=2,
        locals_=8,
        patch_weight=1.0,
        spread_weight=0.1,
    ),
    "tiny": Setting(
        backbone="vit_tiny_patch16_224",
        width=48,
        depth=2,
        heads=3,
        global_side=64,
        local_side=32,
        globals_=4,
        locals_=6,
        prototypes=64,
        hidden=32,
        bottleneck=16,
        patch_weight=1.0,
        spread_weight=0.1,
    ),
}
"""DINO's crops; VET-DINO's (arXiv 2505.15248); DINO's with DINOv2's losses; a small one for tests."""


def patch_side(setting: Setting) -> int:
    """Side of a patch in pixels, from the name of the network."""
    from vetdino.pretrain.config import native_patch_side

    return native_patch_side(setting.backbone)


def random_batch(setting: Setting, studies: int, seed: int = 0) -> CropBatch:
    """Random gray crops of so many studies; with a patch loss, 30 % of the teacher's patches are masked."""
    generator = torch.Generator().manual_seed(seed)
    gray = lambda count, side: torch.randint(
        0, 256, (count, studies, 1, side, side), dtype=torch.uint8, generator=generator
    )
    patches = (setting.global_side // patch_side(setting)) ** 2
    share = 0.3 if setting.patch_weight else 0.0
    hidden_TBN = torch.rand(setting.teachers, studies, patches, generator=generator) < share
    keys = tuple(f"study{number}" for number in range(studies))
    return CropBatch(
        gray(setting.globals_, setting.global_side),
        gray(setting.locals_, setting.local_side),
        hidden_TBN,
        keys,
        (True,) * studies,
    )


def step_flops(setting: Setting, batch: CropBatch, width: int, depth: int) -> float:
    """Floating-point operations of the step's matrix products, two for each multiply-and-add.

    The backward pass counts twice the forward one, but for the patch embedding, whose input needs no gradient.
    All tokens of all blocks count, needed or not: so both contestants are measured by the same work.
    """
    studies = len(batch.keys)

    def forward(side: int) -> tuple[float, float]:
        """Patch embedding, and the rest, of one crop."""
        patch = patch_side(setting)
        patches = (side // patch) ** 2
        tokens = patches + 1
        block = 24 * tokens * width**2 + 4 * tokens**2 * width
        return 2.0 * patches * patch**2 * width, float(depth * block)

    def head(tokens: int) -> float:
        layers = width * setting.hidden + setting.hidden**2 + setting.hidden * setting.bottleneck
        return 2.0 * tokens * (layers + setting.bottleneck * setting.prototypes)

    embed, blocks = forward(setting.global_side)
    embed_local, blocks_local = forward(setting.local_side)
    hidden = int(batch.hidden_TBN.sum()) if setting.patch_weight else 0
    crops = setting.globals_ + setting.locals_
    student = setting.globals_ * (2 * embed + 3 * blocks) + setting.locals_ * (
        2 * embed_local + 3 * blocks_local
    )
    teacher = setting.teachers * (embed + blocks)
    heads = 3 * head(crops * studies + hidden) + head(setting.teachers * studies + hidden)
    return studies * (student + teacher) + heads
