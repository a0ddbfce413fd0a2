"""Adaptive local prototypes give what plain loops give, in our variant and in both released ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.fewshot.method.config import PrototypeConfig
from vetdino.downstream.fewshot.method.grid import grid_mask
from vetdino.downstream.fewshot.method.prototypes import predict, prototype_scores, prototype_sets
from vetdino.platform.core.errors import ConfigError, DataError

COMPATS = ("ours", "alpnet", "levayz")
PIXELS = 8
"""Pixels of the image per cell of the grid."""


# Against the loops -------------------------------------------------------------------------------


def modes(supports, masks, config=None, training=False):
    """(foreground, background) of one organ: `local` (pooled cells), `mean` alone or `none`; and prototypes of each."""
    config = config or PrototypeConfig()
    grid = grid_mask(masks, *supports.shape[2:], config.compat)
    sets = prototype_sets(supports, grid, config, training=training)
    counted = []
    for rows in (slice(1, None), slice(0, 1)):
        cells = int(sets.members[rows].sum())
        means = int((sets.present[rows] & (sets.means[rows] != 0).any(dim=2)).sum())
        counted.append(("local" if cells else "mean" if means else "none", cells + means))
    return tuple(counted)


@pytest.mark.parametrize("compat", COMPATS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (9, 11)])
@pytest.mark.parametrize("blob", [0.15, 0.5, 0.85])
def test_scores_are_those_of_plain_loops(
    draw_episode, alp_loops, compat, training, shots, rows, columns, blob
):
    query, supports, masks = draw_episode(shots, shots, rows, columns, blob=blob)
    config = PrototypeConfig(compat=compat)
    logits = predict(query, supports, masks, config, training=training)
    grid = grid_mask(masks.double(), rows, columns, compat).numpy()
    wanted = alp_loops(query.numpy(), supports.numpy(), grid, config, training)
    # The mask came to the grid in float32: a share is right to 1e-7, and so are sums of features.
    np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)


def test_the_cases_of_the_loops_use_every_mode(draw_episode):
    used = set()
    for compat in COMPATS:
        for blob in (0.15, 0.85):
            _, supports, masks = draw_episode(3, 3, blob=blob)
            used.add((compat, modes(supports, masks, PrototypeConfig(compat=compat))[0][0]))
    assert used == {(compat, mode) for compat in COMPATS for mode in ("mean", "local")}


@pytest.mark.parametrize("compat", COMPATS)
def test_the_largest_shares_and_another_tau_are_obeyed(draw_episode, alp_loops, compat):
    query, supports, masks = draw_episode(4, 2, blob=0.6)
    config = PrototypeConfig(
        compat=compat, tau=7.5, foreground_share=0.6, background_share=0.8, window=3, training_window=3
    )
    grid = grid_mask(masks.double(), 8, 8, compat).numpy()
    logits = predict(query, supports, masks, config)
    np.testing.assert_allclose(
        logits.numpy(), alp_loops(query.numpy(), supports.numpy(), grid, config), atol=1e-4
    )


def test_released_modes_open_the_gate_by_the_window_of_training_and_ours_by_that_of_the_test(draw_episode):
    _, supports, _ = draw_episode()
    masks = torch.zeros(1, 8, 8)
    masks[:, 2:4, 2:4] = 1  # holds one window of 2, none of 4
    masks = masks.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)
    foreground = {
        (compat, training): modes(supports, masks, PrototypeConfig(compat=compat), training)[0][0]
        for compat in COMPATS
        for training in (False, True)
    }
    assert foreground.pop(("ours", False)) == "local"
    assert set(foreground.values()) == {"mean"}


@pytest.mark.parametrize("training", [False, True])
def test_with_one_support_and_a_mask_of_whole_cells_all_compats_agree(draw_on_cells, training):
    query, supports, masks = draw_on_cells()
    one, *others = (
        predict(query, supports, masks, PrototypeConfig(compat=compat, tau=20), training=training)
        for compat in COMPATS
    )
    counts = {modes(supports, masks, PrototypeConfig(compat=compat, tau=20), training) for compat in COMPATS}
    assert len(counts) == 1
    assert counts.pop()[0][0] == "local"
    for other in others:
        torch.testing.assert_close(one, other)


def test_with_several_supports_they_do_not(draw_on_cells):
    query, supports, masks = draw_on_cells(shots=2)
    one, two, three = (predict(query, supports, masks, PrototypeConfig(compat=compat)) for compat in COMPATS)
    for first, second in ((one, two), (one, three), (two, three)):
        assert (first - second).abs().max() > 1e-3


def test_the_same_support_twice_says_in_our_mode_what_it_says_once_but_for_the_weight_of_the_mean(
    draw_episode,
):
    query, supports, masks = draw_episode(blob=0.15)
    once = predict(query, supports, masks)
    twice = predict(query, supports.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1))
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


@pytest.mark.parametrize("compat", COMPATS)
@given(scale=st.floats(0.05, 1000), seed=st.integers(0, 20))
@settings(max_examples=8, deadline=None)
def test_longer_features_leave_the_scores_alone(draw_episode, compat, scale, seed):
    query, supports, masks = draw_episode(seed, 2)
    config = PrototypeConfig(compat=compat)
    torch.testing.assert_close(
        predict(query * scale, supports * scale, masks, config),
        predict(query, supports, masks, config),
    )


@pytest.mark.parametrize("compat", COMPATS)
def test_the_order_of_the_supports_does_not_count(draw_episode, compat):
    query, supports, masks = draw_episode(3, 3)
    config = PrototypeConfig(compat=compat)
    torch.testing.assert_close(
        predict(query, supports, masks, config),
        predict(query, supports.flip(0), masks.flip(0), config),
    )


@pytest.mark.parametrize("compat", COMPATS)
def test_a_turned_scene_is_answered_by_the_turned_scores(draw_on_cells, compat):
    query, supports, masks = draw_on_cells(2, 2)
    config = PrototypeConfig(compat=compat)
    turned = predict(query.flip(-1), supports.flip(-1), masks.flip(-1), config)
    torch.testing.assert_close(turned, predict(query, supports, masks, config).flip(-1))


@pytest.mark.parametrize(
    ("compat", "training", "most"), [("ours", False, 40), ("ours", True, 9), ("alpnet", False, 9)]
)
def test_scores_stay_within_tau(draw_on_cells, compat, training, most):
    query, _, masks = draw_on_cells()
    config = PrototypeConfig(compat=compat, training_tau=9)
    logits = predict(query, query[None], masks, config, training=training)
    assert 0.8 * most < logits.abs().max() <= most


@pytest.mark.parametrize("compat", COMPATS)
def test_a_tau_of_forty_and_opposite_features_still_give_finite_scores_in_float32(draw_on_cells, compat):
    _, _, masks = draw_on_cells()
    first = torch.zeros(1, 6, 8, 8)
    first[:, 0] = 1
    config = PrototypeConfig(compat=compat, tau=40, training_tau=40)
    logits = predict(-first[0], first, masks, config)
    torch.testing.assert_close(logits, torch.full((2, 8, 8), -40.0))


@pytest.mark.parametrize("compat", COMPATS)
@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("blob", [0.15, 0.85])
@pytest.mark.parametrize("tau", [40.001, 400.0])
def test_scores_above_forty_are_those_of_plain_loops(draw_episode, alp_loops, compat, shots, blob, tau):
    query, supports, masks = draw_episode(shots, shots, 8, 11, blob=blob)
    config = PrototypeConfig(compat=compat, tau=tau, training_tau=tau)
    grid = grid_mask(masks.double(), 8, 11, compat).numpy()
    wanted = alp_loops(query.numpy(), supports.numpy(), grid, config)
    np.testing.assert_allclose(predict(query, supports, masks, config).numpy(), wanted, atol=1e-5 * tau)


@pytest.mark.parametrize("compat", COMPATS)
@given(tau=st.floats(40, 1e6, exclude_min=True), seed=st.integers(0, 10_000), shots=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_any_tau_above_forty_gives_what_plain_loops_give(draw_episode, alp_loops, compat, tau, seed, shots):
    query, supports, masks = draw_episode(seed, shots, 4, 5, blob=0.5)
    config = PrototypeConfig(compat=compat, tau=tau, training_tau=tau, window=2, training_window=2)
    grid = grid_mask(masks.double(), 4, 5, compat).numpy()
    wanted = alp_loops(query.numpy(), supports.numpy(), grid, config)
    np.testing.assert_allclose(predict(query, supports, masks, config).numpy(), wanted, atol=1e-5 * tau)


@pytest.mark.parametrize("compat", COMPATS)
def test_far_above_forty_opposite_features_give_finite_scores_and_gradients_in_float32(draw_on_cells, compat):
    _, _, masks = draw_on_cells()
    first = torch.zeros(1, 6, 8, 8)
    first[:, 0] = 1
    query = (-first[0]).requires_grad_()
    logits = predict(query, first, masks, PrototypeConfig(compat=compat, tau=5000, training_tau=5000))
    torch.testing.assert_close(logits, torch.full((2, 8, 8), -5000.0))
    logits.sum().backward()
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_halves_and_under_autocast_are_compared_in_full_precision(draw_episode, dtype):
    query, supports, masks = draw_episode(blob=0.6)
    query, supports = query.to(dtype), supports.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = predict(query, supports, masks)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, predict(query.float(), supports.float(), masks))


# Edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", COMPATS)
def test_a_support_without_background_scores_0_for_it(draw_episode, compat):
    query, supports, masks = draw_episode()
    config = PrototypeConfig(compat=compat)
    logits = predict(query, supports, torch.ones_like(masks), config)
    assert modes(supports, torch.ones_like(masks), config)[1] == ("none", 0)
    assert torch.equal(logits[0], torch.zeros(8, 8, dtype=logits.dtype))
    assert logits[1].abs().max() > 1


def test_no_background_is_seen_as_such_where_the_grid_does_not_divide_the_image(draw_episode):
    _, supports, _ = draw_episode(rows=7, columns=11)
    assert modes(supports, torch.ones(1, 251, 253))[1] == ("none", 0)


@pytest.mark.parametrize("compat", COMPATS)
def test_background_too_thin_for_a_cell_is_its_mean(draw_episode, mean_loops, compat):
    query, supports, masks = draw_episode()
    masks = torch.ones_like(masks)
    masks[:, :, :PIXELS] = False
    config = PrototypeConfig(compat=compat)
    logits = predict(query, supports, masks, config)
    assert modes(supports, masks, config)[1] == ("mean", 1)
    grid = grid_mask(masks.double(), 8, 8, compat)
    mean = torch.from_numpy(mean_loops(supports.numpy(), 1 - grid.numpy()))
    cosine = F.cosine_similarity(query, mean[:, None, None], dim=0)
    torch.testing.assert_close(logits[0], config.cosine_factor(False) * cosine, atol=1e-4, rtol=0)


def test_an_organ_lost_on_the_grid_scores_0(draw_episode):
    query, supports, masks = draw_episode()
    masks = torch.zeros_like(masks)
    masks[:, 3, 3] = True
    config = PrototypeConfig(compat="levayz")
    logits = predict(query, supports, masks, config)
    assert modes(supports, masks, config)[0] == ("none", 0)
    assert torch.equal(logits[1], torch.zeros_like(logits[1]))
    assert modes(supports, masks)[0][0] == "mean"


def test_cells_cut_by_the_edge_are_prototypes_in_our_mode_only(draw_episode):
    _, supports, _ = draw_episode(rows=5, columns=5)
    masks = torch.zeros(1, 5, 5)
    masks[:, 4, 4] = 1
    masks = masks.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)
    counts = {}
    for compat in COMPATS:
        counted = modes(supports, masks, PrototypeConfig(compat=compat, training_window=2))
        counts[compat] = tuple(count for _, count in counted)
    assert counts == {"ours": (2, 8), "alpnet": (1, 4), "levayz": (1, 4)}


def test_cells_and_means_of_all_supports_are_prototypes(draw_on_cells):
    _, supports, masks = draw_on_cells(shots=2)
    cells = int(F.avg_pool2d(grid_mask(masks, 8, 8), 2).eq(1).sum())
    counts = {compat: modes(supports, masks, PrototypeConfig(compat=compat)) for compat in COMPATS}
    means = {"ours": 1, "alpnet": 2, "levayz": 2}
    assert counts == {compat: (("local", cells + means[compat]), ("local", 32 - cells)) for compat in COMPATS}


# Refusals ----------------------------------------------------------------------------------------


def test_a_mask_that_is_empty_in_all_supports_is_refused(draw_episode):
    query, supports, masks = draw_episode()
    with pytest.raises(DataError, match="empty in all 1 support"):
        predict(query, supports, torch.zeros_like(masks))


def test_a_support_of_another_grid_or_without_its_mask_is_refused(draw_episode):
    query, supports, masks = draw_episode()
    with pytest.raises(DataError, match="same encoder at the same side"):
        predict(query, supports[..., 1:], masks)
    with pytest.raises(DataError, match="N at least 1"):
        predict(query, supports[:0], masks[:0])
    with pytest.raises(DataError, match="one for each of the 1 support slices"):
        predict(query, supports, masks.repeat(2, 1, 1))


def test_features_that_are_not_numbers_are_refused(draw_episode):
    query, supports, masks = draw_episode()
    query[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="hold NaN or infinity"):
        predict(query, supports, masks)


def test_a_window_larger_than_the_grid_is_refused(draw_episode):
    with pytest.raises(ConfigError, match="window of 9 cells on a grid of 8 x 8"):
        predict(*draw_episode(), PrototypeConfig(window=9))


def test_several_slices_are_scored_at_once_as_one_by_one(draw_episode):
    _, supports, masks = draw_episode(shots=3, rows=6, columns=9)
    config = PrototypeConfig()
    sets = prototype_sets(supports, grid_mask(masks, 6, 9), config)
    together = prototype_scores(supports, sets)
    assert together.shape == (2, 3, 6, 9)
    for place, one in enumerate(supports):
        torch.testing.assert_close(together[:, place], predict(one, supports, masks, config))
    assert repr(sets) == "PrototypeSets(2 sets, 45 cells)"
