"""The distance between tokens, written out as loops; the teacher's tokens on another grid and standardized."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vetdino.pretrain.feature_distillation.losses import Standardization, on_grid, token_loss


def tokens_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_cosine_loss(student_XND: Tensor, teacher_XND: Tensor) -> float:
    total, count = 0.0, 0
    for ours_ND, theirs_ND in zip(student_XND.tolist(), teacher_XND.tolist(), strict=True):
        for ours, theirs in zip(ours_ND, theirs_ND, strict=True):
            product = sum(a * b for a, b in zip(ours, theirs, strict=True))
            lengths = math.sqrt(sum(a * a for a in ours)) * math.sqrt(sum(b * b for b in theirs))
            total, count = total + 1 - product / lengths, count + 1
    return total / count


def slow_smooth_l1(student_XND: Tensor, teacher_XND: Tensor) -> float:
    gaps = [
        abs(a - b)
        for a, b in zip(student_XND.flatten().tolist(), teacher_XND.flatten().tolist(), strict=True)
    ]
    return sum(gap * gap / 2 if gap < 1 else gap - 0.5 for gap in gaps) / len(gaps)


@pytest.mark.parametrize(("kind", "slow"), [("cosine", slow_cosine_loss), ("smooth_l1", slow_smooth_l1)])
def test_the_distance_of_tokens_is_that_of_its_loops(kind, slow):
    student, teacher = tokens_of(3, 4, 6), 2 * tokens_of(3, 4, 6, seed=1)
    assert token_loss(student, teacher, kind).item() == pytest.approx(slow(student, teacher), abs=1e-6)
    assert token_loss(teacher, teacher, kind).item() == pytest.approx(0, abs=1e-6)


def test_a_distance_is_computed_in_float32_under_autocast():
    student, teacher = tokens_of(2, 3, 8), tokens_of(2, 3, 8, seed=1)
    plain = token_loss(student, teacher, "cosine")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert token_loss(student, teacher, "cosine").item() == pytest.approx(plain.item(), abs=1e-6)


def test_tokens_stay_as_they_are_on_their_own_grid_and_a_ramp_stays_one_on_another():
    tokens = tokens_of(2, 6, 3)
    assert on_grid(tokens, (2, 3), (2, 3)) is tokens
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    ramp_1ND = torch.stack([rows, columns], dim=-1).flatten(0, 1)[None]
    halved_RCD = on_grid(ramp_1ND, (8, 8), (4, 4))[0].unflatten(0, (4, 4))
    # A cell of the coarse grid covers two of the fine one: its middle lies at 2 i + 0.5. Borders see less.
    for row, column in ((1, 1), (1, 2), (2, 1)):
        assert halved_RCD[row, column].tolist() == pytest.approx([2 * row + 0.5, 2 * column + 0.5], abs=1e-4)


def test_every_dimension_of_the_sample_has_mean_0_and_variance_1_and_one_that_stands_still_is_not_noise():
    tokens = tokens_of(50, 4, 3) * torch.tensor([5.0, 0.1, 0.0]) + torch.tensor([10.0, -1.0, 3.0])
    scale = Standardization(3)
    scale.fit(tokens)
    found = scale(tokens).flatten(0, 1)
    assert found.mean(0).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert found[:, :2].std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-3)
    assert found[:, 2].abs().max() < 1e-3
    other = Standardization(3)
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other(tokens), scale(tokens))


SIDES = st.integers(1, 9)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_grid_that_is_resampled_stays_within_its_values_and_an_even_one_even(
    rows, columns, high, wide, seed
):
    tokens = tokens_of(1, rows * columns, 2, seed=seed)
    resampled = on_grid(tokens, (rows, columns), (high, wide))
    assert resampled.shape == (1, high * wide, 2)
    assert resampled.min() >= tokens.min() - 1e-5
    assert resampled.max() <= tokens.max() + 1e-5
    even = torch.full_like(tokens, 3.25)
    torch.testing.assert_close(on_grid(even, (rows, columns), (high, wide)), torch.full_like(resampled, 3.25))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_loss_is_the_mean_of_its_parts_and_a_cosine_knows_no_length(parts, tokens, width, seed):
    ours, theirs = (tokens_of(parts, tokens, width, seed=seed + number) for number in (0, 1))
    for kind in ("cosine", "smooth_l1"):
        whole = token_loss(ours, theirs, kind)
        split = torch.stack([token_loss(*pair, kind) for pair in zip(ours, theirs, strict=True)]).mean()
        torch.testing.assert_close(whole, split, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        token_loss(5 * ours, 0.2 * theirs, "cosine"), token_loss(ours, theirs, "cosine"), atol=1e-4, rtol=1e-4
    )
