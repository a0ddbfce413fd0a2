"""Student and teacher: the student answers for every crop, the teacher for the globals of one view."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..platform.backbone import Backbone
from .batch import CropBatch
from .heads import Head, HeadConfig
from .losses import Centring, Sinkhorn, entropy, koleo_loss, patch_loss, view_loss
from .masks import MaskConfig
from .schedules import Cosine, Ramp

# B studies, S student crops, T teacher crops (first among the student's), K prototypes, M hidden patches.


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """What the student learns from the teacher."""

    head: HeadConfig = field(default_factory=HeadConfig)
    targets: Literal["centring", "sinkhorn"] = "centring"
    """How the teacher's scores become targets."""
    student_temperature: float = 0.1
    """Sharpness of the student's answer."""
    teacher_temperature: Ramp = field(default_factory=lambda: Ramp(start=0.04, end=0.07, over=0.3))
    """Sharpness of the targets, over the steps."""
    momentum: Cosine = field(default_factory=lambda: Cosine(start=0.996, end=1.0))
    """Share of itself that the teacher keeps at each step."""
    view_weight: float = 1.0
    """Weight of the loss between crops."""
    patch_weight: float = 0.0
    """Weight of the loss on hidden patches; 0 leaves patches in the open."""
    spread_weight: float = 0.0
    """Weight of the KoLeo loss on the student's global crops."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    spread_head: bool = False
    """Fit the untrained head to the untrained backbone's tokens first, so that targets differ from step one."""


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """The terms of one step, unweighted but for `total`, and what the alarms look at (all scalars)."""

    total: Tensor
    view: Tensor
    patch: Tensor
    spread: Tensor
    teacher_entropy: Tensor

    def named(self) -> Mapping[str, Tensor]:
        """Name -> value, as logged."""
        return {name: getattr(self, name).detach() for name in LOSS_NAMES}


LOSS_NAMES = ("total", "view", "patch", "spread", "teacher_entropy")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Scores of the CLS tokens (S, B, K) and of the hidden patches (M, K), and the globals' CLS tokens."""

    cls_SBK: Tensor
    patch_MK: Tensor
    global_cls: Tensor


class Learner(nn.Module):
    """A backbone with its heads, one for crops and one for patches."""

    def __init__(self, backbone: Backbone, head: HeadConfig, *, patches: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(backbone.width, head)
        self.patch_head = Head(backbone.width, head) if patches else None

    def forward(
        self, globals_GB1SS: Tensor, locals_LB1SS: Tensor | None, hidden_TBN: Tensor, hide: bool
    ) -> Answers:
        """Answers to uint8 crops; `hide` says whether hidden patches are really hidden (student) or only
        asked about (teacher)."""
        crops, studies = globals_GB1SS.shape[:2]
        covered_N = hidden_TBN.flatten(0, 1)
        masked = None
        if hide and self.patch_head is not None:
            masked = covered_N.new_zeros(crops * studies, covered_N.shape[-1])
            masked[: len(covered_N)] = covered_N
        tokens = self.backbone(self.backbone.normalised(globals_GB1SS.flatten(0, 1)), masked)
        cls = [tokens.cls.view(crops, studies, -1)]
        if locals_LB1SS is not None and len(locals_LB1SS):
            local = self.backbone(self.backbone.normalised(locals_LB1SS.flatten(0, 1)))
            cls.append(local.cls.view(len(locals_LB1SS), studies, -1))
        cls_SBK = self.head(torch.cat(cls))
        if self.patch_head is None:
            patch_MK = cls_SBK.new_zeros(0, cls_SBK.shape[-1])
        else:
            patch_MK = self.patch_head(tokens.patches[: len(covered_N)][covered_N])
        return Answers(cls_SBK=cls_SBK, patch_MK=patch_MK, global_cls=cls[0])


class Distiller(nn.Module):
    """The loss of one batch, and the teacher that follows the student.

    Every student crop answers every teacher crop of its study but itself: with 2 views of 2 + 10 crops and
    2 teacher crops that is 46 terms, 24 of them purely across views. VET-DINO (arXiv 2505.15248).
    """

    def __init__(self, backbone: Backbone, config: DistillConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Learner(backbone, config.head, patches=config.patch_weight > 0)
        self.teacher = copy.deepcopy(self.student)
        for block in self.teacher.backbone.vit.blocks:
            block.drop_path1 = block.drop_path2 = nn.Identity()
        self.teacher.requires_grad_(False)
        make = (lambda: Centring(config.head.prototypes)) if config.targets == "centring" else Sinkhorn
        self.targets = make()
        self.patch_targets = make()

    def forward(self, student: nn.Module, batch: CropBatch, temperature: float) -> Losses:
        """Losses of a batch; `student` is the student as its engine wraps it."""
        config = self.config
        teachers = len(batch.hidden_TBN)
        told = student(batch.globals_GB1SS, batch.locals_LB1SS, batch.hidden_TBN, True)
        with torch.no_grad():
            asked = self.teacher(batch.globals_GB1SS[:teachers], None, batch.hidden_TBN, False)
            scores_NK = asked.cls_SBK.flatten(0, 1)
            target_NK = self.targets(scores_NK, temperature)
            self.targets.follow(scores_NK)
        target_TBK = target_NK.view_as(asked.cls_SBK)
        view = view_loss(told.cls_SBK, target_TBK, config.student_temperature)
        patch = self._patch(told, asked, batch.hidden_TBN, temperature) if config.patch_weight else view * 0
        spread = view * 0
        if config.spread_weight:
            # Only crops of different pictures are pushed apart: one global of each view at a time.
            spread = torch.stack([koleo_loss(crop_BD) for crop_BD in told.global_cls]).mean()
        total = config.view_weight * view + config.patch_weight * patch + config.spread_weight * spread
        return Losses(total, view, patch, spread, entropy(target_NK))

    def _patch(self, told: Answers, asked: Answers, hidden_TBN: Tensor, temperature: float) -> Tensor:
        # A rank without hidden patches takes part all the same: the targets are made by all ranks together.
        with torch.no_grad():
            target_MK = self.patch_targets(asked.patch_MK, temperature)
            self.patch_targets.follow(asked.patch_MK)
        hidden_XN = hidden_TBN.flatten(0, 1)
        weight_M = (1.0 / hidden_XN.sum(-1).clamp_min(1))[:, None].expand_as(hidden_XN)[hidden_XN]
        return patch_loss(told.patch_MK, target_MK, weight_M, len(hidden_XN), self.config.student_temperature)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teacher takes one small step after the student."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1.0 - momentum)

    @torch.no_grad()
    def spread_heads(self, batch: CropBatch) -> None:
        """Fit both heads of student and teacher to one batch's tokens (see `Head.spread`)."""
        tokens = self.teacher.backbone(self.teacher.backbone.normalised(batch.globals_GB1SS.flatten(0, 1)))
        self.student.head.spread(tokens.cls)
        if self.student.patch_head is not None:
            self.student.patch_head.spread(tokens.patches.flatten(0, 1)[::7])
        self.teacher.load_state_dict(self.student.state_dict())
