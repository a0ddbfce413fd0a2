"""A student, its frozen teacher and the loss between their tokens: what the training loop trains.

The student's tokens are projected linearly to the teacher's width for the loss. The projections are thrown away at
the end: what is kept is the student's own CLS and patch tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...platform.models.backbone import Backbone
from ...platform.models.convnet import ConvNet
from ..batches.batch import CropBatch
from ..distillation.distiller import seed_stochastic_depth
from .config import FeatureLossConfig
from .losses import Standardization, on_grid, token_loss

# C crops of a study, B studies, X = C * B images, N patches of the student's grid; D width of the teacher, E of the
# student's embedding.

StudentNetwork: TypeAlias = Backbone | ConvNet


@dataclass(frozen=True, slots=True, eq=False)
class StudentTokens:
    """What a `FeatureLearner` returns: its tokens in the teacher's width, and its own embedding."""

    cls_XD: Tensor
    patch_XND: Tensor
    """(X, 0, D) where patch tokens are not learned."""
    embedding_XE: Tensor
    """The CLS token, or the pooled features, before the projection."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTargets:
    """What the student should return for one micro-batch: the teacher's standardized tokens, on the student's grid."""

    cls_XD: Tensor
    patch_XND: Tensor
    seed: int | None
    """Seed of the student's stochastic depth."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureLosses:
    """The terms of the loss, unweighted except in `total`, and the cosines with the teacher; all scalars."""

    total: Tensor
    cls: Tensor
    patch: Tensor
    cls_cosine: Tensor
    patch_cosine: Tensor
    vectors_BD: Tensor
    """The student's embeddings of the first crop of each study, without gradient."""

    def values(self) -> Tensor:
        """The terms in the order of `FeatureDistiller.loss_names`: float32."""
        return torch.stack([getattr(self, name).detach().float() for name in FeatureDistiller.loss_names])


class FeatureLearner(nn.Module):
    """A student with its projections to the teacher's width."""

    def __init__(self, backbone: StudentNetwork, teacher_width: int, *, patches: bool) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.patch_width if isinstance(backbone, ConvNet) else backbone.width
        self.cls_projection = nn.Linear(backbone.width, teacher_width)
        self.patch_projection = nn.Linear(width, teacher_width) if patches else None

    def forward(self, images_CB1SS: Tensor) -> StudentTokens:
        """Projected tokens of uint8 crops."""
        images_X1SS = self.backbone.normalize(images_CB1SS.flatten(0, 1))
        tokens = self.backbone(images_X1SS, None, self.patch_projection is not None)
        cls_XD = self.cls_projection(tokens.cls)
        patch_XND = cls_XD.new_zeros(len(cls_XD), 0, cls_XD.shape[-1])
        if self.patch_projection is not None:
            patch_XND = self.patch_projection(tokens.patches)
        return StudentTokens(cls_XD=cls_XD, patch_XND=patch_XND, embedding_XE=tokens.cls)


class FeatureDistiller(nn.Module):
    """Student, teacher and the loss between them; an `Objective` of the training loop.

    teacher_side: side in pixels of the crops as the teacher is shown them. crop_side: as the student is.
    """

    loss_names: ClassVar[tuple[str, ...]] = ("total", "cls", "patch", "cls_cosine", "patch_cosine")

    def __init__(
        self,
        student: StudentNetwork,
        teacher: Backbone,
        config: FeatureLossConfig,
        *,
        crop_side: int,
        teacher_side: int,
    ) -> None:
        super().__init__()
        self.config, self.teacher_side = config, teacher_side
        self.teacher = teacher.eval().requires_grad_(False)
        self.exported = copy.deepcopy(student).eval().requires_grad_(False)
        """A whole copy of the student for probe and export; `network` brings it up to date."""
        self.student = FeatureLearner(student, teacher.width, patches=config.patch_weight > 0)
        self.cls_scale, self.patch_scale = Standardization(teacher.width), Standardization(teacher.width)
        with torch.no_grad():
            blank = self.exported.normalize(torch.zeros(1, 1, crop_side, crop_side, dtype=torch.uint8))
            self.grid: tuple[int, int] = self.exported(blank).grid

    def settings_at(self, step: int, steps: int) -> dict[str, float]:
        """Nothing beside learning rate and weight decay changes with the step."""
        return {}

    @torch.no_grad()
    def fit_scales(self, batch: CropBatch) -> None:
        """Standardize the teacher's tokens by those of a batch."""
        cls_XD, patch_XND = self._teacher_tokens(batch)
        self.cls_scale.fit(cls_XD)
        self.patch_scale.fit(patch_XND)

    @torch.no_grad()
    def step_targets(
        self,
        micro_batches: Sequence[CropBatch],
        settings: Mapping[str, float],
        seeds: Sequence[int | None],
    ) -> list[FeatureTargets]:
        """The targets of each micro-batch of a step."""
        targets = []
        for batch, seed in zip(micro_batches, seeds, strict=True):
            cls_XD, patch_XND = self._teacher_tokens(batch)
            targets.append(FeatureTargets(self.cls_scale(cls_XD), self.patch_scale(patch_XND), seed))
        return targets

    def _teacher_tokens(self, batch: CropBatch) -> tuple[Tensor, Tensor]:
        """The teacher's CLS (X, D) and its patch tokens on the student's grid (X, N, D)."""
        gray_X1SS, side = batch.globals_GB1SS.flatten(0, 1), self.teacher_side
        if gray_X1SS.shape[-1] != side:
            gray_X1SS = F.interpolate(gray_X1SS.float(), size=(side, side), mode="bilinear", antialias=True)
        tokens = self.teacher(self.teacher.normalize(gray_X1SS), patches=self.config.patch_weight > 0)
        if not self.config.patch_weight:
            return tokens.cls, tokens.cls[:, None]
        return tokens.cls, on_grid(tokens.patches, tokens.grid, self.grid)

    def losses(self, student: nn.Module, batch: CropBatch, targets: FeatureTargets) -> FeatureLosses:
        """Losses of one micro-batch; a step's gradient is the mean over its micro-batches and all ranks."""
        config = self.config
        seed_stochastic_depth(targets.seed)
        tokens: StudentTokens = student(batch.globals_GB1SS)
        cls = token_loss(tokens.cls_XD, targets.cls_XD, config.kind)
        cls_cosine = 1 - token_loss(tokens.cls_XD.detach(), targets.cls_XD, "cosine")
        patch = patch_cosine = cls.detach() * 0
        if config.patch_weight:
            patch = token_loss(tokens.patch_XND, targets.patch_XND, config.kind)
            patch_cosine = 1 - token_loss(tokens.patch_XND.detach(), targets.patch_XND, "cosine")
        total = config.cls_weight * cls + config.patch_weight * patch
        vectors_BD = tokens.embedding_XE.detach()[: len(batch.keys)]
        return FeatureLosses(total, cls, patch, cls_cosine, patch_cosine, vectors_BD)

    def loss_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """The mean terms of a record by their logged names."""
        losses = {f"loss/{name}": means[name] for name in ("total", "cls", "patch")}
        return losses | {f"health/{name}": means[name] for name in ("cls_cosine", "patch_cosine")}

    def after_step(
        self, settings: Mapping[str, float], bad: Tensor, student: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """The teacher is frozen: nothing follows the student."""

    @torch.no_grad()
    def network(self, student: Iterable[Mapping[str, Tensor]]) -> StudentNetwork:
        """The student as it is now, for probe and export. student: its parameters by name, a few at a time."""
        mine = dict(self.exported.named_parameters())
        for parameters in student:
            for name, value in parameters.items():
                if name.startswith("backbone."):
                    mine[name.removeprefix("backbone.")].copy_(value)
        buffers = dict(self.student.backbone.named_buffers())
        for name, value in self.exported.named_buffers():
            value.copy_(buffers[name])
        return self.exported

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the engine's part: scales, and the running statistics of a CNN."""
        scales = {"cls_scale": self.cls_scale, "patch_scale": self.patch_scale, "student": self.student}
        return {
            f"{part}.{name}": value
            for part, module in scales.items()
            for name, value in module.named_buffers()
        }

    @property
    def identity(self) -> str:
        """Digest of the teacher: a training that continues needs the same one."""
        return self.teacher.card.digest
