"""Co-segmentation finds what images share, whatever their order, and says where it found nothing."""

import itertools
import math
import time
from dataclasses import replace

import cv2
import faiss
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.ultrasound.cosegmentation import (
    EXACT,
    Cosegmentation,
    CosegmentConfig,
    best_by_truth,
    clustered,
    cosegment,
    enlarged,
    everything,
    mean_of_others,
    overlap,
    refined,
    saliency_of,
    votes_of,
)
from vetdino.platform.core.config import cli_config, from_json, to_json
from vetdino.platform.core.errors import ConfigError, DataError

TWO = CosegmentConfig(clusters=2)


def disc(rows, columns, at, radius):
    row_R1, column_1C = np.ogrid[:rows, :columns]
    return (row_R1 - at[0]) ** 2 + (column_1C - at[1]) ** 2 <= radius**2


def scene(count=4, seed=0, noise=0.3, heads=3):
    """Images of two kinds of patches: a disc that attention looks at, and the rest. Grids differ."""
    random = np.random.default_rng(seed)
    thing_D, rest_D = random.normal(size=(2, 12))
    descriptors, attention, truths = [], [], []
    for image in range(count):
        rows, columns = 9 + image % 2, 12
        truth = disc(rows, columns, random.uniform(3, 6, 2), 2.5)
        clean_RCD = np.where(truth[:, :, None], thing_D, rest_D)
        descriptors.append((clean_RCD + noise * random.normal(size=clean_RCD.shape)).astype(np.float32))
        attention.append((0.01 + 0.05 * truth + 0.005 * random.random((heads, rows, columns))) / 4)
        truths.append(truth)
    return descriptors, attention, truths


def of(clusters, k, foreground=()):
    """A co-segmentation with these clusters, for what only looks at them."""
    clusters = tuple(np.asarray(cluster) for cluster in clusters)
    masks = tuple(np.isin(cluster, foreground) for cluster in clusters)
    saliency = np.zeros((len(clusters), k))
    return Cosegmentation(clusters, masks, np.zeros(k, int), tuple(foreground), saliency, (), ())


# The whole -----------------------------------------------------------------------------------------


def test_what_the_images_share_and_attention_looks_at_is_found_whole():
    descriptors, attention, truths = scene()
    found = cosegment(descriptors, attention, TWO)
    for mask, truth in zip(found.masks, truths, strict=True):
        np.testing.assert_array_equal(mask, truth)
    assert len(found.foreground) == 1
    assert (found.votes[found.foreground[0]], found.warnings) == (4, ())


@pytest.mark.parametrize("refine", ["none", "grabcut"])
def test_the_order_of_the_images_changes_nothing(refine):
    descriptors, attention, _ = scene(5, noise=1.5)
    config = CosegmentConfig(clusters=6, every=3, refine=refine)
    straight = cosegment(descriptors, attention, config)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        turned = cosegment([descriptors[i] for i in order], [attention[i] for i in order], config)
        for place, image in enumerate(order):
            np.testing.assert_array_equal(turned.clusters[place], straight.clusters[image])
            np.testing.assert_array_equal(turned.masks[place], straight.masks[image])
        np.testing.assert_array_equal(turned.votes, straight.votes)
        assert turned.sse == straight.sse


def test_another_seed_starts_k_means_elsewhere_and_the_same_one_does_not():
    descriptors, attention, _ = scene(5, noise=3.0)
    config = CosegmentConfig(clusters=8, tries=1)
    one, same = (cosegment(descriptors, attention, config) for _ in range(2))
    other = cosegment(descriptors, attention, replace(config, seed=1))
    assert all(map(np.array_equal, one.clusters, same.clusters))
    assert not all(map(np.array_equal, one.clusters, other.clusters))


def test_neither_threads_nor_other_peoples_draws_change_the_clusters():
    descriptors, attention, _ = scene(6, noise=3.0)
    config = CosegmentConfig(clusters=8)
    one = cosegment(descriptors, attention, config)
    before = faiss.omp_get_max_threads()
    np.random.seed(3)
    try:
        faiss.omp_set_num_threads(2)
        other = cosegment(descriptors, attention, config)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
    assert all(map(np.array_equal, one.clusters, other.clusters))


def test_threads_are_given_back():
    descriptors, attention, _ = scene()
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    cosegment(descriptors, attention, TWO)
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_a_set_of_ten_images_of_784_patches_takes_a_few_seconds():
    random = np.random.default_rng(0)
    kinds = random.normal(size=(20, 384))
    descriptors = [
        kinds[random.integers(0, 20, (28, 28))] + 1.5 * random.normal(size=(28, 28, 384)) for _ in range(10)
    ]
    attention = [random.random((6, 28, 28)) for _ in range(10)]
    began = time.process_time()
    found = cosegment(descriptors, attention, CosegmentConfig(elbow=1.0))
    assert len(found.sse) == 15
    assert time.process_time() - began < 8  # about 2 on one core


# Clusters ------------------------------------------------------------------------------------------


def test_every_patch_is_in_the_cluster_of_the_nearest_centre_of_directions():
    descriptors, _, _ = scene(3, noise=1.5)
    clusters, k, (sse,) = clustered(descriptors, CosegmentConfig(clusters=5))
    assert k == 5
    patch_ND = np.concatenate([one.reshape(-1, 12) for one in descriptors]).astype(np.float64)
    patch_ND /= np.linalg.norm(patch_ND, axis=1, keepdims=True)
    label_N = np.concatenate([one.ravel() for one in clusters])
    centre_KD = np.stack([patch_ND[label_N == cluster].mean(axis=0) for cluster in range(5)])
    square_NK = ((patch_ND[:, None] - centre_KD) ** 2).sum(axis=2)
    # Settled: each centre is the mean of its patches, and no patch is nearer to another.
    np.testing.assert_array_equal(square_NK.argmin(axis=1), label_N)
    assert sse == pytest.approx(square_NK.min(axis=1).sum(), rel=1e-4)


def test_the_length_of_a_descriptor_does_not_matter():
    descriptors, _, _ = scene(3, noise=1.5)
    longer = [one * np.float32(2 ** (image + 1)) for image, one in enumerate(descriptors)]
    for one, other in zip(clustered(descriptors, TWO)[0], clustered(longer, TWO)[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("elbow", [0.5, 0.9, 0.975])
def test_the_elbow_keeps_the_first_number_of_clusters_that_hardly_helps(elbow):
    random = np.random.default_rng(1)
    kinds = 5 * np.eye(8)[:4]
    descriptors = [
        kinds[random.integers(0, 4, (8, 8))] + 0.3 * random.normal(size=(8, 8, 8)) for _ in range(3)
    ]
    _, k, sse = clustered(descriptors, CosegmentConfig(elbow=elbow))
    alone = [clustered(descriptors, CosegmentConfig(clusters=c))[2][0] for c in range(1, 16)]
    first = next((c for c in range(2, 16) if alone[c - 1] > elbow * alone[c - 2]), 15)
    assert (k, sse) == (first, tuple(alone[:first]))
    if elbow == 0.9:
        assert k == 5  # the fifth tells four kinds no better apart, and is kept as the paper has it


def test_without_an_elbow_the_most_are_kept_and_said():
    descriptors, attention, _ = scene(noise=2.0)
    found = cosegment(descriptors, attention, CosegmentConfig(elbow=1.0, most=4))
    assert len(found.votes) == 4
    assert found.warnings[0] == "no elbow up to 4 clusters, where the last still helped; 4 are kept"


def test_k_means_learns_from_every_third_patch_of_each_image_and_assigns_all():
    descriptors, _, _ = scene(3, noise=1.5)
    config = CosegmentConfig(clusters=4, every=3)
    clusters, _, _ = clustered(descriptors, config)
    thinned = [one.reshape(-1, 1, 12)[::3] for one in descriptors]
    thin, _, _ = clustered(thinned, replace(config, every=1))
    # The same arrangement, if the mean of an image ranks it the same with two thirds of it gone: then the same centres.
    for one, other in zip(clusters, thin, strict=True):
        assert one.shape[1] == 12
        np.testing.assert_array_equal(one.ravel()[::3], other.ravel())


def test_faiss_learns_from_all_patches_not_from_256_a_cluster():
    random = np.random.default_rng(0)
    patch = random.normal(size=(2, 20, 20, 6)).astype(np.float32)
    (one, two), _, (sse,) = clustered(list(patch), CosegmentConfig(clusters=1))
    assert not one.any()
    assert not two.any()
    patch_ND = patch.reshape(-1, 6) / np.linalg.norm(patch.reshape(-1, 6), axis=1, keepdims=True)
    assert sse == pytest.approx(((patch_ND - patch_ND.mean(axis=0)) ** 2).sum(), rel=1e-5)


def test_images_that_are_all_one_colour_have_clusters_too():
    found = cosegment([np.ones((3, 4, 5))] * 2, [np.ones((2, 3, 4))] * 2)
    assert [mask.any() for mask in found.masks] == [False, False]
    assert "attention is the same everywhere in image 1, 2, which so tells nothing" in found.warnings


# Saliency and votes --------------------------------------------------------------------------------


def test_saliency_is_the_mean_of_the_heads_scaled_within_its_image():
    attention = np.array([[[0.1, 0.3]], [[0.2, 0.6]], [[9.0, 0.0]]])
    config = CosegmentConfig(heads=(0, 1))
    np.testing.assert_allclose(saliency_of(attention, config), [[0, 1]])
    np.testing.assert_allclose(saliency_of(attention, replace(config, saliency="raw")), [[0.15, 0.45]])
    np.testing.assert_allclose(saliency_of(attention, replace(config, saliency="sum1")), [[0.25, 0.75]])
    np.testing.assert_allclose(saliency_of(attention, CosegmentConfig(saliency="raw")), [[3.1, 0.3]])


def test_ranks_run_from_0_to_1_and_equal_attention_has_equal_rank():
    attention = np.array([[[3.0, 1.0, 1.0], [90.0, 2.0, 2.0]]])
    rank = saliency_of(attention, CosegmentConfig(saliency="rank"))
    np.testing.assert_allclose(rank, [[2 / 3, 0, 0], [1, 1 / 3, 1 / 3]])
    assert not saliency_of(np.ones((2, 3, 3)), CosegmentConfig(saliency="rank")).any()


def test_what_is_looked_away_from_is_found_where_that_is_asked_for():
    descriptors, attention, truths = scene(4)
    shunned = [0.05 - one for one in attention]
    seen = cosegment(descriptors, shunned, replace(TWO, tau=0.5))
    away = cosegment(descriptors, shunned, replace(TWO, tau=0.5, away=True))
    for found, other, truth in zip(away.masks, seen.masks, truths, strict=True):
        assert overlap(found, truth)[0] > 0.9
        assert overlap(other, truth)[0] < 0.1
    for scale in ("minmax", "rank", "raw"):
        config = CosegmentConfig(saliency=scale)
        one, mirrored = (
            saliency_of(attention[0], config),
            saliency_of(attention[0], replace(config, away=True)),
        )
        np.testing.assert_allclose(np.ptp(one + mirrored), 0, atol=1e-12)
        assert (mirrored.min(), mirrored.max()) == pytest.approx((one.min(), one.max()))


def test_a_brighter_image_does_not_change_the_saliency_of_its_neighbour():
    descriptors, attention, _ = scene(3)
    brighter = [attention[0] * 40, *attention[1:]]
    one, other = cosegment(descriptors, attention, TWO), cosegment(descriptors, brighter, TWO)
    np.testing.assert_allclose(one.saliency, other.saliency)


def test_the_mean_saliency_of_a_cluster_is_that_of_a_slow_loop():
    descriptors, attention, _ = scene(4, noise=2.0)
    config = CosegmentConfig(clusters=14)
    found = cosegment(descriptors, attention, config)
    for image, cluster in itertools.product(range(4), range(14)):
        salient = saliency_of(attention[image], config)
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
    assert votes_of(np.zeros((count, 2)), CosegmentConfig(share=share))[1] == needed


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.floats(0.05, 0.9))
@settings(deadline=None, max_examples=50)
def test_votes_are_those_of_a_slow_loop(images, k, seed, tau):
    random = np.random.default_rng(seed)
    saliency = np.where(random.random((images, k)) < 0.2, np.nan, random.random((images, k)))
    votes, _ = votes_of(saliency, CosegmentConfig(tau=tau))
    literal, _ = votes_of(saliency, CosegmentConfig(tau=tau, vote="literal"))
    for cluster in range(k):
        known = [float(one) for one in saliency[:, cluster] if not math.isnan(one)]
        assert votes[cluster] == sum(one >= tau for one in known)
        assert literal[cluster] == int(sum(known) >= tau)


def test_the_formula_as_printed_finds_nothing_in_a_set_and_warns():
    descriptors, attention, _ = scene(4)
    found = cosegment(descriptors, attention, replace(TWO, vote="literal"))
    assert found.foreground == ()
    assert not any(mask.any() for mask in found.masks)
    (warning,) = found.warnings
    assert warning.startswith(
        "vote literal gives a cluster 0 votes or 1, however many images there are; 3 of 4 are"
    )


def test_masks_that_are_empty_or_whole_are_told_with_the_figures_behind_them():
    descriptors, attention, _ = scene(4)
    nothing = cosegment(descriptors, attention, replace(TWO, saliency="sum1"))
    assert nothing.foreground == ()
    assert "no cluster is foreground" in nothing.warnings[0]
    assert f"largest mean saliency is {np.nanmax(nothing.saliency):.3g} at tau 0.2" in nothing.warnings[0]
    whole = cosegment(descriptors, attention, replace(TWO, tau=1e-9))
    assert whole.warnings == ("all 2 clusters are foreground: masks are whole images; raise tau or share",)


def test_one_image_alone_is_answered_and_said_to_be_no_set():
    descriptors, attention, truths = scene(1)
    found = cosegment(descriptors, attention, TWO)
    np.testing.assert_array_equal(found.masks[0], truths[0])
    assert found.warnings[0].startswith("1 image is no set")


# Refused -------------------------------------------------------------------------------------------


def holed(array, value):
    array = array.copy()
    array[1, 2] = value
    return array


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d, a: ([], []), "no images to segment"),
        (lambda d, a: (d, a[:1]), "2 images have descriptors, 1 attention"),
        (
            lambda d, a: ([d[0], d[1][:, :, :7]], a),
            r"image 2 has descriptors of shape \(10, 12, 7\).*width 12",
        ),
        (lambda d, a: ([d[0], d[1][:, :, 0]], a), r"image 2 has descriptors of shape \(10, 12\)"),
        (lambda d, a: ([d[0], d[1][:0]], a), "image 2 has descriptors of shape"),
        (
            lambda d, a: ([d[0], holed(d[1], np.nan)], a),
            "1 of 120 vectors of image 2 are NaN, infinite or zero",
        ),
        (lambda d, a: ([d[0], holed(d[1], 0)], a), "1 of 120 vectors of image 2 are NaN, infinite or zero"),
        (lambda d, a: (d, [a[0], a[1][:, :9]]), r"image 2 .* grid of 10x12, attention of shape \(3, 9, 12\)"),
        (lambda d, a: (d, [a[0], holed(a[1], np.nan)]), "numbers of at least 0"),
        (lambda d, a: (d, [a[0], -a[1]]), "numbers of at least 0"),
    ],
)
def test_input_that_quarrels_is_refused_in_one_line(change, said):
    descriptors, attention, _ = scene(2)
    with pytest.raises(DataError, match=said) as refusal:
        cosegment(*change(descriptors, attention), TWO)
    assert "\n" not in str(refusal.value)


def test_more_clusters_than_patches_are_refused_with_both_numbers():
    descriptors, attention, _ = scene(2)
    with pytest.raises(ConfigError, match="clusters is 300, but k-means learns from 228 patches"):
        cosegment(descriptors, attention, CosegmentConfig(clusters=300))
    with pytest.raises(
        ConfigError, match=r"clusters is 7, but k-means learns from 4 patches \(228 patches, every 100"
    ):
        cosegment(descriptors, attention, CosegmentConfig(clusters=7, every=100))
    assert len(cosegment(descriptors, attention, CosegmentConfig(elbow=1.0, every=100)).votes) <= 4
    assert len(cosegment(descriptors, attention, CosegmentConfig(clusters=228)).votes) == 228


def test_a_head_that_is_not_there_is_refused():
    descriptors, attention, _ = scene(2)
    with pytest.raises(ConfigError, match=r"heads is \(0, 3\), but there are 3 heads"):
        cosegment(descriptors, attention, CosegmentConfig(heads=(0, 3)))


@pytest.mark.parametrize(
    "setting",
    [
        {"clusters": 0},
        {"most": 0},
        {"every": 0},
        {"tries": 0},
        {"band": 0},
        {"seed": -1},
        {"elbow": 1.2},
        {"share": 0.0},
        {"share": 1.1},
        {"tau": 0.0},
        {"tau": math.nan},
        {"heads": (-1,)},
        {"heads": (1, 1)},
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match=f"cosegment.{next(iter(setting))} is "):
        CosegmentConfig(**setting)


def test_settings_travel_by_json_and_command_line():
    config = CosegmentConfig(clusters=7, heads=(0, 2, 4, 5), vote="literal", refine="grabcut")
    assert from_json(CosegmentConfig, to_json(config)) == config
    words = ["--clusters", "7", "--heads", "0", "2", "4", "5", "--vote", "literal", "--refine", "grabcut"]
    assert cli_config(CosegmentConfig, words, "test") == config


# Masks at image size -------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=50)
def test_enlarged_gives_each_pixel_the_patch_its_centre_falls_into(rows, columns, height, width, data):
    covered = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    grid = np.arange(rows * columns).reshape(rows, columns)
    image = enlarged(grid, height, width, covered, outside=-1)
    for y, x in itertools.product(range(height), range(width)):
        if y >= covered[0] or x >= covered[1]:
            assert image[y, x] == -1
        else:
            row, column = (2 * y + 1) * rows // (2 * covered[0]), (2 * x + 1) * columns // (2 * covered[1])
            assert image[y, x] == grid[row, column]


def test_enlarged_by_whole_patches_repeats_them_and_keeps_the_kind_of_number():
    grid = np.array([[True, False, True]])
    np.testing.assert_array_equal(enlarged(grid, 8, 24), np.kron(grid, np.ones((8, 8), bool)))
    assert enlarged(grid, 8, 24).dtype == bool
    assert not enlarged(grid, 8, 25, covered=(8, 24.4))[:, 24].any()


@pytest.mark.parametrize("covered", [(0, 4), (9, 4), (4, 6)])
def test_patches_that_cover_more_than_the_image_are_refused(covered):
    with pytest.raises(DataError, match="of an image of 8x5"):
        enlarged(np.ones((2, 2), bool), 8, 5, covered)


def picture():
    """A bright disc in noise, and a mask of coarse patches over it."""
    random = np.random.default_rng(0)
    truth = disc(64, 80, (32, 40), 17)
    pixels = np.clip(60 + 120 * truth + 12 * random.normal(size=truth.shape), 0, 255).astype(np.uint8)
    return pixels, truth, enlarged(truth[4::8, 4::8], 64, 80)


GRABCUT = CosegmentConfig(refine="grabcut", band=5)


def test_grabcut_moves_the_border_to_the_edge():
    pixels, truth, coarse = picture()
    finer = refined(coarse, pixels, GRABCUT)
    assert overlap(coarse, truth)[0] < 0.95
    assert overlap(finer, truth)[0] > 0.99
    assert finer.dtype == bool
    np.testing.assert_array_equal(refined(coarse, pixels, CosegmentConfig()), coarse)


def test_grabcut_gives_the_same_mask_whatever_was_drawn_before():
    random = np.random.default_rng(1)
    pixels, mask = random.integers(0, 255, (64, 80)).astype(np.uint8), picture()[2]
    first = refined(mask, pixels, GRABCUT)
    for seed in (5, 6):
        cv2.setRNGSeed(seed)
        np.testing.assert_array_equal(refined(mask, pixels, GRABCUT), first)
    np.testing.assert_array_equal(refined(mask, pixels / 255, GRABCUT), first)


@pytest.mark.parametrize("fill", [0, 1])
def test_a_mask_of_nothing_or_everything_has_no_border_to_move(fill):
    mask = np.full((20, 30), bool(fill))
    np.testing.assert_array_equal(refined(mask, picture()[0][:20, :30], GRABCUT), mask)


@pytest.mark.parametrize("fill", [0, 1])
def test_a_mask_of_one_pixel_or_all_but_one_is_refined_without_a_word(fill):
    mask = np.full((20, 30), bool(fill))
    mask[7, 7] = not fill
    assert refined(mask, picture()[0][:20, :30], GRABCUT).shape == (20, 30)


def test_pictures_that_do_not_fit_the_mask_are_refused():
    pixels, _, coarse = picture()
    with pytest.raises(DataError, match="a mask of 64x80 for a picture of 63x80"):
        refined(coarse, pixels[1:], GRABCUT)
    with pytest.raises(DataError, match="no numbers from 0 to 1"):
        refined(coarse, pixels.astype(float), GRABCUT)


# Against the truth ---------------------------------------------------------------------------------


@given(st.integers(0, 999), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_overlap_is_counted_pixel_by_pixel_and_iou_follows_from_dice(seed, one, other):
    random = np.random.default_rng(seed)
    a, b = random.random((5, 7)) < one, random.random((5, 7)) < other
    dice, iou = overlap(a, b)
    both = sum(bool(x and y) for x, y in zip(a.flat, b.flat, strict=True))
    either = sum(bool(x or y) for x, y in zip(a.flat, b.flat, strict=True))
    assert iou == pytest.approx(both / either if either else 1)
    assert iou == pytest.approx(dice / (2 - dice))


def test_both_empty_is_one_and_one_empty_is_nought():
    empty, full = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    assert overlap(empty, empty) == (1, 1)
    assert overlap(empty, full) == overlap(full, empty) == (0, 0)
    with pytest.raises(DataError, match="a mask of 2x3 for a truth of 2x2"):
        overlap(empty, full[:, :2])


def brute(clusters, k, truths, covered):
    """The best mean Dice over every subset, on enlarged masks, and which subsets have it."""
    best = {}
    for size in range(k + 1):
        for chosen in itertools.combinations(range(k), size):
            dice = [
                overlap(enlarged(np.isin(cluster, chosen), *truth.shape, cover), truth)[0]
                for cluster, truth, cover in zip(clusters, truths, covered, strict=True)
            ]
            best[chosen] = float(np.mean(dice))
    top = max(best.values())
    return top, [chosen for chosen, dice in best.items() if dice > top - 1e-12]


@pytest.mark.parametrize("seed", range(6))
def test_the_oracle_is_the_best_of_all_subsets_at_image_size(seed):
    random = np.random.default_rng(seed)
    clusters = [random.integers(0, 5, (4, 5)) for _ in range(3)]
    truths = [random.random((17, 22)) < share for share in (0.3, 0.6, 0.1)]
    covered = [(16, 20), (17, 22), (16.5, 21)]
    oracle = best_by_truth(of(clusters, 5), truths, covered)
    top, chosen = brute(clusters, 5, truths, covered)
    assert oracle.dice == pytest.approx(top)
    assert (oracle.foreground in chosen, oracle.exact) == (True, True)
    dice = [
        overlap(enlarged(mask, *truth.shape, cover), truth)[0]
        for mask, truth, cover in zip(oracle.masks, truths, covered, strict=True)
    ]
    assert np.mean(dice) == pytest.approx(top)


def test_the_oracle_takes_shares_of_patches_too():
    random = np.random.default_rng(0)
    clusters = [random.integers(0, 4, (4, 5)) for _ in range(3)]
    truths = [random.random((32, 40)) < 0.4 for _ in range(3)]
    shares = [truth.reshape(4, 8, 5, 8).mean(axis=(1, 3)) for truth in truths]
    by_pixel, by_patch = best_by_truth(of(clusters, 4), truths), best_by_truth(of(clusters, 4), shares)
    assert by_pixel.foreground == by_patch.foreground
    assert by_pixel.dice == pytest.approx(by_patch.dice)


def test_the_oracle_chooses_nothing_only_where_nothing_is_best():
    clusters = [np.array([[0, 1]])] * 3
    empty, left = np.zeros((1, 2), bool), np.array([[True, False]])
    assert best_by_truth(of(clusters, 2), [empty, empty, left]).foreground == ()
    assert best_by_truth(of(clusters, 2), [empty, left, left]).foreground == (0,)
    outside = np.array([[False, False, True]])  # no patch lies there: all subsets are as bad
    assert best_by_truth(of(clusters, 2), [outside] * 3, [(1, 2)] * 3).foreground != ()


def test_the_oracle_never_falls_below_the_vote():
    descriptors, attention, _ = scene(4, noise=2.0)
    random = np.random.default_rng(3)
    truths = [random.random((70, 90)) < 0.3 for _ in range(4)]
    found = cosegment(descriptors, attention, CosegmentConfig(clusters=8, tau=0.3))
    voted = [
        overlap(enlarged(mask, 70, 90), truth)[0] for mask, truth in zip(found.masks, truths, strict=True)
    ]
    assert best_by_truth(found, truths).dice >= np.mean(voted) - 1e-12


def test_with_many_clusters_the_oracle_climbs_and_says_so():
    random = np.random.default_rng(0)
    k = EXACT + 4
    clusters = [random.integers(0, k, (12, 12)) for _ in range(3)]
    truths = [np.isin(cluster, (2, 5, 11, 17)) ^ (random.random((12, 12)) < 0.05) for cluster in clusters]
    oracle = best_by_truth(of(clusters, k), truths)
    assert (oracle.foreground, oracle.exact) == ((2, 5, 11, 17), False)
    assert repr(oracle).startswith("Oracle(3 images, 4 clusters, Dice 0.")
    few = [cluster % 6 for cluster in clusters]
    climbed = best_by_truth(of(few, k), truths).dice
    assert climbed == pytest.approx(best_by_truth(of(few, 6), truths).dice, abs=0.02)


def test_an_oracle_without_a_truth_for_each_image_is_refused():
    found = of([np.zeros((2, 2), int)] * 2, 1)
    with pytest.raises(DataError, match="1 truths and 2 sizes for 2 images"):
        best_by_truth(found, [np.ones((4, 4), bool)])
    with pytest.raises(DataError, match="shares of 4x4 patches for a grid of 2x2"):
        best_by_truth(found, [np.ones((4, 4))] * 2)


# Floors --------------------------------------------------------------------------------------------


def test_everything_foreground_has_the_dice_of_its_share():
    truth = disc(40, 50, (20, 25), 8)
    share = truth.mean()
    assert overlap(everything(40, 50), truth)[0] == pytest.approx(2 * share / (1 + share))


def test_the_mean_mask_is_of_the_others_alone():
    random = np.random.default_rng(0)
    truths = [random.random((6, 7)) < 0.5 for _ in range(5)]
    for own, floor in enumerate(mean_of_others(truths)):
        others = np.stack([truth for image, truth in enumerate(truths) if image != own])
        np.testing.assert_array_equal(floor, others.mean(axis=0) >= 0.5)
    changed = [~truths[0], *truths[1:]]
    np.testing.assert_array_equal(mean_of_others(changed)[0], mean_of_others(truths)[0])


def test_the_mean_mask_fits_images_of_other_sizes_and_is_empty_for_one_alone():
    small, large = np.array([[True, False]]), enlarged(np.array([[False, True]]), 4, 6)
    first, second = mean_of_others([small, large])
    np.testing.assert_array_equal(first, [[False, True]])
    np.testing.assert_array_equal(second, enlarged(small, 4, 6))
    assert not mean_of_others([small])[0].any()
