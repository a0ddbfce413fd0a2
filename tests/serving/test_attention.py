import numpy as np
import pytest

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.similarity import PatchGrid
from vetdino.serving.attention import attention_maps, head_colors, mean_attention_map, overlay

GRID = PatchGrid(height=200, width=120, side=64, patch=8)


def attention_on(patch: int, heads: int = 2) -> np.ndarray:
    row = np.full((heads, GRID.count), 0.001, np.float32)
    row[:, patch] = 0.5
    return row


@pytest.mark.parametrize("patch", [11, 27, 36, 60])
def test_a_map_peaks_where_its_patch_is_in_the_view(patch):
    glow = attention_maps(attention_on(patch), GRID)[1]
    assert glow.shape == (200, 120)
    row, column = np.unravel_index(glow.argmax(), glow.shape)
    left, top, right, bottom = GRID.box(patch)
    assert left <= column < right
    assert top <= row < bottom


def test_maps_lie_between_zero_and_one():
    maps = attention_maps(np.random.default_rng(0).random((3, GRID.count)), GRID)
    assert maps.min() == 0.0
    assert maps.max() == 1.0


def test_attention_to_the_black_border_does_not_dim_the_view():
    loud = attention_on(27)
    loud[:, 0] = 50.0  # top left of the square, where no view is
    calm = attention_maps(attention_on(27), GRID)
    np.testing.assert_allclose(
        attention_maps(loud, GRID)[:, 60:140, 40:80], calm[:, 60:140, 40:80], atol=1e-4
    )


def test_an_animal_before_black_does_not_glow_as_a_whole():
    """Half of the view is black and draws nothing: of the animal, only the half that a head looks at most glows."""
    heads = np.full((2, 8, 8), 0.0005, np.float32)
    heads[:, 2:6] = 0.01
    heads[0, 2:4] = heads[1, 4:6] = 0.04
    first, second = attention_maps(heads.reshape(2, -1), PatchGrid(height=64, width=64, side=64, patch=8))
    assert first[20:28, 20:44].min() > 0.9 > 0.1 > first[36:].max()
    assert second[36:44, 20:44].min() > 0.9 > 0.1 > second[:28].max()


def test_equal_attention_everywhere_glows_nowhere():
    assert attention_maps(np.full((1, GRID.count), 0.1, np.float32), GRID).max() == 0.0
    assert mean_attention_map(np.zeros((2, GRID.count), np.float32), GRID).max() == 0.0


def test_the_mean_is_the_map_of_the_mean_head():
    rows = np.random.default_rng(1).random((4, GRID.count)).astype(np.float32)
    np.testing.assert_allclose(
        mean_attention_map(rows, GRID), attention_maps(rows.mean(0, keepdims=True), GRID)[0]
    )


def test_without_attention_an_overlay_stays_gray():
    pixels = np.arange(200 * 120, dtype=np.uint32).reshape(200, 120).astype(np.uint8)
    picture = overlay(pixels, np.zeros((1, 200, 120)), [(255, 0, 0)])
    assert picture.dtype == np.uint8
    assert (picture[..., 0] == picture[..., 2]).all()


def test_at_its_peak_a_head_shows_its_color_and_the_anatomy_below():
    pixels = np.array([[40, 220]], np.uint8)
    dark, bright = overlay(pixels, np.ones((1, 1, 2)), [(255, 60, 60)])[0].astype(int)
    assert dark[0] > dark[1] + 40
    assert bright[0] > bright[1] + 40
    assert bright.sum() > dark.sum()


@pytest.mark.parametrize("heads", [1, 3, 6, 12, 16])
def test_every_head_has_a_color_of_its_own(heads):
    assert len(set(head_colors(heads))) == heads


def test_a_real_backbone_gives_one_map_a_head():
    config = BackboneConfig(name="vit_tiny_patch16_224", side=64, patch=8, width=48, heads=3, depth=2)
    backbone = random_backbone(config, seed=0)
    pixels = np.random.default_rng(0).integers(0, 255, (200, 120), np.uint8)
    attention = backbone.attention(backbone.prepare(pixels)[None])[0].numpy()
    assert attention_maps(attention, GRID).shape == (3, 200, 120)
