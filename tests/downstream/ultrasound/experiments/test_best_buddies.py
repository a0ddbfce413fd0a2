"""Best buddies are those of slow loops; agreement is compared with chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.ultrasound.config import AssessConfig
from vetdino.downstream.ultrasound.domains import (
    Domain,
    shuffled_frames,
)
from vetdino.downstream.ultrasound.experiments.best_buddies import agreement, find_buddies
from vetdino.downstream.ultrasound.frames import Frame
from vetdino.downstream.ultrasound.method.descriptors import log_binned
from vetdino.downstream.ultrasound.method.encoding import FrameEncoder
from vetdino.downstream.ultrasound.method.voting import saliency_map
from vetdino.platform.models.backbone import random_like


def salient_patches(backbone, config, frame):
    """A frame's descriptors (N, D), which of its patches are salient (N,), and the truth's share of each (N,)."""
    encoded = FrameEncoder(backbone, config).encode(frame)
    described = log_binned(encoded.descriptors) if config.log_binning else encoded.descriptors
    salient = saliency_map(encoded.attention, config.cosegment) >= config.cosegment.tau
    return described.reshape(salient.size, -1), salient.ravel(), encoded.patch_shares(frame.mask).ravel()


def find(domains, backbone, config):
    """The result for a backbone and its random twin."""
    networks = {"backbone": backbone, "random": random_like(backbone, config.seed).eval()}
    return find_buddies(domains, networks, config)


def slow_buddies(a, b):
    """Pairs that choose each other, as loops over all patches of both frames: (patch, patch) -> cosine."""
    (a_ND, salient_a, _), (b_MD, salient_b, _) = a, b
    cosine = [[float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in b_MD] for x in a_ND]
    return {
        (i, j): cosine[i][j]
        for i in range(len(a_ND))
        for j in range(len(b_MD))
        if salient_a[i]
        and salient_b[j]
        and cosine[i][j] == max(cosine[i])
        and cosine[i][j] == max(row[j] for row in cosine)
    }


@pytest.mark.parametrize("log_binning", [False, True])
def test_best_buddies_are_those_of_slow_loops(domains, tiny, log_binning, quick):
    config = AssessConfig(buddies=3, facet="token", block=1, log_binning=log_binning, **quick)
    result = find(domains, tiny, config)
    a, b = (shuffled_frames(domain, config.seed)[0] for domain in domains)
    seen = [salient_patches(tiny, config, frame) for frame in (a, b)]
    slow = slow_buddies(*seen)
    rows = result.tables["buddies"]
    assert len(rows) == len(slow) == result.metrics["assess/buddies.arm.with_leg.backbone"] > 3
    by_patch = {}
    for row in rows:  # 6 x 8 patches of 8 pixels in a; b, 56 x 64, was shrunk to 48 x 55 and has 6 x 6
        row_b, column_b = (row["row_b"] + 0.5) * 48 / 56 - 0.5, (row["column_b"] + 0.5) * 55 / 64 - 0.5
        places = np.array([row["row_a"], row["column_a"], row_b, column_b])
        assert places % 8 == pytest.approx(3.5, abs=0.06)
        down_a, right_a, down_b, right_b = (places // 8).astype(int)
        by_patch[8 * down_a + right_a, 6 * down_b + right_b] = row["cosine"]
    assert by_patch == pytest.approx(slow, abs=1e-4)
    cosines = [row["cosine"] for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    assert {(row["pair"], row["image_a"], row["image_b"]) for row in rows} == {("arm + leg", a.name, b.name)}
    inside = [[share[pair[side]] >= 0.5 for pair in slow] for side, (_, _, share) in enumerate(seen)]
    agree = np.mean([one == other for one, other in zip(*inside, strict=True)])
    assert result.metrics["assess/buddies_agree.arm.with_leg.backbone"] == agree
    mixed = np.mean([one == other for one in inside[0] for other in inside[1]])
    assert result.metrics["assess/buddies_chance.arm.with_leg.backbone"] == pytest.approx(mixed)
    assert "assess/buddies.arm.with_leg.random" in result.metrics
    assert result.pictures["buddies"].startswith(b"\x89PNG")


def test_every_salient_patch_of_a_copied_frame_is_its_own_buddy(domains, tiny, quick):
    frame = domains[0].frames[0]
    twice = Domain("arm", (frame, replace(frame, name="copy")))
    config = AssessConfig(buddies=5, **quick)
    result = find([twice], tiny, config)
    _, salient, _ = salient_patches(tiny, config, frame)
    rows = result.tables["buddies"]
    assert len(rows) == salient.sum() > 0
    assert all((row["row_a"], row["column_a"]) == (row["row_b"], row["column_b"]) for row in rows)
    assert {row["cosine"] for row in rows} == {1.0}
    assert result.metrics["assess/buddies_agree.arm.with_arm.backbone"] == 1


@pytest.mark.parametrize("stride", [8, 4, 2])
def test_ends_lie_in_the_middle_of_the_patches_that_the_network_sees(stride, tiny, quick):
    noise = np.random.default_rng(0).integers(0, 256, (56, 56), np.uint8)
    frames = (Frame("a", "arm", noise[:48, :48]), Frame("b", "arm", noise[8:, 8:]))  # moved by a patch
    config = AssessConfig(buddies=1, facet="value", block=1, stride=stride, **quick)
    still = random_like(tiny, 0).eval()
    with torch.no_grad():
        still.vit.pos_embed.zero_()
    rows = find([Domain("arm", frames)], still, config).tables["buddies"]
    same = 0
    for row in rows:
        ends = {row[f"image_{side}"]: np.array([row[f"row_{side}"], row[f"column_{side}"]]) for side in "ab"}
        assert np.all((ends["a"] - 3.5) % stride == 0)
        assert np.all((ends["b"] - 3.5) % stride == 0)
        same += np.array_equal(ends["a"] - ends["b"], (8, 8))
    assert same > 3


def test_missing_buddies_or_agreement_are_left_out_with_a_reason(domains, tiny, quick):
    bare = Domain("leg", tuple(Frame(one.name, "leg", one.pixels) for one in domains[1].frames))
    alone = find([replace(domains[0], frames=domains[0].frames[:1])], tiny, AssessConfig(buddies=2, **quick))
    assert "a second" in alone.left_out["buddies"]
    assert "buddies" not in alone.pictures
    result = find([domains[0], bare], tiny, AssessConfig(buddies=2, **quick))
    assert result.metrics["assess/buddies.arm.with_leg.backbone"] > 0
    assert "assess/buddies_agree.arm.with_leg.backbone" not in result.metrics
    assert "masks/" in result.left_out["buddies_agree.arm.with_leg"]
    high = replace(quick["cosegment"], tau=2.0)
    none = find(domains, tiny, AssessConfig(buddies=2, **{**quick, "cosegment": high}))
    assert none.metrics["assess/buddies.arm.with_leg.backbone"] == 0
    assert "tau 2" in none.left_out["buddies_agree.arm.with_leg.backbone"]
    assert "buddies" in none.pictures


def test_ends_that_all_lie_outside_agree_no_more_than_by_chance():
    outside, mixed = np.zeros(4, bool), np.array([True, True, False, False])
    assert agreement(outside, outside) == (1, 1)
    assert agreement(mixed, mixed) == (1, 0.5)
    assert agreement(mixed, ~mixed) == (0, 0.5)
