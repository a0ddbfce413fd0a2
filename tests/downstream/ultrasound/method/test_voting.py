"""Saliency from attention, and the votes of the images for clusters."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.cosegmentation import cosegment
from vetdino.downstream.ultrasound.method.masks import dice_and_iou
from vetdino.downstream.ultrasound.method.voting import EDGE, bone_saliency, count_votes, saliency_map
from vetdino.platform.core.errors import ConfigError

TWO = CosegmentConfig(clusters=2)


def test_saliency_is_the_mean_of_the_heads_scaled_within_its_image():
    attention = np.array([[[0.1, 0.3]], [[0.2, 0.6]], [[9.0, 0.0]]])
    config = CosegmentConfig(heads=(0, 1))
    np.testing.assert_allclose(saliency_map(attention, config), [[0, 1]])
    np.testing.assert_allclose(saliency_map(attention, replace(config, saliency="raw")), [[0.15, 0.45]])
    np.testing.assert_allclose(saliency_map(attention, replace(config, saliency="sum1")), [[0.25, 0.75]])
    np.testing.assert_allclose(saliency_map(attention, CosegmentConfig(saliency="raw")), [[3.1, 0.3]])


def test_ranks_run_from_0_to_1_and_equal_attention_has_equal_rank():
    attention = np.array([[[3.0, 1.0, 1.0], [90.0, 2.0, 2.0]]])
    rank = saliency_map(attention, CosegmentConfig(saliency="rank"))
    np.testing.assert_allclose(rank, [[2 / 3, 0, 0], [1, 1 / 3, 1 / 3]])
    assert not saliency_map(np.ones((2, 3, 3)), CosegmentConfig(saliency="rank")).any()


def test_bone_saliency_is_that_of_a_slow_loop():
    random = np.random.default_rng(0)
    attention, bright = random.random((3, 4, 5)), random.random((4, 5))
    found = bone_saliency(attention, bright, CosegmentConfig())
    mean = attention.mean(axis=0)
    for r, c in np.ndindex(4, 5):
        attended, brighter = (np.sum(one < one[r, c]) / 19 for one in (mean, bright))
        edge = max(abs(2 * r / 3 - 1), abs(2 * c / 4 - 1))
        assert found[r, c] == pytest.approx(attended - brighter - EDGE * edge)
    assert bone_saliency(np.ones((1, 1, 1)), np.ones((1, 1)), CosegmentConfig()).tolist() == [[0.0]]


def test_what_is_looked_away_from_is_found_where_that_is_asked_for(scene):
    descriptors, attention, truths = scene(4)
    shunned = [0.05 - one for one in attention]
    seen = cosegment(descriptors, shunned, replace(TWO, tau=0.5))
    away = cosegment(descriptors, shunned, replace(TWO, tau=0.5, away=True))
    for found, other, truth in zip(away.masks, seen.masks, truths, strict=True):
        assert dice_and_iou(found, truth)[0] > 0.9
        assert dice_and_iou(other, truth)[0] < 0.1
    for scale in ("minmax", "rank", "raw"):
        config = CosegmentConfig(saliency=scale)
        one, mirrored = (
            saliency_map(attention[0], config),
            saliency_map(attention[0], replace(config, away=True)),
        )
        np.testing.assert_allclose(np.ptp(one + mirrored), 0, atol=1e-12)
        assert (mirrored.min(), mirrored.max()) == pytest.approx((one.min(), one.max()))


def test_a_brighter_image_does_not_change_the_saliency_of_its_neighbor(scene):
    descriptors, attention, _ = scene(3)
    brighter = [attention[0] * 40, *attention[1:]]
    one, other = cosegment(descriptors, attention, TWO), cosegment(descriptors, brighter, TWO)
    np.testing.assert_allclose(one.saliency, other.saliency)


def test_the_mean_saliency_of_a_cluster_is_that_of_a_slow_loop(scene):
    descriptors, attention, _ = scene(4, noise=2.0)
    config = CosegmentConfig(clusters=14)
    found = cosegment(descriptors, attention, config)
    for image, cluster in itertools.product(range(4), range(14)):
        salient = saliency_map(attention[image], config)
        own = [
            salient[place] for place in np.ndindex(salient.shape) if found.clusters[image][place] == cluster
        ]
        if own:
            assert found.saliency[image, cluster] == pytest.approx(sum(own) / len(own))
        else:
            assert np.isnan(found.saliency[image, cluster])


def test_a_cluster_that_an_image_lacks_gets_no_vote_from_it():
    one_kind, other_kind = np.eye(3)[:2]
    descriptors = [np.tile(one_kind, (3, 4, 1)), np.tile(one_kind, (3, 4, 1)), np.tile(other_kind, (3, 4, 1))]
    attention = [np.linspace(0.5, 1, 12).reshape(1, 3, 4)] * 3
    found = cosegment(descriptors, attention, TWO)
    assert sorted(found.votes) == [1, 2]
    assert np.isnan(found.saliency).sum() == 3
    assert [mask.all() for mask in found.masks] == [True, True, False]
    assert not found.masks[2].any()


@pytest.mark.parametrize(
    ("count", "share", "needed"), [(10, 0.65, 7), (20, 0.55, 11), (3, 1.0, 3), (1, 0.01, 1)]
)
def test_the_share_of_votes_is_rounded_up(count, share, needed):
    assert count_votes(np.zeros((count, 2)), CosegmentConfig(share=share))[1] == needed


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.floats(0.05, 0.9))
@settings(deadline=None, max_examples=50)
def test_votes_are_those_of_a_slow_loop(images, k, seed, tau):
    random = np.random.default_rng(seed)
    saliency = np.where(random.random((images, k)) < 0.2, np.nan, random.random((images, k)))
    votes, _ = count_votes(saliency, CosegmentConfig(tau=tau))
    literal, _ = count_votes(saliency, CosegmentConfig(tau=tau, vote="literal"))
    for cluster in range(k):
        known = [float(one) for one in saliency[:, cluster] if not math.isnan(one)]
        assert votes[cluster] == sum(one >= tau for one in known)
        assert literal[cluster] == int(sum(known) >= tau)


def test_a_head_that_is_not_there_is_refused(scene):
    descriptors, attention, _ = scene(2)
    with pytest.raises(ConfigError, match=r"heads is \(0, 3\), but there are 3 heads"):
        cosegment(descriptors, attention, CosegmentConfig(heads=(0, 3)))
