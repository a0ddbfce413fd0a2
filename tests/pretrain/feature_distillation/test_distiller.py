"""A student and its frozen teacher: targets, losses, and that a student learns."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vetdino.platform.models.backbone import Backbone, random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.convnet import random_convnet
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.feature_distillation.config import FeatureLossConfig
from vetdino.pretrain.feature_distillation.distiller import FeatureDistiller

TEACHER = BackboneConfig(name="vit_tiny_patch16_224", side=28, patch=7, width=48, depth=2, heads=2)
STUDENT = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)

# C crops of a study, B studies, X = C * B images, D width of the teacher.


def teacher_of() -> Backbone:
    """Random weights, made large enough that images differ."""
    teacher = random_backbone(TEACHER, 1)
    with torch.no_grad():
        for block in teacher.vit.blocks:
            block.attn.qkv.weight *= 10
            block.mlp.fc1.weight *= 5
    return teacher


def distiller_of(student: nn.Module | None = None, **config) -> FeatureDistiller:
    torch.manual_seed(0)
    made = student or random_backbone(STUDENT, 0)
    return FeatureDistiller(made, teacher_of(), FeatureLossConfig(**config), crop_side=32, teacher_side=28)


def batch_of(studies: int = 6, side: int = 32, seed: int = 0) -> CropBatch:
    """Two crops of each study: blobs of few gray values."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2 * studies, 1, 4, 4, generator=draws) * 255
    crops = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return CropBatch(
        globals_GB1SS=crops.unflatten(0, (2, studies)),
        locals_LB1SS=torch.zeros(0, studies, 1, 8, 8, dtype=torch.uint8),
        hidden_TBN=torch.zeros(1, studies, 1, dtype=torch.bool),
        keys=tuple(f"k{number}" for number in range(studies)),
        is_pair=(True,) * studies,
    )


def student_tokens(distiller: FeatureDistiller, batch: CropBatch) -> tuple[Tensor, Tensor]:
    """The student's projected tokens, one image after the other."""
    learner, cls, patches = distiller.student, [], []
    for image in batch.globals_GB1SS.flatten(0, 1):
        tokens = learner.backbone((image[None] / 255 - 0.5) / 0.25)
        cls.append(tokens.cls @ learner.cls_projection.weight.T + learner.cls_projection.bias)
        patches.append(tokens.patches @ learner.patch_projection.weight.T + learner.patch_projection.bias)
    return torch.cat(cls), torch.cat(patches)


@pytest.mark.parametrize("kind", ["cosine", "smooth_l1"])
def test_the_loss_is_that_of_its_parts_image_by_image(kind):
    distiller, batch = distiller_of(kind=kind, cls_weight=2.0, patch_weight=0.5), batch_of()
    distiller.fit_scales(batch_of(8, seed=3))
    (targets,) = distiller.step_targets([batch], {}, [None])
    losses = distiller.losses(distiller.student, batch, targets)
    cls_XD, patch_XND = student_tokens(distiller, batch)

    def distance(ours: Tensor, theirs: Tensor) -> Tensor:
        if kind == "cosine":
            return 1 - (ours * theirs).sum(-1) / (ours.norm(dim=-1) * theirs.norm(dim=-1))
        gap = (ours - theirs).abs()
        return torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean(-1)

    cls_X = [distance(*pair) for pair in zip(cls_XD, targets.cls_XD, strict=True)]
    patch_X = [distance(*pair).mean() for pair in zip(patch_XND, targets.patch_XND, strict=True)]
    wanted_cls, wanted_patch = torch.stack(cls_X).mean(), torch.stack(patch_X).mean()
    assert losses.cls.item() == pytest.approx(wanted_cls.item(), abs=1e-5)
    assert losses.patch.item() == pytest.approx(wanted_patch.item(), abs=1e-5)
    assert losses.total.item() == pytest.approx(2 * wanted_cls.item() + 0.5 * wanted_patch.item(), abs=1e-5)
    assert losses.values().shape == (len(distiller.loss_names),)
    assert losses.vectors_BD.shape == (6, 32)


def test_targets_are_the_teachers_tokens_of_the_same_crops_standardized():
    distiller, batch = distiller_of(), batch_of()
    distiller.fit_scales(batch)
    (targets,) = distiller.step_targets([batch], {}, [None])
    gray = F.interpolate(
        batch.globals_GB1SS.flatten(0, 1).float(), size=(28, 28), mode="bilinear", antialias=True
    )
    tokens = teacher_of().eval()((gray / 255 - 0.5) / 0.25)
    assert (
        tokens.grid == distiller.grid == (4, 4)
    )  # the teacher's 28 px in patches of 7, the student's 32 in 8
    for found, raw in ((targets.cls_XD, tokens.cls), (targets.patch_XND, tokens.patches)):
        spread, mean = torch.std_mean(raw.flatten(0, -2), dim=0, correction=0)
        torch.testing.assert_close(found, (raw - mean) / spread, atol=1e-3, rtol=1e-3)
    parts = distiller.step_targets(batch.split(2), {}, [1, 2])
    assert [part.seed for part in parts] == [1, 2]
    two = torch.cat([part.cls_XD.unflatten(0, (2, 3)) for part in parts], dim=1).flatten(0, 1)
    torch.testing.assert_close(two, targets.cls_XD, atol=1e-5, rtol=1e-5)


def test_without_a_patch_loss_there_is_no_patch_projection_and_its_terms_are_0():
    distiller, batch = distiller_of(patch_weight=0.0), batch_of()
    (targets,) = distiller.step_targets([batch], {}, [None])
    losses = distiller.losses(distiller.student, batch, targets)
    assert distiller.student.patch_projection is None
    assert (losses.patch.item(), losses.patch_cosine.item()) == (0, 0)
    assert losses.total.item() == losses.cls.item()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_a_student_learns_its_teacher_and_the_teacher_stays(kind):
    student = random_convnet(BackboneConfig(name="resnet10t", side=64), 0) if kind == "cnn" else None
    distiller = distiller_of(student)
    distiller.fit_scales(batch_of(32, seed=3))
    before = copy.deepcopy(distiller.teacher.state_dict())
    held_out = batch_of(16, seed=999)
    (wanted,) = distiller.step_targets([held_out], {}, [None])

    def agreement() -> float:
        distiller.student.eval()
        with torch.no_grad():
            found = distiller.losses(distiller.student, held_out, wanted).cls_cosine.item()
        distiller.student.train()
        return found

    untrained = agreement()
    adam = torch.optim.AdamW(distiller.student.parameters(), lr=2e-3)
    totals = []
    for step in range(60):
        batch = batch_of(16, seed=step)
        (targets,) = distiller.step_targets([batch], {}, [step])
        losses = distiller.losses(distiller.student, batch, targets)
        adam.zero_grad()
        losses.total.backward()
        adam.step()
        totals.append(losses.total.item())
    assert sum(totals[-10:]) < 0.9 * sum(totals[:10])
    assert agreement() > untrained + 0.15  # on images that it has not seen
    assert all(torch.equal(value, before[name]) for name, value in distiller.teacher.state_dict().items())


def test_the_exported_network_is_the_student_as_it_is_now():
    distiller = distiller_of(random_convnet(BackboneConfig(name="resnet10t", side=64), 0))
    with torch.no_grad():
        for parameter in distiller.student.parameters():
            parameter.add_(0.01)
    distiller.student(batch_of().globals_GB1SS)  # moves the running statistics
    distiller.student.backbone.eval()
    exported = distiller.network([dict(distiller.student.named_parameters())])
    assert not any(module.training for module in exported.modules())
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(exported(images).cls, distiller.student.backbone(images).cls)


def test_a_checkpoint_holds_scales_and_running_statistics_and_no_teacher():
    distiller = distiller_of(random_convnet(BackboneConfig(name="resnet10t", side=64), 0))
    distiller.fit_scales(batch_of())
    distiller.student(batch_of().globals_GB1SS)
    state = distiller.saved_state()
    assert {"cls_scale.mean_D", "patch_scale.std_D"} < set(state)
    assert any(name.endswith("running_mean") for name in state)
    assert not any(name.startswith("teacher.") for name in state)
    other = distiller_of(random_convnet(BackboneConfig(name="resnet10t", side=64), 0))
    other.load_state_dict(state, strict=False)
    assert all(torch.equal(value, other.saved_state()[name]) for name, value in state.items())


def test_another_teacher_has_another_identity():
    one = distiller_of()
    other = FeatureDistiller(
        random_backbone(STUDENT, 0),
        random_backbone(TEACHER, 2),
        FeatureLossConfig(),
        crop_side=32,
        teacher_side=28,
    )
    assert one.identity == distiller_of().identity
    assert one.identity != other.identity
