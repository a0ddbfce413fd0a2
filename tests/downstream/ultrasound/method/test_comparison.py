"""Every row of a table answers every frame of a set at its own size."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import ZeroshotConfig
from vetdino.downstream.ultrasound.domains import shuffled_frames
from vetdino.downstream.ultrasound.method import encoding
from vetdino.downstream.ultrasound.method.comparison import ROWS, SetMasks, compare_rows, segment_set
from vetdino.downstream.ultrasound.method.encoding import EncoderPair, FrameEncoder
from vetdino.downstream.ultrasound.method.scores import score_images
from vetdino.platform.core.errors import ConfigError


def test_every_row_answers_every_frame_at_its_own_size(domains, tiny, quick):
    frames = shuffled_frames(domains[0], 0)[:3]
    config = ZeroshotConfig(**quick)
    set_masks = compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config)
    assert tuple(set_masks.masks) == ROWS
    for masks in set_masks.masks.values():
        assert [mask.shape for mask in masks] == [frame.mask.shape for frame in frames]
        assert all(mask.dtype == bool for mask in masks)
    assert all(mask.all() for mask in set_masks.masks["everything"])


def test_the_oracle_is_never_worse_than_the_votes(domains, tiny, quick):
    frames = shuffled_frames(domains[0], 0)[:3]
    config = ZeroshotConfig(**quick)
    scores = score_images(
        frames, "n3", compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config)
    )
    dice = {row: np.mean([one.dice for one in scores if one.row == row]) for row in ROWS}
    assert dice["oracle"] >= dice["cosegment"] - 1e-9
    assert dice["random_oracle"] >= dice["random"] - 1e-9
    assert dice["everything"] == pytest.approx(
        np.mean([2 * frame.mask.mean() / (1 + frame.mask.mean()) for frame in frames])
    )


def test_tokencut_is_left_out_where_a_frame_has_too_many_patches(domains, tiny, quick, monkeypatch):
    monkeypatch.setattr(encoding, "MAX_CUT_PATCHES", 10)
    frames, config = domains[0].frames[:2], ZeroshotConfig(**quick)
    set_masks = compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config)
    assert "tokencut" not in set_masks.masks
    assert any("TokenCut" in warning for warning in set_masks.warnings)
    with pytest.raises(ConfigError, match="TokenCut"):
        segment_set([FrameEncoder(tiny, config).encode(frame) for frame in frames], "tokencut", config)


@pytest.mark.parametrize("method", ["cosegment", "tokencut"])
def test_a_set_without_truth_gets_the_same_masks_as_one_with_truth(domains, tiny, quick, method):
    frames, config = domains[0].frames[:3], ZeroshotConfig(**quick)
    encoders = EncoderPair(tiny, config)
    compared = compare_rows(frames, *encoders.encode(frames), config)
    alone = segment_set([encoders.backbone.encode(frame) for frame in frames], method, config)
    assert list(alone.masks) == [method]
    for one, other in zip(alone.masks[method], compared.masks[method], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_part_of_a_set_keeps_the_masks_of_its_frames():
    first, second = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    part = SetMasks({"cosegment": (first, second)}, 4, 1).part([1])
    assert part.masks["cosegment"] == (second,)
    assert (part.clusters, part.foreground) == (4, 1)
