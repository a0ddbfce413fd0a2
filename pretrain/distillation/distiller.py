"""Student and teacher: the student answers for every crop, the teacher for the globals of one view."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...platform.models.backbone import Backbone
from ..batches.batch import CropBatch
from .config import DistillConfig, HeadConfig
from .heads import Head
from .losses import Centring, Sinkhorn, entropy, koleo_part, patch_loss, view_loss

# B studies, A studies of all parts and ranks, S student crops, T teacher crops (first among the student's),
# G global crops, K prototypes, M hidden patches, D width.


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """The terms of one step, unweighted but for `total`, and what the alarms look at (all scalars)."""

    total: Tensor
    view: Tensor
    patch: Tensor
    spread: Tensor
    teacher_entropy: Tensor
    vectors_BD: Tensor
    """The student's CLS of the first global crop of each study, without gradient."""

    def named(self) -> Mapping[str, Tensor]:
        """Name -> value, as logged."""
        return {name: getattr(self, name).detach() for name in LOSS_NAMES}

    def values(self) -> Tensor:
        """The same in the order of LOSS_NAMES: float32."""
        return torch.stack([value.float() for value in self.named().values()])


LOSS_NAMES = ("total", "view", "patch", "spread", "teacher_entropy")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Scores of the CLS tokens (S, B, K) and of the hidden patches (M, K), and the globals' CLS tokens."""

    cls_SBK: Tensor
    patch_MK: Tensor
    global_cls: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What the student is asked about one part of a step's batch."""

    cls_TBK: Tensor
    """The teacher's targets for crops."""
    patch_MK: Tensor
    """Its targets for hidden patches."""
    bank_GAD: Tensor | None
    """The student's CLS of the global crops of all studies of the step; None where the part is all of them
    on this rank, whose own pass then gives them."""
    first: int
    """Where this part's studies begin among all."""
    parts: int
    """Parts of the batch over all ranks."""
    seed: int | None
    """Of what drops out."""


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
        globals_X1SS = self.backbone.normalised(globals_GB1SS.flatten(0, 1))
        covered_XN = hidden_TBN.flatten(0, 1)
        if self.patch_head is None:
            patches_MD, cls_XD = None, self.backbone(globals_X1SS, patches=False).cls
        else:
            masked_XN = covered_XN.new_zeros(crops * studies, covered_XN.shape[-1])
            masked_XN[: len(covered_XN)] = covered_XN
            tokens = self.backbone(globals_X1SS, masked_XN if hide else None)
            patches_MD, cls_XD = tokens.patches[: len(covered_XN)][covered_XN], tokens.cls
        cls = [cls_XD.view(crops, studies, -1)]
        if locals_LB1SS is not None and len(locals_LB1SS):
            local = self.backbone(self.backbone.normalised(locals_LB1SS.flatten(0, 1)), patches=False)
            cls.append(local.cls.view(len(locals_LB1SS), studies, -1))
        cls_SBK = self.head(torch.cat(cls))
        none = cls_SBK.new_zeros(0, cls_SBK.shape[-1])
        patch_MK = none if patches_MD is None else self.patch_head(patches_MD)
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
        self._before: list[Tensor] = []

    def forward(self, student: nn.Module, batch: CropBatch, temperature: float) -> Losses:
        """Losses of a batch that is looked at all at once; `student` is the student as its engine wraps it."""
        (question,) = self.questions([batch], temperature, [None])
        return self.losses(student, batch, question)

    @torch.no_grad()
    def questions(
        self, parts: Sequence[CropBatch], temperature: float, seeds: Sequence[int | None]
    ) -> list[Question]:
        """What is asked about each part of a step's batch; the parts are of one size, with a seed each.

        Targets, centres and the KoLeo loss are of the whole batch, over all parts and ranks: a batch looked at
        in parts has the losses and the gradient of one looked at at once, but for what drops out.
        """
        asked = [
            self.teacher(part.globals_GB1SS[: len(part.hidden_TBN)], None, part.hidden_TBN, False)
            for part in parts
        ]
        self._before = [centre.clone() for centre in self._centres()]
        crops, studies = asked[0].cls_SBK.shape[:2]
        scores_NK = torch.cat([answer.cls_SBK.flatten(0, 1) for answer in asked])
        target_NK = self.targets(scores_NK, temperature)
        self.targets.follow(scores_NK)
        patch_MK = torch.cat([answer.patch_MK for answer in asked])
        if self.config.patch_weight:
            # A rank without hidden patches takes part all the same: the targets are made by all ranks together.
            wanted_MK = self.patch_targets(patch_MK, temperature)
            self.patch_targets.follow(patch_MK)
            patch_MK = wanted_MK
        hidden = patch_MK.split([len(answer.patch_MK) for answer in asked])
        bank_GAD = self._bank(parts, seeds) if len(parts) > 1 and self.config.spread_weight else None
        rank, world = _rank_and_world()
        return [
            Question(
                cls_TBK=target_TBK,
                patch_MK=hidden[index],
                bank_GAD=bank_GAD,
                first=(rank * len(parts) + index) * studies,
                parts=world * len(parts),
                seed=seeds[index],
            )
            for index, target_TBK in enumerate(target_NK.view(len(parts), crops, studies, -1))
        ]

    def losses(self, student: nn.Module, batch: CropBatch, question: Question) -> Losses:
        """Losses of one part; the gradient of the step is the mean of its parts' over all ranks."""
        config = self.config
        _seed(question.seed)
        answer = student(batch.globals_GB1SS, batch.locals_LB1SS, batch.hidden_TBN, True)
        view = view_loss(answer.cls_SBK, question.cls_TBK, config.student_temperature)
        patch = self._patch(answer, question, batch.hidden_TBN) if config.patch_weight else view * 0
        spread = self._spread(answer.global_cls, question) if config.spread_weight else view * 0
        # Each part holds the whole batch's KoLeo loss but moves its own studies alone, so that the mean of the
        # parts' gradients would be too small by their number.
        pull = spread + (question.parts - 1) * (spread - spread.detach())
        total = config.view_weight * view + config.patch_weight * patch + config.spread_weight * pull
        told = entropy(question.cls_TBK.flatten(0, 1))
        return Losses(total, view, patch, spread, told, vectors_BD=answer.global_cls[0].detach())

    def _patch(self, told: Answers, question: Question, hidden_TBN: Tensor) -> Tensor:
        hidden_XN = hidden_TBN.flatten(0, 1)
        weight_M = (1.0 / hidden_XN.sum(-1).clamp_min(1))[:, None].expand_as(hidden_XN)[hidden_XN]
        temperature = self.config.student_temperature
        return patch_loss(told.patch_MK, question.patch_MK, weight_M, len(hidden_XN), temperature)

    def _spread(self, cls_GBD: Tensor, question: Question) -> Tensor:
        """KoLeo of all studies of the step. Only crops of different pictures are pushed apart: one global of
        each view at a time."""
        bank_GAD = of_all_ranks(cls_GBD.detach()) if question.bank_GAD is None else question.bank_GAD
        crops = zip(cls_GBD, bank_GAD, strict=True)
        return torch.stack([koleo_part(cls_BD, all_AD, question.first) for cls_BD, all_AD in crops]).mean()

    def _bank(self, parts: Sequence[CropBatch], seeds: Sequence[int | None]) -> Tensor:
        """The student's CLS of all parts' global crops, as `losses` will find them: (G, A, D)."""
        found = []
        for part, seed in zip(parts, seeds, strict=True):
            _seed(seed)
            found.append(self.student(part.globals_GB1SS, None, part.hidden_TBN, True).global_cls)
        return of_all_ranks(torch.cat(found, dim=1))

    def _centres(self) -> list[Tensor]:
        return [*self.targets.buffers(), *self.patch_targets.buffers()]

    @torch.no_grad()
    def follow(
        self,
        momentum: float,
        bad: Tensor | None = None,
        student: Iterable[Mapping[str, Tensor]] | None = None,
    ) -> None:
        """The teacher takes one small step after the student.

        bad: 1 where the step was skipped because its loss was no number; teacher and centres then stay.
        student: its parameters by name, a few at a time, where an engine keeps them divided.
        """
        teacher = dict(self.teacher.named_parameters())
        if bad is None:
            bad = next(iter(teacher.values())).new_zeros(())
        weight = (1.0 - momentum) * (1.0 - bad)
        for lot in student or [dict(self.student.named_parameters())]:
            mine = [teacher[name] for name in lot]
            torch._foreach_lerp_(mine, list(lot.values()), [weight] * len(mine))
        for centre, before in zip(self._centres(), self._before, strict=False):
            centre.copy_(torch.where(bad > 0, before, centre))

    @torch.no_grad()
    def spread_heads(self, batch: CropBatch) -> None:
        """Fit both heads of student and teacher to one batch's tokens (see `Head.spread`)."""
        tokens = self.teacher.backbone(self.teacher.backbone.normalised(batch.globals_GB1SS.flatten(0, 1)))
        self.student.head.spread(tokens.cls)
        if self.student.patch_head is not None:
            self.student.patch_head.spread(tokens.patches.flatten(0, 1)[::7])
        self.teacher.load_state_dict(self.student.state_dict())


def _seed(seed: int | None) -> None:
    if seed is not None:
        torch.manual_seed(seed)


def _rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def of_all_ranks(mine_GBD: Tensor) -> Tensor:
    """Vectors (G, B, D) of the studies of all ranks, in the order of their ranks: (G, A, D)."""
    _, world = _rank_and_world()
    if world == 1:
        return mine_GBD
    all_ = [torch.empty_like(mine_GBD) for _ in range(world)]
    dist.all_gather(all_, mine_GBD.contiguous())
    return torch.cat(all_, dim=1)
