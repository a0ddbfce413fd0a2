"""The picture of attention has a row for each view and a column for each known organ."""

import io

import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.views.attention_panel import attention_panel, relative_attention
from vetdino.downstream.views.tokenized import TokenizedView


def look(laid, tokens=None, attention=None):
    view, _, patches = laid
    tokens = np.eye(len(patches.points), dtype=np.float32) if tokens is None else tokens
    return TokenizedView(view, patches, tokens, attention)


def test_the_picture_is_a_png_of_all_views_and_known_organs(laid):

    shown = [look(part, attention=np.random.default_rng(0).random((2, 64))) for part in laid[:2]]
    png = attention_panel(shown, {"liver": (0, 0.6), "unheard of": (1, 0.9)}, "random weights")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.height > 500
        assert len(set(picture.convert("L").tobytes())) > 50


def test_even_attention_over_the_animal_is_1_everywhere(laid):
    even = look(laid[0], attention=np.full((2, 64), 0.3))
    np.testing.assert_allclose(relative_attention(even, 1), 1.0)
    one_patch = np.zeros((1, 64))
    patch = laid[0][2].inside[0]
    one_patch[0, patch] = 1.0
    area = laid[0][2].animal
    expected = area.sum() / area[patch]
    assert relative_attention(look(laid[0], attention=one_patch), 0)[patch] == pytest.approx(expected)
