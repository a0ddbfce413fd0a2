"""Every row of a table answers every frame of a set at its own size."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import TokencutConfig, ZeroshotConfig
from vetdino.downstream.ultrasound.domains import shuffled_frames
from vetdino.downstream.ultrasound.method import comparison, encoding
from vetdino.downstream.ultrasound.method.comparison import ROWS, SetMasks, compare_rows, segment_set
from vetdino.downstream.ultrasound.method.encoding import EncoderPair, FrameEncoder
from vetdino.downstream.ultrasound.method.scores import score_images, summarize
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


def test_by_default_the_masks_are_those_of_the_kind_of_saliency_whose_votes_agree_more(domains, tiny, quick):
    frames = shuffled_frames(domains[0], 0)[:3]
    config = ZeroshotConfig(**quick)
    encoder = FrameEncoder(tiny, config)
    encoded, names = [encoder.encode(frame) for frame in frames], [frame.key for frame in frames]
    found = {
        kind: segment_set(
            encoded, names, "cosegment", replace(config, cosegment=replace(config.cosegment, saliency=kind))
        )
        for kind in (None, "auto", "bone", "rank")
    }
    assert {kind: found[kind].saliency for kind in ("bone", "rank")} == {"bone": "bone", "rank": "rank"}
    assert found[None].saliency == found["auto"].saliency in ("bone", "rank")
    for kind in (None, "auto"):
        for mask, other in zip(
            found[kind].masks["cosegment"], found[found[kind].saliency].masks["cosegment"], strict=True
        ):
            np.testing.assert_array_equal(mask, other)


def test_the_oracle_is_never_worse_than_the_votes_of_one_clustering(domains, tiny, quick):
    frames = shuffled_frames(domains[0], 0)[:3]
    config = ZeroshotConfig(**quick)
    config = replace(config, cosegment=replace(config.cosegment, vote="mean"))
    scores = score_images(
        frames, "n3", compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config)
    )
    rows = [row for row in ROWS if row != "mean_vote"]
    assert {one.row for one in scores} == set(rows)
    dice = {row: np.mean([one.dice for one in scores if one.row == row]) for row in rows}
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
        segment_set([FrameEncoder(tiny, config).encode(frame) for frame in frames], "ab", "tokencut", config)


def test_frames_that_tokencut_leaves_empty_are_named_with_a_tau_that_cuts(domains, tiny, quick):
    frames, config = domains[0].frames[:2], ZeroshotConfig(**quick, tokencut=TokencutConfig(tau=-1.0))
    names = [frame.key for frame in frames]
    compared = compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config)
    encoded = [FrameEncoder(tiny, config, tokencut=True).encode(frame) for frame in frames]
    alone = segment_set(encoded, names, "tokencut", config)
    (warning,) = alone.warnings
    assert warning in compared.warnings
    assert warning.startswith(f"TokenCut's mask is empty in 2 of 2 frames ({', '.join(names)})")
    assert not any(mask.any() for mask in alone.masks["tokencut"])
    [row] = [one for one in summarize(score_images(frames, "n2", compared), config) if one.row == "tokencut"]
    assert (row.images, row.empty) == (2, 2)
    tau = float(re.search(r"their median is (\S+), which cuts", warning)[1])
    config = replace(config, tokencut=TokencutConfig(tau=tau))
    encoded = [FrameEncoder(tiny, config, tokencut=True).encode(frame) for frame in frames]
    cured = segment_set(encoded, names, "tokencut", config)
    assert all(mask.any() for mask in cured.masks["tokencut"])
    assert cured.warnings == ()


def test_frames_whose_masks_grabcut_removes_are_named(domains, tiny, quick, monkeypatch):
    frames, config = domains[0].frames[:2], ZeroshotConfig(**quick)
    config = replace(config, cosegment=replace(config.cosegment, tau=0.01, vote="mean"))
    monkeypatch.setattr(comparison, "refine", lambda mask_HW, pixels, config: np.zeros_like(mask_HW))
    encoded = [FrameEncoder(tiny, config).encode(frame) for frame in frames]
    *_, warning = segment_set(encoded, ["a", "b"], "cosegment", config).warnings
    assert warning.startswith("GrabCut left nothing of 2 of 2 masks (a, b); lower cosegment.band")


@pytest.mark.parametrize("method", ["cosegment", "tokencut"])
def test_a_set_without_truth_gets_the_same_masks_as_one_with_truth(domains, tiny, quick, method):
    frames, config = domains[0].frames[:3], ZeroshotConfig(**quick)
    encoders = EncoderPair(tiny, config)
    compared = compare_rows(frames, *encoders.encode(frames), config)
    encoded, names = encoders.encode(frames)[0], [frame.key for frame in frames]
    alone = segment_set(encoded, names, method, config)
    assert list(alone.masks) == [method]
    for one, other in zip(alone.masks[method], compared.masks[method], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_part_of_a_set_keeps_the_masks_of_its_frames():
    first, second = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    part = SetMasks({"cosegment": (first, second)}, 4, 1).part([1])
    assert part.masks["cosegment"] == (second,)
    assert (part.clusters, part.foreground) == (4, 1)


def test_beside_a_consensus_stands_the_seed_papers_method_unchanged(domains, tiny, quick):
    frames, config = domains[0].frames[:3], ZeroshotConfig(**quick)
    by_mean = replace(config, cosegment=replace(config.cosegment, vote="mean"))
    beside = compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config).masks["mean_vote"]
    alone = compare_rows(frames, *EncoderPair(tiny, by_mean).encode(frames), by_mean).masks["cosegment"]
    for one, other in zip(beside, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_image_that_shares_nothing_is_named_and_counted_as_empty(domains, tiny, quick, monkeypatch):
    frames, config = domains[0].frames[:3], ZeroshotConfig(**quick)
    real = comparison.consensus

    def without_the_last(*arguments):
        found = real(*arguments)
        return replace(found, agreement=(*found.agreement[:2], np.zeros_like(found.agreement[2])))

    monkeypatch.setattr(comparison, "consensus", without_the_last)
    set_masks = compare_rows(frames, *EncoderPair(tiny, config).encode(frames), config)
    assert any(f"1 of 3 masks are empty ({frames[2].key})" in warning for warning in set_masks.warnings)
    [row] = [
        one for one in summarize(score_images(frames, "n3", set_masks), config) if one.row == "cosegment"
    ]
    assert (row.images, row.empty) == (3, 1)
