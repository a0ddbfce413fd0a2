"""Adaptive local prototypes give what plain loops give, in our mode and in both released ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.fewshot.method.config import PrototypeConfig
from vetdino.downstream.fewshot.method.prototypes import (
    alignment_loss,
    copy_mask,
    grid_mask,
    on_image,
    predict,
    predict_all,
    scores,
    segmentation_loss,
    sets_of,
)
from vetdino.platform.core.errors import ConfigError, DataError

COMPATS = ("ours", "alpnet", "levayz")
PIXELS = 8  # of the image along a cell, where the grid divides it


# The method once more, cell by cell and in float64 ------------------------------------------------


def unit(vector):
    return vector / max(np.sqrt((vector**2).sum()), 1e-4)


def windows(rows, columns, window, compat):
    """(row slice, column slice) of every window, side by side; those cut by the edge are ours only."""
    cut = compat == "ours"
    for row in range(0, rows if cut else rows - window + 1, window):
        for column in range(0, columns if cut else columns - window + 1, window):
            yield slice(row, min(row + window, rows)), slice(column, min(column + window, columns))


def local_prototypes(feature, mask, window, share, compat):
    return [
        unit(feature[:, rows, columns].mean(axis=(1, 2)))
        for rows, columns in windows(*mask.shape, window, compat)
        if mask[rows, columns].mean() > share
    ]


def mean_of(features, masks):
    total, weight = np.zeros(features.shape[1]), 0.0
    for feature, mask in zip(features, masks, strict=True):
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                total += mask[row, column] * feature[:, row, column]
                weight += mask[row, column]
    return total / (weight + 1e-5)


def attended(query, prototypes, tau):
    """The score map of one set of prototypes."""
    out = np.zeros(query.shape[1:])
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            d = np.array([tau * unit(query[:, row, column]) @ prototype for prototype in prototypes])
            weight = np.exp(d - d.max())
            out[row, column] = (weight * d).sum() / weight.sum()
    return out


def by_loops(query, supports, masks, config, training=False):
    """[background, foreground] scores of one organ; masks are on the grid."""
    compat = config.compat
    tau = config.tau if compat == "ours" and not training else config.training_tau
    window = config.training_window if training else config.window
    gate = window if compat == "ours" else config.training_window

    def opened(mask):
        return (
            max(mask[where].mean() for where in windows(*mask.shape, gate, compat)) >= config.foreground_share
        )

    def local(feature, mask):
        return local_prototypes(feature, mask, window, config.foreground_share, compat)

    ground = [
        prototype
        for feature, mask in zip(supports, masks, strict=True)
        for prototype in local_prototypes(feature, 1 - mask, window, config.background_share, compat)
    ]
    background = attended(query, ground or [unit(mean_of(supports, 1 - masks))], tau)
    pairs = list(zip(supports, masks, strict=True))
    means = [mean_of(feature[None], mask[None]) for feature, mask in pairs]
    if compat == "levayz":
        maps = [
            attended(query, (local(*pair) if opened(pair[1]) else []) + [unit(mean)], tau)
            for pair, mean in zip(pairs, means, strict=True)
        ]
        return np.stack([background, np.max(maps, axis=0)])
    is_open = any(opened(mask) for mask in masks)
    prototypes = [prototype for pair in pairs for prototype in local(*pair)] if is_open else []
    if compat == "ours":
        prototypes.append(unit(mean_of(supports, masks)))
    elif is_open:
        prototypes += [unit(mean) for mean in means]
    else:
        prototypes.append(unit(np.mean(means, axis=0)))
    return np.stack([background, attended(query, prototypes, tau)])


def drawn(seed=0, shots=1, rows=8, columns=8, width=6, pixels=PIXELS, blob=0.5):
    """Query and support features whose organ differs from the rest, and its masks on the image, float64."""
    random = np.random.default_rng(seed)
    masks = np.zeros((shots, rows * pixels, columns * pixels), bool)
    for mask in masks:
        high, wide = (max(1, int(blob * side * pixels)) for side in (rows, columns))
        top = random.integers(0, mask.shape[0] - high + 1)
        left = random.integers(0, mask.shape[1] - wide + 1)
        mask[top : top + high, left : left + wide] = True
    masks = torch.from_numpy(masks)
    inside = grid_mask(masks.double(), rows, columns)[:, None].numpy()
    kinds = random.normal(size=(2, width, 1, 1))
    supports = (
        inside * kinds[0] + (1 - inside) * kinds[1] + 0.7 * random.normal(size=(shots, width, rows, columns))
    )
    query = supports.mean(axis=0) + 0.3 * random.normal(size=(width, rows, columns))
    return torch.from_numpy(query), torch.from_numpy(supports), masks


def drawn_on_cells(seed=0, shots=1, rows=8, columns=8, **settings):
    """The same, with masks of whole 2 x 2 cells, on which all rules and both windows agree."""
    query, supports, _ = drawn(seed, shots, rows, columns, **settings)
    masks = torch.zeros(shots, rows, columns)
    for shot, mask in enumerate(masks):
        mask[0 : 4 + 4 * (shot % 2 == seed % 2), 4 * (shot % 2) : 4 + 4 * (shot % 2)] = 1
    return query, supports, masks.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)


# From masks to the grid --------------------------------------------------------------------------


def test_ours_gives_each_cell_its_share_of_the_mask():
    mask = torch.rand(5, 24, 32) > 0.5
    wanted = mask.float().reshape(5, 6, 4, 8, 4).mean(dim=(2, 4))
    torch.testing.assert_close(grid_mask(mask, 6, 8), wanted)


@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 13), st.integers(1, 13), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ours_neither_loses_nor_makes_mask_whatever_the_sides(rows, columns, height, width, seed):
    mask = (torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) > 0.5).double()
    share = grid_mask(mask, rows, columns)
    assert share.min() >= 0
    assert share.max() <= 1 + 1e-6
    assert share.mean().item() == pytest.approx(mask.mean().item(), abs=1e-6)
    torch.testing.assert_close(grid_mask(1 - mask, rows, columns), 1 - share)


def test_levayz_asks_the_upper_left_pixel_of_a_cell_and_alpnet_its_middle():
    mask = torch.rand(24, 24) > 0.5
    assert torch.equal(grid_mask(mask, 3, 3, "levayz"), mask[::8, ::8].float())
    middle = mask.float().reshape(3, 8, 3, 8)[:, 3:5, :, 3:5].mean(dim=(1, 3))
    torch.testing.assert_close(grid_mask(mask, 3, 3, "alpnet"), middle)


def test_a_mask_of_whole_cells_is_the_same_by_every_rule():
    _, _, masks = drawn_on_cells(shots=2)
    one, *others = (grid_mask(masks, 8, 8, compat) for compat in COMPATS)
    for other in others:
        torch.testing.assert_close(one, other)


# Against the loops -------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", COMPATS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (9, 11)])
@pytest.mark.parametrize("blob", [0.15, 0.5, 0.85])
def test_scores_are_those_of_plain_loops(compat, training, shots, rows, columns, blob):
    query, supports, masks = drawn(shots, shots, rows, columns, blob=blob)
    config = PrototypeConfig(compat=compat)
    logits, _ = predict(query, supports, masks, config, training=training)
    grid = grid_mask(masks.double(), rows, columns, compat).numpy()
    wanted = by_loops(query.numpy(), supports.numpy(), grid, config, training)
    # The mask came to the grid in float32: a share is right to 1e-7, and so are sums of features.
    np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)


def test_the_cases_of_the_loops_use_every_mode():
    used = set()
    for compat in COMPATS:
        for blob in (0.15, 0.85):
            _, (one,) = predict(*drawn(3, 3, blob=blob), PrototypeConfig(compat=compat))
            used.add((compat, one.foreground))
    assert used == {(compat, mode) for compat in COMPATS for mode in ("mask", "gridconv+")}


@pytest.mark.parametrize("compat", COMPATS)
def test_the_largest_shares_and_another_tau_are_obeyed(compat):
    query, supports, masks = drawn(4, 2, blob=0.6)
    config = PrototypeConfig(
        compat=compat, tau=7.5, foreground_share=0.6, background_share=0.8, window=3, training_window=3
    )
    grid = grid_mask(masks.double(), 8, 8, compat).numpy()
    logits, _ = predict(query, supports, masks, config)
    np.testing.assert_allclose(
        logits.numpy(), by_loops(query.numpy(), supports.numpy(), grid, config), atol=1e-4
    )


def test_released_modes_open_the_gate_by_the_window_of_training_and_ours_by_that_of_the_test():
    query, supports, _ = drawn()
    masks = torch.zeros(1, 8, 8)
    masks[:, 2:4, 2:4] = 1  # holds one window of 2, none of 4
    masks = masks.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)
    modes = {
        (compat, training): predict(query, supports, masks, PrototypeConfig(compat=compat), training=training)
        .used[0]
        .foreground
        for compat in COMPATS
        for training in (False, True)
    }
    assert modes.pop(("ours", False)) == "gridconv+"
    assert set(modes.values()) == {"mask"}


@pytest.mark.parametrize("training", [False, True])
def test_with_one_support_and_a_mask_of_whole_cells_all_compats_agree(training):
    query, supports, masks = drawn_on_cells()
    one, *others = (
        predict(query, supports, masks, PrototypeConfig(compat=compat, tau=20), training=training)
        for compat in COMPATS
    )
    assert one.used[0].foreground == "gridconv+"
    for other in others:
        assert other.used == one.used
        torch.testing.assert_close(one.logits, other.logits)


def test_with_several_supports_they_do_not():
    query, supports, masks = drawn_on_cells(shots=2)
    one, two, three = (
        predict(query, supports, masks, PrototypeConfig(compat=compat)).logits for compat in COMPATS
    )
    for first, second in ((one, two), (one, three), (two, three)):
        assert (first - second).abs().max() > 1e-3


def test_the_same_support_twice_says_in_our_mode_what_it_says_once_but_for_the_weight_of_the_mean():
    query, supports, masks = drawn(blob=0.15)
    once = predict(query, supports, masks).logits
    twice = predict(query, supports.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1)).logits
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


@pytest.mark.parametrize("compat", COMPATS)
@given(scale=st.floats(0.05, 1000), seed=st.integers(0, 20))
@settings(max_examples=8, deadline=None)
def test_longer_features_leave_the_scores_alone(compat, scale, seed):
    query, supports, masks = drawn(seed, 2)
    config = PrototypeConfig(compat=compat)
    torch.testing.assert_close(
        predict(query * scale, supports * scale, masks, config).logits,
        predict(query, supports, masks, config).logits,
    )


@pytest.mark.parametrize("compat", COMPATS)
def test_the_order_of_the_supports_does_not_count(compat):
    query, supports, masks = drawn(3, 3)
    config = PrototypeConfig(compat=compat)
    torch.testing.assert_close(
        predict(query, supports, masks, config).logits,
        predict(query, supports.flip(0), masks.flip(0), config).logits,
    )


@pytest.mark.parametrize("compat", COMPATS)
def test_a_turned_scene_is_answered_by_the_turned_scores(compat):
    query, supports, masks = drawn_on_cells(2, 2)
    config = PrototypeConfig(compat=compat)
    turned = predict(query.flip(-1), supports.flip(-1), masks.flip(-1), config).logits
    torch.testing.assert_close(turned, predict(query, supports, masks, config).logits.flip(-1))


@pytest.mark.parametrize(
    ("compat", "training", "most"), [("ours", False, 40), ("ours", True, 9), ("alpnet", False, 9)]
)
def test_scores_stay_within_tau(compat, training, most):
    query, _, masks = drawn_on_cells()
    config = PrototypeConfig(compat=compat, training_tau=9)
    logits = predict(query, query[None], masks, config, training=training).logits
    assert 0.8 * most < logits.abs().max() <= most


@pytest.mark.parametrize("compat", COMPATS)
def test_a_tau_of_forty_and_opposite_features_still_give_finite_scores_in_float32(compat):
    _, _, masks = drawn_on_cells()
    first = torch.zeros(1, 6, 8, 8)
    first[:, 0] = 1
    config = PrototypeConfig(compat=compat, tau=40, training_tau=40)
    logits, _ = predict(-first[0], first, masks, config)
    torch.testing.assert_close(logits, torch.full((2, 8, 8), -40.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_halves_and_under_autocast_are_compared_in_full_precision(dtype):
    query, supports, masks = drawn(blob=0.6)
    query, supports = query.to(dtype), supports.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = predict(query, supports, masks)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, predict(query.float(), supports.float(), masks).logits)


# Edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", COMPATS)
def test_a_support_without_background_answers_with_a_score_of_0_and_says_so(compat):
    query, supports, masks = drawn()
    logits, (used,) = predict(query, supports, torch.ones_like(masks), PrototypeConfig(compat=compat))
    assert (used.background, used.background_prototypes) == ("none", 0)
    assert torch.equal(logits[0], torch.zeros(8, 8, dtype=logits.dtype))
    assert logits[1].abs().max() > 1


def test_no_background_is_seen_as_such_where_the_grid_does_not_divide_the_image():
    query, supports, _ = drawn(rows=7, columns=11)
    assert predict(query, supports, torch.ones(1, 251, 253)).used[0].background == "none"


@pytest.mark.parametrize("compat", COMPATS)
def test_background_too_thin_for_a_cell_answers_with_its_mean_and_says_so(compat):
    query, supports, masks = drawn()
    masks = torch.ones_like(masks)
    masks[:, :, :PIXELS] = False
    config = PrototypeConfig(compat=compat)
    logits, (used,) = predict(query, supports, masks, config)
    assert (used.background, used.background_prototypes) == ("mask", 1)
    grid = grid_mask(masks.double(), 8, 8, compat)
    mean = torch.from_numpy(mean_of(supports.numpy(), 1 - grid.numpy()))
    cosine = F.cosine_similarity(query, mean[:, None, None], dim=0)
    torch.testing.assert_close(logits[0], config.cosine_factor(False) * cosine, atol=1e-4, rtol=0)


def test_an_organ_lost_on_the_grid_scores_0_and_says_so():
    query, supports, masks = drawn()
    masks = torch.zeros_like(masks)
    masks[:, 3, 3] = True
    logits, (used,) = predict(query, supports, masks, PrototypeConfig(compat="levayz"))
    assert (used.foreground, used.foreground_prototypes) == ("none", 0)
    assert torch.equal(logits[1], torch.zeros_like(logits[1]))
    assert predict(query, supports, masks).used[0].foreground == "mask"


def test_cells_cut_by_the_edge_are_prototypes_in_our_mode_only():
    query, supports, _ = drawn(rows=5, columns=5)
    masks = torch.zeros(1, 5, 5)
    masks[:, 4, 4] = 1
    masks = masks.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)
    counts = {}
    for compat in COMPATS:
        _, (used,) = predict(query, supports, masks, PrototypeConfig(compat=compat, training_window=2))
        counts[compat] = used.foreground_prototypes, used.background_prototypes
    assert counts == {"ours": (2, 8), "alpnet": (1, 4), "levayz": (1, 4)}


def test_what_was_used_is_counted_over_all_supports():
    query, supports, masks = drawn_on_cells(shots=2)
    ours, alpnet, levayz = (
        predict(query, supports, masks, PrototypeConfig(compat=compat)).used[0] for compat in COMPATS
    )
    cells = int(F.avg_pool2d(grid_mask(masks, 8, 8), 2).eq(1).sum())
    assert (ours.foreground_prototypes, alpnet.foreground_prototypes) == (cells + 1, cells + 2)
    assert levayz.foreground_prototypes == cells + 2
    assert {one.background_prototypes for one in (ours, alpnet, levayz)} == {32 - cells}
    assert {one.local_supports for one in (ours, alpnet, levayz)} == {2}


# Refusals ----------------------------------------------------------------------------------------


def test_an_empty_support_mask_is_refused_with_the_name_of_the_organ():
    query, supports, masks = drawn()
    with pytest.raises(DataError, match="empty support mask: spleen in none of 1 support"):
        predict(query, supports, torch.zeros_like(masks), organ="spleen")
    labels = masks.to(torch.uint8)
    with pytest.raises(DataError, match=r"class 7 \(left kidney\) in none"):
        predict_all(query, supports, labels, {1: "liver", 7: "left kidney"})
    with pytest.raises(DataError, match="class 3, class 4 in none"):
        predict_all(query, supports, labels, (1, 3, 4))


def test_a_support_of_another_grid_or_without_its_mask_is_refused():
    query, supports, masks = drawn()
    with pytest.raises(DataError, match="same encoder at the same side"):
        predict(query, supports[..., 1:], masks)
    with pytest.raises(DataError, match="N at least 1"):
        predict(query, supports[:0], masks[:0])
    with pytest.raises(DataError, match="one for each of the 1 support slices"):
        predict(query, supports, masks.repeat(2, 1, 1))
    with pytest.raises(DataError, match="no class to look for"):
        predict_all(query, supports, masks, ())


def test_features_that_are_not_numbers_are_refused():
    query, supports, masks = drawn()
    query[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="hold NaN or infinity"):
        predict(query, supports, masks)


def test_a_window_larger_than_the_grid_is_refused():
    with pytest.raises(ConfigError, match="window of 9 cells on a grid of 8 x 8"):
        predict(*drawn(), PrototypeConfig(window=9))


@pytest.mark.parametrize(
    "setting",
    [
        {"window": 0},
        {"training_window": 0},
        {"tau": 0.0},
        {"tau": 41.0},
        {"foreground_share": 1.0},
        {"background_share": -0.1},
        {"background_weight": 0.0},
    ],
)
def test_settings_that_cannot_be_obeyed_are_named(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"prototypes\.{name} "):
        PrototypeConfig(**setting)


# Several organs ----------------------------------------------------------------------------------


def labelled(seed=0, shots=2):
    """Features and labels of three organs beside one another; class 5 is in the first support only."""
    random = np.random.default_rng(seed)
    labels = np.zeros((shots, 128, 128), np.uint8)
    labels[:, 16:48, 16:56], labels[:, 66:110, 12:64], labels[0, 32:96, 80:112] = 1, 2, 5
    kinds = random.normal(size=(6, 8))
    grid = kinds[labels[:, 4::8, 4::8]].transpose(0, 3, 1, 2)
    supports = grid + 0.3 * random.normal(size=grid.shape)
    query = grid[0] + 0.3 * random.normal(size=grid[0].shape)
    return torch.from_numpy(query), torch.from_numpy(supports), torch.from_numpy(labels)


@pytest.mark.parametrize("compat", COMPATS)
def test_one_class_of_several_is_answered_number_for_number_as_alone(compat):
    query, supports, labels = labelled()
    config = PrototypeConfig(compat=compat)
    alone = predict(query, supports, labels == 2, config, organ="class 2")
    among = predict_all(query, supports, labels, (2,), config)
    assert torch.equal(alone.logits, among.logits)
    assert alone.used == among.used


@pytest.mark.parametrize("compat", COMPATS)
def test_several_classes_are_each_ahead_of_their_own_background_by_what_they_are_alone(compat):
    query, supports, labels = labelled()
    config = PrototypeConfig(compat=compat)
    logits, used = predict_all(query, supports, labels, (1, 2, 5), config)
    assert logits.shape == (4, 16, 16)
    for channel, number in enumerate((1, 2, 5), start=1):
        alone = predict(query, supports, labels == number, config, organ=f"class {number}")
        ahead = alone.logits[1] - alone.logits[0]
        torch.testing.assert_close(logits[channel] - logits[0], ahead)
        assert used[channel - 1] == alone.used[0]


def test_the_label_map_of_several_organs_is_the_truth_where_features_tell_them_apart():
    query, supports, labels = labelled()
    logits, _ = predict_all(query, supports, labels, (1, 2, 5))
    found = torch.tensor([0, 1, 2, 5])[on_image(logits, 128, 128).argmax(dim=0)]
    assert (found == labels[0]).float().mean() > 0.9


# Losses and gradients ----------------------------------------------------------------------------


def test_the_loss_is_the_weighted_cross_entropy_on_the_image():
    logits, label = torch.randn(3, 8, 8), torch.randint(0, 3, (20, 24))
    label[:3] = 255
    large = F.interpolate(logits[None], (20, 24), mode="bilinear")
    wanted = F.cross_entropy(large, label[None], torch.tensor([0.05, 1, 1]), ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, label), wanted)
    total = weight = 0.0
    for row in range(20):
        for column in range(24):
            number = int(label[row, column])
            if number != 255:
                w = 0.05 if number == 0 else 1.0
                total -= w * float(large[0, :, row, column].double().log_softmax(0)[number])
                weight += w
    assert float(wanted) == pytest.approx(total / weight, rel=1e-5)


def test_a_label_that_counts_nowhere_costs_nothing():
    assert segmentation_loss(torch.randn(2, 4, 4), torch.full((8, 8), 255)) == 0


@pytest.mark.parametrize("compat", COMPATS)
def test_alignment_makes_the_query_segment_each_support(compat):
    query, supports, masks = drawn(1, 3, blob=0.7)
    config = PrototypeConfig(compat=compat)
    logits, _ = predict(query, supports, masks, config, training=True)
    predicted = logits.argmax(dim=0)
    assert 0 < predicted.sum() < 64
    losses = []
    for support, mask in zip(supports, masks, strict=True):
        back = by_loops(
            support.numpy(), query.numpy()[None], predicted.double().numpy()[None], config, training=True
        )
        large = F.interpolate(torch.from_numpy(back)[None], mask.shape, mode="bilinear")
        losses.append(F.cross_entropy(large, mask.long()[None]))
    torch.testing.assert_close(
        alignment_loss(query, supports, masks, logits, config),
        torch.stack(losses).mean(),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("value", [0, 1])
def test_alignment_of_a_prediction_of_nothing_or_of_everything_is_finite_and_has_gradients(value):
    query, supports, masks = drawn()
    query.requires_grad_()
    logits = torch.zeros(2, 8, 8)
    logits[value] = 1
    loss = alignment_loss(query, supports, masks, logits)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(query.grad).all()
    assert query.grad.abs().sum() > 0


@pytest.mark.parametrize("compat", COMPATS)
@pytest.mark.parametrize("blob", [0.2, 0.8])
def test_gradients_of_both_losses_are_right(compat, blob):
    query, supports, masks = drawn(5, 2, 4, 5, width=2, blob=blob)
    config = PrototypeConfig(compat=compat, tau=5)

    def total(query, supports):
        logits, _ = predict(query, supports, masks, config, training=True)
        return segmentation_loss(logits, masks[0], config) + alignment_loss(
            query, supports, masks, logits, config
        )

    assert torch.autograd.gradcheck(
        total, (query.requires_grad_(), supports.requires_grad_()), fast_mode=True
    )


def test_features_of_no_length_have_no_direction_and_finite_gradients():
    query, supports, masks = drawn()
    query, supports = torch.zeros_like(query).requires_grad_(), torch.zeros_like(supports).requires_grad_()
    logits, _ = predict(query, supports, masks)
    assert torch.equal(logits, torch.zeros_like(logits))
    logits.sum().backward()
    assert torch.isfinite(query.grad).all()
    assert torch.isfinite(supports.grad).all()


def test_a_step_down_the_loss_lowers_it():
    query, supports, masks = drawn(blob=0.6)
    query.requires_grad_()
    before = segmentation_loss(predict(query, supports, masks, training=True).logits, masks[0])
    before.backward()
    stepped = query.detach() - 0.5 * query.grad
    assert segmentation_loss(predict(stepped, supports, masks, training=True).logits, masks[0]) < before


def test_several_slices_are_scored_at_once_as_one_by_one():
    _, supports, masks = drawn(shots=3, rows=6, columns=9)
    config = PrototypeConfig()
    sets = sets_of(supports, grid_mask(masks, 6, 9)[None], ["it"], config)
    together = scores(supports, sets)
    assert together.shape == (2, 1, 3, 6, 9)
    for place, one in enumerate(supports):
        torch.testing.assert_close(together[:, 0, place], predict(one, supports, masks, config).logits)
    assert repr(sets) == "Sets(1 organs, 45 cells)"


# The floor ----------------------------------------------------------------------------------------


def test_the_copied_mask_is_that_of_the_support_and_of_half_of_several():
    masks = torch.rand(3, 10, 12) > 0.5
    assert torch.equal(copy_mask(masks[:1], 10, 12), masks[0])
    assert torch.equal(copy_mask(masks, 10, 12), masks.sum(dim=0) >= 2)
    assert torch.equal(copy_mask(masks[:2], 10, 12), masks[0] | masks[1])
    assert torch.equal(copy_mask(masks[:1], 20, 24)[::2, 1::2], masks[0])
