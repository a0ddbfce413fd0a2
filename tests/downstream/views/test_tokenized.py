"""Views become tokens on the grid of a backbone, or of their pixels."""

import numpy as np
import pytest

from vetdino.downstream.views.tokenized import pixel_tokens, tokenized_views, unit_or_zero
from vetdino.platform.data.study import View
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.letterbox import letterboxed


def test_pixels_answer_by_normalised_cross_correlation(laid):
    view = laid[0][0]
    tokens = unit_or_zero(pixel_tokens(view, 64, 8))

    square = letterboxed(view.pixels, 64).astype(float)
    one, other = square[24:32, 32:40].ravel(), square[32:40, 16:24].ravel()
    assert tokens[3 * 8 + 4] @ tokens[4 * 8 + 2] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-5)
    assert not unit_or_zero(pixel_tokens(View(np.full((8, 8), 7, np.uint8)), 64, 8)).any()


def test_a_backbone_looks_at_all_views_with_a_map_and_pixels_without_heads(truths, studies, laid):
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=1, heads=2)
    backbone = random_backbone(small, seed=0)
    views = truths.views(studies[0])
    looks = tokenized_views(backbone, [*views, (views[0][0], None)], 64, 8)
    assert [(one.tokens.shape, one.attention.shape) for one in looks] == [((16, 32), (2, 16))] * len(views)
    assert all(one.projection == view.projection for one, (view, _) in zip(looks, views, strict=True))
    assert tokenized_views(backbone, [], 64, 8) == []
    pixels = tokenized_views(None, views, 64, 8)
    assert pixels[0].tokens.shape == (64, 64)
    assert pixels[0].attention is None
