"""Position embeddings at other grids, against loops and PyTorch's interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.platform.models.examples import dino_by_loops
from vetdino.platform.models.backbone import resized
from vetdino.platform.models.positions import resample_positions


def test_resampled_positions_are_a_bicubic_antialiased_picture_of_the_first_ones(backbone):
    for side in (16, 48):
        grid = side // 8
        other = resized(backbone, side).vit.pos_embed
        prefix = 0 if backbone.vit.no_embed_class else backbone.prefix
        before = backbone.vit.pos_embed
        picture = before[0, prefix:].T.reshape(1, -1, 4, 4)
        expected = F.interpolate(picture, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
        assert torch.allclose(other[0, prefix:], expected[0].flatten(1).T, atol=1e-6)
        assert torch.equal(other[:, :prefix], before[:, :prefix])


@pytest.mark.parametrize("grid", [(2, 3), (4, 5), (9, 4), (28, 28)])
def test_dinos_positions_are_those_of_the_loops_and_differ_from_timms(grid):
    positions = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))
    found = resample_positions(positions, 1, (4, 4), grid, "dino")
    torch.testing.assert_close(
        found[0, 1:],
        dino_by_loops(positions[0, 1:].reshape(4, 4, 6), grid).flatten(0, 1),
        atol=1e-5,
        rtol=1e-5,
    )
    assert torch.equal(found[:, :1], positions[:, :1])
    assert (found - resample_positions(positions, 1, (4, 4), grid, "timm")).abs().max() > 0.01


@pytest.mark.parametrize("rule", ["timm", "dino"])
def test_an_unchanged_grid_leaves_positions_as_they_are_but_not_one_of_as_many_patches(rule):
    positions = torch.randn(1, 17, 6)
    assert resample_positions(positions, 1, (4, 4), (4, 4), rule) is positions
    assert not torch.allclose(resample_positions(positions, 1, (4, 4), (2, 8), rule), positions, atol=0.1)
