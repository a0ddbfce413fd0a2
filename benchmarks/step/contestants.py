"""The two contestants: our training step, and the same step built from lightly's own parts.

Both get the same weights and the same crops, and their first losses must agree.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from vetdino.platform.models.architecture import timm_overrides
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.distillation.blocks import prepare_blocks
from vetdino.pretrain.distillation.config import DistillConfig, HeadConfig, OptimConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.distillation.engine import student_groups

from .settings import CLIP, DECAY, MOMENTUM, RATE, TEMPERATURE, Setting


class VetdinoStep:
    """Distiller, AdamW and teacher as `loop.train` drives them on one worker, without Ray and DeepSpeed."""

    name = "vetdino"

    def __init__(self, setting: Setting, batch: CropBatch, device: torch.device) -> None:
        self.device, self.batch = device, batch.to(device)
        self.distiller = random_distiller(setting).to(device)
        config = OptimConfig()
        prepare_blocks(self.distiller.student, config, device)
        groups = [
            {
                "params": group["params"],
                "lr": RATE * group["rule"].lr_factor,
                "weight_decay": DECAY if group["rule"].decays else 0.0,
            }
            for group in student_groups(self.distiller.student, config)
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
        self.parameters = list(self.distiller.student.parameters())
        self.bad = torch.zeros((), device=device)

    @property
    def learners(self) -> list[nn.Module]:
        """Modules whose parts the profile distinguishes."""
        return [self.distiller.student, self.distiller.teacher]

    def __call__(self, precision: str) -> Tensor:
        """One step; the loss before it."""
        with _autocast(self.device, precision), record_function("part/loss"):
            losses = self.distiller(self.distiller.student, self.batch, TEMPERATURE)
        with record_function("part/backward"):
            self.optimizer.zero_grad()
            losses.total.backward()
        with record_function("part/optimizer"):
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
        with record_function("part/teacher update"):
            self.distiller.update_teacher(MOMENTUM, self.bad)
        return losses.total.detach()


class LightlyStep:
    """The step of lightly's DINOv2 example, its modules as published: `MaskedVisionTransformerTIMM` around a timm
    ViT with timm's own choice of attention kernel, `DINOProjectionHead`, `DINOLoss` (and `IBOTPatchLoss`,
    `KoLeoLoss` where the setting asks for them), `update_momentum`, PyTorch's AdamW with its defaults.

    Crops of one size go through the backbone together, the teacher's without gradient; autocast is around the
    losses too, as Lightning's bf16-mixed has it. Crops arrive as normalized float32, as lightly's transforms
    leave them, but gray, so that the patch embedding does no more work than ours.
    """

    name = "lightly"

    def __init__(self, setting: Setting, batch: CropBatch, device: torch.device) -> None:
        import timm
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
        from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM

        ours = random_distiller(setting).student
        self.setting, self.device = setting, device
        shape = ours.backbone.card.config
        vit = timm.create_model(
            shape.name,
            in_chans=1,
            num_classes=0,
            img_size=shape.side,
            dynamic_img_size=True,
            **timm_overrides(shape),
        )
        vit.load_state_dict(ours.backbone.vit.state_dict())
        self.teacher = nn.ModuleDict()
        self.teacher["backbone"] = MaskedVisionTransformerTIMM(
            vit=vit,
            mask_token=nn.Parameter(ours.backbone.mask_token.detach().view(1, 1, -1).clone()),
            weight_initialization="skip",
            pos_embed_initialization="skip",
        )
        self.student = nn.ModuleDict({"backbone": copy.deepcopy(self.teacher["backbone"])})
        heads = {"head": ours.head} | ({"patch_head": ours.patch_head} if ours.patch_head else {})
        for learner in (self.teacher, self.student):
            for name, head in heads.items():
                learner[name] = DINOProjectionHead(
                    ours.backbone.width, setting.hidden, setting.bottleneck, setting.prototypes
                )
                _copy_head(head, learner[name])
            learner.to(device)
        self.teacher.requires_grad_(False).eval()
        self.dino = DINOLoss(setting.prototypes).to(device)
        self.ibot = IBOTPatchLoss(setting.prototypes).to(device)
        self.koleo = KoLeoLoss()
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE)
        normalize = lambda crop: ours.backbone.normalize(crop).to(device)
        self.views = [normalize(crop) for crop in [*batch.globals_GB1SS, *batch.locals_LB1SS]]
        side = int(batch.hidden_TBN.shape[-1] ** 0.5)
        self.block_mask = batch.hidden_TBN.flatten(0, 1).unflatten(1, (side, side)).to(device)

    @property
    def learners(self) -> list[nn.Module]:
        """Modules whose parts the profile distinguishes."""
        return [self.student, self.teacher]

    def __call__(self, precision: str) -> Tensor:
        """One step; the loss before it."""
        from lightly.models.utils import update_momentum

        with _autocast(self.device, precision), record_function("part/loss"):
            loss = self._loss()
        with record_function("part/backward"):
            self.optimizer.zero_grad()
            loss.backward()
        with record_function("part/optimizer"):
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
        with record_function("part/teacher update"):
            update_momentum(self.student, self.teacher, m=MOMENTUM)
        return loss.detach()

    def _loss(self) -> Tensor:
        setting = self.setting
        globals_, locals_ = (torch.cat(views) for views in self._by_size())
        masked_crops = len(self.block_mask)
        mask = globals_.new_zeros(len(globals_), self.teacher["backbone"].sequence_length, dtype=torch.bool)
        mask[:masked_crops, 1:] = self.block_mask.flatten(1)
        with torch.no_grad():
            tokens = self._tokens(self.teacher, globals_[:masked_crops])
            target = self.teacher["head"](tokens[:, 0])
            patch_target = (
                self.teacher["patch_head"](tokens[mask[:masked_crops]]) if setting.patch_weight else None
            )
        global_tokens = self._tokens(self.student, globals_, mask if setting.patch_weight else None)
        local_tokens = self._tokens(self.student, locals_)
        scores = torch.cat(
            [self.student["head"](global_tokens[:, 0]), self.student["head"](local_tokens[:, 0])]
        )
        loss = self.dino(
            target.chunk(setting.teachers), scores.chunk(len(self.views)), teacher_temp=TEMPERATURE
        )
        if setting.patch_weight:
            guess = self.student["patch_head"](global_tokens[mask])
            patch = self.ibot(patch_target, guess, self.block_mask, teacher_temp=TEMPERATURE)
            loss = loss + setting.patch_weight * patch
        if setting.spread_weight:
            spread = sum(self.koleo(crop) for crop in global_tokens[:, 0].chunk(setting.globals_))
            loss = loss + setting.spread_weight / setting.globals_ * spread
        return loss

    def _tokens(self, learner: nn.ModuleDict, images: Tensor, mask: Tensor | None = None) -> Tensor:
        # `encode` is no module's forward: the profile would not see where it begins.
        with record_function("part/norms, embedding"):
            return learner["backbone"].encode(images, mask=mask)

    def _by_size(self) -> tuple[list[Tensor], list[Tensor]]:
        return self.views[: self.setting.globals_], self.views[self.setting.globals_ :]


CONTESTANTS = {contestant.name: contestant for contestant in (VetdinoStep, LightlyStep)}


def random_distiller(setting: Setting) -> Distiller:
    """Student and teacher for a setting, with random weights that are always the same."""
    torch.manual_seed(0)
    shape = BackboneConfig(
        name=setting.backbone,
        side=setting.global_side,
        width=setting.width,
        depth=setting.depth,
        heads=setting.heads,
    )
    head = HeadConfig(prototypes=setting.prototypes, hidden=setting.hidden, bottleneck=setting.bottleneck)
    config = DistillConfig(head=head, patch_weight=setting.patch_weight, spread_weight=setting.spread_weight)
    return Distiller(random_backbone(shape, 0), config)


def _autocast(device: torch.device, precision: str) -> torch.autocast | nullcontext:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _copy_head(ours: nn.Module, theirs: nn.Module) -> None:
    """Our head's weights into lightly's `DINOProjectionHead`."""
    linear = lambda layers: [layer for layer in layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for mine, other in zip(linear(ours.mlp), linear(theirs.layers), strict=True):
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
        theirs.last_layer.weight_v.copy_(ours.prototypes_KW)
