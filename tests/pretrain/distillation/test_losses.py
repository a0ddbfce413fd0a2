"""Losses against slow loops in float64, their gradients against finite differences, and scores without measure."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from vetdino.pretrain.distillation.losses import (
    Centering,
    Sinkhorn,
    contrast_loss,
    entropy,
    koleo_loss,
    koleo_part,
    patch_loss,
    view_loss,
)

WILD = torch.tensor(
    [[1e4, -1e4, 0.0, 3.6], [-1e4, -1e4, -9999.0, -1e4], [0.0, 0.0, 0.0, 0.0], [9e3, 1e4, -5.0, 1.0]]
)
"""Scores (N 4, K 4) as no network should give them."""


def targets(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(*shape, generator=generator, dtype=torch.float64), -1)


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cross_entropy_by_loops(target_K, scores_K, temperature):
    """Nothing but exp, log and sums, the largest score taken off first."""
    scaled = [float(value) / temperature for value in scores_K.detach()]
    peak = max(scaled)
    lse = peak + math.log(math.fsum(math.exp(value - peak) for value in scaled))
    return math.fsum(float(p) * (lse - value) for p, value in zip(target_K, scaled, strict=True))


def view_loss_by_loops(student, target, temperature):
    terms = [
        cross_entropy_by_loops(target[t, b], student[s, b], temperature)
        for s in range(len(student))
        for t in range(len(target))
        for b in range(student.shape[1])
        if s != t
    ]
    return math.fsum(terms) / len(terms)


CROPS = [(24, 2), (2, 2), (3, 1), (5, 4), (1, 3)]


@pytest.mark.parametrize(("crops", "teachers"), CROPS)
def test_view_loss_equals_the_plain_loops_for_any_number_of_crops(crops, teachers):
    student, target = scores(crops, 3, 7), targets(teachers, 3, 7)
    expected = view_loss_by_loops(student, target, 0.1)
    assert view_loss(student, target, 0.1).item() == pytest.approx(expected, rel=1e-12)
    assert view_loss(student.float(), target.float(), 0.1).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("crops", "teachers"), CROPS)
def test_the_gradient_of_the_view_loss_is_that_of_finite_differences(crops, teachers):
    target = targets(teachers, 2, 5)
    student = scores(crops, 2, 5).requires_grad_()
    assert gradcheck(lambda student: 3.0 * view_loss(student, target, 0.5), student)


def test_the_gradient_of_the_view_loss_is_autograds_through_the_plain_terms():
    student, target = scores(6, 3, 9).requires_grad_(), targets(2, 3, 9)
    log_p = F.log_softmax(student / 0.1, -1)
    pairs = [-(target[t] * log_p[s]).sum(-1).mean() for s in range(6) for t in range(2) if s != t]
    (expected,) = torch.autograd.grad(torch.stack(pairs).mean(), student)
    (found,) = torch.autograd.grad(view_loss(student, target), student)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_targets_that_do_not_sum_to_one_keep_their_weight():
    student, target = scores(4, 2, 5).requires_grad_(), 0.3 * targets(2, 2, 5)
    assert view_loss(student, target).item() == pytest.approx(view_loss_by_loops(student, target, 0.1))
    assert gradcheck(lambda student: view_loss(student, target, 0.5), student)


def test_one_crop_that_is_the_teachers_own_has_nothing_to_learn():
    student = scores(1, 2, 5).requires_grad_()
    loss = view_loss(student, targets(1, 2, 5))
    loss.backward()
    assert loss.item() == 0.0
    assert not student.grad.any()


def test_two_views_of_two_globals_and_ten_locals_give_46_terms_of_which_24_are_across_views():
    crops, teachers = 2 * (2 + 10), 2
    pairs = [(s, t) for s in range(crops) for t in range(teachers) if s != t]
    other_view = [s for s in range(crops) if s in (2, 3) or s >= 4 + 10]
    assert len(pairs) == 46
    assert sum(s in other_view for s, _ in pairs) == 24
    # The s-th crop is s from everything: each of the 46 counts once.
    student = torch.zeros(crops, 5, 2, dtype=torch.float64)
    student[:, :, 1] = torch.arange(crops)[:, None]
    sure = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(teachers, 5, 2)
    expected = sum(math.log1p(math.exp(s)) for s, _ in pairs) / 46
    assert view_loss(student, sure, 1.0).item() == pytest.approx(expected)


def test_losses_of_scores_without_measure_are_those_of_the_loops_and_finite():
    student, target = WILD[:, None].repeat(1, 2, 1).requires_grad_(), targets(2, 2, 4).float()
    for temperature in (0.04, 0.1):
        loss = view_loss(student, target, temperature)
        expected = view_loss_by_loops(student.double(), target.double(), temperature)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        (slope,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(slope).all()
    hidden = patch_loss(student[:, 0], target[:, :2].flatten(0, 1), torch.ones(4), 4, 0.04)
    assert torch.isfinite(hidden)


def test_scores_in_bfloat16_lose_no_more_than_their_own_rounding_under_autocast_too():
    student, target = scores(6, 3, 11).bfloat16().requires_grad_(), targets(2, 3, 11).float()
    exact = student.detach().double().requires_grad_()
    view_loss(exact, target.double()).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = view_loss(student, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(view_loss_by_loops(exact, target, 0.1), rel=1e-6)
    assert student.grad.dtype == torch.bfloat16
    assert torch.allclose(student.grad.double(), exact.grad, rtol=2**-7, atol=1e-6)


def patch_loss_by_loops(student, target, owner, images, temperature):
    """The mean over pictures of the mean over their hidden patches."""
    by_picture = {picture: [] for picture in owner}
    for row, picture in enumerate(owner):
        by_picture[picture].append(cross_entropy_by_loops(target[row], student[row], temperature))
    return math.fsum(math.fsum(terms) / len(terms) for terms in by_picture.values()) / images


OWNER = [0, 0, 0, 2, 2]
WEIGHT = torch.tensor([1 / 3] * 3 + [1 / 2] * 2, dtype=torch.float64)


def test_patch_loss_weighs_every_picture_alike_however_many_patches_it_hides():
    student, target = scores(5, 6), targets(5, 6)
    expected = patch_loss_by_loops(student, target, OWNER, 3, 0.1)
    assert patch_loss(student, target, WEIGHT, images=3).item() == pytest.approx(expected, rel=1e-12)
    coarse = patch_loss(student.bfloat16(), target.float(), WEIGHT.float(), images=3)
    rounded = patch_loss_by_loops(student.bfloat16().double(), target, OWNER, 3, 0.1)
    assert coarse.item() == pytest.approx(rounded, rel=1e-6)


def test_the_gradient_of_the_patch_loss_is_that_of_finite_differences():
    target = targets(5, 6)
    student = scores(5, 6).requires_grad_()
    assert gradcheck(lambda student: patch_loss(student, target, WEIGHT, 3, 0.5), student)


def test_patch_loss_of_no_hidden_patch_is_zero_and_has_a_gradient():
    student = torch.zeros(0, 6, requires_grad=True)
    loss = patch_loss(student, torch.zeros(0, 6), torch.zeros(0), images=4)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def koleo_by_loops(vectors):
    unit = [row / row.norm() for row in vectors]
    gaps = [[float((a - b).norm()) for j, b in enumerate(unit) if j != i] for i, a in enumerate(unit)]
    return -math.fsum(math.log(min(row)) for row in gaps) / len(unit)


def test_koleo_equals_its_definition_by_loops_and_so_does_its_gradient():
    vectors = scores(6, 4).requires_grad_()
    assert koleo_loss(vectors).item() == pytest.approx(koleo_by_loops(vectors.detach()), rel=1e-10)
    assert gradcheck(koleo_loss, vectors)


def test_koleo_finds_the_nearest_in_float32_under_autocast():
    # Neighbours at 1e-3 and 2e-3 of each other: in bfloat16 all three are one point.
    vectors = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-3, 0.0], [1.0, 3e-3, 0.0], [0.0, 0.0, 1.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = koleo_loss(vectors)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(koleo_by_loops(vectors.double()), rel=1e-3)


def test_koleo_of_duplicates_is_finite_and_so_is_its_gradient():
    vectors = torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, 0.5], [-1.0, 0.5]], requires_grad=True)
    loss = koleo_loss(vectors)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8))
    # As DINOv2's code computes it: nn.PairwiseDistance(2, eps=1e-8), then log(distance + 1e-8).
    same = torch.nn.functional.normalize(vectors.detach().double(), dim=-1)
    distance = torch.nn.PairwiseDistance(2, eps=1e-8)(same[:1], same[:1])
    assert (distance + 1e-8).item() == pytest.approx(1e-8 * (1 + math.sqrt(vectors.shape[1])))
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("count", [0, 1])
def test_koleo_of_fewer_than_two_vectors_is_zero_and_has_a_gradient(count):
    vectors = torch.ones(count, 4, requires_grad=True)
    loss = koleo_loss(vectors)
    loss.backward()
    assert loss.item() == 0.0
    assert not vectors.grad.any()


def test_parts_of_a_batch_have_its_koleo_loss_and_their_gradients_sum_to_its_gradient():
    vectors = scores(9, 4).requires_grad_()
    whole = koleo_loss(vectors)
    (expected,) = torch.autograd.grad(whole, vectors)
    found = torch.zeros_like(expected)
    for first, size in ((0, 2), (2, 4), (6, 3)):
        live = vectors.detach()[first : first + size].clone().requires_grad_()
        part = koleo_part(live, vectors.detach(), first)
        assert part.item() == pytest.approx(whole.item(), rel=1e-12)
        part.backward()
        found[first : first + size] += live.grad
        assert not torch.allclose(live.grad, torch.zeros(()).double())
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_a_part_of_one_vector_is_still_pushed_from_its_neighbours():
    vectors = scores(3, 4)
    live = vectors[1:2].clone().requires_grad_()
    koleo_part(live, vectors, 1).backward()
    assert live.grad.abs().max() > 0


def test_centring_uses_the_centre_of_the_steps_before_and_then_follows():
    centering = Centering(3, momentum=0.9)
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert torch.allclose(centering(logits, 0.5), torch.softmax(logits / 0.5, -1))
    centering.update(logits)
    assert torch.allclose(centering.centre_K, torch.full((3,), 0.2))


def test_three_steps_of_centring_equal_the_plain_loops():
    centering, center = Centering(7), [0.0] * 7
    for step in range(3):
        logits = scores(5, 7, seed=step)
        found = centering(logits, 0.04)
        for n in range(5):
            scaled = [math.exp((float(logits[n, k]) - center[k]) / 0.04) for k in range(7)]
            expected = torch.tensor([value / sum(scaled) for value in scaled], dtype=torch.float64)
            assert torch.allclose(found[n].double(), expected, atol=1e-5)
        centering.update(logits)
        center = [0.9 * c + 0.1 * float(logits[:, k].mean()) for k, c in enumerate(center)]
        assert torch.allclose(centering.centre_K.double(), torch.tensor(center).double(), atol=1e-6)


def test_a_step_without_scores_leaves_the_centre():
    centering = Centering(3)
    centering.update(torch.ones(2, 3))
    before = centering.centre_K.clone()
    centering.update(torch.zeros(0, 3))
    assert torch.equal(centering.centre_K, before)


def sinkhorn_by_loops(logits, temperature, iterations=3):
    """On Python's logarithms, column by column and row by row."""
    rows, columns = logits.shape
    share = [[float(logits[n, k]) / temperature for k in range(columns)] for n in range(rows)]
    for _ in range(iterations):
        for k in range(columns):
            total = logsumexp([row[k] for row in share])
            for row in share:
                row[k] -= total + math.log(columns)
        for row in share:
            total = logsumexp(row)
            row[:] = [value - total - math.log(rows) for value in row]
    return torch.tensor([[math.exp(value) * rows for value in row] for row in share], dtype=torch.float64)


def logsumexp(values):
    return max(values) + math.log(math.fsum(math.exp(value - max(values)) for value in values))


@pytest.mark.parametrize("shape", [(8, 5), (3, 12), (1, 4)])
@pytest.mark.parametrize("temperature", [0.04, 0.5])
def test_sinkhorn_equals_the_plain_loops(shape, temperature):
    logits = scores(*shape)
    before, found = logits.clone(), Sinkhorn()(logits, temperature)
    assert torch.allclose(found, sinkhorn_by_loops(logits, temperature), atol=1e-12)
    assert torch.equal(logits, before)
    single = Sinkhorn()(logits.float(), temperature)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), sinkhorn_by_loops(logits.float(), temperature), atol=1e-5)


def test_many_rounds_of_sinkhorn_give_every_prototype_its_equal_share():
    share = Sinkhorn(iterations=200)(scores(6, 3), 0.5)
    assert torch.allclose(share.sum(-1), torch.ones(6).double())
    assert torch.allclose(share.sum(0), torch.full((3,), 2.0).double(), atol=1e-6)


def test_targets_of_scores_without_measure_are_finite_and_each_row_sums_to_one():
    for make in (Sinkhorn(), Centering(4)):
        found = make(WILD, 0.04)
        assert torch.isfinite(found).all()
        assert torch.allclose(found.sum(-1), torch.ones(4))
    assert torch.allclose(Sinkhorn()(WILD, 0.04).double(), sinkhorn_by_loops(WILD, 0.04), atol=1e-2)


def test_sinkhorn_of_no_rows_is_empty():
    assert Sinkhorn()(torch.zeros(0, 5), 0.04).shape == (0, 5)


def test_the_entropy_of_uniform_targets_is_ln_k():
    assert float(entropy(torch.full((4, 8), 1 / 8))) == pytest.approx(math.log(8), rel=1e-6)


def contrast_by_loops(student, teacher, first, temperature):
    unit = lambda vector: vector / vector.norm()
    terms = []
    for s in range(len(student)):
        for t in range(len(teacher)):
            for b in range(student.shape[1]):
                if s == t:
                    continue
                logits = [float(unit(student[s, b]) @ unit(other)) / temperature for other in teacher[t]]
                terms.append(logsumexp(logits) - logits[first + b])
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize(("crops", "teachers"), [(4, 2), (2, 2), (3, 1)])
def test_the_contrast_equals_the_plain_loops_and_its_gradient_finite_differences(crops, teachers):
    student, teacher = scores(crops, 3, 5).requires_grad_(), scores(teachers, 7, 5, seed=3)
    found = contrast_loss(student, teacher, first=2, temperature=0.2)
    assert found.item() == pytest.approx(contrast_by_loops(student.detach(), teacher, 2, 0.2), rel=1e-12)
    assert gradcheck(lambda x: contrast_loss(x, teacher, 2, 0.2), student)


def test_parts_of_a_batch_have_in_the_mean_its_contrast_and_its_gradient():
    student, teacher = scores(4, 6, 5).requires_grad_(), scores(2, 6, 5, seed=3)
    (whole,) = torch.autograd.grad(contrast_loss(student, teacher, 0), student)
    parts = [contrast_loss(student[:, first : first + 2], teacher, first) for first in (0, 2, 4)]
    (divided,) = torch.autograd.grad(torch.stack(parts).mean(), student)
    assert torch.allclose(whole, divided, atol=1e-12)


def test_the_contrast_is_small_where_each_study_finds_itself_and_zero_for_one_study():
    cls = torch.eye(4)[None].repeat(2, 1, 1)
    assert contrast_loss(cls, cls[:1], 0, 0.05).item() < 1e-6
    assert contrast_loss(cls, cls[:1].flip(1), 0, 0.05).item() > 10
    alone = torch.ones(2, 1, 3, requires_grad=True)
    contrast_loss(alone, alone[:1], 0).backward()
    assert contrast_loss(alone, alone[:1], 0).item() == 0
    assert not alone.grad.any()


def test_no_gradient_of_the_contrast_reaches_the_teacher():
    student, teacher = scores(2, 3, 4).requires_grad_(), scores(1, 3, 4, seed=2).requires_grad_()
    contrast_loss(student, teacher, 0).backward()
    assert student.grad.any()
    assert teacher.grad is None
