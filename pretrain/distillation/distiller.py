"""Student, teacher (an EMA of the student) and the loss of a batch.

The student gets every crop, the teacher the global crops of one view.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...platform.models.backbone import Backbone
from ...platform.training.ranks import gather_over_ranks, rank_and_world_size
from ..batches.batch import CropBatch
from .config import DistillConfig, HeadConfig
from .heads import Head
from .losses import Centering, Sinkhorn, contrast_loss, entropy, koleo_part, patch_loss, view_loss

# B studies, A studies of the whole batch (all micro-batches of all ranks), S student crops, T teacher crops (first
# among the student's), G global crops, K prototypes, M hidden patches, D width.

LOSS_NAMES = ("total", "view", "patch", "spread", "contrast", "teacher_entropy")


@dataclass(frozen=True, slots=True, eq=False)
class DistillLosses:
    """The terms of the loss, unweighted except in `total`, and the teacher's entropy; all scalars."""

    total: Tensor
    view: Tensor
    patch: Tensor
    spread: Tensor
    contrast: Tensor
    teacher_entropy: Tensor
    vectors_BD: Tensor
    """The student's CLS tokens of the first global crop of each study, without gradient."""

    def named(self) -> Mapping[str, Tensor]:
        """Name -> value, as logged."""
        return {name: getattr(self, name).detach() for name in LOSS_NAMES}

    def values(self) -> Tensor:
        """The same values in the order of LOSS_NAMES: float32."""
        return torch.stack([value.float() for value in self.named().values()])


@dataclass(frozen=True, slots=True, eq=False)
class LearnerOutputs:
    """What a `Learner` returns."""

    cls_SBK: Tensor
    """Logits of the crops' CLS tokens."""
    patch_MK: Tensor
    """Logits of the hidden patches."""
    global_cls: Tensor
    """CLS tokens of the global crops: (G, B, D)."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the student should return for one micro-batch."""

    cls_TBK: Tensor
    """The teacher's targets for crops."""
    patch_MK: Tensor
    """The teacher's targets for hidden patches."""
    bank_GAD: Tensor | None
    """For KoLeo: the student's CLS tokens of the global crops of the whole batch; None if this micro-batch is the
    rank's whole share, whose own forward pass then gives them."""
    teacher_TAD: Tensor | None
    """For the contrast: the teacher's CLS tokens of its crops of the whole batch; None without that loss."""
    first: int
    """Index of this micro-batch's first study in the whole batch."""
    micro_batches: int
    """Micro-batches of the step, over all ranks."""
    seed: int | None
    """Seed of stochastic depth."""


class Learner(nn.Module):
    """A backbone with its heads, one for crops and one for patches."""

    def __init__(self, backbone: Backbone, head: HeadConfig, *, patches: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(backbone.width, head)
        self.patch_head = Head(backbone.width, head) if patches else None

    def forward(
        self, globals_GB1SS: Tensor, locals_LB1SS: Tensor | None, hidden_TBN: Tensor, hide: bool
    ) -> LearnerOutputs:
        """Logits of uint8 crops and of the patches `hidden_TBN`.

        hide: replace these patches by the mask token (student), or leave them visible (teacher).
        """
        crops, studies = globals_GB1SS.shape[:2]
        globals_X1SS = self.backbone.normalize(globals_GB1SS.flatten(0, 1))
        covered_XN = hidden_TBN.flatten(0, 1)
        patches_MD = None
        if self.patch_head is None:
            cls_XD = self.backbone(globals_X1SS, patches=False).cls
        else:
            masked_XN = covered_XN.new_zeros(crops * studies, covered_XN.shape[-1])
            masked_XN[: len(covered_XN)] = covered_XN
            tokens = self.backbone(globals_X1SS, masked_XN if hide else None)
            patches_MD, cls_XD = tokens.patches[: len(covered_XN)][covered_XN], tokens.cls
        cls = [cls_XD.view(crops, studies, -1)]
        if locals_LB1SS is not None and len(locals_LB1SS):
            local = self.backbone(self.backbone.normalize(locals_LB1SS.flatten(0, 1)), patches=False)
            cls.append(local.cls.view(len(locals_LB1SS), studies, -1))
        cls_SBK = self.head(torch.cat(cls))
        no_patches_MK = cls_SBK.new_zeros(0, cls_SBK.shape[-1])
        patch_MK = no_patches_MK if self.patch_head is None else self.patch_head(patches_MD)
        return LearnerOutputs(cls_SBK=cls_SBK, patch_MK=patch_MK, global_cls=cls[0])


class Distiller(nn.Module):
    """Student, teacher and the loss between them.

    Every student crop is compared with every teacher crop of its study but itself: with 2 views of 2 + 10 crops
    and 2 teacher crops that is 46 terms, 24 of them across views. VET-DINO (arXiv 2505.15248).
    """

    loss_names: ClassVar[tuple[str, ...]] = LOSS_NAMES

    def __init__(self, backbone: Backbone, config: DistillConfig) -> None:
        super().__init__()
        self.config = config
        self.student = Learner(backbone, config.head, patches=config.patch_weight > 0)
        self.teacher = copy.deepcopy(self.student)
        for block in self.teacher.backbone.vit.blocks:
            block.drop_path1 = block.drop_path2 = nn.Identity()
        self.teacher.requires_grad_(False)
        make = (lambda: Centering(config.head.prototypes)) if config.targets == "centring" else Sinkhorn
        self.targets = make()
        self.patch_targets = make()
        self._centers_before: list[Tensor] = []

    def forward(self, student: nn.Module, batch: CropBatch, temperature: float) -> DistillLosses:
        """Losses of a batch in a single pass; `student` is the student as its engine wraps it."""
        (targets,) = self.make_targets([batch], temperature, [None])
        return self.losses(student, batch, targets)

    def settings_at(self, step: int, steps: int) -> dict[str, float]:
        """The teacher's momentum and temperature at a step."""
        return {
            "momentum": self.config.momentum.at(step, steps),
            "teacher_temperature": self.config.teacher_temperature.at(step, steps),
        }

    def step_targets(
        self, micro_batches: Sequence[CropBatch], settings: Mapping[str, float], seeds: Sequence[int | None]
    ) -> list[Targets]:
        """`make_targets` with the settings of a step."""
        return self.make_targets(micro_batches, settings["teacher_temperature"], seeds)

    @torch.no_grad()
    def make_targets(
        self, micro_batches: Sequence[CropBatch], temperature: float, seeds: Sequence[int | None]
    ) -> list[Targets]:
        """The targets of each micro-batch of a step; moves the centers.

        micro_batches: of equal size. seeds: one for each, of the student's stochastic depth.

        Targets, centers and the KoLeo loss are of the whole batch, over all micro-batches and ranks: losses and
        gradients do not depend on how a batch is divided, except for stochastic depth.
        """
        outputs = [
            self.teacher(batch.globals_GB1SS[: len(batch.hidden_TBN)], None, batch.hidden_TBN, False)
            for batch in micro_batches
        ]
        self._centers_before = [center.clone() for center in self._centers()]
        crops, studies = outputs[0].cls_SBK.shape[:2]
        logits_NK = torch.cat([output.cls_SBK.flatten(0, 1) for output in outputs])
        target_NK = self.targets(logits_NK, temperature)
        self.targets.update(logits_NK)
        patch_MK = torch.cat([output.patch_MK for output in outputs])
        if self.config.patch_weight:
            # A rank without hidden patches takes part, too: all ranks make the targets together.
            patch_target_MK = self.patch_targets(patch_MK, temperature)
            self.patch_targets.update(patch_MK)
            patch_MK = patch_target_MK
        patch_targets = patch_MK.split([len(output.patch_MK) for output in outputs])
        count = len(micro_batches)
        bank_GAD = self._bank(micro_batches, seeds) if count > 1 and self.config.spread_weight else None
        teacher_TAD = None
        if self.config.contrast_weight:
            teacher_TAD = gather_over_ranks(
                torch.cat([output.global_cls for output in outputs], dim=1), dim=1
            )
        rank, world = rank_and_world_size()
        return [
            Targets(
                cls_TBK=target_TBK,
                patch_MK=patch_targets[index],
                bank_GAD=bank_GAD,
                teacher_TAD=teacher_TAD,
                first=(rank * count + index) * studies,
                micro_batches=world * count,
                seed=seeds[index],
            )
            for index, target_TBK in enumerate(target_NK.view(count, crops, studies, -1))
        ]

    def losses(self, student: nn.Module, batch: CropBatch, targets: Targets) -> DistillLosses:
        """Losses of one micro-batch; a step's gradient is the mean over its micro-batches and all ranks."""
        config = self.config
        seed_stochastic_depth(targets.seed)
        outputs = student(batch.globals_GB1SS, batch.locals_LB1SS, batch.hidden_TBN, True)
        view = view_loss(outputs.cls_SBK, targets.cls_TBK, config.student_temperature)
        patch = self._patch_loss(outputs, targets, batch.hidden_TBN) if config.patch_weight else view * 0
        spread = self._spread_loss(outputs.global_cls, targets) if config.spread_weight else view * 0
        # Each micro-batch has the KoLeo loss of the whole batch, but gradient for its own studies only: the mean
        # of the gradients would be too small by the number of micro-batches.
        scaled_spread = spread + (targets.micro_batches - 1) * (spread - spread.detach())
        contrast = view * 0
        if targets.teacher_TAD is not None:
            temperature = config.contrast_temperature
            contrast = contrast_loss(outputs.global_cls, targets.teacher_TAD, targets.first, temperature)
        total = config.view_weight * view + config.patch_weight * patch + config.spread_weight * scaled_spread
        total = total + config.contrast_weight * contrast
        teacher_entropy = entropy(targets.cls_TBK.flatten(0, 1))
        vectors_BD = outputs.global_cls[0].detach()
        return DistillLosses(total, view, patch, spread, contrast, teacher_entropy, vectors_BD)

    def _patch_loss(self, outputs: LearnerOutputs, targets: Targets, hidden_TBN: Tensor) -> Tensor:
        hidden_XN = hidden_TBN.flatten(0, 1)
        weight_M = (1.0 / hidden_XN.sum(-1).clamp_min(1))[:, None].expand_as(hidden_XN)[hidden_XN]
        temperature = self.config.student_temperature
        return patch_loss(outputs.patch_MK, targets.patch_MK, weight_M, len(hidden_XN), temperature)

    def _spread_loss(self, cls_GBD: Tensor, targets: Targets) -> Tensor:
        """KoLeo over all studies of the step, one global crop of each at a time: only crops of different images
        are pushed apart."""
        bank_GAD = targets.bank_GAD
        if bank_GAD is None:
            bank_GAD = gather_over_ranks(cls_GBD.detach(), dim=1)
        crops = zip(cls_GBD, bank_GAD, strict=True)
        return torch.stack([koleo_part(cls_BD, all_AD, targets.first) for cls_BD, all_AD in crops]).mean()

    def _bank(self, micro_batches: Sequence[CropBatch], seeds: Sequence[int | None]) -> Tensor:
        """The student's CLS tokens of all global crops, as `losses` will compute them: (G, A, D)."""
        cls = []
        for batch, seed in zip(micro_batches, seeds, strict=True):
            seed_stochastic_depth(seed)
            cls.append(self.student(batch.globals_GB1SS, None, batch.hidden_TBN, True).global_cls)
        return gather_over_ranks(torch.cat(cls, dim=1), dim=1)

    def _centers(self) -> list[Tensor]:
        return [*self.targets.buffers(), *self.patch_targets.buffers()]

    @torch.no_grad()
    def update_teacher(
        self,
        momentum: float,
        bad: Tensor | None = None,
        student: Iterable[Mapping[str, Tensor]] | None = None,
    ) -> None:
        """EMA update of the teacher: teacher = momentum * teacher + (1 - momentum) * student.

        bad: 1 if the step was skipped because its loss or gradient was not finite; teacher and centers then stay.
        student: its parameters by name, a few at a time, if an engine keeps them divided among ranks.
        """
        teacher = dict(self.teacher.named_parameters())
        if bad is None:
            bad = next(iter(teacher.values())).new_zeros(())
        weight = (1.0 - momentum) * (1.0 - bad)
        for parameters in student or [dict(self.student.named_parameters())]:
            mine: list[Tensor] = [teacher[name] for name in parameters]
            weights: list[Any] = [weight] * len(mine)  # 0-d tensors: nothing waits for the device
            torch._foreach_lerp_(mine, list(parameters.values()), weights)
        for center, before in zip(self._centers(), self._centers_before, strict=False):
            center.copy_(torch.where(bad > 0, before, center))

    def after_step(
        self, settings: Mapping[str, float], bad: Tensor, student: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """`update_teacher` with the settings of a step."""
        self.update_teacher(settings["momentum"], bad, student)

    def loss_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """The mean terms of a record by their logged names."""
        losses = {f"loss/{name}": means[name] for name in LOSS_NAMES if name != "teacher_entropy"}
        return losses | {
            "health/teacher_entropy": means["teacher_entropy"],
            "health/view_loss_minus_ln_k": means["view"] - math.log(self.config.head.prototypes),
        }

    def network(self, student: Iterable[Mapping[str, Tensor]]) -> Backbone:
        """The network for probe and export: the teacher's backbone."""
        return self.teacher.backbone

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the engine's part: the teacher and the centers."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("student.")}

    @property
    def identity(self) -> str:
        """Nothing: all that it learns from is in the checkpoint."""
        return ""

    @torch.no_grad()
    def whiten_heads(self, batch: CropBatch) -> None:
        """Fit both heads of student and teacher to one batch's tokens (see `Head.whiten`)."""
        globals_X1SS = self.teacher.backbone.normalize(batch.globals_GB1SS.flatten(0, 1))
        tokens = self.teacher.backbone(globals_X1SS)
        self.student.head.whiten(tokens.cls)
        if self.student.patch_head is not None:
            self.student.patch_head.whiten(tokens.patches.flatten(0, 1)[::7])
        self.teacher.load_state_dict(self.student.state_dict())


def seed_stochastic_depth(seed: int | None) -> None:
    """Seed what the student's next forward pass draws; None leaves the generator as it is."""
    if seed is not None:
        torch.manual_seed(seed)
