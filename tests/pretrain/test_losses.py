"""Losses against plain loops, and gradients against finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F

from vetdino.pretrain.losses import Centring, Sinkhorn, entropy, koleo_loss, patch_loss, view_loss


def targets(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(*shape, generator=generator, dtype=torch.float64), -1)


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def view_loss_by_loops(student, target, temperature):
    total, terms = 0.0, 0
    for s in range(len(student)):
        for t in range(len(target)):
            if s == t:
                continue
            for b in range(student.shape[1]):
                log_p = F.log_softmax(student[s, b] / temperature, -1)
                total += -float((target[t, b] * log_p).sum())
                terms += 1
    return total / terms


@pytest.mark.parametrize(("crops", "teachers"), [(24, 2), (2, 2), (3, 1), (5, 4)])
def test_view_loss_equals_the_plain_loops_for_any_number_of_crops(crops, teachers):
    student, target = scores(crops, 3, 7), targets(teachers, 3, 7)
    found = view_loss(student, target, 0.1)
    assert float(found) == pytest.approx(view_loss_by_loops(student, target, 0.1), rel=1e-6)


def test_two_views_of_two_globals_and_ten_locals_give_46_terms_of_which_24_are_across_views():
    crops, teachers = 2 * (2 + 10), 2
    pairs = [(s, t) for s in range(crops) for t in range(teachers) if s != t]
    other_view = [s for s in range(crops) if s in (2, 3) or s >= 4 + 10]
    assert len(pairs) == 46
    assert sum(s in other_view for s, _ in pairs) == 24
    # A student that answers all alike, ln K away from everything, shows the count in the loss itself.
    assert float(view_loss(torch.zeros(crops, 5, 11), targets(2, 5, 11))) == pytest.approx(
        math.log(11), rel=1e-6
    )


def test_the_gradient_of_the_view_loss_is_that_of_finite_differences():
    student = scores(4, 2, 5).requires_grad_()
    target = targets(2, 2, 5)
    view_loss(student, target, 0.5).backward()
    step, where = 1e-3, (3, 1, 2)
    moved = student.detach().clone()
    moved[where] += step
    up = view_loss_by_loops(moved, target, 0.5)
    moved[where] -= 2 * step
    down = view_loss_by_loops(moved, target, 0.5)
    assert float(student.grad[where]) == pytest.approx((up - down) / (2 * step), rel=1e-3)


def test_patch_loss_weighs_every_picture_alike_however_many_patches_it_hides():
    student, target = scores(5, 6), targets(5, 6)
    owner = [0, 0, 0, 2, 2]
    weight = torch.tensor([1 / 3] * 3 + [1 / 2] * 2)
    by_picture = {0: [], 2: []}
    for row, picture in enumerate(owner):
        log_p = F.log_softmax(student[row] / 0.1, -1)
        by_picture[picture].append(-float((target[row] * log_p).sum()))
    expected = sum(sum(terms) / len(terms) for terms in by_picture.values()) / 3
    assert float(patch_loss(student, target, weight, images=3)) == pytest.approx(expected, rel=1e-5)


def test_patch_loss_of_no_hidden_patch_is_zero_and_has_a_gradient():
    student = torch.zeros(0, 6, requires_grad=True)
    loss = patch_loss(student, torch.zeros(0, 6), torch.zeros(0), images=4)
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None


def test_koleo_equals_its_definition_by_loops():
    vectors = scores(6, 4)
    unit = F.normalize(vectors, dim=-1)
    logs = []
    for i in range(6):
        gaps = [float((unit[i] - unit[j]).norm()) for j in range(6) if j != i]
        logs.append(math.log(min(gaps)))
    assert float(koleo_loss(vectors)) == pytest.approx(-sum(logs) / 6, rel=1e-5)


def test_koleo_of_duplicates_is_finite_and_of_one_vector_zero():
    assert torch.isfinite(koleo_loss(torch.ones(3, 4)))
    assert float(koleo_loss(torch.ones(1, 4))) == 0.0


def test_centring_uses_the_centre_of_the_steps_before_and_then_follows():
    centring = Centring(3, momentum=0.9)
    logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert torch.allclose(centring(logits, 0.5), torch.softmax(logits / 0.5, -1))
    centring.follow(logits)
    assert torch.allclose(centring.centre_K, torch.full((3,), 0.2))


def sinkhorn_by_loops(logits, temperature, iterations=3):
    share = torch.exp(logits / temperature)
    rows, columns = share.shape
    for _ in range(iterations):
        for k in range(columns):
            share[:, k] = share[:, k] / share[:, k].sum() / columns
        for n in range(rows):
            share[n] = share[n] / share[n].sum() / rows
    return share * rows


def test_sinkhorn_equals_the_plain_loops():
    logits = scores(8, 5)
    found = Sinkhorn()(logits, 0.5)
    assert torch.allclose(found.double(), sinkhorn_by_loops(logits.clone(), 0.5), atol=1e-6)


def test_sinkhorn_stays_finite_where_the_public_versions_overflow():
    found = Sinkhorn()(torch.tensor([[40.0, -40.0], [39.0, 3.6]]), 0.04)
    assert torch.isfinite(found).all()
    assert torch.allclose(found.sum(-1), torch.ones(2))


def test_the_entropy_of_uniform_targets_is_ln_k():
    assert float(entropy(torch.full((4, 8), 1 / 8))) == pytest.approx(math.log(8), rel=1e-6)
