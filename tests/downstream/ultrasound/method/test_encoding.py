"""A frame is encoded once; blocks are counted from 1; patches cover a known part of a frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import CosegmentConfig, ZeroshotConfig
from vetdino.downstream.ultrasound.method import encoding
from vetdino.downstream.ultrasound.method.encoding import (
    EncoderPair,
    FrameEncoder,
    block_indices,
    patch_coverage,
)
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.backbone import random_backbone


def test_a_frame_is_encoded_once(domains, tiny, monkeypatch, quick):
    calls = []
    real = encoding.extract_facets
    monkeypatch.setattr(encoding, "extract_facets", lambda *a, **k: calls.append(1) or real(*a, **k))
    encoder, frame = FrameEncoder(tiny, ZeroshotConfig(**quick)), domains[0].frames[0]
    assert encoder.encode(frame) is encoder.encode(frame)
    assert len(calls) == 1


def test_blocks_are_counted_from_1_and_another_one_is_refused(tiny):
    assert FrameEncoder(tiny, ZeroshotConfig(block=1)).block == 0
    assert FrameEncoder(tiny, ZeroshotConfig()).block == 1
    for block in (0, 3):
        with pytest.raises(ConfigError, match="blocks 1 to 2"):
            FrameEncoder(tiny, ZeroshotConfig(block=block))


def test_a_consensus_takes_the_last_quarter_of_the_blocks_unless_one_is_named(tiny):
    eight = random_backbone(replace(tiny.card.config, depth=8), 0)
    assert FrameEncoder(eight, ZeroshotConfig()).blocks == (6, 7)
    assert FrameEncoder(eight, ZeroshotConfig(attention_block=3)).attention_blocks == (2,)
    by_mean = ZeroshotConfig(cosegment=CosegmentConfig(vote="mean"))
    assert (FrameEncoder(eight, by_mean).blocks, FrameEncoder(eight, by_mean).attention_blocks) == (
        (7,),
        (7,),
    )
    for depth, blocks in ((1, (0,)), (2, (1,)), (6, (4, 5)), (12, (9, 10, 11))):
        assert block_indices(None, random_backbone(replace(tiny.card.config, depth=depth), 0), True) == blocks


def test_a_head_that_there_is_not_is_refused_before_a_frame_is_encoded(tiny):
    FrameEncoder(tiny, ZeroshotConfig(cosegment=CosegmentConfig(heads=(0, 1))))
    with pytest.raises(ConfigError, match="there are 2 heads, counted from 0"):
        FrameEncoder(tiny, ZeroshotConfig(cosegment=CosegmentConfig(heads=(0, 2))))


def test_patches_cover_what_is_left_when_the_picture_is_no_multiple(tiny):
    assert patch_coverage((6, 8), (48, 67), (480, 670), tiny, None) == (480, 640, 0, 0)
    assert patch_coverage((11, 15), (48, 64), (48, 64), tiny, 4) == (48, 64, 2, 2)
    assert patch_coverage((11, 15), (48, 64), (96, 128), tiny, 4) == (96, 128, 4, 4)


def test_an_encoded_frame_has_a_descriptor_and_an_attention_for_each_patch(domains, tiny, quick):
    config = ZeroshotConfig(**quick)
    encoded = FrameEncoder(tiny, config, tokencut=True).encode(domains[0].frames[0])  # 48 x 64, patches of 8
    assert encoded.descriptors.shape == (6, 8, 48)
    assert encoded.attention.shape == (2, 6, 8)
    assert (encoded.cut.mask.shape, encoded.cut.mask.dtype) == ((6, 8), bool)
    assert encoded.described(log_binning=True).shape == (6, 8, 17 * 48)
    assert encoded.described(log_binning=False) is encoded.descriptors
    assert FrameEncoder(tiny, config).encode(domains[0].frames[0]).cut is None


def test_the_random_twin_has_other_descriptors_and_follows_the_seed(domains, tiny, quick):
    config, frame = ZeroshotConfig(**quick), domains[0].frames[0]
    encoders = EncoderPair(tiny, config)
    baseline = encoders.random.encode(frame)
    assert not np.allclose(encoders.backbone.encode(frame).descriptors, baseline.descriptors)
    again = FrameEncoder(random_backbone(tiny.card.config, config.seed).eval(), config).encode(frame)
    assert np.array_equal(baseline.descriptors, again.descriptors)
