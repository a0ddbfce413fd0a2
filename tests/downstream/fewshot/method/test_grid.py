"""Masks on the grid of features in all three variants, and the copied mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.fewshot.method.grid import copied_mask, grid_mask

COMPATS = ("ours", "alpnet", "levayz")


def test_ours_gives_each_cell_its_share_of_the_mask():
    mask = torch.rand(5, 24, 32) > 0.5
    wanted = mask.float().reshape(5, 6, 4, 8, 4).mean(dim=(2, 4))
    torch.testing.assert_close(grid_mask(mask, 6, 8), wanted)


@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 13), st.integers(1, 13), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ours_neither_loses_nor_makes_mask_whatever_the_sides(rows, columns, height, width, seed):
    mask = (torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) > 0.5).double()
    share = grid_mask(mask, rows, columns)
    assert share.min() >= 0
    assert share.max() <= 1 + 1e-6
    assert share.mean().item() == pytest.approx(mask.mean().item(), abs=1e-6)
    torch.testing.assert_close(grid_mask(1 - mask, rows, columns), 1 - share)


def test_levayz_asks_the_upper_left_pixel_of_a_cell_and_alpnet_its_middle():
    mask = torch.rand(24, 24) > 0.5
    assert torch.equal(grid_mask(mask, 3, 3, "levayz"), mask[::8, ::8].float())
    middle = mask.float().reshape(3, 8, 3, 8)[:, 3:5, :, 3:5].mean(dim=(1, 3))
    torch.testing.assert_close(grid_mask(mask, 3, 3, "alpnet"), middle)


def test_a_mask_of_whole_cells_is_the_same_by_every_rule(draw_on_cells):
    _, _, masks = draw_on_cells(shots=2)
    one, *others = (grid_mask(masks, 8, 8, compat) for compat in COMPATS)
    for other in others:
        torch.testing.assert_close(one, other)


def test_the_copied_mask_is_that_of_the_support_and_of_half_of_several():
    masks = torch.rand(3, 10, 12) > 0.5
    assert torch.equal(copied_mask(masks[:1], 10, 12), masks[0])
    assert torch.equal(copied_mask(masks, 10, 12), masks.sum(dim=0) >= 2)
    assert torch.equal(copied_mask(masks[:2], 10, 12), masks[0] | masks[1])
    assert torch.equal(copied_mask(masks[:1], 20, 24)[::2, 1::2], masks[0])
