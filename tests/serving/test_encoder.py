"""One backbone of the app: its output for a view, and what the page shows of it."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.serving.encoder import ViewEncoder


def test_a_view_gives_tokens_attention_and_a_grid(state):
    encoded = state.encoders[0].encode(("test", 0), 2)
    assert encoded.tokens.shape == (64, 48)
    assert encoded.attention.shape == (3, 64)
    assert (encoded.grid.height, encoded.grid.width) == (140, 230)
    assert encoded.tokens.dtype == encoded.attention.dtype == np.float32


def test_a_view_is_encoded_once(state):
    encoder = state.encoders[0]
    assert encoder.encode(("test", 0), 0) is encoder.encode(("test", 0), 0)


def test_the_description_names_blocks_patches_and_heads(state):
    description = state.encoders[0].description
    assert description["summary"] == "2 blocks of width 48, patches of 8 pixels, image side 64"
    assert description["heads"] == 3
    assert len(description["digest"]) == 12


def test_a_larger_side_gives_a_finer_grid_and_must_fit_the_patch(state):
    encoder = state.encoders[0]
    fine = ViewEncoder(encoder.backbone, encoder.similar, encoder.studies, side=96)
    assert fine.encode(("test", 0), 0).tokens.shape == (144, 48)
    with pytest.raises(ConfigError, match="side 60"):
        ViewEncoder(encoder.backbone, encoder.similar, encoder.studies, side=60)
