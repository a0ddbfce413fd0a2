"""Student and teacher against a slow re-implementation, one picture and one pair at a time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.distillation.config import DistillConfig, HeadConfig
from vetdino.pretrain.distillation.distiller import Distiller, Learner
from vetdino.pretrain.distillation.losses import contrast_loss, koleo_loss

GLOBALS, LOCALS, STUDIES, PATCHES, PROTOTYPES = 2, 3, 4, 16, 12

TEMPERATURE = 0.05

CONFIG = DistillConfig(
    head=HeadConfig(prototypes=PROTOTYPES, hidden=16, bottleneck=8), patch_weight=0.7, spread_weight=0.1
)


def distiller_of(config: DistillConfig = CONFIG, drop_path: float = 0.0) -> Distiller:
    torch.manual_seed(0)
    shape = BackboneConfig(
        name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2, drop_path=drop_path
    )
    distiller = Distiller(random_backbone(shape, 0), config)
    # A teacher that differs from the student, and crops that differ enough.
    for parameter in distiller.teacher.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return distiller


def batch_of(hidden: float = 0.3) -> CropBatch:
    generator = torch.Generator().manual_seed(1)
    grey = lambda *shape: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    hide = torch.rand(GLOBALS, STUDIES, PATCHES, generator=generator) < hidden
    hide[0, 1] = False  # a picture in which nothing is hidden
    return CropBatch(
        grey(2 * GLOBALS, STUDIES, 1, 32, 32),
        grey(2 * LOCALS, STUDIES, 1, 16, 16),
        hide,
        tuple("abcd"),
        (True,) * STUDIES,
    )


def slow_outputs(learner: Learner, batch: CropBatch, hide: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """CLS scores (S, B, K) and, by global crop of the teacher's view, patch scores and whole-crop CLS."""
    backbone, scores, patches, cls = learner.backbone, [], [], []
    crops = [*batch.globals_GB1SS, *batch.locals_LB1SS]
    for place, crop_B1SS in enumerate(crops):
        row = []
        for study, picture in enumerate(crop_B1SS):
            seen = (picture[None].float() / 255 - 0.5) / 0.25
            masked = batch.hidden_TBN[place, study][None] if place < GLOBALS else None
            tokens = backbone(seen, masked if hide else None)
            row.append(learner.head(tokens.cls)[0])
            if place < GLOBALS:
                patches.append(learner.patch_head(tokens.patches[0])[batch.hidden_TBN[place, study]])
            if place < 2 * GLOBALS:
                cls.append(tokens.cls[0])
        scores.append(torch.stack(row))
    return torch.stack(scores), patches, cls


def cross_entropy(student_K: Tensor, target_K: Tensor) -> Tensor:
    return -(target_K * F.log_softmax(student_K / 0.1, -1)).sum()


@pytest.mark.slow
def test_the_losses_are_those_of_the_slow_way():
    distiller, batch = distiller_of(), batch_of()
    found = distiller(distiller.student, batch, TEMPERATURE)
    student_SBK, student_patches, cls = slow_outputs(distiller.student, batch, hide=True)
    teacher_SBK, teacher_patches, _ = slow_outputs(distiller.teacher, batch, hide=False)
    target = lambda scores: torch.softmax(scores / TEMPERATURE, -1)  # the centre is zero at first
    pairs = [(s, t) for s in range(2 * (GLOBALS + LOCALS)) for t in range(GLOBALS) if s != t]
    view = torch.stack(
        [
            cross_entropy(student_SBK[s, b], target(teacher_SBK[t, b]))
            for s, t in pairs
            for b in range(STUDIES)
        ]
    ).mean()
    assert found.view.item() == pytest.approx(view.item(), rel=1e-5)
    by_picture = [
        torch.stack([cross_entropy(s, t) for s, t in zip(mine, target(theirs), strict=True)]).mean()
        for mine, theirs in zip(student_patches, teacher_patches, strict=True)
        if len(mine)
    ]
    patch = torch.stack(by_picture).sum() / (GLOBALS * STUDIES)
    assert found.patch.item() == pytest.approx(patch.item(), rel=1e-5)
    spread = torch.stack(
        [koleo_loss(torch.stack(cls[g * STUDIES : (g + 1) * STUDIES])) for g in range(2 * GLOBALS)]
    )
    assert found.spread.item() == pytest.approx(spread.mean().item(), rel=1e-4)
    total = view + 0.7 * patch + 0.1 * spread.mean()
    assert found.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert found.contrast.item() == 0


def test_the_contrast_compares_the_global_cls_tokens_of_both_networks():
    distiller = distiller_of(replace(CONFIG, contrast_weight=0.5, contrast_temperature=0.2))
    batch = batch_of()
    with torch.no_grad():  # as after some steps: student and teacher differ
        distiller.student.backbone.vit.norm.weight.mul_(
            torch.linspace(0.5, 2, distiller.student.backbone.width)
        )
    plain = distiller_of()
    plain.load_state_dict(distiller.state_dict())
    without = plain(plain.student, batch, TEMPERATURE).total.item()
    found = distiller(distiller.student, batch, TEMPERATURE)
    *_, student = slow_outputs(distiller.student, batch, hide=True)
    *_, teacher = slow_outputs(distiller.teacher, batch, hide=False)
    by_crop = lambda cls, crops: torch.stack(cls[: crops * STUDIES]).view(crops, STUDIES, -1)
    expected = contrast_loss(by_crop(student, 2 * GLOBALS), by_crop(teacher, GLOBALS), 0, 0.2)
    assert found.contrast.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.total.item() == pytest.approx(without + 0.5 * expected.item(), rel=1e-5)


def test_the_centres_follow_the_teachers_scores_once_a_step():
    distiller, batch = distiller_of(), batch_of()
    distiller(distiller.student, batch, TEMPERATURE)
    teacher_SBK, patches, _ = slow_outputs(distiller.teacher, batch, hide=False)
    centre = 0.1 * teacher_SBK[:GLOBALS].flatten(0, 1).mean(0)
    assert torch.allclose(distiller.targets.centre_K, centre, atol=1e-6)
    assert torch.allclose(distiller.patch_targets.centre_K, 0.1 * torch.cat(patches).mean(0), atol=1e-6)


def test_the_teacher_sees_only_the_globals_of_the_first_view():
    distiller, batch = distiller_of(replace(CONFIG, spread_weight=0.0, patch_weight=0.0)), batch_of()
    seen = []
    distiller.teacher.register_forward_hook(lambda _, inputs, answer: seen.append((inputs, answer)))
    distiller(distiller.student, batch, TEMPERATURE)
    [((globals_, locals_, _, hide), answer)] = seen
    assert torch.equal(globals_, batch.globals_GB1SS[:GLOBALS])
    assert locals_ is None
    assert hide is False
    assert answer.cls_SBK.shape == (GLOBALS, STUDIES, PROTOTYPES)


def test_patches_are_hidden_only_from_the_student_and_only_in_the_teachers_view():
    distiller, batch = distiller_of(), batch_of()
    open_ = replace(batch, hidden_TBN=torch.zeros_like(batch.hidden_TBN))
    with torch.no_grad():
        hidden, plain = (distiller.student(b.globals_GB1SS, None, b.hidden_TBN, True) for b in (batch, open_))
        same = (hidden.cls_SBK - plain.cls_SBK).abs().amax(-1) < 1e-6
        assert torch.equal(same[:GLOBALS], ~batch.hidden_TBN.any(-1))
        assert same[GLOBALS:].all()
        hidden, plain = (
            distiller.teacher(b.globals_GB1SS[:GLOBALS], None, b.hidden_TBN, False) for b in (batch, open_)
        )
        assert torch.equal(hidden.cls_SBK, plain.cls_SBK)


def test_without_a_patch_loss_there_is_no_patch_head_and_nothing_is_hidden():
    distiller, batch = distiller_of(replace(CONFIG, patch_weight=0.0)), batch_of()
    assert distiller.student.patch_head is None
    losses = distiller(distiller.student, batch, TEMPERATURE)
    open_ = distiller_of(replace(CONFIG, patch_weight=0.0))(
        distiller.student, replace(batch, hidden_TBN=torch.zeros_like(batch.hidden_TBN)), TEMPERATURE
    )
    assert losses.patch.item() == 0.0
    assert losses.view.item() == open_.view.item()


def test_a_batch_in_which_nothing_is_hidden_has_a_patch_loss_of_zero_and_leaves_its_centre():
    distiller = distiller_of()
    losses = distiller(distiller.student, batch_of(hidden=0.0), TEMPERATURE)
    losses.total.backward()
    assert losses.patch.item() == 0.0
    assert not distiller.patch_targets.centre_K.any()
    assert all(p.grad is not None for p in distiller.student.patch_head.parameters())


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_gradients_reach_the_student_and_never_the_teacher(targets):
    distiller = distiller_of(replace(CONFIG, targets=targets))
    distiller(distiller.student, batch_of(), TEMPERATURE).total.backward()
    assert all(parameter.grad is None for parameter in distiller.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in distiller.teacher.parameters())
    without = [name for name, p in distiller.student.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
@pytest.mark.parametrize("count", [2, 4])
def test_a_batch_in_parts_has_the_losses_and_the_gradient_of_the_whole(targets, count):
    config = replace(CONFIG, targets=targets, contrast_weight=0.5)
    batch = batch_of()
    whole, parted = distiller_of(config), distiller_of(config)
    one = whole(whole.student, batch, TEMPERATURE)
    one.total.backward()
    parts = batch.split(count)
    targets = parted.make_targets(parts, TEMPERATURE, [None] * count)
    found = [parted.losses(parted.student, part, wanted) for part, wanted in zip(parts, targets, strict=True)]
    for losses in found:
        (losses.total / count).backward()
    for name, value in one.named().items():
        mean = torch.stack([losses.named()[name] for losses in found]).mean()
        assert mean.item() == pytest.approx(value.item(), rel=1e-5), name
    assert all(losses.spread.item() == pytest.approx(one.spread.item(), rel=1e-5) for losses in found)
    for (name, p), q in zip(whole.student.named_parameters(), parted.student.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=2e-6, rtol=1e-4), name
    for mine, theirs in zip(whole.buffers(), parted.buffers(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_what_drops_out_of_a_part_is_the_same_in_the_pass_before_and_in_its_own():
    distiller, parts = distiller_of(drop_path=0.5), batch_of().split(2)
    targets = distiller.make_targets(parts, TEMPERATURE, [11, 12])
    for index, (part, wanted) in enumerate(zip(parts, targets, strict=True)):
        torch.manual_seed(wanted.seed)
        cls_GBD = distiller.student(part.globals_GB1SS, None, part.hidden_TBN, True).global_cls
        assert torch.equal(wanted.bank_GAD[:, wanted.first : wanted.first + len(part.keys)], cls_GBD), index
    assert not torch.equal(
        targets[0].bank_GAD[:, :2], distiller_of().make_targets(parts, 0.05, [1, 2])[0].bank_GAD[:, :2]
    )


def test_a_step_that_was_skipped_moves_neither_teacher_nor_centres():
    distiller, batch = distiller_of(), batch_of()
    distiller(distiller.student, batch, TEMPERATURE)
    distiller.update_teacher(0.9, torch.tensor(0.0))
    before = copy.deepcopy(distiller.state_dict())
    broken = replace(batch, globals_GB1SS=batch.globals_GB1SS.flip(0))
    distiller(distiller.student, broken, TEMPERATURE)
    distiller.targets.centre_K.fill_(float("nan"))
    distiller.update_teacher(0.9, torch.tensor(1.0))
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())
    distiller(distiller.student, broken, TEMPERATURE)
    distiller.update_teacher(0.9, torch.tensor(0.0))
    assert not torch.equal(distiller.state_dict()["targets.centre_K"], before["targets.centre_K"])


def test_the_teacher_takes_the_share_of_a_step_that_the_momentum_leaves():
    distiller = distiller_of()
    before = copy.deepcopy(distiller.teacher.state_dict())
    distiller.update_teacher(0.75)
    for name, value in distiller.teacher.state_dict().items():
        expected = 0.75 * before[name] + 0.25 * distiller.student.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-7)
    distiller.update_teacher(0.0)
    for name, value in distiller.teacher.state_dict().items():
        assert torch.equal(value, distiller.student.state_dict()[name])


def test_the_teacher_drops_no_path_and_the_student_does():
    distiller, batch = distiller_of(drop_path=0.5), batch_of()
    ask = lambda learner: learner(batch.globals_GB1SS, None, batch.hidden_TBN, False).cls_SBK
    assert distiller.training
    with torch.no_grad():
        assert torch.equal(ask(distiller.teacher), ask(distiller.teacher))
        assert not torch.equal(ask(distiller.student), ask(distiller.student))


def test_whitened_heads_are_the_same_in_student_and_teacher_and_tell_pictures_apart():
    distiller, batch = distiller_of(), batch_of()
    distiller.update_teacher(0.0)  # as at the start, student and teacher are one
    distiller.whiten_heads(batch)
    student, teacher = distiller.student.state_dict(), distiller.teacher.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    with torch.no_grad():
        answers = distiller.teacher(batch.globals_GB1SS, None, batch.hidden_TBN, False)
    assert answers.cls_SBK.flatten(0, 1).std(0).mean() > 0.1


def test_names_of_losses_are_those_that_are_logged():
    distiller = distiller_of()
    named = distiller(distiller.student, batch_of(), TEMPERATURE).named()
    assert list(named) == ["total", "view", "patch", "spread", "contrast", "teacher_entropy"]
    assert not any(value.requires_grad for value in named.values())
