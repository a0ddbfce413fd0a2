"""What many clusterings agree on is found whatever k-means starts from, and an image without it is named."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.clustering import clusterings
from vetdino.downstream.ultrasound.method.consensus import (
    COUNTS,
    Consensus,
    consensus,
    empty_warning,
    most_salient_cluster,
)
from vetdino.downstream.ultrasound.method.masks import dice_and_iou
from vetdino.downstream.ultrasound.method.voting import needed_images, saliency_map
from vetdino.platform.core.errors import ConfigError, DataError

QUICK = CosegmentConfig(tries=2)


@pytest.fixture
def blocks(scene):
    """A function: descriptors in two blocks, saliency of two blocks and truths of a set of images."""

    def make(count=4, seed=0, noise=0.6):
        first, attention, truths = scene(count, seed=seed, noise=noise)
        other = [one + np.float32(0.1) for one in first]
        random = np.random.default_rng(seed)
        saliency = [saliency_map(one, replace(QUICK, saliency="rank")) for one in attention]
        vague = [one + 0.1 * random.random(one.shape) for one in saliency]
        return [first, other], [saliency, vague], truths

    return make


def mean_dice(masks, truths):
    return np.mean([dice_and_iou(mask, truth)[0] for mask, truth in zip(masks, truths, strict=True)])


def test_no_image_is_refused_and_no_block_names_nothing():
    with pytest.raises(DataError, match="no images to segment"):
        consensus([], {"rank": []})
    with pytest.raises(DataError, match="no images to segment"):
        consensus([[]], {"rank": [[]]})


def test_what_the_images_share_is_found_whatever_k_means_starts_from(blocks):
    descriptors, saliency, truths = blocks(5)
    for seed in range(10):
        found = consensus(descriptors, {"rank": saliency}, CosegmentConfig(seed=seed, clusters=3, tries=3))
        assert mean_dice(found.masks, truths) > 0.9
        assert found.warnings == ()


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_and_two_are_answered(count, blocks):
    descriptors, saliency, truths = blocks(count)
    found = consensus(descriptors, {"rank": saliency}, replace(QUICK, clusters=2))
    assert mean_dice(found.masks, truths) > 0.9


def test_the_agreement_is_that_of_a_slow_loop_over_all_votes(blocks):
    descriptors, saliency, _ = blocks(3, noise=2.0)
    found = consensus(descriptors, {"rank": saliency}, QUICK)
    votes, total = 0, [np.zeros(one.shape[:2]) for one in descriptors[0]]
    for block in descriptors:
        for (labels, k), salient in itertools.product(clusterings(block, COUNTS, QUICK), saliency):
            votes += 1
            means = {}
            for cluster in range(k):
                inside = [one[label == cluster] for one, label in zip(salient, labels, strict=True)]
                inside = [float(np.mean(one)) for one in inside if one.size]
                if len(inside) >= 2:  # 65 % of three
                    means[cluster] = sum(inside) / len(inside)
            best = max(means, key=means.__getitem__)
            assert means[best] > np.mean([one.mean() for one in salient])
            for image, label in enumerate(labels):
                total[image] += label == best
    assert (found.votes, found.named) == (votes, votes)
    assert votes == 2 * 2 * len(COUNTS) * QUICK.tries
    assert found.clusters == 2 * sum(COUNTS) * QUICK.tries
    assert len(found.clusterings) == 2 * len(COUNTS)
    for one, other in zip(found.agreement, total, strict=True):
        np.testing.assert_array_equal(one, other / votes)
    assert found.threshold == max(one.max() for one in found.agreement) / 2


def test_of_several_kinds_of_saliency_the_one_whose_votes_agree_most_is_taken(blocks):
    descriptors, saliency, _ = blocks(3, noise=2.0)
    random = np.random.default_rng(5)
    vague = [[random.random(one.shape) for one in block] for block in saliency]
    both = consensus(descriptors, {"vague": vague, "clear": saliency}, QUICK)
    alone = {
        kind: consensus(descriptors, {kind: one}, QUICK)
        for kind, one in (("clear", saliency), ("vague", vague))
    }
    assert alone["clear"].threshold > alone["vague"].threshold > 0
    assert (both.saliency, both.votes, both.clusters) == (
        "clear",
        alone["clear"].votes,
        alone["clear"].clusters,
    )
    for one, other in zip(both.agreement, alone["clear"].agreement, strict=True):
        np.testing.assert_array_equal(one, other)
    assert consensus(descriptors, {"a": saliency, "b": saliency}, QUICK).saliency == "a"
    with pytest.raises(DataError, match="no kind of saliency"):
        consensus(descriptors, {}, QUICK)


def test_the_order_of_the_images_changes_nothing_and_the_same_seed_gives_the_same(blocks):
    descriptors, saliency, _ = blocks(5, noise=2.0)
    straight = consensus(descriptors, {"rank": saliency}, QUICK)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        turned = consensus(
            [[block[i] for i in order] for block in descriptors],
            {"rank": [[block[i] for i in order] for block in saliency]},
            QUICK,
        )
        for place, image in enumerate(order):
            np.testing.assert_array_equal(turned.agreement[place], straight.agreement[image])
    other = consensus(descriptors, {"rank": saliency}, replace(QUICK, seed=1))
    assert not all(map(np.array_equal, other.agreement, straight.agreement))


def test_saliency_that_says_nothing_names_nothing_and_the_warning_names_all_images(blocks):
    descriptors, saliency, _ = blocks(2)
    flat = [[np.full_like(one, 0.3) for one in block] for block in saliency]
    found = consensus(descriptors, {"rank": flat}, QUICK, ["leg/0", "leg/1"])
    assert found.named == 0
    assert not any(mask.any() for mask in found.masks)
    (warning,) = found.warnings
    assert warning.startswith("2 of 2 masks are empty (leg/0, leg/1): none of 40 votes")
    assert list(empty_warning(found.masks, found, ["leg/0", "leg/1"])) == []  # said already


def test_an_image_without_what_the_others_share_is_named(blocks):
    descriptors, saliency, truths = blocks(4)
    for block in descriptors:
        rest = block[3][~truths[3]]
        block[3][truths[3]] = np.resize(rest, (truths[3].sum(), rest.shape[1]))
    found = consensus(descriptors, {"rank": saliency}, replace(QUICK, clusters=2))
    assert [bool(mask.any()) for mask in found.masks] == [True, True, True, False]
    (warning,) = empty_warning(found.masks, found, ["a", "b", "c", "d"])
    assert warning.startswith("1 of 4 masks are empty (d): nowhere in them more than")


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 999))
@settings(deadline=None, max_examples=50)
def test_the_most_salient_cluster_is_that_of_a_slow_loop(images, k, seed):
    random = np.random.default_rng(seed)
    saliency = np.where(random.random((images, k)) < 0.3, np.nan, random.random((images, k)))
    needed = needed_images(images, QUICK)
    best, top = None, 0.5 + 1e-9
    for cluster in range(k):
        known = [one for one in saliency[:, cluster] if not np.isnan(one)]
        if len(known) >= needed and sum(known) / len(known) > top:
            best, top = cluster, sum(known) / len(known)
    assert most_salient_cluster(saliency, needed, 0.5) == best


def test_input_that_quarrels_is_refused_in_one_line(blocks):
    descriptors, saliency, _ = blocks(2)
    with pytest.raises(DataError, match="1 images have descriptors, 2 saliency"):
        consensus([descriptors[0][:1]], {"rank": saliency}, QUICK)
    with pytest.raises(DataError, match=r"image 2 has descriptors of shape .* grid of 3x3"):
        consensus(descriptors, {"rank": [[saliency[0][0], np.zeros((3, 3))]]}, QUICK)
    with pytest.raises(ConfigError, match="clusters is 9999"):
        consensus(descriptors, {"rank": saliency}, replace(QUICK, clusters=9999))


def test_it_introduces_itself(blocks):
    descriptors, saliency, _ = blocks(2)
    found = consensus(descriptors, {"rank": saliency}, replace(QUICK, clusters=2))
    assert isinstance(found, Consensus)
    assert repr(found) == "Consensus(2 images, 8 of 8 votes)"
