"""Co-segmentation finds what images share, whatever their order, and says where it found nothing."""

import re
from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.method.cosegmentation import cosegment, listed
from vetdino.platform.core.errors import DataError

TWO = CosegmentConfig(clusters=2)


def holed(array, value):
    array = array.copy()
    array[1, 2] = value
    return array


def test_what_the_images_share_and_attention_looks_at_is_found_whole(scene):
    descriptors, attention, truths = scene()
    found = cosegment(descriptors, attention, TWO)
    for mask, truth in zip(found.masks, truths, strict=True):
        np.testing.assert_array_equal(mask, truth)
    assert len(found.foreground) == 1
    assert (found.votes[found.foreground[0]], found.warnings) == (4, ())


@pytest.mark.parametrize("refine", ["none", "grabcut"])
def test_the_order_of_the_images_changes_nothing(refine, scene):
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


def test_another_seed_starts_k_means_elsewhere_and_the_same_one_does_not(scene):
    descriptors, attention, _ = scene(5, noise=3.0)
    config = CosegmentConfig(clusters=8, tries=1)
    one, same = (cosegment(descriptors, attention, config) for _ in range(2))
    other = cosegment(descriptors, attention, replace(config, seed=1))
    assert all(map(np.array_equal, one.clusters, same.clusters))
    assert not all(map(np.array_equal, one.clusters, other.clusters))


def test_without_an_elbow_the_most_are_kept_and_said(scene):
    descriptors, attention, _ = scene(noise=2.0)
    found = cosegment(descriptors, attention, CosegmentConfig(elbow=1.0, most=4))
    assert len(found.votes) == 4
    assert found.warnings[0] == "no elbow up to 4 clusters, where the last still helped; 4 are kept"


def test_images_that_are_all_one_color_have_clusters_too():
    found = cosegment([np.ones((3, 4, 5))] * 2, [np.ones((2, 3, 4))] * 2)
    assert [mask.any() for mask in found.masks] == [False, False]
    assert any("image 1, 2" in warning for warning in found.warnings)


def test_the_formula_as_printed_finds_nothing_in_a_set_and_warns(scene):
    descriptors, attention, _ = scene(4)
    found = cosegment(descriptors, attention, replace(TWO, vote="literal"))
    assert found.foreground == ()
    assert not any(mask.any() for mask in found.masks)
    (warning,) = found.warnings
    assert warning.startswith(
        "vote literal gives a cluster 0 votes or 1, however many images there are; 3 of 4 are"
    )


def test_masks_that_are_empty_or_whole_are_told_with_the_figures_behind_them(scene):
    descriptors, attention, _ = scene(4)
    nothing = cosegment(descriptors, attention, replace(TWO, saliency="sum1"))
    assert nothing.foreground == ()
    assert "4 of 4 masks are empty (1, 2, 3, 4): no cluster is foreground" in nothing.warnings[0]
    assert f"largest mean saliency is {np.nanmax(nothing.saliency):.3g} at tau 0.2" in nothing.warnings[0]
    whole = cosegment(descriptors, attention, replace(TWO, tau=1e-9))
    assert whole.warnings == ("all 2 clusters are foreground: masks are whole images; raise tau or share",)


def test_images_with_empty_masks_are_named_with_a_tau_that_fills_them(scene):
    descriptors, attention, truths = scene(4)
    rest = descriptors[3][~truths[3]]
    descriptors[3][truths[3]] = np.resize(rest, (truths[3].sum(), rest.shape[1]))  # nothing of what is shared
    names = [f"leg/{number}" for number in range(4)]
    found = cosegment(descriptors, attention, TWO, names)
    assert found.masks[0].any()
    (warning,) = found.warnings
    said = re.match(
        r"1 of 4 masks are empty \(leg/3\): none of their patches is in a foreground cluster; "
        r"cosegment\.tau (\S+) gives each of them one, or lower cosegment\.share",
        warning,
    )
    tau = float(said[1])
    assert cosegment(descriptors, attention, replace(TWO, tau=tau)).masks[3].any()
    assert not cosegment(descriptors, attention, replace(TWO, tau=1.02 * tau)).masks[3].any()
    (nothing,) = cosegment(descriptors, attention, replace(TWO, saliency="sum1"), names).warnings
    assert nothing.startswith("4 of 4 masks are empty (leg/0, leg/1, leg/2, leg/3): no cluster is foreground")
    tau = float(re.search(r"cosegment\.tau (\S+) gives", nothing)[1])
    filled = cosegment(descriptors, attention, replace(TWO, saliency="sum1", tau=tau))
    assert all(mask.any() for mask in filled.masks)


def test_empty_masks_that_no_tau_fills_have_another_cure(scene):
    descriptors, attention, _ = scene(2)
    flat = [np.ones_like(one) for one in attention]
    *_, warning = cosegment(descriptors, flat, TWO, ["a", "b"]).warnings
    assert warning.startswith("2 of 2 masks are empty (a, b)")
    assert warning.endswith("lower cosegment.share, or take another attention_block")


def test_a_warning_names_twenty_images_at_most():
    assert listed(["a"] * 20) == ", ".join(["a"] * 20)
    assert listed(["a"] * 22).endswith("a, a and 2 more")


def test_one_image_alone_is_answered_and_said_to_be_no_set(scene):
    descriptors, attention, truths = scene(1)
    found = cosegment(descriptors, attention, TWO)
    np.testing.assert_array_equal(found.masks[0], truths[0])
    assert found.warnings[0].startswith("1 image is no set")


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
def test_input_that_quarrels_is_refused_in_one_line(change, said, scene):
    descriptors, attention, _ = scene(2)
    with pytest.raises(DataError, match=said) as refusal:
        cosegment(*change(descriptors, attention), TWO)
    assert "\n" not in str(refusal.value)
